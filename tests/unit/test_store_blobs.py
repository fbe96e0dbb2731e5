# SPDX-License-Identifier: LGPL-2.1-or-later
"""Blobs in the store: resumed, kept, shared, and forgotten when they are wrong."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lxc_oci.errors import NoSpaceError, RefusedError
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


# --- several processes and one blob ----------------------------------------------------------------------------


def test_who_wants_a_file_waits_for_who_only_reads(store: home.Store) -> None:
    """A tree is made of the layer while a container wants it as a file: it must get one, and not "no space"."""
    memory = Memory()
    reading = blobs.CachingSource(store, lambda: memory)
    first = Blob(reading.open(LAYER), LAYER, "a")
    first.read(1000)
    with ThreadPoolExecutor() as pool:
        wanted = pool.submit(fetch, store, memory)
        while first.read(1 << 20):
            pass
        first.close()
        blobs.drop(store, LAYER.digest)  # the tree is published; perhaps before, perhaps after the other one looks
        path = wanted.result(timeout=60)
    assert Path(path).read_bytes() == CONTENT
    assert os.listdir(store.at("partial")) == []


def test_p17_a_copy_that_another_process_writes_is_never_kept_unverified(store: home.Store) -> None:
    good, wrong = Memory(), Memory(CONTENT[:-1] + b"x")
    other, ours = blobs.CachingSource(store, lambda: wrong), blobs.CachingSource(store, lambda: good)
    theirs = other.open(LAYER)
    while theirs.read(1 << 20):  # all of it is in the file of the right size, and nobody has verified it
        pass
    with Blob(ours.open(LAYER), LAYER, "ours") as reader:
        while reader.read(1 << 20):
            pass
    assert not ours.keep(LAYER)
    theirs.close()
    assert not ours.keep(LAYER)
    assert os.listdir(store.at("blobs")) == []


def test_what_another_process_writes_is_not_dropped(store: home.Store) -> None:
    memory = Memory()
    writing = blobs.CachingSource(store, lambda: memory)
    with Blob(writing.open(LAYER), LAYER, "a") as reader:
        reader.read(1000)
        blobs.drop(store, LAYER.digest)
        blobs.forget(store, LAYER.digest)
        while reader.read(1 << 20):
            pass
        assert writing.keep(LAYER)
    assert fetch(store, memory) == blobs.blob_path(store, LAYER.digest)
    assert memory.opened == [0]


def test_a_whole_blob_stays_when_a_tree_is_made_of_it(store: home.Store) -> None:
    # A container of another form may mount it.
    path = fetch(store, Memory())
    blobs.drop(store, LAYER.digest)
    assert Path(path).read_bytes() == CONTENT


def test_f03_without_space_for_the_copy_a_read_goes_on_and_a_file_is_refused(
    store: home.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: bytes, position: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    source = blobs.CachingSource(store, Memory)
    with Blob(source.open(LAYER), LAYER, "a") as reader:
        assert b"".join(iter(lambda: reader.read(1 << 20), b"")) == CONTENT
    assert not source.keep(LAYER)
    with pytest.raises(NoSpaceError, match="no space left while writing blob"):
        fetch(store, Memory())
    monkeypatch.undo()
    assert Path(fetch(store, Memory())).read_bytes() == CONTENT


def test_what_is_only_mounted_is_not_read_again(store: home.Store) -> None:
    memory = Memory()
    path = fetch(store, memory)
    os.utime(path, (0, 0))
    os.chmod(path, 0o600)
    counted: list[int] = []
    source = blobs.CachingSource(store, lambda: memory)
    with open(path, "r+b") as file:
        file.write(b"\xff")  # reading it would tell
    assert blobs.fetch(store, source, LAYER, "layer 0", counted.append, read=False) == path
    assert counted == [len(CONTENT)] and memory.opened == [0]
    assert os.stat(path).st_mtime > 0  # used lately
    # What has another size is read, refused and forgotten; then it is fetched.
    os.truncate(path, 1000)
    with pytest.raises(RefusedError):
        blobs.fetch(store, source, LAYER, "layer 0", counted.append, read=False)
    assert blobs.fetch(store, source, LAYER, "layer 0", counted.append, read=False) == path
    assert Path(path).read_bytes() == CONTENT
