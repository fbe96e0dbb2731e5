# SPDX-License-Identifier: LGPL-2.1-or-later
"""The record of a tree: what unpacking did to it, in order, so that it can be compared later.

An append-only file: a tree that extends another has the other's record first.
Writing it costs a few per cent of unpacking, because contents are hashed as
they pass.  `verify` replays a record and compares it with a tree; nothing is repaired here.

Format: a first line, then records of little-endian numbers.  A record is a head
(kind, lengths of name and extra) and, for objects, the facts; then the name and the extra
bytes.  Names are relative to the directory named by the last `P` record.
"""

import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from lxc_oci.errors import OciError
from lxc_oci.kernel import syscalls
from lxc_oci.kernel.root import Root
from lxc_oci.layer import attributes
from lxc_oci.layer.attributes import Xattrs
from lxc_oci.layer.hashing import LateDigest

MAGIC = b"lxc-oci-py record 1\n"

# One byte each.  Objects:
FILE, DIRECTORY, SYMLINK, CHARACTER, BLOCK, FIFO, SOCKET = b"fdlcbps"
# And what is not an object:
PARENT = ord("P")  # name: path of the directory of the records that follow
HARDLINK = ord("H")  # extra: path of the object that `name` is another name of
REMOVED = ord("R")  # `name` and all below it
XATTRS = ord("X")  # of the object before; extra: name NUL length value …
END = ord("E")  # of a layer; the extra is the number of records in it

_HEAD = struct.Struct("<BHI")
_FACTS = struct.Struct("<BHIHIIqQ")  # head, mode, uid, gid, mtime in ns, size or device number
_LENGTH = struct.Struct("<I")
_BENEATH = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
_OBJECTS = frozenset((FILE, DIRECTORY, SYMLINK, CHARACTER, BLOCK, FIFO, SOCKET))
_TYPES = {
    FILE: stat.S_IFREG,
    DIRECTORY: stat.S_IFDIR,
    SYMLINK: stat.S_IFLNK,
    CHARACTER: stat.S_IFCHR,
    BLOCK: stat.S_IFBLK,
    FIFO: stat.S_IFIFO,
    SOCKET: stat.S_IFSOCK,
}
_WORDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
}
_BUFFERED = 1 << 18
_NO_DIGEST = bytes(32)


class RecordWriter:
    """Appends to a record; the file stays the caller's, who flushes it to disk."""

    def __init__(self, file: BinaryIO) -> None:
        """Append to `file`, which is empty or a complete record, and stands at its end.  Raises OSError."""
        self._file = file
        self._buffer = bytearray()
        self._parent: bytes | None = None
        self._count = 0
        self._late: list[tuple[int, LateDigest]] = []  # where in the buffer a digest is still missing
        self.entries = 0  # objects and hard links that were recorded
        self.size = 0  # bytes of the regular files among them
        if file.tell() == 0:
            self._buffer += MAGIC

    def add(
        self,
        kind: int,
        parent: bytes,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        mtime_ns: int,
        size: int,
        digest: bytes | LateDigest = b"",
    ) -> None:
        """Record an object: `digest` is the sha256 of a file's content or of a symbolic link's target."""
        if parent is not self._parent:
            self._change(parent)
        if isinstance(digest, LateDigest):
            self._late.append((len(self._buffer) + _FACTS.size + len(name), digest))
            digest = _NO_DIGEST
        self._buffer += _FACTS.pack(kind, len(name), len(digest), mode, uid, gid, mtime_ns, size) + name + digest
        self._count += 1
        self.entries += 1
        if kind == FILE:
            self.size += size

    def xattrs(self, xattrs: Xattrs) -> None:
        """Record the extended attributes of the object recorded last."""
        extra = b"".join(name + b"\0" + _LENGTH.pack(len(value)) + value for name, value in sorted(xattrs))
        self._other(XATTRS, b"", extra)

    def link(self, parent: bytes, name: bytes, target: bytes) -> None:
        """Record a hard link; `target` is the whole path of the other name."""
        if parent is not self._parent:
            self._change(parent)
        self._other(HARDLINK, name, target)
        self.entries += 1

    def removed(self, parent: bytes, name: bytes) -> None:
        """Record that `name` and all below it went."""
        if parent is not self._parent:
            self._change(parent)
        self._other(REMOVED, name, b"")

    def end_layer(self) -> None:
        """Close a layer and write out what is buffered.  Raises OSError."""
        count, self._count = self._count, 0
        self._buffer += _HEAD.pack(END, 0, 8) + count.to_bytes(8, "little")
        self._parent = None
        self.flush()

    def flush(self) -> None:
        """Write out what is buffered, when its last digest is known.  Raises OSError."""
        for place, late in self._late:
            self._buffer[place : place + len(_NO_DIGEST)] = late.digest()
        self._late.clear()
        self._file.write(self._buffer)
        self._file.flush()
        self._buffer.clear()

    def _change(self, parent: bytes) -> None:
        if len(self._buffer) > _BUFFERED:
            self.flush()
        self._parent = parent
        self._other(PARENT, parent, b"")

    def _other(self, kind: int, name: bytes, extra: bytes) -> None:
        self._buffer += _HEAD.pack(kind, len(name), len(extra)) + name + extra
        self._count += 1


def copy_layers(source: BinaryIO, layers: int, target: BinaryIO) -> None:
    """Write the record of the first `layers` layers of `source` to the empty file `target`.

    Raises OciError for a record that is not complete or has not as many layers, and OSError.
    """
    for kind, *_ in _records(source):
        if kind == END:
            layers -= 1
        if layers == 0:
            break
    else:
        raise _broken("it has not as many layers as the image")
    left = source.tell()
    source.seek(0)
    while left and (data := source.read(min(left, 1 << 20))):
        target.write(data)
        left -= len(data)


@dataclass
class Recorded:
    """What a record says of one inode; names that are hard links share it."""

    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int  # of a file; the device number of a device
    digest: bytes  # sha256 of a file's content or of a symbolic link's target
    xattrs: Xattrs = ()
    children: dict[bytes, "Recorded"] = field(default_factory=dict)
    layer: int = 0  # the one that it came from, counted from 0


def replay(file: BinaryIO, layers: int | None = None) -> Recorded:
    """Return the root of the tree that the record `file` describes, after its first `layers` layers or all.

    Raises OciError for a record that is not complete or has not as many layers, and OSError.
    """
    root: Recorded | None = None
    parent: Recorded | None = None
    last: Recorded | None = None
    layer = 0
    for kind, name, facts, extra in _records(file):
        if kind == END:
            layer += 1
            if layer == layers:
                break
        elif kind == PARENT:
            parent = _find(root, name) if name else root
        elif kind in _OBJECTS:
            mode, uid, gid, mtime_ns, size = facts
            last = Recorded(kind, mode, uid, gid, mtime_ns, size, extra, layer=layer)
            if not name:
                if root is not None:
                    last.children = root.children
                root = parent = last
                continue
            children = _children(parent)
            old = children.get(name)
            if kind == DIRECTORY and old is not None and old.kind == DIRECTORY:
                last.children = old.children
            children[name] = last
        elif kind == XATTRS:
            if last is None:
                raise _broken("attributes of nothing")
            last.xattrs = _parse_xattrs(extra)
        elif kind == HARDLINK:
            _children(parent)[name] = _find(root, extra)
        elif kind == REMOVED:
            _children(parent).pop(name, None)
    if root is None or (layers is not None and layer != layers):
        raise _broken("it has not as many layers as the image")
    return root


def verify(root: Root, file: BinaryIO) -> Iterator[str]:
    """Compare the tree below `root` with the record `file`; yield a line for each difference, none when equal.

    Contents are read and hashed.  Raises OciError for a record that is not complete, and OSError.
    """
    recorded = replay(file)
    inodes: dict[int, tuple[int, int]] = {}
    yield from _compare(".", os.fstat(root.fd), root.fd, b"", recorded, inodes)
    pending = [(b"", recorded)]
    while pending:
        path, directory = pending.pop()
        here = syscalls.openat2(root.fd, path or b".", os.O_RDONLY | os.O_DIRECTORY, 0, _BENEATH)
        try:
            found = {os.fsencode(name) for name in os.listdir(here)}
            for name in sorted(found | directory.children.keys()):
                whole = path + b"/" + name if path else name
                shown = os.fsdecode(whole)
                wanted = directory.children.get(name)
                if wanted is None:
                    yield f"{shown}: is not of the image"
                    continue
                if name not in found:
                    yield f"{shown}: is missing"
                    continue
                status = os.stat(name, dir_fd=here, follow_symlinks=False)
                yield from _compare(shown, status, here, name, wanted, inodes)
                if wanted.kind == DIRECTORY and stat.S_ISDIR(status.st_mode):
                    pending.append((whole, wanted))
        finally:
            os.close(here)


def _records(file: BinaryIO) -> Iterator[tuple[int, bytes, tuple[int, ...], bytes]]:
    """Yield (kind, name, facts, extra) of each record, the ends of layers included."""
    count = 0
    kind = END
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise _broken("it does not begin as one")
    while head := file.read(_HEAD.size):
        if len(head) < _HEAD.size:
            raise _broken("it is cut off")
        kind, name_length, extra_length = _HEAD.unpack(head)
        facts: tuple[int, ...] = ()
        if kind in _OBJECTS:
            head += file.read(_FACTS.size - _HEAD.size)
            if len(head) < _FACTS.size:
                raise _broken("it is cut off")
            facts = _FACTS.unpack(head)[3:]
        elif kind not in (PARENT, HARDLINK, REMOVED, XATTRS, END):
            raise _broken(f"a record has the unknown kind {kind}")
        rest = file.read(name_length + extra_length)
        if len(rest) < name_length + extra_length:
            raise _broken("it is cut off")
        if kind == END:
            if int.from_bytes(rest, "little") != count:
                raise _broken("a layer has not as many records as it says")
            count = 0
            yield kind, b"", (), b""
            continue
        count += 1
        yield kind, rest[:name_length], facts, rest[name_length:]
    if kind != END:
        raise _broken("it is cut off")


def _broken(why: str) -> OciError:
    return OciError(f"the record of a tree is damaged: {why}", "prune the image and pull it again")


def _children(directory: Recorded | None) -> dict[bytes, Recorded]:
    if directory is None or directory.kind != DIRECTORY:
        raise _broken("something lies outside of a directory")
    return directory.children


def _find(root: Recorded | None, path: bytes) -> Recorded:
    found = root
    for name in path.split(b"/") if path else ():
        found = _children(found).get(name)
    if found is None:
        raise _broken(f"it has no {os.fsdecode(path)!r}")
    return found


def _parse_xattrs(extra: bytes) -> Xattrs:
    found = []
    while extra:
        name, _, rest = extra.partition(b"\0")
        if len(rest) < _LENGTH.size:
            raise _broken("an attribute is cut off")
        stop = _LENGTH.size + _LENGTH.unpack_from(rest)[0]
        found.append((name, rest[_LENGTH.size : stop]))
        extra = rest[stop:]
    return tuple(found)


def _compare(
    shown: str,
    status: os.stat_result,
    parent_fd: int,
    name: bytes,
    wanted: Recorded,
    inodes: dict[int, tuple[int, int]],
) -> Iterator[str]:
    """Yield how the object `name` in `parent_fd` (the directory itself where that is empty) differs from the record."""
    kind = stat.S_IFMT(status.st_mode)
    if kind != _TYPES[wanted.kind]:
        yield f"{shown}: is a {_WORDS.get(kind, 'thing')}, not a {_WORDS[_TYPES[wanted.kind]]}"
        return
    inode = (status.st_dev, status.st_ino)
    known = inodes.get(id(wanted))
    if known is not None:
        if known != inode:
            yield f"{shown}: is no hard link any more"
        return
    inodes[id(wanted)] = inode
    facts = [("mtime", status.st_mtime_ns, wanted.mtime_ns), ("uid", status.st_uid, wanted.uid)]
    facts.append(("gid", status.st_gid, wanted.gid))
    if wanted.kind != SYMLINK:
        facts.append(("mode", stat.S_IMODE(status.st_mode), wanted.mode))
    if wanted.kind == FILE:
        facts.append(("size", status.st_size, wanted.size))
    elif wanted.kind in (CHARACTER, BLOCK):
        facts.append(("device", status.st_rdev, wanted.size))
    for word, have, want in facts:
        if have != want:
            yield f"{shown}: {word} is {_fact(word, have)}, not {_fact(word, want)}"
    if wanted.kind == SYMLINK:
        if hashlib.sha256(os.fsencode(os.readlink(name, dir_fd=parent_fd))).digest() != wanted.digest:
            yield f"{shown}: leads elsewhere"
    elif wanted.kind in (FILE, DIRECTORY):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name or b".", flags, dir_fd=parent_fd)
        try:
            if wanted.kind == FILE and _content(fd) != wanted.digest:
                yield f"{shown}: has other content"
            if attributes.read(fd) != wanted.xattrs:
                yield f"{shown}: has other extended attributes"
        finally:
            os.close(fd)


def _fact(word: str, value: int) -> str:
    return f"{value:04o}" if word == "mode" else str(value)


def _content(fd: int) -> bytes:
    hasher = hashlib.sha256()
    while data := os.read(fd, 1 << 20):
        hasher.update(data)
    return hasher.digest()
