# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images that lie, in layouts and archives: each test carries the id of its threat.

The image is always read to its end, as a create does; what a registry can add is in test_pull_threats.
"""

import io
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lxc_oci import existing, log
from lxc_oci.errors import AccessError, OciError, RefusedError, UnsupportedError, UsageError
from lxc_oci.image import mediatype, platform, reference
from lxc_oci.image.digest import Digest
from lxc_oci.layer.pipeline import Stream, TarLayer
from lxc_oci.limits import Limits
from tests.support import image
from tests.support.reading import AMD64, Read, read

LAYER = image.layer(image.file("a"))
GOOD = image.Image([LAYER], {"Cmd": ["/bin/sh"]})
SUM = "sha256:" + "a" * 64
BAD_DIGESTS = [
    "sha256:../../../../../../etc/passwd",
    "sha256:" + "../" * 21 + "x",
    "sha256:" + "a" * 63,
    "sha256:" + "a" * 65,
    "sha256:" + "A" * 64,
    "sha256:" + "a" * 128,
    "sha512:" + "a" * 64,
    "sha256:" + "a" * 64 + "\n",
    "sha1:" + "a" * 40,
    "/etc/passwd",
    "",
    None,
    5,
    [SUM],
]


def layout(path: Path, made: image.Image | image.Index, index: bytes | None = None) -> str:
    files = image.layout_files({"": made})
    if index is not None:
        files["index.json"] = index
    return image.write_files(path / "layout", files)


def attempt(path: Path, made: image.Image | image.Index, limits: Limits | None = None) -> Read:
    return read(f"oci:{layout(path, made)}", path, AMD64, limits or Limits())


def uncompressed(found: Read, number: int = 0) -> bytes:
    """The tar of a layer, as a create reads it: digest, compression and DiffID verified."""
    layer = TarLayer(
        lambda: io.BytesIO(found.layers[number]),
        mediatype.tar_compression(found.image.layers[number].media_type),
        found.image.config.diff_ids[number],
    )
    with Stream(layer, Limits(), print) as stream:
        return b"".join(iter(lambda: stream.read(1 << 16), b""))


def manifest(**members: Any) -> image.Image:
    return image.Image([LAYER], GOOD.config, members=members)


def raw(text: str) -> image.Image:
    return image.Image([LAYER], GOOD.config, raw_manifest=text.encode())


def test_the_good_image_is_read(tmp_path: Path) -> None:
    """Without it every refusal below would prove nothing."""
    found = attempt(tmp_path, GOOD)
    assert found.image.digest == GOOD.digest
    assert uncompressed(found) == LAYER.plain


# --- P01: one document, two meanings ---


@pytest.mark.parametrize(
    "members",
    [
        {"manifests": []},
        {"manifests": [GOOD.entry()]},
        {"Manifests": [GOOD.entry()]},
        {"MANIFESTS": []},
        {"Layers": []},
        {"layerſ": []},
        {"Config": {}},
        {"mediatype": image.INDEX},
        {"mediaType": image.INDEX},
        {"mediaType": image.DOCKER_MANIFEST},
        {"mediaType": "application/json"},
    ],
)
def test_p01_manifest_with_two_meanings(tmp_path: Path, members: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        attempt(tmp_path, manifest(**members))


@pytest.mark.parametrize("members", [{"layers": []}, {"config": {}}, {"Layers": []}, {"mediaType": image.MANIFEST}])
def test_p01_index_with_two_meanings(tmp_path: Path, members: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        attempt(tmp_path, image.Index([GOOD], members=members))
    document = {"schemaVersion": 2, "manifests": [GOOD.entry()], **members}
    with pytest.raises(RefusedError):
        read(f"oci:{layout(tmp_path, GOOD, image.dump(document))}", tmp_path)


def test_p01_duplicate_keys_at_every_depth(tmp_path: Path) -> None:
    text = GOOD.manifest.decode()
    for old, new in (
        ('"schemaVersion":2', '"schemaVersion":2,"layers":[]'),
        ('"schemaVersion":2', '"schemaVersion":2,"\\u006cayers":[]'),
        ('{"digest":', f'{{"digest":"{SUM}","digest":'),
        ('"size":', '"size":1,"size":'),
    ):
        assert old in text
        with pytest.raises(RefusedError, match="duplicate JSON keys"):
            attempt(tmp_path, raw(text.replace(old, new, 1)))


def test_p01_descriptor_with_two_meanings(tmp_path: Path) -> None:
    for extra in ({"Digest": SUM}, {"SIZE": 1}, {"MediaType": image.TAR}):
        with pytest.raises(RefusedError, match="some readers take for"):
            attempt(tmp_path, manifest(layers=[{**LAYER.descriptor(), **extra}]))


# --- P02: digests that are paths ---


@pytest.mark.parametrize("text", BAD_DIGESTS)
def test_p02_digest_is_checked_before_any_path_is_made(tmp_path: Path, text: object) -> None:
    bad = {**LAYER.descriptor(), "digest": text}
    for made in (
        manifest(layers=[bad]),
        manifest(config=bad),
        image.Index([GOOD], entries=[{**GOOD.entry(), "digest": text}]),
    ):
        with pytest.raises(RefusedError, match="is not a sha256 or sha512 digest"):
            attempt(tmp_path, made)
    entries = image.dump({"schemaVersion": 2, "manifests": [{**GOOD.entry(), "digest": text}]})
    with pytest.raises(RefusedError, match="is not a sha256 or sha512 digest"):
        read(f"oci:{layout(tmp_path, GOOD, entries)}", tmp_path)
    rootfs = {"type": "layers", "diff_ids": [text]}
    with pytest.raises(RefusedError, match=r"is not a sha256 or sha512 digest|not a list of strings"):
        attempt(tmp_path, image.Image([LAYER], {}, document={"rootfs": rootfs}))


def test_p02_member_names_of_an_archive_stay_in_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(GOOD.configuration)
    for name in (str(secret), "../secret", "a/../../secret", "x"):
        items = [
            image.symlink("x", "../secret"),
            image.file("manifest.json", json.dumps([{"Config": name, "Layers": [name]}])),
        ]
        (tmp_path / "a.tar").write_bytes(image.tar(*items))
        with pytest.raises(AccessError, match="has no member"):
            read(f"docker-archive:{tmp_path}/a.tar", tmp_path)


# --- P05: size and depth ---


@pytest.mark.parametrize("kind", ["manifest", "index", "config", "index.json"])
def test_p05_huge_documents_are_not_parsed(tmp_path: Path, kind: str) -> None:
    padding = b" " * (5 << 20)
    made: image.Image | image.Index = GOOD
    if kind == "manifest":
        made = image.Image([LAYER], {}, raw_manifest=GOOD.manifest + padding)
    elif kind == "config":
        made = image.Image([LAYER], {}, raw_config=GOOD.configuration + padding)
    elif kind == "index":
        made = image.Index([GOOD], raw_manifest=image.Index([GOOD]).manifest + padding)
    files = image.layout_files({"": made})
    if kind == "index.json":
        files["index.json"] += padding
    with pytest.raises(RefusedError, match=r"limit of 4194304( bytes)?$"):
        read(f"oci:{image.write_files(tmp_path / 'layout', files)}", tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000])
def test_p05_deep_documents_are_refused(tmp_path: Path, text: str) -> None:
    for made in (raw(text), image.Image([LAYER], {}, raw_config=text.encode())):
        with pytest.raises(RefusedError, match="not valid JSON"):
            attempt(tmp_path, made)


def test_p05_many_layers(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="501 layers, more than the limit of 500"):
        attempt(tmp_path, manifest(layers=[LAYER.descriptor()] * 501))
    diff_ids = {"rootfs": {"type": "layers", "diff_ids": [LAYER.diff_id] * 500}}
    most = image.Image([LAYER], {}, document=diff_ids, members={"layers": [LAYER.descriptor()] * 500})
    assert len(attempt(tmp_path, most).layers) == 500


# --- P06: indexes without end ---


@pytest.mark.parametrize(("depth", "read_it"), [(1, True), (3, True), (4, True), (5, False)])
def test_p06_depth(tmp_path: Path, depth: int, read_it: bool) -> None:
    made: image.Image | image.Index = GOOD
    for _ in range(depth):
        made = image.Index([made])
    if read_it:
        assert attempt(tmp_path, made).image.digest == GOOD.digest
    else:
        with pytest.raises(RefusedError, match="nested deeper than the limit of 4"):
            attempt(tmp_path, made)


def test_p06_breadth(tmp_path: Path) -> None:
    leaves = [image.Index([], members={"annotations": {"n": str(number)}}) for number in range(100)]
    with pytest.raises(RefusedError, match="more than 32 documents"):
        attempt(tmp_path, image.Index(leaves))
    tree = [image.Index([image.Index(leaves[start::10])]) for start in range(10)]
    with pytest.raises(RefusedError, match="more than 32 documents"):
        attempt(tmp_path, image.Index(tree))


def test_p06_the_same_index_again_is_not_read_again(tmp_path: Path) -> None:
    once = image.Index([])
    with pytest.raises(AccessError, match="no manifest for"):
        attempt(tmp_path, image.Index([once] * 1000))


# --- P07: the wrong platform ---


def for_platform(text: str, **more: Any) -> dict[str, Any]:
    made = image.Image([LAYER], {"User": text}, text)
    return {**made.entry(), **more}


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [{**GOOD.entry(), "platform": {"os": "unknown", "architecture": "unknown"}}],
        [for_platform("linux/arm64")],
        [for_platform("windows/amd64")],
        [for_platform("linux/AMD64")],
        [for_platform("linux/amd64/v3")],
        [for_platform("linux/amd64", annotations={"vnd.docker.reference.type": "attestation-manifest"})],
        [for_platform("linux/amd64", platform=None), for_platform("linux/arm64", platform=None)],
        [for_platform("linux/amd64", platform=None), for_platform("linux/arm64")],
    ],
)
def test_p07_nothing_is_chosen_silently(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    others = [image.Image([LAYER], {"User": text}, text) for text in ("linux/arm64", "windows/amd64", "linux/amd64")]
    with pytest.raises(AccessError, match="the image has no manifest for linux/amd64"):
        attempt(tmp_path, image.Index([GOOD, *others], entries=entries))


def test_p07_the_first_match_wins(tmp_path: Path) -> None:
    first, second = (image.Image([LAYER], {"User": name}) for name in ("first", "second"))
    found = attempt(tmp_path, image.Index([image.Image([LAYER], {}, "linux/arm64"), first, second]))
    assert found.image.config.user == "first"


def test_p07_an_image_that_says_little_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit, rollback and convert read what create has recorded: `linux` is no platform that a user could write."""
    made = image.Image([LAYER], {}, document={"os": "linux", "architecture": None})
    found = attempt(tmp_path, made).image
    facts = SimpleNamespace(platform=str(found.config.platform), digest=found.digest)
    monkeypatch.setattr(existing.provenance, "read", lambda directory, number: facts)
    documents = found.raw_manifest, found.raw_config
    monkeypatch.setattr(existing.provenance, "documents", lambda directory, number: documents)
    container: Any = SimpleNamespace(directory="/nowhere")
    assert facts.platform == "linux"
    assert existing.image_of(container, 0, Limits()).digest == found.digest


def test_p07_an_index_that_lies_about_a_platform(tmp_path: Path) -> None:
    arm = image.Image([LAYER], {}, "linux/arm64/v8")
    entry = {**arm.entry(), "platform": {"os": "linux", "architecture": "amd64"}}
    with pytest.raises(RefusedError, match="the image is for linux/arm64/v8, not for linux/amd64"):
        attempt(tmp_path, image.Index([arm], entries=[entry]))


# --- P13: Docker schema 1 ---


@pytest.mark.parametrize(
    "document",
    [
        {"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": [], "signatures": []},
        {"schemaVersion": 2, "mediaType": image.MANIFEST, "fsLayers": [], "config": {}, "layers": []},
        {"schemaVersion": 1},
        {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v1+json"},
        {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"},
    ],
)
def test_p13_schema_1_is_named(tmp_path: Path, document: dict[str, Any]) -> None:
    made = raw(json.dumps(document))
    path = image.write_directory(tmp_path / "dir", made)
    with pytest.raises(RefusedError, match="Docker schema 1 manifest, which is not supported") as caught:
        read(f"dir:{path}", tmp_path)
    assert "push it again" in caught.value.hint
    announced = {**made.entry(), "mediaType": document.get("mediaType", image.DOCKER_MANIFEST)}
    index = image.dump({"schemaVersion": 2, "manifests": [announced]})
    with pytest.raises(RefusedError, match="schema 1"):
        read(f"oci:{layout(tmp_path, made, index)}", tmp_path)


# --- P15: names ---

NAMES = [
    "../../x",
    "a/../b",
    "/etc/passwd",
    "-x",
    "--authfile=/x",
    "a\nb",
    "a\rlxc.x=y",
    "a\0b",
    "\x1b]0;x\x07",
    "a b",
    "",
    "é",
]


@pytest.mark.parametrize("name", NAMES)
def test_p15_names_are_data(tmp_path: Path, name: str) -> None:
    for url in (f"oci:/x:{name}", f"docker://a.b/{name}", f"docker://a.b/c:{name}", f"docker-archive:/x:{name}"):
        with pytest.raises(UsageError):
            reference.parse(url, lambda path: False)
    annotated = [
        {**GOOD.entry(), "annotations": {"org.opencontainers.image.ref.name": name}},
        image.Image([], {}).entry(),
    ]
    files = image.layout_files({"x": GOOD})
    files["index.json"] = image.dump({"schemaVersion": 2, "manifests": annotated})
    path = image.write_files(tmp_path / "layout", files)
    with pytest.raises(AccessError) as caught:
        read(f"oci:{path}", tmp_path)
    assert caught.value.hint == "select one of: :@0, :@1"
    assert read(f"oci:{path}:@0", tmp_path).image.digest == GOOD.digest


def test_p15_tags_of_an_archive_are_data(tmp_path: Path) -> None:
    config = image.file("c", image.Image([], {}).configuration)
    saved = [{"Config": "c", "Layers": None, "RepoTags": [name]} for name in NAMES]
    (tmp_path / "a.tar").write_bytes(image.tar(config, image.file("manifest.json", json.dumps(saved))))
    with pytest.raises(AccessError) as caught:
        read(f"docker-archive:{tmp_path}/a.tar", tmp_path)
    assert caught.value.hint == "select one of: " + ", ".join(f":@{number}" for number in range(len(NAMES)))


def test_p15_nothing_of_an_image_reaches_the_terminal_raw(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\n\u202eevil"
    for made in (
        manifest(mediaType=evil),
        manifest(artifactType=evil, config={**LAYER.descriptor(), "mediaType": "a/b"}),
        manifest(layers=[{**LAYER.descriptor(), "digest": evil}]),
        manifest(**{"layers": {}, evil: 1}),
        image.Image([LAYER], {}, document={"rootfs": {"type": evil}}),
        image.Image([LAYER], {}, document={"os": "linux", "architecture": evil}),
        image.Image([LAYER], {}, document={"os": evil}),
    ):
        output = io.StringIO()
        with pytest.raises(OciError) as caught:
            attempt(tmp_path, made)
        log.Log(stream=output).error(caught.value)
        assert all(line.isprintable() for line in output.getvalue().split("\n"))
        assert len(output.getvalue().splitlines()) <= 2


# --- P16: pinned by digest ---


def test_p16_the_digest_wins_over_the_name_and_is_shown(tmp_path: Path) -> None:
    other = image.Image([LAYER], {"User": "other"})
    path = image.write_layout(tmp_path / "layout", {"x": GOOD, "y": other})
    url = f"oci:{path}:x@{GOOD.digest}"
    assert read(url, tmp_path).image.digest == GOOD.digest
    assert reference.parse(url).text == url
    with pytest.raises(RefusedError, match=f"is {GOOD.digest}, not {other.digest}"):
        read(f"oci:{path}:x@{other.digest}", tmp_path)
    Path(path, "blobs", GOOD.digest.replace(":", "/")).write_bytes(other.manifest)
    for selector in (":x", f"@{GOOD.digest}", f":x@{GOOD.digest}"):
        with pytest.raises(RefusedError, match=r"has digest|is longer than|ends"):
            read(f"oci:{path}{selector}", tmp_path)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"docker://nginx:1@{SUM}", f"docker://docker.io/library/nginx:1@{SUM}"),
        (f"docker://nginx@{SUM}", f"docker://docker.io/library/nginx@{SUM}"),
    ],
)
def test_p16_forms_of_a_pinned_reference(url: str, shown: str) -> None:
    found = reference.parse(url)
    assert (found.text, found.digest) == (shown, Digest(SUM))


# --- P24: descriptors that lie about their bytes ---


def test_p24_embedded_data_is_not_used(tmp_path: Path) -> None:
    embedded = {**image.descriptor(image.CONFIG, GOOD.configuration), "data": "eyJjb25maWciOnsiVXNlciI6ImV2aWwifX0="}
    found = attempt(tmp_path, manifest(config=embedded))
    assert found.image.raw_config == GOOD.configuration


@pytest.mark.parametrize("suffix", ["+encrypted", "+gzip+encrypted", "+zstd+encrypted"])
def test_p24_encrypted_layers_are_named(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(RefusedError, match="layer 1 is encrypted, which is not supported"):
        attempt(tmp_path, manifest(layers=[{**LAYER.descriptor(), "mediaType": image.TAR + suffix}]))


@pytest.mark.parametrize("says", ["", "gzip", "zstd"])
@pytest.mark.parametrize("is_one", ["", "gzip", "zstd"])
def test_p24_compression_that_is_not_what_the_media_type_says(tmp_path: Path, says: str, is_one: str) -> None:
    honest = image.layer(image.file("a"), compression=is_one)
    media_type = image.TAR + (f"+{says}" if says else "")
    found = attempt(tmp_path, image.Image([image.Layer(honest.blob, media_type, honest.diff_id)], {}))
    if says == is_one:
        assert uncompressed(found) == honest.plain
    else:
        with pytest.raises(RefusedError, match="but its media type says"):
            uncompressed(found)


def test_p24_unknown_layers_are_named(tmp_path: Path) -> None:
    for name in ("application/vnd.oci.image.layer.v1.tar+xz", "application/vnd.in-toto+json"):
        with pytest.raises(UnsupportedError, match=name.replace("+", r"\+")):
            attempt(tmp_path, manifest(layers=[{**LAYER.descriptor(), "mediaType": name}]))


# --- P25: configurations that do not belong to the layers ---


@pytest.mark.parametrize("kind", [None, "", "Layers", "tar", 5, ["layers"]])
def test_p25_type_of_the_rootfs(tmp_path: Path, kind: object) -> None:
    made = image.Image([LAYER], {}, document={"rootfs": {"type": kind, "diff_ids": [LAYER.diff_id]}})
    with pytest.raises(RefusedError, match="has rootfs type"):
        attempt(tmp_path, made)


@pytest.mark.parametrize("count", [0, 2, 3])
def test_p25_number_of_diff_ids(tmp_path: Path, count: int) -> None:
    made = image.Image([LAYER], {}, document={"rootfs": {"type": "layers", "diff_ids": [LAYER.diff_id] * count}})
    with pytest.raises(RefusedError, match=f"has 1 layers, but its configuration has DiffIDs of {count}"):
        attempt(tmp_path, made)


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_p25_wrong_diff_id(tmp_path: Path, compression: str) -> None:
    layer = image.layer(image.file("a"), compression=compression)
    made = image.Image([layer], {}, document={"rootfs": {"type": "layers", "diff_ids": [SUM]}})
    found = attempt(tmp_path, made)
    with pytest.raises(RefusedError, match=r"DiffID|digest"):
        uncompressed(found)


# --- C18: types ---


@pytest.mark.parametrize(
    "text",
    [
        '{"config":{"Env":"A=b"}}',
        '{"config":{"Env":[1]}}',
        '{"config":{"Env":[["A=b"]]}}',
        '{"config":{"Env":{"A":"b"}}}',
        '{"config":{"Env":[null]}}',
        '{"config":{"Entrypoint":7}}',
        '{"config":{"Entrypoint":"sh -c x"}}',
        '{"config":{"Entrypoint":[1.5]}}',
        '{"config":{"Cmd":{}}}',
        '{"config":{"User":1000}}',
        '{"config":{"User":["root"]}}',
        '{"config":{"WorkingDir":false}}',
        '{"config":{"StopSignal":15}}',
        '{"config":{"Volumes":"/x"}}',
        '{"config":{"ExposedPorts":[80]}}',
        '{"config":{"Labels":[]}}',
        '{"config":{"Labels":{"a":{}}}}',
        '{"config":{"Healthcheck":"x"}}',
        '{"config":[]}',
        '{"config":"x"}',
        '{"rootfs":[]}',
        '{"architecture":{}}',
        '{"config":{"Env":["A=b"],"Env":["C=d"]}}',
        '{"config":{"Env":["A=b"]},"config":{}}',
        '{"config":{"Env":["A=b"],"env":["C=d"]}}',
        '\ufeff{"config":{}}',
        '{"config":{"Env":["\\ud800"]}}',
        '{"config":{"Env":["A=\\udfff"]}}',
        '{"config":{"Env":[NaN]}}',
        '{"config":{},}',
        '{"config":{}} {}',
        "null",
        "[]",
        "7",
        '"x"',
        "",
    ],
)
def test_c18_configuration_of_the_wrong_type(tmp_path: Path, text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        attempt(tmp_path, image.Image([], {}, raw_config=text.encode()))
    assert "configuration" in caught.value.message


def test_c18_bytes_that_are_not_text(tmp_path: Path) -> None:
    for content in (
        b'{"author":"\xff"}',
        b'{"author":"\xed\xa0\x80"}',
        b'{"author":"\xc0\x80"}',
        "{}".encode("utf-16"),
    ):
        with pytest.raises(RefusedError, match="not valid JSON"):
            attempt(tmp_path, image.Image([], {}, raw_config=content))


@pytest.mark.parametrize("value", [None, 1, "x", True, [], {}, [[]], [{}], [None]])
@pytest.mark.parametrize("member", ["config", "layers", "annotations", "mediaType", "schemaVersion"])
def test_c18_manifest_of_the_wrong_type(tmp_path: Path, member: str, value: object) -> None:
    members = json.loads(GOOD.manifest)
    members[member] = value
    if (member, value) in (("annotations", {}), ("annotations", None), ("mediaType", None)):
        assert attempt(tmp_path, raw(json.dumps(members))).image.digest
        return
    with pytest.raises(RefusedError):
        attempt(tmp_path, raw(json.dumps(members)))


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """Refusals leave no file of ours and no open descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    path = image.write_oci_archive(tmp_path / "a.tar", {"": manifest(layers=[{}])}, compression="gzip")
    with pytest.raises(RefusedError):
        read(f"oci-archive:{path}", tmp_path, platform.parse("linux/amd64"))
    assert os.listdir(tmp_path) == ["a.tar"]
    assert len(os.listdir("/proc/self/fd")) == before
