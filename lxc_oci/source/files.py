# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of an image kept on this host, found by name: in a directory here, in an archive in source.archive.

What a name holds is not trusted, its bytes are verified by whoever reads them; so a symbolic link in a user's
layout is followed, but only a regular file is read: a FIFO must not be waited for, nor a device be read.
"""

import errno
import os
import stat
from typing import Protocol

from lxc_oci.errors import AccessError, OciError, RefusedError, UnavailableError
from lxc_oci.source.source import RawReader, read_limited

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Files(Protocol):
    """A set of named files.  Safe to call from several threads."""

    def open(self, name: str, what: str, offset: int = 0) -> RawReader:
        """Open the file `name` at byte `offset`; `what` names it in errors.  Raises AccessError when it is missing."""

    def size(self, name: str) -> int | None:
        """Return the length of the file `name` in bytes, or None when it is missing."""

    def close(self) -> None: ...


class FileReader:
    """`size` bytes of an open file from `position` on.  Closes the descriptor, which is its own."""

    def __init__(self, fd: int, what: str, position: int = 0, size: int | None = None) -> None:
        self._fd = fd
        self._what = what
        self._position = position
        self._left = size

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, b"" at the end.  Raises UnavailableError when the file cannot be read."""
        if self._left is not None:
            size = min(size, self._left)
        try:
            data = os.pread(self._fd, size, self._position)
        except OSError as error:
            raise UnavailableError(f"cannot read {self._what}: {error.strerror}") from error
        self._position += len(data)
        if self._left is not None:
            self._left -= len(data)
        return data

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class DirectoryFiles:
    """The files of a directory."""

    def __init__(self, path: str) -> None:
        self._path = path

    def open(self, name: str, what: str, offset: int = 0) -> RawReader:
        """See Files."""
        return FileReader(open_regular(os.path.join(self._path, name), what), what, offset)

    def size(self, name: str) -> int | None:
        """See Files."""
        try:
            status = os.stat(os.path.join(self._path, name))
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def close(self) -> None:
        """See Files."""


def open_regular(path: str, what: str) -> int:
    """Return a descriptor of the regular file `path`; `what` names it in errors.

    Raises AccessError when it is missing or must not be read, and RefusedError when it is something else.
    """
    try:
        fd = os.open(path, _FLAGS)
    except OSError as error:
        raise _unopened(error, path, what) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RefusedError(f"{what} ({path}) is not a regular file")
    return fd


def read_whole(files: Files, name: str, what: str, limit: int) -> bytes:
    """Return the content of a small file.  Raises RefusedError past `limit` bytes, else as Files.open."""
    reader = files.open(name, what)
    try:
        return read_limited(reader.read, limit, what)
    finally:
        reader.close()


def _unopened(error: OSError, path: str, what: str) -> OciError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return AccessError(f"{what} is missing: there is no {path}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessError(
            f"{what} cannot be read: {path}: {error.strerror}",
            "a container with an idmap is made by ids of its own: they need r on the file and x on its directories",
        )
    if error.errno in (errno.ENXIO, errno.EISDIR, errno.ENODEV):
        return RefusedError(f"{what} ({path}) is not a regular file")
    return UnavailableError(f"cannot open {path}: {error.strerror}")
