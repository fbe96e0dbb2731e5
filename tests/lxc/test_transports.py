# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every transport, every compression and every shape of index leads to a container that runs."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import direct, need
from tests.support import image as images
from tests.support.host import Host

CONFIG = {"Entrypoint": ["/bin/cat", "/which"], "Cmd": []}


def which(name: str, **changes: object) -> images.Image:
    """An image that prints `name`."""
    return images.busybox_image(CONFIG, images.layer(images.file("which", f"{name}\n"), docker=False), **changes)


@pytest.fixture(scope="session")
def places(layouts: Path) -> dict[str, str]:
    """URLs by what they show."""
    base = layouts / "transports"
    base.mkdir()
    host = images.busybox_image().platform
    one, two = which("one"), which("two")
    other = which("other", platform="linux/s390x")
    docker = images.busybox_image(CONFIG, images.layer(images.file("which", "docker\n"), docker=True), docker=True)
    index = images.Index([other, one])
    nested = images.Index([images.Index([other]), images.Index([images.Index([two])])])
    images.write_layout(base / "layout", {
        "one": one, "two": two, "": docker, "index": index, "nested": nested,
        "docker": images.Index([docker], docker=True),
    })  # fmt: skip
    images.write_layout(base / "single", {"": one})
    images.write_oci_archive(base / "plain.tar", {"one": one, "two": two})
    images.write_oci_archive(base / "gzip.tar.gz", {"two": two}, compression="gzip")
    uncompressed = images.busybox_image(CONFIG, images.layer(images.file("which", "saved\n"), compression=""))
    images.write_docker_archive(base / "saved.tar", {"example/app:1": uncompressed, "example/app:2": one})
    images.write_docker_archive(base / "saved.tar.gz", {"": uncompressed}, compression="gzip")
    images.write_directory(base / "directory", two)
    for compression in ("", "gzip", "zstd"):
        layer = images.layer(images.file("which", f"compressed by {compression}\n"), compression=compression)
        images.write_layout(base / f"compressed-{compression}", {"latest": images.busybox_image(CONFIG, layer)})
    assert host == one.platform
    return {
        "oci tag": f"oci:{base}/layout:one one",
        "oci other tag": f"oci:{base}/layout:two two",
        "oci digest": f"oci:{base}/layout@{two.digest} two",
        "oci single": f"oci:{base}/single one",
        "oci index": f"oci:{base}/layout:index one",
        "oci nested indexes": f"oci:{base}/layout:nested two",
        "oci Docker's media types": f"oci:{base}/layout:docker docker",
        "oci-archive": f"oci-archive:{base}/plain.tar:two two",
        "oci-archive gzip": f"oci-archive:{base}/gzip.tar.gz two",
        "docker-archive": f"docker-archive:{base}/saved.tar:example/app:1 saved",
        "docker-archive other": f"docker-archive:{base}/saved.tar:example/app:2 one",
        "docker-archive gzip": f"docker-archive:{base}/saved.tar.gz saved",
        "dir": f"dir:{base}/directory two",
        "plain layers": f"oci:{base}/compressed-:latest compressed by ",
        "gzip layers": f"oci:{base}/compressed-gzip:latest compressed by gzip",
        "zstd layers": f"oci:{base}/compressed-zstd:latest compressed by zstd",
    }


SHOWN = (
    "oci tag", "oci other tag", "oci digest", "oci single", "oci index", "oci nested indexes",
    "oci Docker's media types", "oci-archive", "oci-archive gzip", "docker-archive", "docker-archive other",
    "docker-archive gzip", "dir", "plain layers", "gzip layers", "zstd layers",
)  # fmt: skip


@pytest.mark.parametrize("user", [None, "user"], ids=["root", "user"])
def test_every_transport(request: pytest.FixtureRequest, places: dict[str, str], user: str | None) -> None:
    host: Host = request.getfixturevalue("user_host" if user else "root_host")
    assert set(SHOWN) == set(places)
    for number, what in enumerate(SHOWN):
        url, _, expected = places[what].partition(" ")
        host.create(f"c{number}", url, "--quiet")
        assert host.execute(f"c{number}").decode() == f"{expected}\n", what
    assert direct.store_leftovers(host) == []


def test_the_platform_is_chosen(root_host: Host, places: dict[str, str]) -> None:
    url = places["oci nested indexes"].partition(" ")[0]
    done = root_host.create("one", url, "--platform", "linux/s390x", "--no-kernel-mount")
    assert b"warning: the image is for linux/s390x" in done.stderr
    assert root_host.run("cat", *root_host.store.glob("trees/*/rootfs/which")).stdout == b"other\n"


@pytest.mark.parametrize("storage", ["auto", "flat"])
def test_other_transports_go_through_skopeo(root_host: Host, place: Path, places: dict[str, str], storage: str) -> None:
    need.program("skopeo")
    storage_place = f"[vfs@{place}/storage+{place}/run]localhost/app:1"
    command = ["skopeo", "--insecure-policy", "copy", places["oci tag"].partition(" ")[0]]
    subprocess.run([*command, f"containers-storage:{storage_place}"], check=True, capture_output=True,
                   env={"PATH": os.environ["PATH"] + ":/usr/sbin", "HOME": str(place)})  # fmt: skip
    root_host.create("one", f"containers-storage:{storage_place}", "--storage", storage)
    assert root_host.execute("one") == b"one\n"
    left = set(os.listdir(root_host.lxcpath / "one"))
    assert left <= {"config", "console.log", "oci-py", "rootfs", "upper", "work", "overlay"}  # no copy of skopeo's
