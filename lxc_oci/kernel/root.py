# SPDX-License-Identifier: LGPL-2.1-or-later
"""Root: a directory whose every name is resolved inside it, whatever the image put there.

Names are bytes, relative or absolute; both start at the directory.  `..` stops
there, and a symbolic link, absolute or not, is followed as the container would
follow it (openat2 with RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS).  No other module
opens a path inside a rootfs: the last component is always acted on by its parent's
descriptor and without following it.
"""

import errno
import os
import stat
from types import TracebackType
from typing import Self

from lxc_oci.errors import RefusedError
from lxc_oci.kernel import syscalls

_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Root:
    """An open directory that confines every name given to it.  A context manager; closing is the caller's."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def at(cls, path: str | bytes) -> "Root":
        """Open `path`, a directory of ours (not the image's), without following a last symbolic link."""
        return cls(os.open(path, _DIRECTORY))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def open(self, name: bytes, flags: int, mode: int = 0) -> int:
        """Open `name`, following symbolic links inside the root only.  Raises OSError."""
        while True:
            try:
                return syscalls.openat2(self.fd, name.lstrip(b"/") or b".", flags, mode, _RESOLVE)
            except BlockingIOError:  # EAGAIN: a rename raced with `..`; the kernel asks to try again
                continue

    def parent(self, name: bytes) -> tuple[int, bytes]:
        """Return a descriptor of the directory that holds `name`, and its last component.

        The caller closes the descriptor.  Raises OSError when the directory is missing, and
        RefusedError when `name` is the root itself or ends in `.` or `..`.
        """
        directory, _, base = name.rstrip(b"/").rpartition(b"/")
        if base in (b"", b".", b".."):
            raise RefusedError(f"{os.fsdecode(name)!r} names no entry of a directory")
        return self.open(directory, os.O_RDONLY | os.O_DIRECTORY), base

    def stat(self, name: bytes) -> os.stat_result:
        """Return what `name` is, symbolic links followed inside the root.  Raises OSError."""
        fd = self.open(name, os.O_PATH)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def lstat(self, name: bytes) -> os.stat_result:
        """Return what `name` is, a last symbolic link not followed.  Raises OSError."""
        fd = self.open(name, os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def read(self, name: bytes, limit: int) -> bytes:
        """Return the content of the regular file `name`, symbolic links followed inside the root.

        Raises FileNotFoundError, and RefusedError when it is no regular file or longer than `limit` bytes:
        a FIFO must not be waited for (CVE-2024-9676), and a device not even opened: that alone starts a watchdog.
        """
        place = self.open(name, os.O_PATH)
        try:
            if not stat.S_ISREG(os.fstat(place).st_mode):
                raise RefusedError(f"{os.fsdecode(name)} in the image is not a regular file")
            fd = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(place)
        try:
            parts = []
            left = limit + 1
            while left and (part := os.read(fd, min(left, 1 << 20))):
                parts.append(part)
                left -= len(part)
            if not left:
                raise RefusedError(f"{os.fsdecode(name)} in the image is larger than {limit} bytes")
            return b"".join(parts)
        finally:
            os.close(fd)

    def make_directories(self, name: bytes, mode: int = 0o755) -> int:
        """Create the missing directories of `name` and return a descriptor of the last; the caller closes it.

        Existing symbolic links are followed inside the root; what is created is owned by the caller.
        Raises NotADirectoryError where a component is something else.
        """
        done = b""
        fd = self.open(b"", os.O_RDONLY | os.O_DIRECTORY)
        for component in name.split(b"/"):
            if component in (b"", b"."):
                continue
            if component == b"..":
                done = done.rpartition(b"/")[0]
            else:
                try:
                    os.mkdir(component, mode, dir_fd=fd)
                    os.chmod(component, mode, dir_fd=fd)  # just made by us, so no link: the umask is undone
                except FileExistsError:
                    pass
                done = done + b"/" + component
            os.close(fd)
            fd = self.open(done, os.O_RDONLY | os.O_DIRECTORY)
        return fd

    def replace_file(self, name: bytes, content: bytes, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> None:
        """Put a new regular file in the place of whatever `name` was (a link, a FIFO), never through it.

        Raises OSError; IsADirectoryError when a directory is there.
        """
        directory, base = self.parent(name)
        try:
            try:
                os.unlink(base, dir_fd=directory)
            except FileNotFoundError:
                pass
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(base, flags, 0o600, dir_fd=directory)
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(fd, view) :]
                os.fchown(fd, *owner)
                os.fchmod(fd, mode)
            finally:
                os.close(fd)
        finally:
            os.close(directory)


def remove_tree(parent_fd: int, name: bytes) -> None:
    """Remove `name` and all below it by descriptors, following no link and crossing no mount.

    A missing name is no error.  Raises OSError (EXDEV or EBUSY where something is mounted).
    """
    try:
        os.unlink(name, dir_fd=parent_fd)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):  # POSIX lets unlink of a directory give EPERM
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
            raise
    # An explicit stack: the image decides how deep a tree is.  One descriptor is open at a time, and the way up is
    # "..", compared with the directory that was there on the way down.
    fd = _enter(parent_fd, name)
    stack = [(identity(fd), _unlink_all(fd))]
    try:
        while True:
            entered, directories = stack[-1]
            if directories:
                below = _enter(fd, directories[-1])
                os.close(fd)
                fd = below
                stack.append((identity(fd), _unlink_all(fd)))
                continue
            stack.pop()
            if not stack:
                break
            above = os.open(b"..", _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = above
            entered, directories = stack[-1]
            if identity(fd) != entered:
                raise OSError(errno.ESTALE, "moved while it was removed", name)
            os.rmdir(directories.pop(), dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent_fd)


def _enter(parent_fd: int, name: bytes) -> int:
    """Open the directory `name` for removal, unless something is mounted on it."""
    resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV
    try:
        return syscalls.openat2(parent_fd, name, _DIRECTORY, 0, resolve)
    except PermissionError:  # a directory without r or x, for a process without CAP_DAC_OVERRIDE
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
            raise
        os.chmod(name, 0o700, dir_fd=parent_fd)
        return syscalls.openat2(parent_fd, name, _DIRECTORY, 0, resolve)


def identity(place: int | str) -> tuple[int, int]:
    """Return what tells a directory, by descriptor or path, from any other, and from what is mounted on it, a bind
    mount of the same file system too.  Raises OSError."""
    status = os.stat(place)
    return status.st_dev, status.st_ino


def covered(path: str, before: tuple[int, int]) -> bool:
    """Tell whether something is mounted on the directory `path`, whose identity was `before`."""
    try:
        return identity(path) != before
    except OSError:  # a FUSE mount whose program is gone
        return True


def _unlink_all(fd: int) -> list[bytes]:
    """Remove all but the directories with something in them from `fd`, and return those."""
    left = []
    with os.scandir(fd) as entries:
        found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=fd)
            continue
        try:
            os.rmdir(name, dir_fd=fd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):
                raise
            left.append(name)
    return left
