# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.source.unwrap"""

import os
import sys
from pathlib import Path

import pytest

from lxc_oci.errors import NoSpaceError, RefusedError
from lxc_oci.limits import Limits
from lxc_oci.source.unwrap import compression_of, unwrap
from tests.support import image

LIMITS = Limits()


def test_what_a_file_is_compressed_by() -> None:
    assert [compression_of(image.compress(b"x", name)) for name in ("gzip", "zstd", "")] == ["gzip", "zstd", ""]
    assert [compression_of(head) for head in (b"\xfd7zXZ\0", b"BZh9")] == ["xz", "bzip2"]


def _unwrapped(path: Path, content: bytes, compression: str, limits: Limits = LIMITS) -> bytes:
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        made = unwrap(fd, compression, str(path.parent), "it", limits)
    finally:
        os.close(fd)
    with open(made, "rb") as file:
        file.seek(0)
        return file.read()


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_all_members_are_unwrapped(tmp_path: Path, compression: str) -> None:
    content = image.compress(b"a" * 10, compression) + image.compress(b"b", compression)
    assert _unwrapped(tmp_path / "a", content, compression) == b"a" * 10 + b"b"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_damaged_and_huge_archives(tmp_path: Path, compression: str) -> None:
    content = image.compress(bytes(range(256)) * 4000, compression)
    path = tmp_path / "a"
    with pytest.raises(RefusedError, match="it is damaged"):
        _unwrapped(path, content[:9] + b"\xff\xff\xff\xff" + content[13:], compression)
    with pytest.raises(RefusedError, match="more than 1000 bytes when uncompressed"):
        _unwrapped(path, content, compression, Limits(archive_bytes=1000))
    bomb = image.compress(bytes(20_000_000), compression)
    with pytest.raises(RefusedError, match="more than 100 times"):
        _unwrapped(path, bomb, compression, Limits(layer_ratio=100, ratio_floor_bytes=1_000_000))


def test_an_archive_that_is_cut_or_goes_on_with_something_else(tmp_path: Path) -> None:
    content = image.compress(os.urandom(100_000), "gzip")
    for bad in (content[:-5], content[:50_000], content + b"something else"):
        with pytest.raises(RefusedError, match="it is damaged"):
            _unwrapped(tmp_path / "a", bad, "gzip")


def test_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lxc_oci.kernel.durable.write_all", full)
    with pytest.raises(NoSpaceError, match="no space left in"):
        _unwrapped(tmp_path / "a", image.compress(b"x", "gzip"), "gzip")


def test_without_isal_the_same_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal", None)
    assert _unwrapped(tmp_path / "a", image.compress(b"abc", "gzip"), "gzip") == b"abc"
    with pytest.raises(RefusedError, match="it is damaged"):
        _unwrapped(tmp_path / "a", image.compress(b"abc", "gzip")[:-3], "gzip")
