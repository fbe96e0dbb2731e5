# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.source.source: the reader that cannot be used without verifying"""

import hashlib
import io

import pytest

from lxc_oci.errors import RefusedError
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from lxc_oci.limits import Limits
from lxc_oci.source.source import Blob, RawReader, checked_root, document, read_limited
from tests.support import image

CONTENT = bytes(range(256)) * 10


class Memory:
    """A source of one blob, whatever it is asked for."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.opened: list[io.BytesIO] = []

    def root(self, limits: Limits) -> tuple[Descriptor, bytes]:
        raise NotImplementedError

    def open(self, descriptor: Descriptor, offset: int = 0) -> RawReader:
        self.opened.append(io.BytesIO(self.content))
        return self.opened[-1]

    def origin(self, descriptor: Descriptor) -> str:
        return "memory"

    def close(self) -> None:
        pass


def described(content: bytes, size: int | None = None, algorithm: str = "sha256") -> Descriptor:
    digest = Digest(f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}")
    return Descriptor(image.TAR, digest, len(content) if size is None else size)


def drain(reader: Blob, piece: int = 1000) -> bytes:
    return b"".join(iter(lambda: reader.read(piece), b""))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("piece", [1, 999, 1 << 20])
@pytest.mark.parametrize("content", [b"", CONTENT])
def test_what_is_right_comes_out(content: bytes, piece: int, algorithm: str) -> None:
    raw = io.BytesIO(content)
    with Blob(raw, described(content, algorithm=algorithm), "it") as reader:
        assert drain(reader, piece) == content
        assert reader.read(10) == b""
    assert raw.closed


@pytest.mark.parametrize(
    ("content", "size", "message"),
    [
        (CONTENT[:-1], None, "it ends 1 bytes before the 2560 bytes"),
        (b"", None, "it ends 2560 bytes before"),
        (CONTENT + b"x", None, "it is longer than the 2560 bytes"),
        (b"x" + CONTENT[1:], None, "it has digest sha256:"),
        (CONTENT[:-1] + b"x", None, "it has digest sha256:"),
        (CONTENT, 10, "it is longer than the 10 bytes"),
        (CONTENT, 3000, "it ends 440 bytes before the 3000 bytes"),
    ],
)
@pytest.mark.parametrize("piece", [1, 999, 1 << 20])
def test_what_is_wrong_never_ends_well(content: bytes, size: int | None, message: str, piece: int) -> None:
    with (
        pytest.raises(RefusedError, match=message),
        Blob(io.BytesIO(content), described(CONTENT, size), "it") as reader,
    ):
        drain(reader, piece)


def test_an_endless_blob_is_not_read_to_its_end() -> None:
    class Endless(io.RawIOBase):
        taken = 0

        def read(self, size: int = -1, /) -> bytes:
            self.taken += size
            return b"x" * size

    raw = Endless()
    with pytest.raises(RefusedError, match="longer than"):
        drain(Blob(raw, described(CONTENT), "it"))
    assert raw.taken == len(CONTENT) + 1


def test_a_document_is_bounded_before_it_is_opened() -> None:
    source = Memory(CONTENT)
    assert document(source, described(CONTENT), "it", Limits()) == CONTENT
    assert source.opened[0].closed
    with pytest.raises(RefusedError, match="it has 2560 bytes, more than the limit of 100"):
        document(source, described(CONTENT), "it", Limits(document_bytes=100))
    assert len(source.opened) == 1


def test_read_limited() -> None:
    assert read_limited(io.BytesIO(CONTENT).read, len(CONTENT), "it") == CONTENT
    with pytest.raises(RefusedError, match="it is larger than the limit of 2559 bytes"):
        read_limited(io.BytesIO(CONTENT).read, len(CONTENT) - 1, "it")


def test_a_pinned_root_is_compared() -> None:
    pinned = described(CONTENT).digest
    assert checked_root(CONTENT, "x", None, "it") == checked_root(CONTENT, "x", pinned, "it")
    with pytest.raises(RefusedError, match="it has digest"):
        checked_root(CONTENT + b" ", "x", pinned, "it")
