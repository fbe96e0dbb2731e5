# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.source.layout and lxc_oci.source.files"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxc_oci.errors import AccessError, RefusedError, UnavailableError
from lxc_oci.image import reference
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from lxc_oci.limits import Limits
from lxc_oci.source.layout import open_layout
from tests.support import image
from tests.support.reading import read

ONE = image.Image([image.layer(image.file("a", "1"), compression=""), image.layer(image.file("b"))], {"User": "1"})
TWO = image.Image([image.layer(image.file("a", "2"), compression="")], {"User": "2"})


@pytest.fixture
def both(tmp_path: Path) -> str:
    return image.write_layout(tmp_path / "layout", {"one": ONE, "a/two": TWO})


def test_the_only_image_needs_no_name(tmp_path: Path) -> None:
    path = image.write_layout(tmp_path / "layout", {"one": ONE})
    found = read(f"oci:{path}", tmp_path)
    assert (found.image.digest, found.image.index_digest) == (ONE.digest, None)
    assert (found.image.raw_manifest, found.image.raw_config) == (ONE.manifest, ONE.configuration)
    assert found.layers == [layer.blob for layer in ONE.layers]
    assert found.image.config.user == "1"


def test_names_for_one_image_are_no_choice(tmp_path: Path) -> None:
    path = image.write_layout(tmp_path / "layout", {"one": ONE, "also": ONE})
    assert read(f"oci:{path}", tmp_path).image.digest == ONE.digest


@pytest.mark.parametrize(
    ("selector", "made"),
    [
        (":one", ONE),
        (":a/two", TWO),
        (":@0", ONE),
        (":@1", TWO),
        (f"@{TWO.digest}", TWO),
        (f":one@{ONE.digest}", ONE),
        (f":@1@{TWO.digest}", TWO),
    ],
)
def test_selectors(both: str, selector: str, made: image.Image, tmp_path: Path) -> None:
    assert read(f"oci:{both}{selector}", tmp_path).image.digest == made.digest


@pytest.mark.parametrize(
    ("selector", "message", "hint"),
    [
        ("", "has 2 images and the URL selects none", "select one of: :one, :a/two"),
        (":tow", "has no image named 'tow'", "select one of: :one, :a/two"),
        (":@2", "has no image @2, it has 2", ""),
        ("@sha256:" + "0" * 64, "manifest sha256:0+ is missing", ""),
    ],
)
def test_what_is_not_there(both: str, selector: str, message: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(AccessError, match=message) as caught:
        read(f"oci:{both}{selector}", tmp_path)
    assert caught.value.hint == hint


def test_a_name_that_moved_since_its_digest_was_noted(both: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=f"'one' in .* is {ONE.digest}, not {TWO.digest}"):
        read(f"oci:{both}:one@{TWO.digest}", tmp_path)


def test_a_name_that_ends_in_a_digest(tmp_path: Path) -> None:
    path = image.write_layout(tmp_path / "layout", {"x": TWO, f"one@{ONE.digest}": ONE})
    assert read(f"oci:{path}:one@{ONE.digest}", tmp_path).image.digest == ONE.digest


def test_a_name_for_two_images_selects_none(tmp_path: Path) -> None:
    entries = [{**made.entry(), "annotations": {"org.opencontainers.image.ref.name": "x"}} for made in (ONE, TWO)]
    made = image.layout_files({"one": ONE, "two": TWO})
    made["index.json"] = image.dump({"schemaVersion": 2, "manifests": entries})
    path = image.write_files(tmp_path / "layout", made)
    with pytest.raises(AccessError, match="has 2 images named 'x'"):
        read(f"oci:{path}:x", tmp_path)


def test_a_manifest_inside_an_index_by_its_digest(tmp_path: Path) -> None:
    path = image.write_layout(tmp_path / "layout", {"all": image.Index([ONE, TWO])})
    found = read(f"oci:{path}@{TWO.digest}", tmp_path)
    assert (found.image.digest, found.image.index_digest) == (TWO.digest, None)
    whole = read(f"oci:{path}:all", tmp_path)
    assert (whole.image.digest, whole.image.index_digest) == (ONE.digest, image.Index([ONE, TWO]).digest)


def test_the_error_lists_a_few_of_many_names(tmp_path: Path) -> None:
    images = {f"n{number}": image.Image([], {"User": str(number)}) for number in range(30)}
    path = image.write_layout(tmp_path / "layout", images)
    with pytest.raises(AccessError) as caught:
        read(f"oci:{path}", tmp_path)
    assert caught.value.hint.endswith(":n19, …")


def test_an_empty_layout(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match=r"has no image$"):
        read(f"oci:{image.write_layout(tmp_path / 'layout', {})}", tmp_path)


def test_no_layout_at_all(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match=r"is no OCI layout: .* there is no "):
        read(f"oci:{tmp_path}/nope:x", tmp_path)
    directory = image.write_directory(tmp_path / "dir", ONE)
    with pytest.raises(AccessError) as caught:
        read(f"oci:{directory}", tmp_path)
    assert caught.value.hint == f"it looks like dir:{directory}"


@pytest.mark.parametrize("version", [b'{"imageLayoutVersion":"2.0.0"}', b"{}", b"[]", b'{"imageLayoutVersion":1}'])
def test_another_version(both: str, version: bytes, tmp_path: Path) -> None:
    Path(both, "oci-layout").write_bytes(version)
    with pytest.raises(RefusedError, match="has the layout version"):
        read(f"oci:{both}:one", tmp_path)


def test_a_layout_without_its_marker_is_read(both: str, tmp_path: Path) -> None:
    Path(both, "oci-layout").unlink()
    assert read(f"oci:{both}:one", tmp_path).image.digest == ONE.digest


@pytest.mark.parametrize("name", ["index.json", "oci-layout", "config", "layer"])
def test_symbolic_links_are_followed_and_fifos_are_not_waited_for(both: str, name: str, tmp_path: Path) -> None:
    blobs = {"config": image.digest(ONE.configuration), "layer": image.digest(ONE.layers[0].blob)}
    path = Path(both, f"blobs/sha256/{blobs[name][7:]}") if name in blobs else Path(both, name)
    moved = path.rename(tmp_path / "elsewhere")
    path.symlink_to(moved)
    assert read(f"oci:{both}:one", tmp_path).image.digest == ONE.digest
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RefusedError, match="is not a regular file"):
        read(f"oci:{both}:one", tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(RefusedError, match="is not a regular file"):
        read(f"oci:{both}:one", tmp_path)


def test_a_missing_blob_is_named(both: str, tmp_path: Path) -> None:
    Path(both, "blobs/sha256", TWO.digest[7:]).unlink()
    with pytest.raises(AccessError, match=f"blob {TWO.digest} is missing"):
        read(f"oci:{both}:a/two", tmp_path)


@contextmanager
def as_a_plain_user() -> Iterator[None]:
    """Root is denied nothing, so root is somebody else for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_must_not_be_read(both: str, tmp_path: Path) -> None:
    Path(both, "oci-layout").chmod(0)
    Path(both, "index.json").chmod(0)
    with as_a_plain_user(), pytest.raises(AccessError, match=r"cannot be read: .*: Permission denied") as caught:
        read(f"oci:{both}:one", tmp_path)
    assert caught.value.hint.startswith("a container with an idmap is made by ids of its own")


def test_a_blob_opened_at_an_offset(both: str) -> None:
    source = open_layout(reference.parse(f"oci:{both}:one"))
    blob = ONE.layers[0].blob
    descriptor = Descriptor(image.TAR, Digest(image.digest(blob)), len(blob))
    for offset in (0, 1, len(blob) - 1, len(blob), len(blob) + 5):
        reader = source.open(descriptor, offset)
        assert b"".join(iter(lambda reader=reader: reader.read(1000), b"")) == blob[offset:]
        reader.close()
        reader.close()
    assert source.origin(descriptor) == f"oci:{both}"
    assert source.root(Limits())[0].digest == ONE.digest


def test_an_error_while_reading_is_ours(both: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_layout(reference.parse(f"oci:{both}:one"))
    blob = ONE.layers[0].blob
    reader = source.open(Descriptor(image.TAR, Digest(image.digest(blob)), len(blob)))
    reader.close()
    with pytest.raises(UnavailableError, match=r"cannot read blob sha256:.*: Bad file descriptor"):
        reader.read(1)
