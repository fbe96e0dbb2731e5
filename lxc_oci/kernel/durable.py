# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that are whole or absent after a crash, and locks that die with their holder.

Publishing is always: write to a private name, flush, rename, flush the directory.
"""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lxc_oci.errors import UnavailableError
from lxc_oci.kernel import syscalls, threads

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FLUSH_SECONDS = 0.2  # between flushes
_COPIED = 1 << 20  # bytes at once


def write_all(fd: int, content: bytes) -> None:
    """Write `content` to the end: os.write may write less.  Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def copy(source: int, target: int, on_data: Callable[[bytes], object] = lambda data: None) -> None:
    """Copy what is left of the file open as `source` to `target`, on whatever file systems; `on_data` sees it pass.

    copy_file_range(2) fails between file systems since Linux 5.19.  Raises OSError.
    """
    while data := os.read(source, _COPIED):
        write_all(target, data)
        on_data(data)


def write_file(path: str, content: bytes, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Replace `path` by a file with `content`, atomically and durably; `owner` are its uid and gid.

    The temporary name lies beside it and starts with a dot.  Raises OSError, the temporary name removed.
    """
    replace_file(path, content, mode, flush=True, owner=owner)
    sync_directory(os.path.dirname(path))


def replace_file(
    path: str, content: bytes, mode: int = 0o644, *, flush: bool = False, owner: tuple[int, int] | None = None
) -> None:
    """Replace `path` by a file with `content`, atomically; durably only once sync_files has seen it.

    Raises OSError, the temporary name removed.
    """
    directory, base = os.path.split(path)
    temporary = os.path.join(directory, f".{base}.{os.getpid()}.tmp")
    try:
        os.unlink(temporary)
    except FileNotFoundError:
        pass
    try:
        fd = os.open(temporary, _NEW, 0o600)
        try:
            write_all(fd, content)
            if owner is not None:
                os.fchown(fd, *owner)
            os.fchmod(fd, mode)
            if flush:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise


def sync_files(directory: str) -> None:
    """Flush the regular files in `directory`, and their names.

    One after the other at the end costs one commit of the journal, where each by itself would cost one each.
    Raises OSError.
    """
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
    sync_directory(directory)


def sync_directory(path: str) -> None:
    """Flush a directory, so that the names in it survive a power cut.  Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def flushed_ahead(path: str) -> Iterator[None]:
    """Flush the file system of the directory `path` again and again while the context writes to it.

    Whoever flushes it all at the end (syncfs) then waits for little: the disk has worked all the time.  Raises OSError,
    also for what was written and could not be flushed, which the kernel tells only once.
    """
    ended = threading.Event()
    errors: list[OSError] = []

    def flush() -> None:
        while not errors and not ended.wait(_FLUSH_SECONDS):
            try:
                syscalls.syncfs(fd)
            except OSError as error:
                errors.append(error)

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        thread = threads.start(flush)
        try:
            yield
        finally:
            ended.set()
            thread.join()
    finally:
        os.close(fd)
    if errors:
        raise errors[0]


@contextmanager
def lock(path: str, *, shared: bool = False, wait: bool = True, timeout: float | None = None) -> Iterator[int]:
    """Hold flock(2) on `path`, which is created when missing and never unlinked.

    The kernel frees it when the holder dies.  With wait=False, or after `timeout` seconds, raises
    UnavailableError.  Yields the descriptor.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _acquire(fd, path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait, timeout)
        yield fd
    finally:
        os.close(fd)


def _acquire(fd: int, path: str, operation: int, wait: bool, timeout: float | None) -> None:
    if wait and timeout is None:
        fcntl.flock(fd, operation)
        return
    end = time.monotonic() + (timeout or 0)
    while True:
        try:
            fcntl.flock(fd, operation | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if not wait or time.monotonic() >= end:
            raise UnavailableError(f"{path} is locked by another process", "wait until it has finished, then try again")
        time.sleep(0.05)
