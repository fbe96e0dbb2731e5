# SPDX-License-Identifier: LGPL-2.1-or-later
"""EROFS layers unpacked: the mounted image is walked, and what is found goes through our own applier.

Debian's tools give no stream, and what they extract loses attributes; so the kernel or FUSE mounts the image
(store.mountplan.image_mounted), read-only and in a private place.  A user namespace cannot see trusted.overlay.opaque
in it: that is read from the image's own metadata here (Linux: Documentation/filesystems/erofs.rst).
"""

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

from lxc_oci.errors import RefusedError
from lxc_oci.kernel import syscalls
from lxc_oci.layer import entry as kinds
from lxc_oci.layer.entry import Entry
from lxc_oci.layer.tarfields import clamped_ns
from lxc_oci.layer.unpack import Unpacker
from lxc_oci.limits import Limits

OPAQUE = b"trusted.overlay.opaque"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_RESOLVE = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV
_SMALL = 1 << 16
_TYPES = {
    stat.S_IFREG: kinds.FILE,
    stat.S_IFDIR: kinds.DIRECTORY,
    stat.S_IFLNK: kinds.SYMLINK,
    stat.S_IFCHR: kinds.CHARACTER,
    stat.S_IFBLK: kinds.BLOCK,
    stat.S_IFIFO: kinds.FIFO,
    stat.S_IFSOCK: kinds.SOCKET,
}


def apply_layer(
    unpacker: Unpacker,
    mounted: str,
    image: str,
    what: str,
    limits: Limits,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> None:
    """Apply the EROFS image file `image`, mounted at `mounted`, to the tree of `unpacker`, which takes overlay
    whiteouts.  Raises RefusedError for a damaged image."""
    walk = _Walk(unpacker, what, limits, on_bytes, frozenset(opaque_directories(image, limits)))
    unpacker.begin_layer()
    fd = os.open(mounted, _DIRECTORY)
    try:
        walk.tree(fd)
    except OSError as error:
        name = os.fsdecode(error.filename) if error.filename else "it"
        raise RefusedError(f"cannot read {what}: {name}: {error.strerror}", "the image is damaged") from error
    finally:
        os.close(fd)
    unpacker.end_layer()


class _Walk:
    """One pass over a mounted image."""

    def __init__(
        self, unpacker: Unpacker, what: str, limits: Limits, on_bytes: Callable[[int], None], opaque: frozenset[bytes]
    ) -> None:
        self._unpacker = unpacker
        self._what = what
        self._limits = limits
        self._on_bytes = on_bytes
        self._opaque = opaque
        # inode → its first link: the path of the directory, one for all that are in there, and the name
        self._first: dict[int, tuple[bytes, bytes]] = {}
        self._entries = 0
        self._bytes = 0

    def tree(self, fd: int) -> None:
        """Apply the directory `fd` and all below it, parents first; an explicit stack, the image decides the depth."""
        pending = [b""]
        while pending:
            path = pending.pop()
            directory = syscalls.openat2(fd, path or b".", _DIRECTORY, 0, _RESOLVE)
            try:
                self._add(path, b".", os.fstat(directory), directory)
                for name in sorted(os.fsencode(name) for name in os.listdir(directory)):
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(_below(path, name))
                    else:
                        self._add(path, name, status, directory)
            finally:
                os.close(directory)

    def _add(self, parent: bytes, name: bytes, status: os.stat_result, directory: int) -> None:
        """Apply one entry; the name `.` is the directory itself."""
        path = _below(parent, name) if name != b"." else parent or name
        self._entries += 1
        if self._entries > self._limits.entries:
            raise RefusedError(f"{self._what} has more than {self._limits.entries} entries", "see lxc-oci-py(1)")
        kind = _TYPES.get(stat.S_IFMT(status.st_mode), "")
        if not kind:  # FUSE hands on what it reads
            raise _damaged()
        if kind != kinds.DIRECTORY and status.st_nlink > 1:
            here = parent, name
            first = self._first.setdefault(status.st_ino, here)
            if first is not here:
                self._unpacker.add(Entry(path, kinds.HARDLINK, link=_below(*first)))
                return
        link = os.readlink(name, dir_fd=directory) if kind == kinds.SYMLINK else b""
        entry = Entry(
            path,
            kind,
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            clamped_ns(status.st_mtime_ns),
            status.st_size if kind == kinds.FILE else 0,
            os.fsencode(link),
            (os.major(status.st_rdev), os.minor(status.st_rdev)),
            self._xattrs(path, directory, name),
        )
        if kind != kinds.FILE:
            self._unpacker.add(entry)
            return
        self._bytes += status.st_size
        if self._bytes > self._limits.layer_bytes:
            raise RefusedError(f"{self._what} unpacks to more than the limit", "see layer_bytes in lxc-oci-py(1)")
        fd = os.open(name, _FILE, dir_fd=directory)
        try:
            if status.st_size <= _SMALL:
                self._unpacker.add(entry, _whole(fd, status.st_size, path))
            else:
                self._unpacker.add(entry, _Content(fd))
        finally:
            os.close(fd)
        self._on_bytes(status.st_size)

    def _xattrs(self, path: bytes, directory: int, name: bytes) -> tuple[tuple[bytes, bytes], ...]:
        # There is no call for attributes by descriptor and name; the name is one component and not followed.
        place = b"/proc/self/fd/%d/%s" % (directory, name)
        try:
            names = os.listxattr(place, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.ENOTSUP:  # an image that has no attribute at all
                raise
            names = []
        found = {os.fsencode(one): os.getxattr(place, one, follow_symlinks=False) for one in names}
        if path in self._opaque:
            found[OPAQUE] = b"y"
        return tuple(sorted(found.items()))


def _below(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


class _Content:
    """A large file's data."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int, /) -> bytes:
        return os.read(self._fd, min(size, 1 << 20))


def _whole(fd: int, size: int, path: bytes) -> bytes:
    parts = []
    left = size
    while left and (part := os.read(fd, left)):
        parts.append(part)
        left -= len(part)
    if left:
        raise RefusedError(f"{os.fsdecode(path)} in the image is shorter than it says", "the image is damaged")
    return b"".join(parts)


# --- the image's own metadata ---------------------------------------------------------------------------------------

_MAGIC = 0xE0F5E1E2
_SUPERBLOCK = struct.Struct("<II IBBH QQI III 16s16s IHHHBBI Q")
_DIRECTORY_BYTES = 1 << 26  # two million names of 20 letters
_TRUSTED = 4  # name index; only the rest of the name is stored
_PLAIN, _INLINE = 0, 2  # data layouts of directories
_PREFIXES = 0x80  # name index of a prefix table, which mkfs.erofs fills when it is told to


def opaque_directories(path: str, limits: Limits) -> Iterator[bytes]:
    """Yield the names of the directories of an EROFS image that have trusted.overlay.opaque, the root as `.`.

    Raises RefusedError for metadata that are damaged, or of a kind that is not known.
    """
    with open(path, "rb") as file:
        yield from _Metadata(file, os.fstat(file.fileno()).st_size, limits).opaque()


class _Metadata:
    """The directories of an image, as its metadata describe them; every offset is checked by the read that uses it."""

    def __init__(self, file: BinaryIO, size: int, limits: Limits) -> None:
        self._file = file
        self._size = size
        self._limits = limits
        self._left = size  # bytes of directories and their attributes: each has its own in an honest image
        self._names_left = limits.names_bytes
        self._known: dict[int, bool] = {}  # shared attributes: whether it is the one that is looked for
        head = self._read(1024, _SUPERBLOCK.size)
        fields = _SUPERBLOCK.unpack(head)
        if fields[0] != _MAGIC:
            raise RefusedError("the layer is not an EROFS image")
        if not 9 <= fields[3] <= 16:
            raise _damaged()
        self._block = 1 << fields[3]
        self._root = fields[5]
        self._inodes = fields[10] * self._block
        self._shared = fields[11] * self._block
        self._prefixes = fields[19]
        self._directory_block = self._block << fields[18]

    def opaque(self) -> Iterator[bytes]:
        """Walk from the root.  A directory is entered once: loops end, and so does the work."""
        pending = [(b".", self._root)]
        seen = {self._root}
        while pending:
            path, number = pending.pop()
            mode, data, xattrs = self._inode(number)
            if not stat.S_ISDIR(mode):
                raise _damaged()
            if self._is_opaque(xattrs):
                yield path
            for name, kind, child in self._entries(data):
                if kind != 2 or name in (b".", b"..") or child in seen:
                    continue
                seen.add(child)
                below = _below(b"" if path == b"." else path, name)
                self._count(below, len(seen))
                pending.append((below, child))

    def _count(self, path: bytes, directories: int) -> None:
        limits = self._limits
        if directories > limits.entries:
            raise RefusedError(f"the layer has more than {limits.entries} directories", "see entries in lxc-oci-py(1)")
        if len(path) > limits.path_bytes or path.count(b"/") >= limits.path_depth:
            raise RefusedError(f"a name in a layer has more than {limits.path_bytes} bytes or is too deep")
        self._names_left -= len(path)
        if self._names_left < 0:
            raise RefusedError(
                f"the directories of a layer have paths of more than {limits.names_bytes} bytes together",
                "if that is right, raise names_bytes in /etc/lxc-oci-py/limits.conf",
            )

    def _inode(self, number: int) -> tuple[int, bytes, bytes]:
        """Return (mode, data, attributes) of a directory's inode."""
        position = self._inodes + 32 * number
        form, xattr_count, mode = struct.unpack("<HHH", self._read(position, 6))
        if form & 1:
            size, start = struct.unpack("<QI", self._read(position + 8, 12))
            position += 64
        else:
            size, _, start = struct.unpack("<III", self._read(position + 8, 12))
            position += 32
        length = 12 + 4 * (xattr_count - 1) if xattr_count else 0
        layout = form >> 1 & 7
        if not stat.S_ISDIR(mode):
            return mode, b"", b""
        self._left -= size + length
        if self._left < 0 or size > _DIRECTORY_BYTES:
            raise _damaged()
        xattrs = self._read(position, length)
        if layout == _PLAIN:
            return mode, self._read(start * self._block, size), xattrs
        if layout == _INLINE:
            whole = size // self._block * self._block
            head = self._read(start * self._block, whole) if whole else b""
            return mode, head + self._read(position + length, size - whole), xattrs
        raise RefusedError("the layer has directories in a layout of EROFS that is not known")

    def _entries(self, data: bytes) -> Iterator[tuple[bytes, int, int]]:
        """Yield (name, file type, inode number) of a directory's entries."""
        for start in range(0, len(data), self._directory_block):
            block = data[start : start + self._directory_block]
            if len(block) < 12:
                raise _damaged()
            first = int.from_bytes(block[8:10], "little")
            if first % 12 or not 12 <= first <= len(block):
                raise _damaged()
            entries = [struct.unpack_from("<QHBB", block, at) for at in range(0, first, 12)]
            ends = [entry[1] for entry in entries[1:]] + [len(block)]
            for (number, offset, kind, _), end in zip(entries, ends, strict=True):
                if not first <= offset <= end <= len(block):
                    raise _damaged()
                yield block[offset:end].split(b"\0")[0], kind, number

    def _is_opaque(self, xattrs: bytes) -> bool:
        if not xattrs:
            return False
        shared = xattrs[4]
        if 12 + 4 * shared > len(xattrs):
            raise _damaged()
        position = 12 + 4 * shared
        while position + 4 <= len(xattrs):
            found, position = self._attribute(xattrs, position)
            if found:
                return True
        return any(self._is_shared_opaque(number) for number in struct.unpack_from(f"<{shared}I", xattrs, 12))

    def _is_shared_opaque(self, number: int) -> bool:
        if number not in self._known:
            self._known[number] = self._attribute(self._read(self._shared + 4 * number, 4 + 255 + 16), 0)[0]
        return self._known[number]

    def _attribute(self, raw: bytes, position: int) -> tuple[bool, int]:
        """Return whether the attribute at `position` makes a directory opaque, and where the next one is."""
        length, index, size = struct.unpack_from("<BBH", raw, position)
        if index & _PREFIXES:
            raise RefusedError("the layer has long attribute prefixes of EROFS, which are not known")
        start = position + 4
        name, value = raw[start : start + length], raw[start + length : start + length + size]
        return index == _TRUSTED and name == b"overlay.opaque" and value == b"y", start + length + size + 3 & ~3

    def _read(self, position: int, size: int) -> bytes:
        if size == 0:
            return b""
        if position > self._size:
            raise _damaged()
        self._file.seek(position)
        data = self._file.read(size)
        # A shared attribute may lie at the very end: it is read with room to spare.
        if len(data) < size and position + size > self._size + 512:
            raise _damaged()
        return data.ljust(size, b"\0")


def _damaged() -> RefusedError:
    return RefusedError("the metadata of an EROFS layer are damaged")
