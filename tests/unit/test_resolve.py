# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.source.resolve"""

from collections.abc import Sequence
from pathlib import Path

import pytest

from lxc_oci.errors import AccessError, RefusedError, UnsupportedError
from lxc_oci.image import platform
from lxc_oci.image.digest import Digest
from lxc_oci.image.mediatype import LayerKind
from lxc_oci.image.platform import Platform
from lxc_oci.limits import Limits
from lxc_oci.source import resolve
from lxc_oci.source.layout import LayoutSource
from tests.support import image
from tests.support.reading import AMD64, Read, read

LIMITS = Limits()
TAR = image.layer(image.file("a"))
SQUASHFS = image.Layer(b"hsqs", image.SQUASHFS, image.digest(b"hsqs"))
EROFS = image.Layer(b"erofs", image.EROFS)
ROOTFS = image.Layer(b"capnp", "application/vnd.puzzlefs.image.rootfs.v1")
CHUNK = image.Layer(b"chunk", "application/vnd.puzzlefs.image.filedata.v1")
OTHER = image.Layer(b"{}", "application/vnd.in-toto+json")


@pytest.fixture(autouse=True)
def _on_amd64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "host", lambda: AMD64)


def resolved(
    made: image.Image | image.Index, path: Path, wanted: Platform | None = None, limits: Limits = LIMITS
) -> Read:
    return read(f"oci:{image.write_layout(path / 'layout', {'': made})}", path, wanted, limits)


def for_platforms(*texts: str) -> list[image.Image]:
    return [image.Image([TAR], {"User": text}, text) for text in texts]


def nested(depth: int) -> image.Image | image.Index:
    made: image.Image | image.Index = image.Image([TAR])
    for _ in range(depth):
        made = image.Index([made])
    return made


@pytest.mark.parametrize("wanted", ["linux/amd64", "linux/arm64", "linux/arm/v7"])
def test_an_index_gives_the_image_for_the_platform(tmp_path: Path, wanted: str) -> None:
    index = image.Index(for_platforms("linux/arm/v7", "linux/amd64", "linux/arm64/v8"))
    found = resolved(index, tmp_path, platform.parse(wanted)).image
    assert found.config.user.startswith(wanted)
    assert found.index_digest == index.digest


def test_the_host_decides_when_no_platform_is_wanted(tmp_path: Path) -> None:
    found = resolved(image.Index(for_platforms("linux/arm64", "linux/amd64")), tmp_path)
    assert (found.image.config.user, found.warnings) == ("linux/amd64", [])


def test_an_index_without_the_platform_says_what_it_offers(tmp_path: Path) -> None:
    index = image.Index([image.Index(for_platforms("linux/arm64/v8")), *for_platforms("linux/s390x")])
    with pytest.raises(AccessError, match="the image has no manifest for linux/amd64") as caught:
        resolved(index, tmp_path)
    assert caught.value.hint == "it offers linux/arm64/v8, linux/s390x; choose with --platform"


def test_an_index_of_attestations_alone(tmp_path: Path) -> None:
    entry = {**image.Image([TAR]).entry(), "platform": {"os": "unknown", "architecture": "unknown"}}
    with pytest.raises(AccessError) as caught:
        resolved(image.Index([image.Image([TAR])], entries=[entry]), tmp_path)
    assert caught.value.hint == "its index lists no image for a platform"


def test_a_nested_index_without_the_platform_is_no_dead_end(tmp_path: Path) -> None:
    wrong, right = for_platforms("linux/arm64", "linux/amd64")
    found = resolved(image.Index([image.Index([wrong]), image.Index([right])]), tmp_path)
    assert found.image.digest == right.digest


def test_the_depth_of_indexes_is_bounded(tmp_path: Path) -> None:
    assert resolved(nested(3), tmp_path, limits=Limits(index_depth=3)).image.layers
    with pytest.raises(RefusedError, match="nested deeper than the limit of 3"):
        resolved(nested(4), tmp_path, limits=Limits(index_depth=3))


def test_the_number_of_indexes_is_bounded_and_none_is_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LayoutSource.open
    empty = [image.Index([], members={"annotations": {"n": str(number)}}) for number in range(20)]
    with pytest.raises(RefusedError, match="more than 10 documents"):
        resolved(image.Index(empty), tmp_path, limits=Limits(index_documents=10))
    once = image.Index([], members={"annotations": {"n": "x"}})
    opened: list[str] = []
    monkeypatch.setattr(
        LayoutSource,
        "open",
        lambda self, descriptor, offset=0: opened.append(descriptor.digest) or real(self, descriptor),
    )
    with pytest.raises(AccessError, match="no manifest for"):
        resolved(image.Index([once] * 20), tmp_path, limits=Limits(index_documents=10))
    assert opened.count(once.digest) == 1


@pytest.mark.parametrize(
    ("made", "wanted", "accepted"),
    [
        ("linux/amd64", None, True),
        ("linux/arm64/v8", None, False),
        ("linux/386", None, False),
        ("linux/386", "linux/386", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm/v6", "linux/arm/v7", True),
        ("linux/arm/v7", "linux/arm/v6", False),
        ("linux/amd64", "linux/arm64", False),
    ],
)
def test_an_image_for_one_platform(tmp_path: Path, made: str, wanted: str | None, accepted: bool) -> None:
    only = image.Image([TAR], platform=made)
    chosen = platform.parse(wanted) if wanted else None
    if accepted:
        assert resolved(only, tmp_path, chosen).image.digest == only.digest
        return
    with pytest.raises(RefusedError, match=f"the image is for {made}, not for ") as caught:
        resolved(only, tmp_path, chosen)
    assert caught.value.hint == ("" if wanted else f"if this host can run it all the same, say --platform {made}")


def test_an_image_that_says_no_platform(tmp_path: Path) -> None:
    assert resolved(image.Image([TAR], document={"os": None, "architecture": None}), tmp_path).image.layers


def test_an_image_for_another_system(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="the image is for windows/amd64, and LXC runs Linux"):
        resolved(image.Image([TAR], platform="windows/amd64"), tmp_path, platform.parse("windows/amd64"))


def test_a_host_that_cannot_run_what_was_asked_for_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = image.Image([TAR], platform="linux/s390x")
    monkeypatch.setattr("lxc_oci.source.binfmt.obstacle", lambda wanted, host: f"{host} has no {wanted}")
    found = resolved(made, tmp_path, platform.parse("linux/s390x"))
    assert found.warnings == ["the image is for linux/s390x, which this host cannot run: amd64 has no s390x"]
    monkeypatch.setattr("lxc_oci.source.binfmt.obstacle", lambda wanted, host: "")
    assert resolved(made, tmp_path, platform.parse("linux/s390x")).warnings == []


@pytest.mark.parametrize(
    ("layers", "kind"),
    [
        ([], LayerKind.TAR),
        ([TAR, TAR], LayerKind.TAR),
        ([SQUASHFS], LayerKind.SQUASHFS),
        ([EROFS, EROFS], LayerKind.EROFS),
        ([ROOTFS], LayerKind.PUZZLEFS),
        ([ROOTFS, CHUNK, CHUNK], LayerKind.PUZZLEFS),
        ([CHUNK, ROOTFS], LayerKind.PUZZLEFS),
        ([ROOTFS, OTHER], LayerKind.PUZZLEFS),
    ],
)
def test_kinds_of_layers(tmp_path: Path, layers: Sequence[image.Layer], kind: LayerKind) -> None:
    assert resolved(image.Image(layers), tmp_path).image.kind is kind


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([OTHER], UnsupportedError, "layer 1 has the media type 'application/vnd.in-toto"),
        ([TAR, OTHER], UnsupportedError, "layer 2 has the media type"),
        ([CHUNK], UnsupportedError, "layer 1 has the media type"),
        ([TAR, SQUASHFS], RefusedError, "mixes squashfs and tar layers"),
        ([ROOTFS, TAR], RefusedError, "mixes puzzlefs and tar layers"),
        ([ROOTFS, ROOTFS], RefusedError, "more than one PuzzleFS rootfs"),
    ],
)
def test_layers_that_are_no_image(
    tmp_path: Path, layers: Sequence[image.Layer], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        resolved(image.Image(layers), tmp_path)


def test_diff_ids_are_counted_for_tar_layers_alone(tmp_path: Path) -> None:
    for document in (
        {"rootfs": None},
        {"rootfs": {"type": "layers", "diff_ids": []}},
        {"rootfs": {"type": "layers", "diff_ids": [TAR.diff_id] * 3}},
    ):
        with pytest.raises(RefusedError, match=r"has 2 layers, but its configuration has DiffIDs of [03]"):
            resolved(image.Image([TAR, TAR], document=document), tmp_path)
        assert resolved(image.Image([EROFS, EROFS], document=document), tmp_path).image.layers


def test_images_without_a_configuration(tmp_path: Path) -> None:
    found = resolved(image.Image([SQUASHFS], config=None), tmp_path).image
    assert (found.config.entrypoint, found.config.platform, found.raw_config) == (("/bin/sh",), AMD64, b"{}")
    by_digest = image.Image([SQUASHFS], config=None, members={"config": image.descriptor(image.CONFIG, b"{}")})
    assert resolved(by_digest, tmp_path).image.config == found.config
    with pytest.raises(RefusedError, match="DiffIDs of 0") as caught:
        resolved(image.Image([TAR], config=None), tmp_path)
    assert caught.value.hint == "layers without DiffIDs cannot be verified"


def test_the_configuration_that_is_none_need_not_exist(tmp_path: Path) -> None:
    made = image.Image([ROOTFS], config=None)
    path = image.write_layout(tmp_path / "layout", {"": made})
    Path(path, "blobs", image.digest(b"{}").replace(":", "/")).unlink()
    assert read(f"oci:{path}", tmp_path, None).image.kind is LayerKind.PUZZLEFS


def test_an_artifact_is_named(tmp_path: Path) -> None:
    helm = image.descriptor("application/vnd.cncf.helm.config.v1+json", b"{ }")
    with pytest.raises(UnsupportedError, match=r"an artifact of type 'application/vnd.cncf.helm"):
        resolved(image.Image([TAR], members={"config": helm}), tmp_path)
    with pytest.raises(UnsupportedError, match="an artifact of type 'application/x'"):
        resolved(image.Image([TAR], members={"config": helm, "artifactType": "application/x"}), tmp_path)


def test_kept_documents_give_the_same_image(tmp_path: Path) -> None:
    for made in (image.Image([TAR], {"User": "u"}), image.Image([ROOTFS, CHUNK], config=None)):
        first = resolved(made, tmp_path).image
        again = resolve.resolve_manifest(
            first.raw_manifest, first.raw_config, None, Limits(), print, digest=first.digest
        )
        assert again == first


def test_kept_documents_are_checked_again() -> None:
    made = image.Image([TAR], {"User": "u"})
    other = image.Image([TAR], {"User": "v"})
    with pytest.raises(RefusedError, match="the image configuration has digest"):
        resolve.resolve_manifest(made.manifest, other.configuration, None, Limits(), print)
    with pytest.raises(RefusedError, match="is an index"):
        resolve.resolve_manifest(image.Index([made]).manifest, b"{}", None, Limits(), print)
    with pytest.raises(RefusedError, match="not for linux/arm64"):
        wanted = platform.parse("linux/arm64")
        resolve.resolve_manifest(made.manifest, made.configuration, wanted, Limits(), print)
    found = resolve.resolve_manifest(made.manifest, made.configuration, None, Limits(), print)
    assert found.digest == Digest(made.digest)
