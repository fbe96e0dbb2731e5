# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.source.archive and .dockerarchive"""

import os
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from lxc_oci.errors import AccessError, OciError, RefusedError, UnsupportedError
from lxc_oci.image import reference
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from lxc_oci.limits import Limits
from lxc_oci.source.dockerarchive import DockerArchiveSource
from tests.support import image
from tests.support.reading import read

ONE = image.Image([image.layer(image.file("a", "1")), image.layer(image.file("b"), compression="")], {"User": "1"})
TWO = image.Image([image.layer(image.file("a", "2"))], {"User": "2"})
LIMITS = Limits()


def write(path: Path, *items: image.Item | bytes, form: int = tarfile.PAX_FORMAT) -> str:
    """Write an archive of items, or of bytes as they are."""
    if all(isinstance(item, image.Item) for item in items):
        path.write_bytes(image.tar(*(item for item in items if isinstance(item, image.Item)), form=form))
    else:
        path.write_bytes(b"".join(item for item in items if isinstance(item, bytes)))
    return str(path)


def saved(config: str, layers: Sequence[str], tags: Sequence[str] | None = None) -> image.Item:
    return image.file("manifest.json", image.dump([{"Config": config, "Layers": layers, "RepoTags": tags}]))


# --- oci-archive ---


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_an_oci_archive(tmp_path: Path, compression: str) -> None:
    path = image.write_oci_archive(tmp_path / "a.tar", {"one": ONE, "two": TWO}, compression=compression)
    found = read(f"oci-archive:{path}:one", tmp_path)
    assert found.image.digest == ONE.digest
    assert found.layers == [layer.blob for layer in ONE.layers]
    assert read(f"oci-archive:{path}@{TWO.digest}", tmp_path).image.digest == TWO.digest
    with pytest.raises(AccessError) as caught:
        read(f"oci-archive:{path}", tmp_path)
    assert caught.value.hint == "select one of: :one, :two"
    assert os.listdir(tmp_path) == ["a.tar"]


def test_archives_of_the_other_kind(tmp_path: Path) -> None:
    oci = image.write_oci_archive(tmp_path / "oci.tar", {"": ONE})
    docker = image.write_docker_archive(tmp_path / "docker.tar", {"": ONE})
    with pytest.raises(AccessError) as caught:
        read(f"oci-archive:{docker}", tmp_path)
    assert caught.value.hint == f"it looks like docker-archive:{docker}"
    with pytest.raises(AccessError) as caught:
        read(f"docker-archive:{oci}", tmp_path)
    assert caught.value.hint == f"it looks like oci-archive:{oci}"


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="the archive is missing"):
        read(f"oci-archive:{tmp_path}/nope", tmp_path)
    with pytest.raises(RefusedError, match="is not a regular file"):
        read(f"docker-archive:{tmp_path}", tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(RefusedError, match="is not a regular file"):
        read(f"docker-archive:{tmp_path}/fifo", tmp_path)
    with pytest.raises(AccessError, match=r"is no docker-archive: it has no manifest.json"):
        read(f"docker-archive:{write(tmp_path / 'a.tar', image.file('a'))}", tmp_path)
    with pytest.raises(RefusedError, match=r"before 1.10"):
        read(f"docker-archive:{write(tmp_path / 'b.tar', image.file('repositories', '{}'))}", tmp_path)


# --- docker-archive ---


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_a_docker_archive(tmp_path: Path, compression: str) -> None:
    images = {"example/one:1": ONE, "localhost/two:latest": TWO, "": image.Image([], {"User": "3"})}
    path = image.write_docker_archive(tmp_path / "a.tar", images, compression=compression)
    found = read(f"docker-archive:{path}:example/one:1", tmp_path)
    assert found.layers == [layer.plain for layer in ONE.layers]
    assert found.image.raw_config == ONE.configuration
    assert [layer.digest for layer in found.image.layers] == list(found.image.config.diff_ids)
    for selector, user in (
        (":docker.io/example/one:1", "1"),
        (":localhost/two", "2"),
        (":@0", "1"),
        (":@2", "3"),
    ):
        assert read(f"docker-archive:{path}{selector}", tmp_path).image.config.user == user
    for selector, message in (
        ("", "has 3 images and the URL selects none"),
        (":example/one", "has no image named docker.io/example/one:latest"),
        (":@3", "has no image @3, it has 3"),
    ):
        with pytest.raises(AccessError, match=message) as caught:
            read(f"docker-archive:{path}{selector}", tmp_path)
        assert caught.value.hint == "select one of: :example/one:1, :localhost/two:latest, :@2"
    assert os.listdir(tmp_path) == ["a.tar"]


def test_the_manifest_made_for_an_image_is_always_the_same(tmp_path: Path) -> None:
    first = image.write_docker_archive(tmp_path / "a.tar", {"": ONE})
    again = image.write_docker_archive(tmp_path / "b.tar", {"x:1": TWO, "y:1": ONE}, compression="gzip")
    found = read(f"docker-archive:{first}", tmp_path).image
    assert found.digest == read(f"docker-archive:{again}:y:1", tmp_path).image.digest
    assert found.digest == image.digest(found.raw_manifest)


def test_equal_layers_that_are_links_as_old_dockers_wrote_them(tmp_path: Path) -> None:
    layer = ONE.layers[1]
    made = image.Image([layer, layer, layer], {})
    path = write(
        tmp_path / "a.tar",
        image.directory("one"),
        image.file("one/layer.tar", layer.plain),
        image.symlink("two/layer.tar", "../one/layer.tar"),
        image.hardlink("three/layer.tar", "one/layer.tar"),
        image.file("config.json", made.configuration),
        saved("config.json", ["one/layer.tar", "two/layer.tar", "three/layer.tar"]),
    )
    assert read(f"docker-archive:{path}", tmp_path).layers == [layer.plain] * 3


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("named", [False, True])
def test_compressed_layers_inside(tmp_path: Path, compression: str, named: bool) -> None:
    layer = image.layer(image.file("a", "1"), compression=compression)
    made = image.Image([layer], {})
    name = "blobs/sha256/" + image.digest(layer.blob)[7:] if named else "x.tar.gz"
    config = "blobs/sha256/" + image.digest(made.configuration)[7:] if named else image.digest(made.configuration)
    path = write(
        tmp_path / "a.tar", image.file(name, layer.blob), image.file(config, made.configuration), saved(config, [name])
    )
    found = read(f"docker-archive:{path}", tmp_path)
    assert found.layers == [layer.blob]
    assert found.image.layers[0].media_type == image.TAR + "+" + compression
    assert found.image.layers[0].digest == image.digest(layer.blob)


def test_a_changed_layer_or_configuration_is_found(tmp_path: Path) -> None:
    items = image.docker_archive_items({"": ONE})
    for number, message in ((1, "layer 1 has digest"), (0, "the configuration in .* has digest")):
        changed = [*items]
        item = items[number]
        changed[number] = image.Item(item.header, item.content.replace(b"1", b"2"))
        with pytest.raises(RefusedError, match=message):
            read(f"docker-archive:{write(tmp_path / 'a.tar', *changed)}", tmp_path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (b"{}", "is not a list"),
        (b"[]", "has no image$"),
        (b"[[]]", "not an object"),
        (b'[{"Layers":[]}]', "without a configuration"),
        (b'[{"Config":7}]', "without a configuration"),
        (b'[{"Config":"c","Layers":"x"}]', "in the place of a list"),
        (b'[{"Config":"c","Layers":[1]}]', "in the place of a list"),
        (b'[{"Config":"c","RepoTags":{}}]', "in the place of a list"),
        (b'[{"Config":"c","config":"d"}]', "two members"),
        (b'[{"Config":"c","Config":"d"}]', "duplicate JSON keys"),
        (b'[{"Config":"c","Layers":["a","b","c"]}]', "3 layers, more than the limit of 2"),
        (b'[{"Config":"nope"}]', "has no member nope"),
        (b'[{"Config":"../../nope"}]', "has no member nope"),
        (b'[{"Config":"c","Layers":["nope"]}]', "has no member nope"),
        (b'[{"Config":"c","Layers":[]}]', "has 0 layers, but DiffIDs of 1"),
        (b"[" + b" " * 5000 + b"]", "larger than the limit of 4096 bytes"),
    ],
)
def test_bad_manifests(tmp_path: Path, manifest: bytes, message: str) -> None:
    config = image.Image([ONE.layers[0]], {}).configuration
    path = write(tmp_path / "a.tar", image.file("c", config), image.file("manifest.json", manifest))
    with pytest.raises(OciError, match=message):
        read(f"docker-archive:{path}", tmp_path, limits=Limits(layers=2, document_bytes=4096))


def test_blobs_are_read_by_several_threads_at_once(tmp_path: Path) -> None:
    layers = [image.layer(image.file("a", str(number) * 500_000), compression="") for number in range(6)]
    path = image.write_docker_archive(tmp_path / "a.tar", {"": image.Image(layers, {})}, compression="gzip")
    source = DockerArchiveSource(reference.parse(f"docker-archive:{path}"), str(tmp_path), LIMITS)
    found: dict[int, bytes] = {}

    def fetch(number: int) -> None:
        plain = layers[number].plain
        reader = source.open(Descriptor(image.TAR, Digest(image.digest(plain)), len(plain)), 7)
        found[number] = b"".join(iter(lambda: reader.read(4099), b""))
        reader.close()

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    source.close()
    source.close()
    assert found == {number: layer.plain[7:] for number, layer in enumerate(layers)}


def test_a_blob_opened_at_an_offset(tmp_path: Path) -> None:
    path = image.write_docker_archive(tmp_path / "a.tar", {"": ONE})
    source = DockerArchiveSource(reference.parse(f"docker-archive:{path}"), str(tmp_path), LIMITS)
    plain = ONE.layers[0].plain
    descriptor = Descriptor(image.TAR, Digest(image.digest(plain)), len(plain))
    for offset in (0, 1, len(plain) - 1, len(plain), len(plain) + 5):
        reader = source.open(descriptor, offset)
        assert b"".join(iter(lambda reader=reader: reader.read(1 << 20), b"")) == plain[offset:]
        reader.close()
    source.close()


def test_nothing_stays_open(tmp_path: Path) -> None:
    path = image.write_docker_archive(tmp_path / "a.tar", {"": ONE}, compression="gzip")
    before = len(os.listdir("/proc/self/fd"))
    read(f"docker-archive:{path}", tmp_path)
    with pytest.raises(AccessError):
        read(f"docker-archive:{path}:nope", tmp_path)
    Path(path).write_bytes(b"x" * 2000)
    with pytest.raises(RefusedError):
        read(f"docker-archive:{path}", tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_archive_cut_anywhere_is_refused_or_lacks_what_was_cut(tmp_path: Path) -> None:
    content = image.tar(*image.docker_archive_items({"": TWO}))
    for end in range(0, len(content), 500):
        (tmp_path / "a.tar").write_bytes(content[:end])
        try:
            found = read(f"docker-archive:{tmp_path}/a.tar", tmp_path)
        except (RefusedError, AccessError):
            continue
        assert found.layers == [TWO.layers[0].plain]


def test_other_compressions_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xfd7zXZ\0" + b"x" * 100)
    with pytest.raises(UnsupportedError, match="is compressed by xz"):
        read(f"docker-archive:{tmp_path}/a", tmp_path)
