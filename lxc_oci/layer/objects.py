# SPDX-License-Identifier: LGPL-2.1-or-later
"""Objects: one new file, directory, link or node in an open directory, with its owner, mode, attributes and time.

Two rules keep trees that share inodes apart: what exists is unlinked before something is
created in its place, and a hard link applies no metadata.  Everything happens by the descriptor of the
parent, following no link.  Which directory an entry belongs to is unpack's.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from hashlib import sha256

from lxc_oci.errors import NoSpaceError, OciError, RefusedError, UnsupportedError
from lxc_oci.kernel.durable import write_all
from lxc_oci.layer import attributes, record, whiteout
from lxc_oci.layer import entry as kinds
from lxc_oci.layer.attributes import Xattrs
from lxc_oci.layer.directories import NAME_BYTES, Directories, Directory
from lxc_oci.layer.entry import Data, Entry
from lxc_oci.layer.hashing import Hashing, LateDigest
from lxc_oci.layer.inflate import CHUNK
from lxc_oci.layer.record import RecordWriter

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ZEROS = bytes(CHUNK)
_NODES = {
    kinds.CHARACTER: (stat.S_IFCHR, record.CHARACTER),
    kinds.BLOCK: (stat.S_IFBLK, record.BLOCK),
    kinds.FIFO: (stat.S_IFIFO, record.FIFO),
    kinds.SOCKET: (stat.S_IFSOCK, record.SOCKET),
}
_DEVICES = (kinds.CHARACTER, kinds.BLOCK)


class Objects:
    """Makes what entries describe, and records it.  Methods raise OSError and RefusedError."""

    def __init__(
        self, directories: Directories, warn: Callable[[str], None], writer: RecordWriter | None, overlay: bool
    ) -> None:
        self._directories = directories
        self._warn = warn
        self._record = writer
        self._overlay = overlay
        self._uid, self._gid = os.geteuid(), os.getegid()  # what new files have
        self.hashing = Hashing()
        # Something lies below this layer.  Else whiteouts have nothing to hide, and what is its own is not noted.
        self.over_lower = False
        self.skipped: set[bytes] = set()  # paths of devices that were left out
        self.create: dict[str, Callable[[Directory, bytes, Entry, Data], None]] = {
            kinds.FILE: self._create_file,
            kinds.DIRECTORY: self._create_directory,
            kinds.SYMLINK: self._create_symlink,
            kinds.HARDLINK: self._create_hardlink,
            kinds.CHARACTER: self._create_node,
            kinds.BLOCK: self._create_node,
            kinds.FIFO: self._create_node,
            kinds.SOCKET: self._create_node,
        }

    def imply(self, parent: Directory, base: bytes, mtime_ns: int) -> None:
        """Make a directory that no entry describes."""
        self._create_directory(parent, base, Entry(base, kinds.DIRECTORY, 0o755, self._uid, self._gid, mtime_ns))

    def _clobber(self, parent: Directory, base: bytes) -> None:
        """Remove what is in the place of a new object, never writing to it: other names and trees may share it."""
        here = self._directories.fd(parent)
        try:
            status = os.stat(base, dir_fd=here, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            self._directories.forget(parent, base)
            self._directories.remove(parent, base)
        else:
            self._directories.remove(parent, base)
            if stat.S_ISLNK(status.st_mode):
                self._directories.names.clear()  # it may have been on the way to some of them

    def _mark(self, parent: Directory, base: bytes) -> None:
        """Note that `base` is of this layer."""
        if not parent.upper:
            self._directories.keep_upper(parent)
        parent.upper.add(base)
        self._directories.hold(len(base) + NAME_BYTES)

    def _create_file(self, parent: Directory, base: bytes, entry: Entry, data: Data) -> None:
        _, _, mode, uid, gid, mtime_ns, size, _, _, xattrs, sparse = entry
        here = parent.fd
        if here < 0:
            here = self._directories.fd(parent)
        try:
            fd = os.open(base, _NEW, mode & 0o777, dir_fd=here)
        except FileExistsError:
            self._clobber(parent, base)
            fd = os.open(base, _NEW, mode & 0o777, dir_fd=here)
        try:
            digest: bytes | LateDigest
            if sparse is not None:
                digest = self._write_sparse(fd, size, sparse, data)
            elif isinstance(data, bytes):
                if len(data) != size:
                    raise RefusedError(f"{shown(entry.name)} in a layer has not as much data as it says")
                if size and (written := os.write(fd, data)) != size:
                    write_all(fd, data[written:])
                digest = sha256(data).digest() if self._record is not None else b""
            else:
                digest = self._write(fd, size, data)
            # The owner first: changing it takes away set-id bits and capabilities.
            if uid != self._uid or gid != self._gid or not parent.plain:
                _chown(entry, fd)
                if not parent.plain:
                    attributes.clear(fd)
                os.fchmod(fd, mode)
            elif mode > 0o777:
                os.fchmod(fd, mode)
            if xattrs:
                xattrs = attributes.apply(fd, self._own(xattrs), self._warn)
                mode = _mode(fd)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)
        if self.over_lower:
            self._mark(parent, base)
        if self._record is not None:
            self._record.add(record.FILE, parent.path, base, mode, uid, gid, mtime_ns, size, digest)
            if xattrs:
                self._record.xattrs(xattrs)

    def _write(self, fd: int, size: int, data: Data) -> bytes | LateDigest:
        """Write a file of `size` bytes and return its digest, if one is wanted."""
        late = self.hashing.begin() if self._record is not None else None
        left = size
        for piece in _pieces(data):
            if late is not None:
                self.hashing.update(late, piece)
            left -= len(piece)
            if left < 0:
                break
            write_all(fd, piece)
        if left:
            raise RefusedError("a file in a layer has not as much data as it says")
        if late is None:
            return b""
        self.hashing.update(late, b"")
        return late

    def _write_sparse(self, fd: int, size: int, sparse: tuple[tuple[int, int], ...], data: Data) -> bytes:
        """Write the regions of a sparse file; the digest is that of all its bytes, holes included."""
        hasher = sha256() if self._record is not None else None
        pieces = _pieces(data)
        piece: bytes | memoryview = b""
        position = 0
        for offset, length in (*sparse, (size, 0)):
            while hasher is not None and position < offset:
                hole = min(offset - position, CHUNK)
                hasher.update(memoryview(_ZEROS)[:hole])
                position += hole
            position = offset
            os.lseek(fd, offset, os.SEEK_SET)
            while length:
                piece = piece or next(pieces, b"")
                if not piece:
                    raise RefusedError("a sparse file in a layer has not as much data as it says")
                part = memoryview(piece)[:length]
                write_all(fd, part)
                if hasher is not None:
                    hasher.update(part)
                piece = memoryview(piece)[len(part) :]
                length -= len(part)
                position += len(part)
        if piece or next(pieces, b""):
            raise RefusedError("a sparse file in a layer has not as much data as it says")
        os.ftruncate(fd, size)
        return hasher.digest() if hasher is not None else b""

    def _create_directory(self, parent: Directory, base: bytes, entry: Entry, data: Data = b"") -> None:
        here = self._directories.fd(parent)
        try:
            os.mkdir(base, entry.mode & 0o777, dir_fd=here)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(base, dir_fd=here, follow_symlinks=False).st_mode):
                self.set_directory(self._directories.child(parent, base), entry)
                return
            self._clobber(parent, base)
            os.mkdir(base, entry.mode & 0o777, dir_fd=here)
        directory = self._directories.child(parent, base)
        plain = entry.uid == self._uid and entry.gid == self._gid and parent.plain
        if plain and entry.mode <= 0o777 and not entry.xattrs:
            directory.plain = True
            directory.mtime_ns = entry.mtime_ns
            self._note_directory(directory, entry, ())
        else:
            self.set_directory(directory, entry)

    def set_directory(self, directory: Directory, entry: Entry) -> None:
        """Give a directory that exists the metadata of its entry."""
        fd = self._directories.fd(directory)
        _chown(entry, fd)
        attributes.clear(fd)
        os.fchmod(fd, entry.mode)
        xattrs = attributes.apply(fd, self._own(entry.xattrs), self._warn)
        inherited = any(name == attributes.ACL_DEFAULT for name, _ in xattrs)
        directory.plain = self._directories.exact and not entry.mode & stat.S_ISGID and not inherited
        directory.mtime_ns = entry.mtime_ns
        self._note_directory(directory, entry._replace(mode=_mode(fd)) if xattrs else entry, xattrs)
        if self._overlay and self.over_lower and (attributes.OVERLAY_OPAQUE, b"y") in entry.xattrs:
            whiteout.hide_all(self._directories, directory, self._record)

    def _note_directory(self, directory: Directory, entry: Entry, xattrs: Xattrs) -> None:
        if self.over_lower:
            self._directories.keep_upper(directory)
        if self._record is not None:
            parent = directory.above.path if directory.above is not None else b""
            mode, uid, gid = entry.mode, entry.uid, entry.gid
            self._record.add(record.DIRECTORY, parent, directory.base, mode, uid, gid, entry.mtime_ns, 0)
            if xattrs:
                self._record.xattrs(xattrs)

    def _create_symlink(self, parent: Directory, base: bytes, entry: Entry, data: Data) -> None:
        if not entry.link:
            raise RefusedError(f"{shown(entry.name)} in a layer is a symbolic link to nothing")
        here = self._directories.fd(parent)
        try:
            os.symlink(entry.link, base, dir_fd=here)
        except FileExistsError:
            self._clobber(parent, base)
            os.symlink(entry.link, base, dir_fd=here)
        if entry.uid != self._uid or entry.gid != self._gid or not parent.plain:
            _chown(entry, base, here)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=here, follow_symlinks=False)
        if entry.xattrs:
            self._warn("extended attributes of symbolic links in the image are left out")
        if self.over_lower:
            self._mark(parent, base)
        if self._record is not None:
            digest = sha256(entry.link).digest()
            uid, gid = entry.uid, entry.gid
            self._record.add(record.SYMLINK, parent.path, base, 0o777, uid, gid, entry.mtime_ns, 0, digest)

    def _create_hardlink(self, parent: Directory, base: bytes, entry: Entry, data: Data) -> None:
        components = self._directories.components(entry.link)
        if not components:
            raise RefusedError(f"{shown(entry.name)} in a layer is a hard link to the root directory")
        last = components.pop()
        try:
            other = self._directories.resolve(components, None)
            if other.path + b"/" + last in self.skipped:
                return
            os.stat(last, dir_fd=self._directories.fd(other), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            raise RefusedError(
                f"{shown(entry.name)} in a layer is a hard link to {shown(entry.link)}, which does not exist"
            ) from None
        if other is parent and last == base:
            return
        self._clobber(parent, base)
        # Without follow_symlinks=False a link to a symbolic link would be one to its target (CVE-2021-32760).
        try:
            here, there = self._pair(parent, other)
            os.link(last, base, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
        except (FileNotFoundError, PermissionError) as error:
            raise RefusedError(
                f"{shown(entry.name)} in a layer cannot be a hard link to {shown(entry.link)}: {error.strerror}"
            ) from error
        if self.over_lower:
            self._mark(parent, base)
        if self._record is not None:
            self._record.link(parent.path, base, other.path + b"/" + last if other.path else last)

    def _pair(self, one: Directory, other: Directory) -> tuple[int, int]:
        """Return descriptors of two directories, both valid."""
        self._directories.fd(one)
        there = self._directories.fd(other)
        here = one.fd
        if here < 0:
            here = self._directories.fd(one)  # the limit is more than two, so `other` stays open
            there = other.fd
        return here, there

    def _create_node(self, parent: Directory, base: bytes, entry: Entry, data: Data) -> None:
        if entry.type == kinds.CHARACTER and entry.device == (0, 0):
            if self._overlay:
                if self.over_lower:
                    whiteout.hide(self._directories, parent, base, self._record)
            else:
                # An overlay's whiteout: it would hide a file from the container that a scanner sees.
                self._warn("a layer has devices with the number 0:0, which are left out")
                self._skip(parent, base)
            return
        here = self._directories.fd(parent)
        file_type, kind = _NODES[entry.type]
        device = os.makedev(*entry.device) if entry.type in _DEVICES else 0
        self._clobber(parent, base)
        try:
            os.mknod(base, file_type | entry.mode & 0o777, device, dir_fd=here)
        except PermissionError:
            if entry.type not in _DEVICES:
                raise
            self._warn("device nodes of the image are left out, because the kernel does not allow them here")
            self._skip(parent, base)
            return
        if entry.uid != self._uid or entry.gid != self._gid or not parent.plain:
            _chown(entry, base, here)
        if entry.mode > 0o777 or entry.xattrs or not parent.plain:
            # Opening a device or FIFO would act on it; a path through O_PATH does not.
            fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            try:
                path = f"/proc/self/fd/{fd}"
                os.chmod(path, entry.mode)
                if entry.xattrs:
                    self._warn("extended attributes of devices and FIFOs in the image are left out")
            finally:
                os.close(fd)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=here, follow_symlinks=False)
        if self.over_lower:
            self._mark(parent, base)
        if self._record is not None:
            mode, uid, gid = entry.mode, entry.uid, entry.gid
            self._record.add(kind, parent.path, base, mode, uid, gid, entry.mtime_ns, device)

    def _skip(self, parent: Directory, base: bytes) -> None:
        """Note that a device was left out: so are hard links to it."""
        path = parent.path + b"/" + base
        self._directories.hold(len(path) + NAME_BYTES)
        self.skipped.add(path)

    def _own(self, xattrs: Xattrs) -> Xattrs:
        """Return the attributes that are not overlayfs's own, where those were expected."""
        if not self._overlay:
            return xattrs
        for name, _ in xattrs:
            if name in attributes.OVERLAY_REFUSED:
                raise RefusedError(
                    f"a layer has the attribute {os.fsdecode(name)}, which ties it to another file system"
                )
        return tuple(item for item in xattrs if not item[0].startswith(b"trusted.overlay."))


def shown(name: bytes) -> str:
    """Return a name of the image for a message."""
    return repr(os.fsdecode(name)[:200])


def _chown(entry: Entry, target: int | bytes, dir_fd: int | None = None) -> None:
    """Give a file, by descriptor, or a name in `dir_fd` its owner.  Raises RefusedError for one without a mapping."""
    try:
        if isinstance(target, int):
            os.fchown(target, entry.uid, entry.gid)
        else:
            os.chown(target, entry.uid, entry.gid, dir_fd=dir_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOVERFLOW):
            raise
        raise RefusedError(
            f"{shown(entry.name)} in the image belongs to {entry.uid}:{entry.gid}, which the id map does not contain",
            "give the container more ids: lxc.idmap in its configuration, /etc/subuid and /etc/subgid",
        ) from error


def _pieces(data: Data) -> Iterator[bytes | memoryview]:
    if isinstance(data, (bytes, memoryview)):
        return iter((data,) if data else ())
    read = data.read
    return iter(lambda: read(CHUNK), b"")


def _mode(fd: int) -> int:
    """Return the mode that a file has after an access control list was set on it, whose mask changes the group's."""
    return stat.S_IMODE(os.fstat(fd).st_mode)


def failure(what: str, error: OSError) -> OciError:
    """Return the error for users that an error of the file system means; `what` could not be done."""
    what = f"{what}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(what, "free space or inodes on the file system, then try again")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.E2BIG, errno.ERANGE):
        return RefusedError(what, "the image has names or attributes that this file system cannot hold")
    if error.errno == errno.EROFS:
        return UnsupportedError(what, "the file system is mounted read-only")
    return OciError(what)
