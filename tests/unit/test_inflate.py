# SPDX-License-Identifier: LGPL-2.1-or-later
import gzip
import io
import random
import sys
from collections.abc import Callable

import pytest

from lxc_oci.errors import RefusedError, UnsupportedError
from lxc_oci.layer.inflate import CHUNK, Inflater, decompress, sniff
from lxc_oci.limits import Limits
from tests.support import need

LIMITS = Limits()
CONTENT = random.Random(1).randbytes(300_000) + b"a" * (3 * CHUNK) + random.Random(2).randbytes(100)


class Trickle:
    """A reader that gives a few bytes at a time, as a network does."""

    def __init__(self, content: bytes, size: int) -> None:
        self._file = io.BytesIO(content)
        self._size = size

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._size))


def drain(reader: Inflater) -> bytes:
    parts = []
    while part := reader.read():
        assert len(part) <= CHUNK
        parts.append(part)
    assert reader.read() == b""
    return b"".join(parts)


def zstd(content: bytes) -> bytes:
    try:
        import zstandard
    except ImportError:
        need.missing("python3-zstandard is not installed")
    compressed: bytes = zstandard.ZstdCompressor().compress(content)
    return compressed


COMPRESS: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.compress, "zstd": zstd}


@pytest.fixture(params=["isal", "zlib"])
def gzip_decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test twice: with ISA-L and with the standard library."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
    else:
        try:
            import isal  # noqa: F401
        except ImportError:
            need.missing("python3-isal is not installed")


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_content_comes_back_whatever_the_pieces(compression: str, size: int, gzip_decoder: None) -> None:
    content = CONTENT if size > 7 else CONTENT[-5000:]
    raw = COMPRESS[compression](content)
    assert drain(decompress(Trickle(raw, size), compression, LIMITS, pytest.fail)) == content


def test_empty_members_and_an_empty_blob(gzip_decoder: None) -> None:
    empty = gzip.compress(b"")
    assert drain(decompress(io.BytesIO(empty * 3 + gzip.compress(b"x") + empty), "gzip", LIMITS, pytest.fail)) == b"x"
    for compression in ("", "gzip", "zstd"):
        assert drain(decompress(io.BytesIO(b""), compression, LIMITS, pytest.fail)) == b""


@pytest.mark.parametrize("cut", [11, 100, -9, -8, -1])
def test_a_truncated_gzip_is_refused(cut: int, gzip_decoder: None) -> None:
    raw = gzip.compress(CONTENT)[:cut]
    with pytest.raises(RefusedError, match="in the middle"):
        drain(decompress(io.BytesIO(raw), "gzip", LIMITS, pytest.fail))


@pytest.mark.parametrize("place", [3, 2000, -6, -2])
def test_a_damaged_gzip_is_refused(place: int, gzip_decoder: None) -> None:
    raw = bytearray(gzip.compress(CONTENT))
    raw[place] ^= 0xFF
    with pytest.raises(RefusedError):
        drain(decompress(io.BytesIO(raw), "gzip", LIMITS, lambda message: None))


def test_a_damaged_zstd_is_refused() -> None:
    raw = bytearray(zstd(CONTENT))
    raw[100_000:100_100] = bytes(100)
    raw[8] ^= 0xFF
    with pytest.raises(RefusedError, match="damaged zstd"):
        drain(decompress(io.BytesIO(raw), "zstd", LIMITS, pytest.fail))


@pytest.mark.parametrize("said", ["", "gzip", "zstd"])
@pytest.mark.parametrize("real", ["", "gzip", "zstd"])
def test_the_media_type_must_be_true(said: str, real: str) -> None:
    raw = COMPRESS[real](b"x" * 1000)
    if said == real:
        assert drain(decompress(io.BytesIO(raw), said, LIMITS, pytest.fail)) == b"x" * 1000
    else:
        with pytest.raises(RefusedError, match="media type"):
            decompress(Trickle(raw, 1), said, LIMITS, pytest.fail)


def test_formats_are_recognised() -> None:
    assert sniff(gzip.compress(b"")) == "gzip"
    assert sniff(b"\x5f\x2a\x4d\x18") == "zstd"
    assert sniff(b"\xfd7zXZ\x00") == "xz"
    assert sniff(b"\x1f") == sniff(b"") == sniff(b"etc/passwd\0") == ""


def test_other_formats_are_refused_by_name() -> None:
    with pytest.raises(RefusedError, match="xz"):
        decompress(io.BytesIO(b"\xfd7zXZ\x00"), "", LIMITS, pytest.fail)
    with pytest.raises(UnsupportedError, match="xz"):
        decompress(io.BytesIO(b"\xfd7zXZ\x00"), "xz", LIMITS, pytest.fail)


def test_a_missing_zstd_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = zstd(b"x")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    if sys.version_info >= (3, 14):
        assert drain(decompress(io.BytesIO(raw + raw), "zstd", LIMITS, pytest.fail)) == b"xx"
    else:
        with pytest.raises(UnsupportedError) as caught:
            decompress(io.BytesIO(raw), "zstd", LIMITS, pytest.fail)
        assert "python3-zstandard" in caught.value.hint


def test_ceilings_hold_for_plain_bytes_too() -> None:
    with pytest.raises(RefusedError, match="more than 1999"):
        drain(decompress(io.BytesIO(bytes(2000)), "", LIMITS._replace(layer_bytes=1999), pytest.fail))


def test_errors_of_the_reader_come_through(gzip_decoder: None) -> None:
    class Broken:
        def __init__(self, content: bytes) -> None:
            self._parts = [content]

        def read(self, size: int, /) -> bytes:
            if self._parts:
                return self._parts.pop()
            raise RefusedError("wrong digest")

    for compression, make in COMPRESS.items():
        with pytest.raises(RefusedError, match="wrong digest"):
            drain(decompress(Broken(make(CONTENT)), compression, LIMITS, pytest.fail))
