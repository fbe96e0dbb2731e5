# SPDX-License-Identifier: LGPL-2.1-or-later
"""Source: where the bytes of an image come from, and the reader that nobody can use without verifying.

A source finds blobs; it does not know what a manifest means.  `Blob` is what the rest of
the program sees of it: size and digest are checked while reading, before the end is reported.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from lxc_oci.errors import RefusedError
from lxc_oci.image import digest as digests
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from lxc_oci.image.mediatype import size_may_be_less
from lxc_oci.limits import Limits


class RawReader(Protocol):
    """Unverified bytes, as they come.  `read` returns b"" at the end and may return less than asked for.

    It raises errors of ours only; OSError is wrapped where the bytes come from.
    """

    def read(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


class Source(Protocol):
    """One image's home.  Used as a context manager; safe to call from several threads."""

    def root(self, limits: Limits) -> tuple[Descriptor, bytes]:
        """Return the manifest or index that the reference names, and its bytes, already checked against the digest
        of the reference (if it has one) and of the descriptor."""

    def open(self, descriptor: Descriptor, offset: int = 0) -> RawReader:
        """Open a blob or nested manifest for reading from byte `offset`.  Raises AccessError when it is missing."""

    def origin(self, descriptor: Descriptor) -> str:
        """Where that blob comes from, without credentials, to be recorded and shown."""

    def close(self) -> None: ...


class Blob:
    """A verified reader: the last read fails unless exactly the descriptor's bytes came."""

    def __init__(self, raw: RawReader, descriptor: Descriptor, what: str) -> None:
        self._raw = raw
        self._descriptor = descriptor
        self._what = what
        self._hasher = descriptor.digest.hasher()
        self._left = descriptor.size
        self._done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the reader below, whether or not all was read."""
        self._raw.close()

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, b"" at the verified end.  Raises RefusedError for a wrong size or digest."""
        if self._done:
            return b""
        # One byte more than is left: a longer blob is noticed at once and never read to its end.
        data = self._raw.read(min(size, self._left + 1))
        if len(data) > self._left:
            raise RefusedError(f"{self._what} is longer than the {self._descriptor.size} bytes of its descriptor")
        if not data:
            if self._left and not size_may_be_less(self._descriptor.media_type):
                raise RefusedError(
                    f"{self._what} ends {self._left} bytes before the {self._descriptor.size} bytes of its descriptor",
                    "the copy is incomplete; pull it again",
                )
            if self._hasher.hexdigest() != self._descriptor.digest.hex:
                raise RefusedError(
                    f"{self._what} has digest {self._descriptor.digest.algorithm}:{self._hasher.hexdigest()}, "
                    f"not {self._descriptor.digest} as its descriptor says",
                    "the copy is damaged or was changed; pull again, from another mirror if this persists",
                )
            self._done = True
            return b""
        self._left -= len(data)
        self._hasher.update(data)
        return data


def blob(source: Source, descriptor: Descriptor, what: str) -> Blob:
    """Open the blob of `descriptor` in `source` as a verified reader; `what` names it in errors."""
    return Blob(source.open(descriptor), descriptor, what)


def document(source: Source, descriptor: Descriptor, what: str, limits: Limits) -> bytes:
    """Return a whole small blob (manifest, config), verified.  Raises RefusedError when it is over the limit."""
    if descriptor.size > limits.document_bytes:
        raise RefusedError(f"{what} has {descriptor.size} bytes, more than the limit of {limits.document_bytes}")
    parts = []
    with blob(source, descriptor, what) as reader:
        while part := reader.read(1 << 20):
            parts.append(part)
    return b"".join(parts)


def read_limited(read: Callable[[int], bytes], limit: int, what: str) -> bytes:
    """Return all that `read` gives.  Raises RefusedError past `limit` bytes."""
    parts = []
    left = limit + 1
    while left and (part := read(left)):
        parts.append(part)
        left -= len(part)
    if not left:
        raise RefusedError(f"{what} is larger than the limit of {limit} bytes")
    return b"".join(parts)


def checked_root(raw: bytes, media_type: str, pinned: Digest | None, what: str) -> Descriptor:
    """Return the descriptor of a root document, after comparing it with the reference's digest, if it has one."""
    if pinned is not None:
        digests.check(raw, pinned, what)
    return Descriptor(media_type, pinned or digests.sha256(raw), len(raw))
