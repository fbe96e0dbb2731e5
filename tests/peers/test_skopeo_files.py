# SPDX-License-Identifier: LGPL-2.1-or-later
"""Layouts, archives and directories that skopeo writes, read by us: the same image each time."""

import gzip
import subprocess
from pathlib import Path

import pytest

from lxc_oci.image.digest import Digest
from tests.support import image, need
from tests.support.reading import Read, read

MADE = image.Image(
    [
        image.layer(image.directory("etc"), image.file("etc/motd", "hello\n")),
        image.layer(image.file("etc/other", b"x" * 100_000)),
        image.layer(image.whiteout("etc/motd"), compression=""),
        image.layer(image.file("etc/other", b"x" * 100_000)),
    ],
    {"Cmd": ["/bin/sh"], "Env": ["A=b"], "User": "1:2"},
)


def copy(*arguments: str) -> None:
    program = need.program("skopeo")
    found = subprocess.run(
        [program, "--insecure-policy", "copy", "-q", *arguments], stderr=subprocess.PIPE, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


def plain(found: Read) -> list[bytes]:
    """The tars of the layers."""
    tars = []
    for layer, blob in zip(found.image.layers, found.layers, strict=True):
        if layer.media_type.endswith("zstd"):
            blob = subprocess.run([need.program("zstd"), "-dcq"], input=blob, stdout=-1, check=True).stdout
        elif layer.media_type.endswith("gzip"):
            blob = gzip.decompress(blob)
        tars.append(blob)
    return tars


@pytest.fixture
def layout(tmp_path: Path) -> str:
    return "oci:" + image.write_layout(tmp_path / "layout", {"x": MADE}) + ":x"


def check(url: str, path: Path) -> Read:
    found = read(url, path)
    assert plain(found) == [layer.plain for layer in MADE.layers]
    assert [Digest(layer.diff_id) for layer in MADE.layers] == list(found.image.config.diff_ids)
    assert (found.image.config.cmd, found.image.config.env, found.image.config.user) == (("/bin/sh",), ("A=b",), "1:2")
    return found


@pytest.mark.parametrize(
    ("destination", "url"),
    [
        ("oci:{}:y", "oci:{}"),
        ("oci:{}:a/b:c", "oci:{}:a/b:c"),
        ("oci-archive:{}:y", "oci-archive:{}:y"),
        ("dir:{}", "dir:{}"),
    ],
)
def test_copies_keep_the_digest(tmp_path: Path, layout: str, destination: str, url: str) -> None:
    copy("--preserve-digests", layout, destination.format(tmp_path / "copy"))
    assert check(url.format(tmp_path / "copy"), tmp_path).image.digest == MADE.digest


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_a_directory_in_either_form(tmp_path: Path, form: str) -> None:
    only_gzip = image.Image([image.layer(image.file("a")), image.layer(image.file("b"), compression="")], {"User": "1"})
    copy("-f", form, f"oci:{image.write_layout(tmp_path / 'layout', {'': only_gzip})}", f"dir:{tmp_path}/copy")
    found = read(f"dir:{tmp_path}/copy", tmp_path)
    assert plain(found) == [layer.plain for layer in only_gzip.layers]
    assert ("docker" in found.image.manifest.media_type) == (form == "v2s2")


def test_a_whole_index(tmp_path: Path) -> None:
    index = image.Index([MADE, image.Image(MADE.layers, {"User": "other"}, "linux/arm64")])
    copy("--all", f"oci:{image.write_layout(tmp_path / 'layout', {'': index})}", f"dir:{tmp_path}/copy")
    assert check(f"dir:{tmp_path}/copy", tmp_path).image.index_digest == index.digest


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_a_docker_archive(tmp_path: Path, layout: str, compression: str) -> None:
    path = tmp_path / "copy.tar"
    copy(layout, f"docker-archive:{path}:example/app:1")
    path.write_bytes(image.compress(path.read_bytes(), compression))
    for selector in ("", ":example/app:1", ":docker.io/example/app:1", ":@0"):
        check(f"docker-archive:{path}{selector}", tmp_path)


def test_skopeo_reads_our_test_archives_as_we_do(tmp_path: Path) -> None:
    """So that the unit tests do not prove something about archives that nobody else would read."""
    images = {"example/one:1": MADE, "": image.Image([], {"User": "3"})}
    path = image.write_docker_archive(tmp_path / "a.tar", images)
    for selector in (":example/one:1", ":@1"):
        ours = read(f"docker-archive:{path}{selector}", tmp_path)
        copy(f"docker-archive:{path}{selector}", f"dir:{tmp_path}/copy{selector[-1]}")
        theirs = read(f"dir:{tmp_path}/copy{selector[-1]}", tmp_path)
        assert ours.image.raw_config == theirs.image.raw_config
        assert plain(ours) == plain(theirs)


def test_plain_layers_that_skopeo_calls_gzip(tmp_path: Path, layout: str) -> None:
    copy(layout, f"docker-archive:{tmp_path}/a.tar")
    copy(f"docker-archive:{tmp_path}/a.tar", f"dir:{tmp_path}/copy")
    assert (tmp_path / "copy/manifest.json").read_text().count("diff.tar.gzip") == len(MADE.layers)
    found = check(f"dir:{tmp_path}/copy", tmp_path)
    assert {layer.media_type for layer in found.image.layers} == {image.DOCKER_TAR}


def test_podmans_storage_through_skopeo(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need.root()
    storage = f"[vfs@{tmp_path}/root+{tmp_path}/run]"
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver="vfs"\nrunroot="{tmp_path}/run"\ngraphroot="{tmp_path}/root"\n'
    )
    copy(layout, f"containers-storage:{storage}localhost/x:1")
    work = tmp_path / "work"
    work.mkdir()
    found = read(f"containers-storage:{storage}localhost/x:1", work, None)
    assert [layer.digest for layer in found.image.layers] == [layer.diff_id for layer in MADE.layers]
    assert not list(work.iterdir())
