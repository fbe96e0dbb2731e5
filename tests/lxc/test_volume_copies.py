# SPDX-License-Identifier: LGPL-2.1-or-later
"""A copied container writes to volumes of its own, whichever of LXC's verbs made it."""

from pathlib import Path

import pytest

from tests.support import image as images
from tests.support.host import Host

WRITE = "echo $0 >> /data/who; cat /data/who"


@pytest.fixture(scope="session")
def with_volume(layouts: Path) -> str:
    """The URL of an image with a volume that has content."""
    base = images.layer(images.directory("data", mode=0o1777), images.file("data/who", "image\n"))
    config = {"Entrypoint": ["/bin/sh", "-c", "sleep 1000"], "Volumes": {"/data": {}}, "Env": ["PATH=/bin"]}
    images.write_layout(layouts / "volume", {"latest": images.busybox_image(config, base)})
    return f"oci:{layouts / 'volume'}:latest"


def write(host: Host, name: str) -> list[str]:
    """Write the container's name into its volume; return all that is in it."""
    return host.execute(name, "/bin/sh", "-c", WRITE, name).decode().split()


@pytest.mark.parametrize("storage", ["auto", "flat"])
def test_copies_have_their_own_volumes(root_host: Host, with_volume: str, storage: str) -> None:
    root_host.create("one", with_volume, "--storage", storage)
    assert write(root_host, "one") == ["image", "one"]
    root_host.lxc("copy", "one", "-N", "two")
    root_host.lxc("copy", "one", "-N", "three", *(["-s"] if storage == "auto" else []))
    for name in ("two", "three"):
        assert write(root_host, name) == ["image", "one", name]
    root_host.lxc("copy", "two", "-N", "renamed", "-R")
    assert write(root_host, "renamed") == ["image", "one", "two", "renamed"]
    assert write(root_host, "one") == ["image", "one", "one"]


def test_an_ephemeral_copy_leaves_the_volume_alone(root_host: Host, with_volume: str) -> None:
    root_host.create("one", with_volume)
    assert write(root_host, "one") == ["image", "one"]
    root_host.lxc("copy", "one", "-N", "brief", "-e")
    root_host.lxc("wait", "brief", "-s", "RUNNING", "-t", "120")
    assert root_host.attach("brief", "/bin/sh", "-c", WRITE, "brief").decode().split() == ["image", "one", "brief"]
    root_host.stop("brief", "-k")
    assert write(root_host, "one") == ["image", "one", "one"]


def test_a_restored_snapshot_has_the_volume_of_its_day(root_host: Host, with_volume: str) -> None:
    root_host.create("one", with_volume)
    write(root_host, "one")
    root_host.lxc("snapshot", "one")
    write(root_host, "one")
    root_host.lxc("snapshot", "one", "-r", "snap0")
    assert write(root_host, "one") == ["image", "one", "one"]
