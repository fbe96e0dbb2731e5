# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tree of an image's first layers made again from a tree of more layers, without their blobs.

The record says what the first layers made; contents come from the larger tree, or from what its later layers
displaced.  Below /usr and /opt the two trees share inodes by hard links; elsewhere contents are reflinked or copied,
because containers see the number of links (Debian's cron refuses a crontab that has two).
"""

import errno
import fcntl
import os
import stat
from dataclasses import dataclass
from typing import BinaryIO

from lxc_oci.errors import OciError
from lxc_oci.kernel import syscalls
from lxc_oci.kernel.root import Root
from lxc_oci.layer import displaced, record
from lxc_oci.layer.displaced import Kept
from lxc_oci.layer.record import Recorded

_SHARED = (b"usr", b"opt")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 24
_NODES = {
    record.CHARACTER: stat.S_IFCHR,
    record.BLOCK: stat.S_IFBLK,
    record.FIFO: stat.S_IFIFO,
    record.SOCKET: stat.S_IFSOCK,
}


@dataclass(frozen=True)
class Rebuilt:
    """What rebuilding made."""

    entries: int
    size: int  # bytes of all files
    shared: int  # bytes of those that share inodes or blocks with the larger tree


def rebuild(
    base: Root, base_record: BinaryIO, base_displaced: Root, layers: int, root: Root, *, link: bool = True
) -> Rebuilt:
    """Make the tree of the first `layers` layers of the tree `base` in the empty directory `root`.

    Without `link` no inode is shared, only blocks where the file system can.  Raises OSError, and OciError when the
    larger tree lacks something: then the layers must be fetched.
    """
    wanted = record.replay(base_record, layers)
    present = record.replay(base_record)
    job = _Job(base, base_displaced, root, link)
    job.run(wanted, present)
    return Rebuilt(job.entries, job.size, job.shared)


class _Job:
    """One pass over the recorded tree; descriptors of at most one directory of each tree are open."""

    def __init__(self, base: Root, aside: Root, root: Root, link: bool) -> None:
        self._link = link
        self._base = base
        self._aside = aside
        self._root = root
        self._kept: dict[bytes, list[Kept]] | None = None
        self._made: dict[int, bytes] = {}  # id of a recorded object → path of its first name
        self._reflinks = True
        self.entries = self.size = self.shared = 0

    def run(self, wanted: Recorded, present: Recorded) -> None:
        pending: list[tuple[bytes, Recorded, Recorded | None]] = [(b"", wanted, present)]
        finished: list[tuple[bytes, Recorded]] = []
        while pending:
            path, directory, there = pending.pop()
            finished.append((path, directory))
            self.entries += 1
            to = self._root.open(path, _DIRECTORY)
            source = self._base.open(path, _DIRECTORY) if there is not None else -1
            try:
                for name, item in directory.children.items():
                    other = there.children.get(name) if there is not None else None
                    whole = path + b"/" + name if path else name
                    if item.kind == record.DIRECTORY:
                        os.mkdir(name, 0o700, dir_fd=to)
                        same = other is not None and other.kind == record.DIRECTORY
                        pending.append((whole, item, other if same else None))
                    else:
                        self._object(whole, name, item, to, source if _same(item, other) else -1)
            finally:
                os.close(to)
                if source >= 0:
                    os.close(source)
        # The deepest first: putting something into a directory changes its time.
        for path, directory in reversed(finished):
            fd = self._root.open(path, _DIRECTORY)
            try:
                self._attributes(fd, directory)
            finally:
                os.close(fd)

    def _object(self, path: bytes, name: bytes, item: Recorded, to: int, source: int) -> None:
        """Make what is no directory; `source` is the larger tree's directory if it has the same object there."""
        self.entries += 1
        first = self._made.get(id(item))
        if first is not None:
            parent, base = self._root.parent(first)
            try:
                os.link(base, name, src_dir_fd=parent, dst_dir_fd=to, follow_symlinks=False)
            finally:
                os.close(parent)
            return
        self._made[id(item)] = path
        if item.kind in _NODES:
            os.mknod(name, _NODES[item.kind] | item.mode, item.size, dir_fd=to)
            os.chown(name, item.uid, item.gid, dir_fd=to, follow_symlinks=False)
            os.chmod(name, item.mode, dir_fd=to)  # a node that was just made, so no link
            os.utime(name, ns=(item.mtime_ns, item.mtime_ns), dir_fd=to, follow_symlinks=False)
            return
        if source >= 0:
            self._from(source, name, name, path, item, to, linkable=True)
            return
        kept = self._find(path, item)
        parent, base = self._aside.parent(kept.path)
        try:
            self._from(
                parent, base, name, path, item, to, linkable=not item.xattrs and _has_attributes(kept.status, item)
            )
        finally:
            os.close(parent)

    def _from(
        self, source: int, base: bytes, name: bytes, path: bytes, item: Recorded, to: int, *, linkable: bool
    ) -> None:
        """Make `name` of the file or symbolic link `base` in `source`."""
        size = item.size if item.kind == record.FILE else 0
        self.size += size
        if self._link and linkable and (item.kind == record.SYMLINK or path.split(b"/", 1)[0] in _SHARED):
            try:
                os.link(base, name, src_dir_fd=source, dst_dir_fd=to, follow_symlinks=False)
                self.shared += size
                return
            except OSError as error:
                if error.errno not in (errno.EMLINK, errno.EPERM, errno.EXDEV):
                    raise
        if item.kind == record.SYMLINK:
            os.symlink(os.readlink(base, dir_fd=source), name, dir_fd=to)
            os.chown(name, item.uid, item.gid, dir_fd=to, follow_symlinks=False)
            os.utime(name, ns=(item.mtime_ns, item.mtime_ns), dir_fd=to, follow_symlinks=False)
            return
        reading = os.open(base, _READ, dir_fd=source)
        try:
            writing = os.open(name, _NEW, 0o600, dir_fd=to)
            try:
                if self._copy(reading, writing, item.size):
                    self.shared += size
                self._attributes(writing, item)
            finally:
                os.close(writing)
        finally:
            os.close(reading)

    def _copy(self, reading: int, writing: int, size: int) -> bool:
        """Copy a file's content; return whether the blocks are shared."""
        if self._reflinks and size:
            try:
                fcntl.ioctl(writing, syscalls.FICLONE, reading)
                return True
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY):
                    raise
                self._reflinks = False
        while os.copy_file_range(reading, writing, _CHUNK):
            pass
        return False

    def _attributes(self, fd: int, item: Recorded) -> None:
        os.fchown(fd, item.uid, item.gid)
        for name, value in item.xattrs:
            os.setxattr(fd, name, value)
        os.fchmod(fd, item.mode)  # after the owner: chown(2) takes set-id bits away
        os.utime(fd, ns=(item.mtime_ns, item.mtime_ns))

    def _find(self, path: bytes, item: Recorded) -> Kept:
        """Return something displaced that has the content of `item`, with its attributes too if there is such."""
        if self._kept is None:
            self._kept = displaced.contents(self._aside)
        kind = stat.S_IFLNK if item.kind == record.SYMLINK else stat.S_IFREG
        found = [kept for kept in self._kept.get(item.digest, ()) if stat.S_IFMT(kept.status.st_mode) == kind]
        if not found:
            raise OciError(f"{os.fsdecode(path)!r:.200} of the lower layers is not in the store any more")
        return next((kept for kept in found if _has_attributes(kept.status, item)), found[0])


def _same(item: Recorded, other: Recorded | None) -> bool:
    """Tell whether the larger tree has the very object, not another one that a later layer put in its place."""
    return other is not None and (other.kind, other.layer, other.digest, other.mode, other.uid, other.gid) == (
        item.kind,
        item.layer,
        item.digest,
        item.mode,
        item.uid,
        item.gid,
    )


def _has_attributes(status: os.stat_result, item: Recorded) -> bool:
    mode = item.mode if item.kind != record.SYMLINK else stat.S_IMODE(status.st_mode)
    return (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (
        item.uid,
        item.gid,
        mode,
        item.mtime_ns,
    )
