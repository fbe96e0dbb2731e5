# SPDX-License-Identifier: LGPL-2.1-or-later
"""The layers of an image from their sources to a tree or a file: read, inflated, hashed and applied at the same time.

Each layer has two threads, one that reads and inflates, one that hashes; they spend their time
in C code that lets other threads run.  Entries are applied by the caller's thread, layer by layer,
while the next ones are being read ahead into bounded pipes.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from lxc_oci.errors import RefusedError
from lxc_oci.image.digest import Digest
from lxc_oci.kernel import threads
from lxc_oci.layer.inflate import CHUNK, Reader, decompress
from lxc_oci.layer.tarstream import TarReader
from lxc_oci.layer.unpack import Unpacker
from lxc_oci.limits import Limits

_CAPACITY = 8 * CHUNK  # bytes in one pipe; two pipes a layer
_READ_AHEAD = 2  # layers that are read while another is applied
_VERDICT_BYTES = 64 << 20  # read on after an error, to tell a damaged copy from a bad image

OnBytes = Callable[[int], None]
Warn = Callable[[str], None]


def _no_progress(count: int) -> None:
    pass


@dataclass(frozen=True)
class TarLayer:
    """A layer to be applied: `open` is called once, in a thread, for a reader that verifies size and digest."""

    open: Callable[[], Reader]
    compression: str  # gzip, zstd, or empty, as the media type says
    diff_id: Digest
    on_bytes: OnBytes = _no_progress  # hears of compressed bytes as they come, in a thread
    on_output: OnBytes = _no_progress  # hears of uncompressed ones, in a thread; may raise RefusedError


def apply_tar_layer(
    unpacker: Unpacker,
    reader: Reader,
    compression: str,
    diff_id: Digest,
    limits: Limits,
    on_bytes: OnBytes,
    warn: Warn,
) -> None:
    """Apply one layer; see apply_image."""
    apply_image(unpacker, [TarLayer(lambda: reader, compression, diff_id, on_bytes)], limits, warn)


def apply_image(
    unpacker: Unpacker,
    layers: Sequence[TarLayer],
    limits: Limits,
    warn: Warn,
    on_layer: Callable[[int], None] | None = None,
) -> None:
    """Apply `layers` in their order; `on_layer` is called with the number of each that is complete and verified.

    Raises RefusedError when the uncompressed bytes of a layer, all of them, have another digest than its DiffID,
    and what readers and unpacker raise.  The tree is of no use then.
    """
    waiting = deque(layers)
    running: deque[Stream] = deque()
    try:
        for number in range(len(layers)):
            while waiting and len(running) <= _READ_AHEAD:
                running.append(Stream(waiting.popleft(), limits, warn))
            with running[0] as stream:
                _apply(unpacker, stream, limits, warn)
            running.popleft()
            if on_layer is not None:
                on_layer(number)
    finally:
        for stream in running:
            stream.abandon()


def _apply(unpacker: Unpacker, stream: Reader, limits: Limits, warn: Warn) -> None:
    unpacker.begin_layer()
    add = unpacker.add
    try:
        for entry, data in TarReader(stream, limits, warn):
            add(entry, data)
    except RefusedError as error:
        raise cause(stream, error) from None
    unpacker.end_layer()


def cause(reader: Reader, error: RefusedError) -> RefusedError:
    """Return what `reader` has to say at its verified end, if it is bad: bytes that are not the image's are the
    cause of whatever was found in them.  Else `error`."""
    left = _VERDICT_BYTES
    try:
        while left > 0 and (piece := reader.read(CHUNK)):
            left -= len(piece)
    except RefusedError as damage:
        return damage
    return error


class _Abandoned(Exception):
    """Nobody wants the rest of a stream; ends the thread that works on it."""


class _Pipe:
    """Pieces of bytes from one thread to another, in order; the writer waits while more than `capacity` are in it."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._error: BaseException | None = None
        self._closed = False  # the reader wants no more
        self._changed = threading.Condition()

    def put(self, piece: bytes) -> bool:
        """Add a piece, the empty one as the end.  Returns False when nobody will read it."""
        with self._changed:
            while self._size >= self._capacity and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            self._pieces.append(piece)
            self._size += len(piece)
            self._changed.notify_all()
            return True

    def fail(self, error: BaseException) -> None:
        """End with an error, which `get` raises after all pieces."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def get(self) -> bytes:
        """Return the next piece, empty at the end.  Raises the writer's error, _Abandoned after `close`."""
        with self._changed:
            while not self._pieces:
                if self._error is not None:
                    raise self._error
                if self._closed:
                    raise _Abandoned
                self._changed.wait()
            piece = self._pieces.popleft()
            self._size -= len(piece)
            self._changed.notify_all()
            return piece

    def close(self) -> None:
        """Let writer and reader go; nothing more is wanted."""
        with self._changed:
            self._closed = True
            self._pieces.clear()
            self._changed.notify_all()


class Stream:
    """The uncompressed bytes of a layer, verified when the end has been read.  A context manager."""

    def __init__(self, layer: TarLayer, limits: Limits, warn: Warn) -> None:
        self._layer = layer
        self._limits = limits
        self._warn = warn
        self._inflated = _Pipe(_CAPACITY)
        self._hashed = _Pipe(_CAPACITY)
        self._ended = False
        self._threads: list[threading.Thread] = []
        try:
            for target in (self._inflate, self._hash):
                self._threads.append(threads.start(target))
        except MemoryError:
            self.abandon()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def abandon(self) -> None:
        """Stop the threads as soon as they come out of what they are waiting for."""
        self._inflated.close()
        self._hashed.close()
        if self._ended:
            for thread in self._threads:
                thread.join()

    def read(self, size: int, /) -> bytes:
        """Return the next piece, of any size up to CHUNK; b"" at the verified end, however often it is asked for."""
        if self._ended:
            return b""
        piece = self._hashed.get()
        self._ended = not piece
        return piece

    def _inflate(self) -> None:
        layer, pipe = self._layer, self._inflated
        try:
            blob = _Counted(layer.open(), layer.on_bytes)
            try:
                reader = decompress(blob, layer.compression, self._limits, self._warn)
                while piece := reader.read(CHUNK):
                    layer.on_output(len(piece))
                    if not pipe.put(piece):
                        return
            except RefusedError as error:
                if blob.failed:
                    raise
                raise cause(blob, error) from None
            pipe.put(b"")
        except BaseException as error:
            pipe.fail(error)

    def _hash(self) -> None:
        hasher = self._layer.diff_id.hasher()
        try:
            while piece := self._inflated.get():
                hasher.update(piece)
                if not self._hashed.put(piece):
                    return
            if hasher.hexdigest() != self._layer.diff_id.hex:
                raise RefusedError(
                    f"a layer has DiffID {hasher.name}:{hasher.hexdigest()}, not {self._layer.diff_id} as the image's "
                    "configuration says",
                    "the image was built wrongly or its configuration belongs to another",
                )
            self._hashed.put(b"")
        except BaseException as error:
            self._hashed.fail(error)
            self._inflated.close()


class _Counted:
    """A reader that tells how many bytes went through it, and whether an error is its own."""

    def __init__(self, reader: Reader, on_bytes: OnBytes) -> None:
        self._reader = reader
        self._on_bytes = on_bytes
        self.failed = False

    def read(self, size: int, /) -> bytes:
        try:
            data = self._reader.read(size)
        except BaseException:
            self.failed = True
            raise
        self._on_bytes(len(data))
        return data
