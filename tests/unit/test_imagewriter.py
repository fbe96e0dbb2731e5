# SPDX-License-Identifier: LGPL-2.1-or-later
"""imagewriter: layouts and archives that are begun, refused and verified."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxc_oci.errors import RefusedError, UsageError
from lxc_oci.image.digest import Digest
from lxc_oci.imagewriter import LayoutWriter
from lxc_oci.kernel import durable

CONTENT = os.urandom(3 << 20)


def ignore(count: int) -> None:
    pass


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system than `tmp_path`."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        if os.stat(directory).st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is on the file system of the temporary directory")
        yield Path(directory)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_blob_of_another_file_system_is_copied(tmp_path: Path, elsewhere: Path, algorithm: str) -> None:
    (elsewhere / "blob").write_bytes(CONTENT)
    digest = Digest(f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest()}")
    told: list[int] = []
    writer = LayoutWriter(str(tmp_path / "layout"))
    assert not writer.has(digest)
    writer.put_blob(digest, str(elsewhere / "blob"), told.append)
    assert (tmp_path / "layout/blobs" / algorithm / digest.hex).read_bytes() == CONTENT
    assert writer.has(digest) and sum(told) == len(CONTENT)


def test_the_rest_of_a_file_is_copied(tmp_path: Path, elsewhere: Path) -> None:
    (elsewhere / "one").write_bytes(CONTENT)
    with open(elsewhere / "one", "rb") as source, open(tmp_path / "two", "wb") as target:
        os.lseek(source.fileno(), 5, os.SEEK_SET)
        durable.copy(source.fileno(), target.fileno())
    assert (tmp_path / "two").read_bytes() == CONTENT[5:]


def test_a_damaged_blob_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(CONTENT)
    digest = Digest("sha256:" + hashlib.sha256(b"what it was").hexdigest())
    writer = LayoutWriter(str(tmp_path / "layout"))
    with pytest.raises(RefusedError, match="has not the digest"):
        writer.put_blob(digest, str(tmp_path / "blob"), ignore)
    assert os.listdir(tmp_path / "layout/blobs/sha256") == []


def test_another_directory_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(UsageError, match="no OCI layout"):
        LayoutWriter(str(tmp_path))
    assert os.listdir(tmp_path) == ["mine"]
    with pytest.raises(UsageError, match="cannot write the layout"):
        LayoutWriter(str(tmp_path / "mine"))


def test_a_layout_that_was_begun_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "blobs/sha256").mkdir(parents=True)
    LayoutWriter(str(tmp_path))
