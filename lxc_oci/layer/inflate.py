# SPDX-License-Identifier: LGPL-2.1-or-later
"""From the bytes of a layer blob to the bytes of its tar archive, in pieces and under ceilings.

gzip by ISA-L where python3-isal is installed, else by zlib; zstd by python3-zstandard or
Python 3.14's own module.  What the bytes mean, and whether they have the right
digest, is not decided here.
"""

from collections.abc import Callable
from typing import Protocol

from lxc_oci.errors import RefusedError, UnsupportedError
from lxc_oci.limits import Limits

CHUNK = 1 << 19  # bytes that come out at most at once
_INPUT = 1 << 18  # bytes that are read at once

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_OTHERS = {b"\xfd7zXZ\x00": "xz", b"BZh": "bzip2", b"\x04\x22\x4d\x18": "lz4"}

Warn = Callable[[str], None]


class Reader(Protocol):
    """Bytes as they come; b"" at the end.  `read` may return less than asked for."""

    def read(self, size: int, /) -> bytes: ...


class _Decoder(Protocol):
    """The interface that bz2, lzma, isal.igzip_lib and compression.zstd share: one member or frame."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def sniff(head: bytes) -> str:
    """Return what the first bytes of a blob say that it is: `gzip`, `zstd`, another format's name, or ``."""
    if head.startswith(_GZIP):
        return "gzip"
    # A stream may begin with a skippable frame (RFC 8878, section 3.1.2).
    if head.startswith(_ZSTD) or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return "zstd"
    return next((name for magic, name in _OTHERS.items() if head.startswith(magic)), "")


def decompress(reader: Reader, compression: str, limits: Limits, warn: Warn) -> "Inflater":
    """Return a reader of the uncompressed bytes of `reader`, which has the format `compression` (`gzip`, `zstd`, ``).

    Its `read` gives at most CHUNK bytes, and b"" only after `reader` has given its own end.  It raises RefusedError
    for damaged data, for bytes that are not in that format, and past the ceilings on size and ratio;
    this function raises UnsupportedError where the decoder is missing.
    """
    source = _Input(reader)
    # One read may give a single byte.
    while len(source.head) < 6 and (data := reader.read(_INPUT)):
        source.head += data
        source.total += len(data)
    found = sniff(source.head)
    if found != compression and source.head:
        raise RefusedError(
            f"a layer is {found or 'not compressed'}, but its media type says {compression or 'not compressed'}",
            "the image was built wrongly",
        )
    if compression == "gzip":
        return Inflater(_Members(source, _gzip_decoder(), "gzip", warn), source, limits)
    if compression == "zstd":
        return Inflater(_zstd(source, limits, warn), source, limits)
    if compression:
        raise UnsupportedError(f"layers compressed by {compression} are not supported")
    return Inflater(source, source, limits)


class Inflater:
    """A reader that counts: no more than the limits allow comes out."""

    def __init__(self, produce: Reader, source: "_Input", limits: Limits) -> None:
        self._produce = produce
        self._source = source
        self._limits = limits
        self.total = 0  # bytes given out

    def read(self, size: int = CHUNK, /) -> bytes:
        """Return up to min(size, CHUNK) bytes, b"" at the end.  Raises RefusedError."""
        data = self._produce.read(min(size, CHUNK))
        total = self.total = self.total + len(data)
        if total > self._limits.layer_bytes:
            raise RefusedError(
                f"a layer has more than {self._limits.layer_bytes} bytes when uncompressed",
                "if that is right, raise layer_bytes in /etc/lxc-oci-py/limits.conf",
            )
        if total > self._limits.ratio_floor_bytes and total > self._limits.layer_ratio * self._source.total:
            raise RefusedError(
                f"a layer is compressed more than {self._limits.layer_ratio} times, as a decompression bomb is",
                "if that is right, raise layer_ratio in /etc/lxc-oci-py/limits.conf",
            )
        if not data:
            self._source.drain()
        return data


class _Input:
    """The compressed bytes, counted; those read to recognise the format come first."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.head = b""
        self.total = 0

    def read(self, size: int = -1, /) -> bytes:
        if self.head:
            if size < 0:
                size = len(self.head)
            data, self.head = self.head[:size], self.head[size:]
            return data
        data = self._reader.read(_INPUT if size < 0 else size)
        self.total += len(data)
        return data

    def drain(self) -> None:
        """Read to the end, where a verifying reader compares the digest."""
        while self.read(_INPUT):
            pass


class _Members:
    """A reader over concatenated members or frames, each decoded by a new decoder.

    All of them belong to the stream (RFC 1952, section 2.2): a reader that stops after the first sees another
    archive than one that does not.
    """

    def __init__(self, source: _Input, decoder: Callable[[], _Decoder], what: str, warn: Warn) -> None:
        self._source = source
        self._make = decoder
        self._what = what
        self._warn = warn
        self._decoder: _Decoder | None = None
        self._pending = b""  # input that follows the last member
        self._started = False

    def read(self, size: int, /) -> bytes:
        while True:
            if self._decoder is None and not self._next_member():
                return b""
            decoder = self._decoder
            assert decoder is not None
            data = self._pending
            if not data and decoder.needs_input:
                data = self._source.read(_INPUT)
                if not data:
                    raise RefusedError(f"a layer ends in the middle of its {self._what} data", "pull it again")
            self._pending = b""
            try:
                out = decoder.decompress(data, size)
            except MemoryError:
                raise
            except Exception as error:  # each module has an exception class of its own
                raise RefusedError(f"a layer has damaged {self._what} data: {error}") from error
            if decoder.eof:
                self._pending = decoder.unused_data
                self._decoder = None
            if out:
                return out

    def _next_member(self) -> bool:
        """Start the next member, unless the input ends here or goes on with something else."""
        if not self._pending:
            self._pending = self._source.read(_INPUT)
        while 0 < len(self._pending) < 6 and (more := self._source.read(_INPUT)):
            self._pending += more
        if not self._pending:
            return False
        if self._started and sniff(self._pending) != self._what:
            self._skip_rest()
            return False
        self._started = True
        self._decoder = self._make()
        return True

    def _skip_rest(self) -> None:
        junk = bool(self._pending.strip(b"\0"))
        self._pending = b""
        while data := self._source.read(_INPUT):
            junk = junk or bool(data.strip(b"\0"))
        if junk:  # zeros are padding, as from a tape
            self._warn(f"a layer has bytes after its {self._what} data, which are ignored")


class _Zlib:
    """zlib with the interface of the others."""

    def __init__(self) -> None:
        import zlib

        self._decoder = zlib.decompressobj(31)
        self._starving = True

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def needs_input(self) -> bool:
        return self._starving

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        out = self._decoder.decompress(self._decoder.unconsumed_tail + data, max_length)
        # A full buffer may have left output inside zlib even where no input is left.
        self._starving = not self._decoder.unconsumed_tail and len(out) < max_length
        return out


def _gzip_decoder() -> Callable[[], _Decoder]:
    try:
        from isal import igzip_lib
    except ImportError:
        return _Zlib

    def make() -> _Decoder:
        decoder: _Decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        return decoder

    return make


def _zstd(source: _Input, limits: Limits, warn: Warn) -> Reader:
    try:
        import zstandard
    except ImportError:
        return _Members(source, _zstd_decoder(limits), "zstd", warn)
    decoder = zstandard.ZstdDecompressor(max_window_size=1 << limits.zstd_window_log)
    # mypy: the stub asks for a whole IO object, the code for `read` alone.
    stream: Reader = decoder.stream_reader(source, read_size=_INPUT, read_across_frames=True)  # type: ignore[arg-type]
    return _Zstandard(stream, zstandard.ZstdError)


class _Zstandard:
    """python-zstandard's stream reader, its errors turned into ours."""

    def __init__(self, stream: Reader, error: type[Exception]) -> None:
        self._stream = stream
        self._error = error

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except self._error as error:
            raise RefusedError(f"a layer has damaged zstd data: {error}") from error


def _zstd_decoder(limits: Limits) -> Callable[[], _Decoder]:
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        raise UnsupportedError(
            "the image has layers compressed by zstd, and no decoder is installed", "apt install python3-zstandard"
        ) from None
    options = {zstd.DecompressionParameter.window_log_max: limits.zstd_window_log}

    def make() -> _Decoder:
        decoder: _Decoder = zstd.ZstdDecompressor(options=options)
        return decoder

    return make
