# SPDX-License-Identifier: LGPL-2.1-or-later
"""Blobs on their way through the store: what was fetched is never fetched again.

`CachingSource` stands before another source.  What it reads from there it also writes to
`partial/`, so that a pull that was cut goes on where it stopped; nothing in `partial/` is trusted,
the reader above verifies every byte whatever it came from.  A blob that is wanted later as a
file (squashfs, EROFS, PuzzleFS, the layers of a flat container) moves to `blobs/` once it was verified.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Callable

from lxc_oci.errors import NoSpaceError, RefusedError
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from lxc_oci.image.mediatype import layer_kind, size_may_be_less
from lxc_oci.kernel import durable
from lxc_oci.limits import Limits
from lxc_oci.source.source import Blob, RawReader, Source
from lxc_oci.store.home import Store, no_space, touch
from lxc_oci.store.images import directory_name

_CHUNK = 1 << 20


class CachingSource:
    """A Source that asks the store first and keeps what it had to fetch.

    `connect` makes the source behind it at the first need, so that a stored image costs no connection.
    """

    def __init__(self, store: Store, connect: Callable[[], Source]) -> None:
        self._store = store
        self._connect = connect
        self._source: Source | None = None
        self._connecting = threading.Lock()
        self._written: dict[Digest, _Mark] = {}  # copies that a reader of this source has read or written to their end

    @property
    def behind(self) -> Source:
        """The source behind, connected; one for all threads."""
        with self._connecting:
            if self._source is None:
                self._source = self._connect()
            return self._source

    def announced(self) -> Digest | None:
        """Return the digest that the source behind says its reference has now, or None where it says nothing.

        Only a hint at what the store may have: bytes are verified against it, wherever they come from.
        """
        head = getattr(self.behind, "head", None)
        return head() if head is not None else None

    def root(self, limits: Limits) -> tuple[Descriptor, bytes]:
        """See Source."""
        return self.behind.root(limits)

    def origin(self, descriptor: Descriptor) -> str:
        """See Source."""
        return self.behind.origin(descriptor)

    def cut(self) -> None:
        """End what other threads read from the source behind, if it can: nothing is read any more."""
        getattr(self._source, "cut", lambda: None)()

    def close(self) -> None:
        """See Source."""
        if self._source is not None:
            self._source.close()

    def open(self, descriptor: Descriptor, offset: int = 0) -> RawReader:
        """Open a blob: the kept one, or what is left of a partial one and then the source behind."""
        return self._open(descriptor, offset, wait=False)

    def open_alone(self, descriptor: Descriptor) -> RawReader:
        """As `open`, but wait for whoever fetches the same blob: the copy is ours.  Reading raises NoSpaceError."""
        return self._open(descriptor, 0, wait=True)

    def _open(self, descriptor: Descriptor, offset: int, *, wait: bool) -> RawReader:
        document = layer_kind(descriptor.media_type) is None  # kept by store.images, once it was understood
        if offset or (document and not wait):
            return self.behind.open(descriptor, offset)
        path = blob_path(self._store, descriptor.digest)
        partial = partial_path(self._store, descriptor.digest)
        while True:
            try:
                return _File(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
            except FileNotFoundError:
                pass
            fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                # Somebody else fetches the same blob for another tree: then both fetch, and one keeps.
                os.close(fd)
                return self.behind.open(descriptor)
            status = os.fstat(fd)
            if not status.st_nlink:  # dropped, or moved to its final name and dropped there, before we had the lock
                os.close(fd)
                continue
            if os.path.exists(path):  # moved
                os.close(fd)
                continue
            if status.st_size > descriptor.size:
                os.ftruncate(fd, 0)
            return _Partial(fd, descriptor, self, needed=wait)

    def wrote(self, digest: Digest, fd: int) -> None:
        """Note that the open file is a copy of the whole blob, if the reader above found the bytes right."""
        self._written[digest] = _mark(fd)

    def keep(self, descriptor: Descriptor) -> bool:
        """Publish the copy of a blob whose verified end the reader above has seen.

        Returns False where there is none: no space was left for it, or another process has the only one.
        Raises NoSpaceError and OciError.
        """
        mark = self._written.get(descriptor.digest)
        path = blob_path(self._store, descriptor.digest)
        try:
            fd = os.open(partial_path(self._store, descriptor.digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return os.path.exists(path)
        try:
            # Verified were the bytes of that very file, which nobody has touched since.
            if mark is None or _mark(fd) != mark:
                return os.path.exists(path)
            os.fsync(fd)
            os.rename(partial_path(self._store, descriptor.digest), path)
            durable.sync_directory(self._store.at("blobs"))
        except OSError as error:
            raise no_space(error, f"blob {descriptor.digest}") from error
        finally:
            os.close(fd)
        return True


_Mark = tuple[int, int, int]


def _mark(fd: int) -> _Mark:
    """Return what a file differs in from every other, and from itself after a change."""
    status = os.fstat(fd)
    return status.st_ino, status.st_size, status.st_ctime_ns


class _File:
    """A kept blob."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int, /) -> bytes:
        return os.read(self._fd, size)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Partial:
    """First what an earlier pull left, then the network, written down as it comes."""

    def __init__(self, fd: int, descriptor: Descriptor, source: CachingSource, *, needed: bool) -> None:
        self._fd = fd
        self._needed = needed
        self._descriptor = descriptor
        self._source = source
        self._have = os.fstat(fd).st_size
        self._position = 0
        self._raw: RawReader | None = None
        self._keep = True

    def read(self, size: int, /) -> bytes:
        if self._position < self._have:
            data = os.pread(self._fd, min(size, self._have - self._position), self._position)
            self._position += len(data)
            return data
        if self._raw is None:
            if self._position == self._descriptor.size:
                return self._end()
            self._raw = self._source.behind.open(self._descriptor, self._position)
        data = self._raw.read(size)
        if not data:
            return self._end()
        if self._keep:
            try:
                self._write(data)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                if self._needed:
                    raise no_space(error, f"blob {self._descriptor.digest}") from error
                # The copy is a convenience: without it the pull may still fit.
                self._keep = False
                os.ftruncate(self._fd, 0)
        self._position += len(data)
        return data

    def _end(self) -> bytes:
        if self._keep:
            self._source.wrote(self._descriptor.digest, self._fd)
        return b""

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        position = self._position
        while view:
            written = os.pwrite(self._fd, view, position)
            view = view[written:]
            position += written

    def close(self) -> None:
        if self._raw is not None:
            self._raw.close()
            self._raw = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def blob_path(store: Store, digest: Digest) -> str:
    """Return where a verified blob is kept."""
    return store.at("blobs", directory_name(digest))


def partial_path(store: Store, digest: Digest) -> str:
    """Return where a blob grows."""
    return store.at("partial", directory_name(digest))


def fetch(
    store: Store,
    source: Source,
    descriptor: Descriptor,
    what: str,
    on_bytes: Callable[[int], None],
    *,
    read: bool = True,
) -> str:
    """Return the path of the blob's verified file, fetched if need be.  Raises RefusedError and NoSpaceError.

    Without `read` a kept blob of the right size is not read again: a mount of it takes no time, whatever its size.
    """
    path = blob_path(store, descriptor.digest)
    if not read and _is_whole(path, descriptor):
        touch(path)
        on_bytes(descriptor.size)
        return path
    caching = source if isinstance(source, CachingSource) else CachingSource(store, lambda: source)
    with store.locked("blob-" + directory_name(descriptor.digest)):
        try:
            with Blob(caching.open_alone(descriptor), descriptor, what) as reader:
                while data := reader.read(_CHUNK):
                    on_bytes(len(data))
                if not caching.keep(descriptor):  # while the reader has the copy locked
                    raise NoSpaceError(f"no space left while fetching {what}", "free some space, then try again")
        except RefusedError:
            forget(store, descriptor.digest)
            raise
    return path


def _is_whole(path: str, descriptor: Descriptor) -> bool:
    try:
        size = os.lstat(path).st_size
    except FileNotFoundError:
        return False
    return size == descriptor.size or (size_may_be_less(descriptor.media_type) and 0 < size < descriptor.size)


def drop(store: Store, digest: Digest) -> None:
    """Forget a partial blob whose content now lies in a tree or an index.

    A whole one stays for prune: containers of another form may use it.  So does one that another process writes.
    """
    path = partial_path(store, digest)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:
            _unlink(path)
    except BlockingIOError:
        pass
    finally:
        os.close(fd)


def forget(store: Store, digest: Digest) -> None:
    """Forget a blob, whole or partial, whose bytes were found wrong: the next pull fetches it anew."""
    drop(store, digest)
    _unlink(blob_path(store, digest))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
