# SPDX-License-Identifier: LGPL-2.1-or-later
"""Blobs in the store: resumed, kept, shared, and forgotten when they are wrong."""

import os
from pathlib import Path

import pytest

from lxc_oci.errors import RefusedError
from lxc_oci.image.digest import sha256
from lxc_oci.image.manifest import Descriptor
from lxc_oci.limits import Limits
from lxc_oci.source.source import Blob, RawReader
from lxc_oci.store import blobs, home

CONTENT = bytes(range(256)) * 8192  # 2 MiB
LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar", sha256(CONTENT), len(CONTENT))


class Memory:
    """A source in memory that can be cut, and that counts what it hands out."""

    def __init__(self, content: bytes = CONTENT, cut: int | None = None) -> None:
        self.content = content
        self.cut = cut
        self.opened: list[int] = []
        self.given = 0

    def root(self, limits: Limits) -> tuple[Descriptor, bytes]:
        raise NotImplementedError

    def origin(self, descriptor: Descriptor) -> str:
        return "memory"

    def close(self) -> None:
        pass

    def open(self, descriptor: Descriptor, offset: int = 0) -> RawReader:
        self.opened.append(offset)
        return Reader(self, offset)


class Reader:
    def __init__(self, memory: Memory, position: int) -> None:
        self._memory = memory
        self._position = position

    def read(self, size: int, /) -> bytes:
        if self._memory.cut is not None and self._position >= self._memory.cut:
            raise ConnectionResetError("cut")
        end = self._position + min(size, 100_000)
        if self._memory.cut is not None:
            end = min(end, self._memory.cut)
        data = self._memory.content[self._position : end]
        self._position += len(data)
        self._memory.given += len(data)
        return data

    def close(self) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path) -> home.Store:
    return home.open_store(str(tmp_path / "store"))


def fetch(store: home.Store, memory: Memory) -> str:
    return blobs.fetch(store, blobs.CachingSource(store, lambda: memory), LAYER, "layer 0", lambda count: None)


def test_a_fetched_blob_is_kept_and_not_fetched_again(store: home.Store) -> None:
    memory = Memory()
    path = fetch(store, memory)
    assert Path(path).read_bytes() == CONTENT
    assert fetch(store, memory) == path
    assert memory.opened == [0]
    assert os.listdir(store.at("partial")) == []


def test_f06_a_cut_blob_is_resumed_by_the_next_run(store: home.Store) -> None:
    with pytest.raises(ConnectionResetError):
        fetch(store, Memory(cut=1_500_000))
    memory = Memory()
    assert Path(fetch(store, memory)).read_bytes() == CONTENT
    assert memory.opened == [1_500_000]
    assert memory.given == len(CONTENT) - 1_500_000


def test_a_wrong_blob_is_refused_and_forgotten(store: home.Store) -> None:
    wrong = CONTENT[:-1] + b"x"
    with pytest.raises(RefusedError, match="has digest"):
        fetch(store, Memory(wrong))
    assert os.listdir(store.at("partial")) == os.listdir(store.at("blobs")) == []
    fetch(store, Memory())


def test_f19_a_kept_blob_that_rotted_is_found_and_replaced(store: home.Store) -> None:
    path = fetch(store, Memory())
    with open(path, "r+b") as file:
        file.seek(12345)
        file.write(b"\xff\x00")
    with pytest.raises(RefusedError, match="has digest"):
        fetch(store, Memory())
    assert Path(fetch(store, Memory())).read_bytes() == CONTENT


@pytest.mark.parametrize("leftover", [b"not the beginning of it", CONTENT + b"more", b"\0" * len(CONTENT)])
def test_f02_whatever_an_earlier_run_left_is_never_believed(store: home.Store, leftover: bytes) -> None:
    Path(blobs.partial_path(store, LAYER.digest)).write_bytes(leftover)
    try:
        path = fetch(store, Memory())
    except RefusedError:
        path = fetch(store, Memory())
    assert Path(path).read_bytes() == CONTENT


def test_two_readers_of_one_blob_do_not_wait_for_each_other(store: home.Store) -> None:
    source = blobs.CachingSource(store, lambda: memory)
    memory = Memory()
    with Blob(source.open(LAYER), LAYER, "a") as first, Blob(source.open(LAYER), LAYER, "b") as second:
        first.read(1000)
        parts = []
        while data := second.read(1 << 20):
            parts.append(data)
    assert b"".join(parts) == CONTENT
