# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.source.directory"""

from pathlib import Path

import pytest

from lxc_oci.errors import AccessError, RefusedError
from tests.support import image
from tests.support.reading import read

MADE = image.Image([image.layer(image.file("a")), image.layer(image.file("b"), compression="")])


def test_a_directory(tmp_path: Path) -> None:
    path = image.write_directory(tmp_path / "a:b", MADE)
    found = read(f"dir:{path}", tmp_path)
    assert found.image.digest == MADE.digest
    assert found.layers == [layer.blob for layer in MADE.layers]


@pytest.mark.parametrize("rename", ["{}.tar", "sha256-{}"])
def test_names_of_other_versions(tmp_path: Path, rename: str) -> None:
    path = Path(image.write_directory(tmp_path / "dir", MADE))
    blob = path / image.digest(MADE.layers[0].blob)[7:]
    blob.rename(path / rename.format(blob.name))
    if rename == "{}.tar":
        assert read(f"dir:{path}", tmp_path).layers[0] == MADE.layers[0].blob
    else:  # that prefix is for other algorithms
        with pytest.raises(AccessError, match="is missing"):
            read(f"dir:{path}", tmp_path)


def test_an_index_with_its_manifests(tmp_path: Path) -> None:
    index = image.Index([MADE])
    path = Path(image.write_directory(tmp_path / "dir", MADE))
    (path / "manifest.json").rename(path / f"{MADE.digest[7:]}.manifest.json")
    (path / "manifest.json").write_bytes(index.manifest)
    found = read(f"dir:{path}", tmp_path)
    assert (found.image.digest, found.image.index_digest) == (MADE.digest, index.digest)


@pytest.mark.parametrize("docker", [False, True])
def test_the_media_type_is_the_documents_own(tmp_path: Path, docker: bool) -> None:
    made = image.Image(MADE.layers, docker=docker, members={} if docker else {"mediaType": None})
    found = read(f"dir:{image.write_directory(tmp_path / 'dir', made)}", tmp_path)
    assert found.image.manifest.media_type == made.media_type


@pytest.mark.parametrize("docker", [False, True])
def test_plain_layers_that_are_called_gzip(tmp_path: Path, docker: bool) -> None:
    wrong, right = (
        image.layer(image.file(name), compression=compression, docker=docker, media_type=media_type)
        for name, compression, media_type in (
            ("a", "", image.DOCKER_TAR + ".gzip" if docker else image.TAR + "+gzip"),
            ("b", "gzip", ""),
        )
    )
    made = image.Image([wrong, right], {}, docker=docker, annotations={"a": "b"})
    found = read(f"dir:{image.write_directory(tmp_path / 'dir', made)}", tmp_path).image
    assert [layer.media_type for layer in found.layers] == [image.DOCKER_TAR if docker else image.TAR, right.media_type]
    assert [layer.digest for layer in found.layers] == [image.digest(wrong.blob), image.digest(right.blob)]
    assert found.manifest.annotations == {"a": "b"}
    assert found.digest == image.digest(found.raw_manifest) != made.digest


def test_what_is_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match=r"the manifest of dir:.* is missing"):
        read(f"dir:{tmp_path}", tmp_path)
    path = Path(image.write_directory(tmp_path / "dir", MADE))
    blob = path / image.digest(MADE.layers[0].blob)[7:]
    blob.write_bytes(b"x" * blob.stat().st_size)
    with pytest.raises(RefusedError, match="layer 1 has digest"):
        read(f"dir:{path}", tmp_path)
    blob.unlink()
    with pytest.raises(AccessError, match=r"blob sha256:.* is missing"):
        read(f"dir:{path}", tmp_path)
