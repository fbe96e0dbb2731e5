# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.image.manifest and lxc_oci.image.mediatype"""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxc_oci.errors import RefusedError
from lxc_oci.image import manifest as manifests
from lxc_oci.image import mediatype, platform
from lxc_oci.image.manifest import Descriptor, Index, Manifest
from lxc_oci.image.mediatype import LayerKind
from lxc_oci.limits import Limits
from tests.support import image

LIMITS = Limits()
SUM = "sha256:" + "a" * 64
MADE = image.Image([image.layer(image.file("a")), image.layer(image.file("b"), compression="")])


def parse(value: Any, media_type: str = "", limits: Limits = LIMITS) -> Manifest | Index:
    return manifests.parse(value if isinstance(value, bytes) else json.dumps(value).encode(), media_type, limits)


def changed(**members: Any) -> bytes:
    return image.Image(MADE.layers, members=members).manifest


def entry(text: str | None, digit: str = "a", media_type: str = image.MANIFEST, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": media_type, "digest": "sha256:" + digit * 64, "size": 1, **more}
    if text is not None:
        found["platform"] = dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))
    return found


def index(*entries: dict[str, Any]) -> Index:
    found = parse({"schemaVersion": 2, "mediaType": image.INDEX, "manifests": entries})
    assert isinstance(found, Index)
    return found


@pytest.mark.parametrize("docker", [False, True])
def test_a_manifest(docker: bool) -> None:
    made = image.Image(MADE.layers, docker=docker, annotations={"a": "b"})
    found = parse(made.manifest, made.media_type)
    assert isinstance(found, Manifest)
    assert found.media_type == made.media_type
    assert found.config.digest == image.digest(made.configuration)
    assert [(layer.digest, layer.size) for layer in found.layers] == [
        (image.digest(layer.blob), len(layer.blob)) for layer in made.layers
    ]
    assert found.annotations == {"a": "b"}


@pytest.mark.parametrize("docker", [False, True])
def test_an_index(docker: bool) -> None:
    made = image.Index([MADE], docker=docker)
    found = parse(made.manifest, made.media_type)
    assert isinstance(found, Index)
    assert found.manifests == (
        Descriptor(image.MANIFEST, MADE.digest, len(MADE.manifest), {}, platform.parse("linux/amd64")),
    )


def test_a_kind_that_nothing_announces_is_that_of_its_members() -> None:
    assert isinstance(parse(changed(mediaType=None)), Manifest)
    assert isinstance(parse({"schemaVersion": 2, "manifests": []}), Index)


@pytest.mark.parametrize(
    ("raw", "media_type", "message"),
    [
        (b"[]", "", "not a JSON object"),
        (b"{}", "", "schemaVersion None"),
        (changed(schemaVersion="2"), "", "schemaVersion '2'"),
        (changed(schemaVersion=True), "", "schemaVersion True"),
        (changed(schemaVersion=2.5), "", "schemaVersion 2.5"),
        (changed(schemaVersion=3), "", "schemaVersion 3"),
        (changed(schemaVersion=1), "", "schema 1"),
        (changed(mediaType="application/vnd.docker.distribution.manifest.v1+prettyjws"), "", "schema 1"),
        (changed(fsLayers=[]), "", "schema 1"),
        (changed(), image.DOCKER_MANIFEST, "announced as"),
        (changed(), image.INDEX, "announced as"),
        (changed(mediaType=image.INDEX), "", "no list 'manifests'"),
        (changed(mediaType="text/html"), "", "not a media type of an image"),
        (changed(mediaType=7), "", "mediaType that is not a string"),
        (changed(mediaType=None), "text/plain", "not a media type of an image"),
        (changed(manifests=[]), "", "both an index and a manifest"),
        (changed(Manifests=[]), "", "take for 'manifests'"),
        (changed(Layers=[]), "", "take for 'layers'"),
        (changed(CONFIG={}), "", "take for 'config'"),
        (changed(mediatype=image.INDEX), "", "take for 'mediaType'"),
        (changed(layers=None), "", "no list 'layers'"),
        (changed(layers={}), "", "no list 'layers'"),
        (changed(layers=[[]]), "", "layer 1 is not a descriptor"),
        (changed(config=None), "", "config is not a descriptor"),
        (changed(annotations={"a": 1}), "", "annotations that are not strings"),
        (changed(annotations=["a"]), "", "annotations that are not strings"),
        (changed(artifactType=[]), "", "artifactType that is not a string"),
        (b'{"schemaVersion":2,"layers":[],"layers":[]}', "", "duplicate"),
    ],
)
def test_refused(raw: bytes, media_type: str, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        parse(raw, media_type)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": -1}, "size -1"),
        ({"size": "1"}, "size '1'"),
        ({"size": 1.0}, "size 1.0"),
        ({"size": True}, "size True"),
        ({"size": None}, "size None"),
        ({"size": 2**63}, "size 9223372036854775808"),
        ({"size": 10**30}, "size 1e"),
        ({"digest": "sha256:x"}, "is not a sha256"),
        ({"digest": None}, "None is not a sha256"),
        ({"mediaType": None}, "no mediaType"),
        ({"mediaType": 1}, "mediaType that is not a string"),
        ({"mediaType": "a\nb"}, "which is none"),
        ({"mediaType": image.TAR + "+gzip+encrypted"}, "encrypted"),
        ({"annotations": {"a": None}}, "annotations"),
        ({"platform": "linux"}, "platform that is not an object"),
        ({"platform": {"os": 1}}, "os that is not a string"),
        ({"platform": {"OS": "linux"}}, "take for 'os'"),
        ({"Digest": SUM}, "take for 'digest'"),
        ({"Size": 1}, "take for 'size'"),
    ],
)
def test_refused_descriptors(change: dict[str, Any], message: str) -> None:
    bad = {**entry(None), **change}
    for value in (
        {"schemaVersion": 2, "mediaType": image.INDEX, "manifests": [bad]},
        {"schemaVersion": 2, "mediaType": image.MANIFEST, "config": bad, "layers": []},
        {"schemaVersion": 2, "mediaType": image.MANIFEST, "config": entry(None), "layers": [bad]},
    ):
        with pytest.raises(RefusedError, match=message):
            parse(value)


def test_the_number_of_layers_is_bounded_but_chunks_are_none() -> None:
    few = Limits(layers=2)
    three = {"schemaVersion": 2, "mediaType": image.MANIFEST, "config": entry(None)}
    with pytest.raises(RefusedError, match="3 layers, more than the limit of 2"):
        parse({**three, "layers": [entry(None, media_type=image.TAR)] * 3}, limits=few)
    chunk = entry(None, media_type="application/octet-stream")
    rootfs = entry(None, media_type="application/vnd.puzzlefs.image.rootfs.v1")
    assert isinstance(parse({**three, "layers": [rootfs, chunk, chunk]}, limits=few), Manifest)


@pytest.mark.parametrize(
    ("offered", "wanted", "chosen"),
    [
        (["linux/amd64", "linux/arm64/v8"], "linux/arm64", "b"),
        (["linux/amd64", "linux/arm64"], "linux/arm64/v8", "b"),
        (["linux/amd64", "linux/amd64"], "linux/amd64", "ab"),
        (["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7", "bca"),
        (["linux/arm/v8", "linux/arm/v7"], "linux/arm/v6", ""),
        (["linux/arm", "linux/arm/v6"], "linux/arm/v7", "ba"),
        (["windows/amd64", "linux/amd64"], "linux/amd64", "b"),
        (["linux/amd64/v3", "linux/amd64"], "linux/amd64", "b"),
        (["unknown/unknown", "linux/amd64"], "linux/amd64", "b"),
        (["unknown/unknown"], "linux/amd64", ""),
        ([None], "linux/amd64", "a"),
        ([None, None], "linux/amd64", ""),
        ([None, "linux/arm64"], "linux/amd64", ""),
        (["linux/arm64"], "linux/amd64", ""),
        ([], "linux/amd64", ""),
    ],
)
def test_candidates(offered: list[str | None], wanted: str, chosen: str) -> None:
    found = manifests.candidates(
        index(*(entry(text, digit) for text, digit in zip(offered, "abcdef", strict=False))), platform.parse(wanted)
    )
    assert "".join(item.digest.hex[0] for item in found) == chosen


def test_what_is_no_image_is_no_candidate() -> None:
    attestation = entry("linux/amd64", "a", annotations={"vnd.docker.reference.type": "attestation-manifest"})
    helm = entry("linux/amd64", "b", media_type="application/vnd.cncf.helm.chart.v1+json")
    found = index(attestation, helm, entry("linux/amd64", "c"), entry("linux/riscv64", "d"))
    assert [item.digest.hex[0] for item in manifests.candidates(found, platform.parse("linux/amd64"))] == ["c"]
    assert manifests.offered(found) == ["linux/amd64", "linux/riscv64"]


def test_nested_indexes_come_after_what_fits() -> None:
    found = index(
        entry(None, "a", image.INDEX),
        entry("linux/amd64", "b"),
        entry("linux/arm64", "c", image.INDEX),
        entry("linux/amd64", "d", image.DOCKER_INDEX),
    )
    assert [item.digest.hex[0] for item in manifests.candidates(found, platform.parse("linux/amd64"))] == [
        "b",
        "d",
        "a",
    ]


@pytest.mark.parametrize(
    ("media_type", "kind", "compression"),
    [
        (image.TAR, LayerKind.TAR, ""),
        (image.TAR + "+gzip", LayerKind.TAR, "gzip"),
        (image.TAR + "+zstd", LayerKind.TAR, "zstd"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", LayerKind.TAR, "gzip"),
        (image.DOCKER_TAR, LayerKind.TAR, ""),
        (image.DOCKER_TAR + ".gzip", LayerKind.TAR, "gzip"),
        (image.DOCKER_TAR + ".zstd", LayerKind.TAR, "zstd"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", LayerKind.TAR, "gzip"),
        ("application/vnd.stacker.image.layer.squashfs+zstd+verity", LayerKind.SQUASHFS, ""),
        ("application/vnd.oci.image.layer.squashfs", LayerKind.SQUASHFS, ""),
        ("application/vnd.stacker.image.layer.erofs", LayerKind.EROFS, ""),
        ("application/vnd.puzzlefs.image.rootfs.v1", LayerKind.PUZZLEFS, ""),
        ("application/vnd.puzzlefs.image.filedata.v1", None, ""),
        (image.TAR + "+xz", None, ""),
        (image.TAR + "+gzip\n", None, ""),
        ("application/vnd.oci.image.layer.v1-tar", None, ""),
        ("application/vnd.in-toto+json", None, ""),
        ("", None, ""),
    ],
)
def test_media_types(media_type: str, kind: LayerKind | None, compression: str) -> None:
    assert mediatype.layer_kind(media_type) is kind
    assert mediatype.tar_compression(media_type) == compression


_members = st.sampled_from(
    ["schemaVersion", "mediaType", "config", "layers", "manifests", "annotations", "artifactType", "digest", "size"]
    + ["platform", "os", "architecture", "Layers", "fsLayers", "x"]
)
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 3), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5)
) | st.sampled_from([SUM, image.MANIFEST, image.INDEX, image.TAR, image.CONFIG])
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_members, inner, max_size=5), max_leaves=15
)


@settings(deadline=None)  # the machine may be busy
@given(st.dictionaries(_members, _values, max_size=8), st.sampled_from(["", image.MANIFEST, image.INDEX]))
def test_whatever_comes_is_typed_or_refused(document: dict[str, Any], media_type: str) -> None:
    document.setdefault("schemaVersion", 2)
    try:
        found = parse(document, media_type)
    except RefusedError as error:
        assert error.message
        return
    entries = found.manifests if isinstance(found, Index) else (found.config, *found.layers)
    assert all(type(item.size) is int and item.size >= 0 and len(item.digest.hex) == 64 for item in entries)
