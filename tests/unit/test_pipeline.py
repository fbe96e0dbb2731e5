# SPDX-License-Identifier: LGPL-2.1-or-later
import gzip
import hashlib
import io
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lxc_oci.errors import RefusedError, UnavailableError
from lxc_oci.image.digest import Digest, sha256
from lxc_oci.image.manifest import Descriptor
from lxc_oci.kernel.root import Root
from lxc_oci.layer.inflate import CHUNK
from lxc_oci.layer.pipeline import TarLayer, apply_image, apply_tar_layer
from lxc_oci.layer.unpack import Unpacker
from lxc_oci.limits import Limits
from lxc_oci.source.source import Blob
from tests.support.tarmaker import archive, file, tar_layer

LIMITS = Limits()
PATIENCE = 60  # seconds that nothing here takes


def apply(directory: Path, *layers: TarLayer, **more: object) -> Path:
    rootfs = directory / "rootfs"
    rootfs.mkdir(exist_ok=True)
    with Root.at(str(rootfs)) as root, Unpacker(root, LIMITS, print) as unpacker:
        apply_image(unpacker, layers, LIMITS, print, **more)  # type: ignore[arg-type]
    return rootfs


def test_layers_are_applied_in_order(tmp_path: Path) -> None:
    done: list[int] = []
    layers = [tar_layer(archive(file(b"x", b"%d" % number), file(b"%d" % number))) for number in range(12)]
    rootfs = apply(tmp_path, *layers, on_layer=done.append)
    assert (rootfs / "x").read_bytes() == b"11"
    assert len(list(rootfs.iterdir())) == 13
    assert done == list(range(12))


def test_no_layers_are_an_empty_tree(tmp_path: Path) -> None:
    assert list(apply(tmp_path).iterdir()) == []


def test_one_layer_with_its_progress(tmp_path: Path) -> None:
    content = archive(file(b"x", bytes(5_000_000)))
    raw = gzip.compress(content)
    counts: list[int] = []
    (tmp_path / "rootfs").mkdir()
    with Root.at(str(tmp_path / "rootfs")) as root, Unpacker(root, LIMITS, print) as unpacker:
        apply_tar_layer(unpacker, io.BytesIO(raw), "gzip", sha256(content), LIMITS, counts.append, print)
    assert sum(counts) == len(raw)
    assert (tmp_path / "rootfs/x").stat().st_size == 5_000_000


def test_digests_of_sha512_are_compared(tmp_path: Path) -> None:
    content = archive(file(b"x"))
    good = Digest("sha512:" + hashlib.sha512(content).hexdigest())
    apply(tmp_path, replace(tar_layer(content), diff_id=good))
    with pytest.raises(RefusedError, match="sha512"):
        apply(tmp_path, replace(tar_layer(content), diff_id=Digest("sha512:" + "0" * 128)))


@pytest.mark.parametrize("change", [0, 600, -1, None])
def test_a_wrong_diff_id_is_refused_even_in_what_is_ignored(tmp_path: Path, change: int | None) -> None:
    # Padding, and bytes after the end, belong to the DiffID too.
    content = archive(file(b"x", b"data")) + bytes(10_000)
    other = bytearray(content)
    if change is None:
        other += b"\0"
    else:
        other[change] ^= 1
    with pytest.raises(RefusedError):
        apply(tmp_path, tar_layer(content, raw=bytes(other)))


def test_the_digest_of_the_blob_is_compared_to_its_end(tmp_path: Path) -> None:
    content = archive(file(b"x", b"data"))
    raw = gzip.compress(content) + bytes(100_000)

    def blob(content: bytes) -> Blob:
        descriptor = Descriptor("", sha256(raw), len(raw))
        return Blob(io.BytesIO(content), descriptor, "layer 1")

    apply(tmp_path, replace(tar_layer(content, "gzip"), open=lambda: blob(raw)))
    for other in (raw[:-1] + b"\1", raw[:-1], raw + b"\0"):
        with pytest.raises(RefusedError, match="layer 1"):
            apply(tmp_path, replace(tar_layer(content, "gzip"), open=lambda other=other: blob(other)))  # type: ignore[misc]


def test_an_error_of_a_source_is_the_error(tmp_path: Path) -> None:
    class Cut:
        def __init__(self, content: bytes) -> None:
            self._file = io.BytesIO(content)

        def read(self, size: int, /) -> bytes:
            data = self._file.read(min(size, 1000))
            if not data:
                raise UnavailableError("the registry went away")
            return data

    content = archive(file(b"x", bytes(50_000)))
    with pytest.raises(UnavailableError):
        apply(tmp_path, replace(tar_layer(content), open=lambda: Cut(content[:20_000])))

    def fail() -> io.BytesIO:
        raise UnavailableError("no connection")

    # It counts when its layer's turn comes, so that what is named is the first thing that is wrong.
    with pytest.raises(RefusedError):
        apply(tmp_path, tar_layer(content, raw=content[:-1]), replace(tar_layer(content), open=fail))
    with pytest.raises(UnavailableError):
        apply(tmp_path, tar_layer(content), replace(tar_layer(content), open=fail))


def test_later_layers_are_read_ahead_within_bounds(tmp_path: Path) -> None:
    """While the first layer is held up, the next ones are read, but not to their end."""
    big = archive(file(b"big", bytes(100 * CHUNK)))
    opened = [threading.Event() for _ in range(6)]
    given = [0] * 6
    go = threading.Event()

    class Counted:
        def __init__(self, number: int) -> None:
            self._file = io.BytesIO(big)
            self._number = number
            opened[number].set()

        def read(self, size: int, /) -> bytes:
            if self._number == 0:
                assert go.wait(PATIENCE)
            data = self._file.read(size)
            given[self._number] += len(data)
            return data

    layers = [replace(tar_layer(big), open=lambda number=number: Counted(number)) for number in range(6)]  # type: ignore[misc]
    seen: list[list[int]] = []

    def watch() -> None:
        assert opened[1].wait(PATIENCE) and opened[2].wait(PATIENCE)
        seen.append(list(given))
        go.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    apply(tmp_path, *layers)
    watcher.join()
    assert not seen[0][0] and not any(seen[0][3:])
    assert all(count < 20 * CHUNK for count in seen[0])
    assert given == [len(big)] * 6


def test_a_failure_lets_go_of_every_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    big = archive(file(b"big", bytes(50 * CHUNK)))
    with pytest.raises(RefusedError):
        apply(tmp_path, tar_layer(big, raw=b"no tar" * 1000), tar_layer(big), tar_layer(big), tar_layer(big))
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive()
