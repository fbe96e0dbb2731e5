# SPDX-License-Identifier: LGPL-2.1-or-later
"""The form `index`: nothing is extracted, and nobody can tell.

Needs an mkfs.erofs that indexes tar files: on Debian 12 test_store_trixie runs this file in a Debian 13 tree.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lxc_oci.rootfs import choose
from tests.support import forms, need
from tests.support import image as images
from tests.support import scene as scenes
from tests.support.host import Host
from tests.support.image import character, directory, fifo, file, hardlink, layer, opaque, program, symlink, whiteout

BASE = layer(
    directory(".", mode=0o711, mtime=11, uid=5),
    directory("etc", mtime=3),
    file("etc/removed", b"removed"),
    file("etc/replaced", b"before" * 2000, mtime=9),
    directory("srv", mode=0o750, gid=7),
    file("srv/hidden"),
    directory("srv/below"),
    file("srv/below/hidden"),
    opaque("srv"),  # with nothing below, it hides nothing
    whiteout("srv/none"),
    directory("usr"),
    directory("usr/lib"),
    file("usr/lib/large", bytes(range(256)) * 5000),
    hardlink("usr/lib/again", "usr/lib/large"),
    symlink("lib", "usr/lib", uid=1, gid=2, mtime=4),
    program("usr/set-id", b"x", mode=0o6755, uid=33, gid=44),
    file("usr/attributes", xattrs={"user.note": b"\0\1", "security.capability": b"\1\0\0\2" + b"\0" * 16}),
    character("null", 1, 3, mode=0o666),
    fifo("queue", mode=0o620),
    directory("gone"),
    file("gone/file"),
    directory("tmp", mode=0o1777),
)
UPPER = layer(
    directory("etc", mtime=33),
    whiteout("etc/removed"),
    file("etc/replaced", b"after"),
    directory("srv", mode=0o700),
    opaque("srv"),
    file("srv/new", b"new"),
    whiteout("gone"),
    directory("tmp", mode=0o1777),
    file("tmp/x", b"x", mtime=2**33),
)


@pytest.fixture(autouse=True)
def _can_index() -> None:
    need.root()
    if not choose._indexes_tar():
        pytest.skip("test_store_trixie runs this where there is an mkfs.erofs that indexes tar files")


def write(place: Path, name: str, *layers: images.Layer) -> str:
    made = images.Image(
        layers, scenes.CONFIG | {"Entrypoint": ["/none"], "User": ""}, platform=images.busybox_image().platform
    )
    return f"oci:{images.write_layout(place / name, {'latest': made})}:latest"


def create(host: Host, name: str, url: str, *options: str) -> str:
    return host.create(name, url, *options, "--verbose").stderr.decode()


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param((BASE,), marks=pytest.mark.long, id="one"),
        pytest.param((BASE, UPPER), id="two"),
        pytest.param((BASE, UPPER, BASE), marks=pytest.mark.long, id="repeated"),
    ],
)
def test_it_shows_what_the_other_forms_show(root_host: Host, place: Path, layers: tuple[images.Layer, ...]) -> None:
    url = write(place, "image", *layers)
    assert "storage: index" in create(root_host, "index", url)
    assert not os.listdir(root_host.store / "trees")
    create(root_host, "flat", url, "--storage", "flat")
    assert "storage: tree" in create(root_host, "tree", url, "--no-kernel-mount")
    shown = {name: forms.shown(root_host.lxcpath / name) for name in ("flat", "tree", "index")}
    assert len(shown["flat"]) > 10
    # What a tree shares has one inode in it, and in an index; a copy of it in the upper directory would not.
    assert forms.differences(shown["flat"], shown["tree"]) == []
    assert forms.differences(shown["flat"], shown["index"]) == []


DEPENDENT = {
    "a file in a directory that only a lower layer has": layer(file("tmp/y")),
    "a file below a lower layer's link": layer(directory("lib"), file("lib/x")),
    "a hard link to a lower layer's file": layer(directory("usr"), hardlink("usr/linked", "usr/lib/large")),
    "an attribute of overlayfs": layer(directory("usr", xattrs={"trusted.overlay.opaque": b"y"})),
    "an attribute of overlayfs for users": layer(file("a", xattrs={"user.overlay.redirect": b"/etc"})),
    "a device 0:0": layer(character("etc2", 0, 0)),
}


@pytest.mark.parametrize(
    "why", [pytest.param(why, marks=[pytest.mark.long] if number else []) for number, why in enumerate(DEPENDENT)]
)
def test_u40_a_layer_that_depends_on_those_below_is_not_indexed(root_host: Host, place: Path, why: str) -> None:
    url = write(place, "image", BASE, DEPENDENT[why])
    said = create(root_host, "one", url)
    if why.startswith("a file below"):  # a directory takes the link's place: a layer of its own, if a strange one
        assert "storage: index" in said
    else:
        assert "storage: tree: a layer cannot be mounted by itself" in said
        assert os.listdir(root_host.store / "staging") == []
    create(root_host, "flat", url, "--storage", "flat")
    shown = {name: forms.shown(root_host.lxcpath / name) for name in ("flat", "one")}
    assert forms.differences(shown["flat"], shown["one"]) == []


@pytest.mark.long
def test_images_share_the_layers_that_they_have_in_common(root_host: Host, place: Path) -> None:
    for number in range(5):
        own = layer(file(f"own-{number}", b"x" * 1000))
        assert "storage: index" in create(root_host, f"c{number}", write(place, f"image-{number}", BASE, own))
    assert len(os.listdir(root_host.store / "indexes")) == 6


def running(host: Host, name: str = "one") -> None:
    made = images.busybox_image({"Cmd": ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"]})
    url = f"oci:{images.write_layout(host.directory / f'image-{name}', {'latest': made})}:latest"
    assert "storage: index" in create(host, name, url)
    host.start(name)


def test_containers_run_write_and_are_copied(root_host: Host) -> None:
    running(root_host)
    root_host.attach("one", "/bin/sh", "-c", "echo mine > /etc/mine; rm /bin/ls")
    root_host.stop("one")
    root_host.lxc("copy", "one", "-N", "two")
    root_host.lxc("copy", "one", "-R", "-N", "three")
    root_host.lxc("copy", "three", "-s", "-N", "four")
    root_host.lxc("snapshot", "two")
    root_host.oci("prune", "--force")
    for name in ("two", "three", "four"):
        root_host.start(name)
        assert root_host.attach(name, "/bin/cat", "/etc/mine") == b"mine\n"
        assert root_host.attach(name, "/bin/sh", "-c", "test -e /bin/ls || echo gone") == b"gone\n"
        root_host.stop(name)
    root_host.lxc("snapshot", "two", "-r", "snap0")
    assert root_host.execute("two", "/bin/cat", "/etc/mine") == b"mine\n"


@pytest.mark.long
def test_prune_keeps_what_a_container_uses(root_host: Host) -> None:
    running(root_host)
    root_host.oci("prune", "--force")
    assert len(os.listdir(root_host.store / "indexes")) == 1
    root_host.stop("one")
    root_host.oci("prune", "--force")
    root_host.start("one")
    # The kernel holds the files of a mount, so that even a container of which nobody knows any more runs on.
    shutil.copytree(root_host.lxcpath / "one/oci-py", place := root_host.directory / "kept")
    shutil.rmtree(root_host.lxcpath / "one/oci-py")
    for reference in (root_host.store / "containers").iterdir():
        reference.unlink()
    root_host.oci("prune", "--force")
    assert os.listdir(root_host.store / "indexes") == []
    assert root_host.attach("one", "/bin/wc", "-c", "/bin/busybox").split()[0].isdigit()
    root_host.stop("one", "-k")
    place.rename(root_host.lxcpath / "one/oci-py")
    root_host.destroy("one")
    root_host.oci("prune", "--force")
    assert os.listdir(root_host.store / "images") == []


@pytest.mark.parametrize("name", ["layer.tar", pytest.param("index.erofs", marks=pytest.mark.long)])
def test_f19_what_is_damaged_is_found_and_replaced(root_host: Host, place: Path, name: str) -> None:
    url = write(place, "image", BASE, UPPER)
    create(root_host, "one", url)
    before = forms.shown(root_host.lxcpath / "one")
    (damaged,) = [path for path in (root_host.store / "indexes").glob(f"*/{name}") if len(path.read_bytes()) > 100_000
                  or name == "index.erofs"][:1]  # fmt: skip
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    done = root_host.oci("verify", "--json", check=False)
    assert done.returncode == 5
    assert list(json.loads(done.stdout)["damaged"]) == [f"indexes/{damaged.parent.name}"]
    said = create(root_host, "two", url)
    assert "storage: index" in said and "layer " in said
    assert root_host.oci("verify").returncode == 0
    assert forms.differences(before, forms.shown(root_host.lxcpath / "one")) == []
    assert forms.differences(before, forms.shown(root_host.lxcpath / "two")) == []
    root_host.oci("prune", "--force")
    assert len(os.listdir(root_host.store / "indexes")) == 2


@pytest.mark.long
def test_f01_a_killed_create_leaves_nothing_half_made(place: Path) -> None:
    made = scenes.scene(place, "index")
    total = made.run(made.creating("counted")).calls
    made.destroy("counted")
    calls = scenes.kill_creates(made, scenes.spread(total, 6))
    assert len(set(calls)) > 2


@pytest.mark.long
def test_on_a_file_system_without_files_to_mount_a_tree_is_made(root_host: Host, place: Path) -> None:
    (place / "memory").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", place / "memory"], check=True)
    try:
        url = write(place, "image", BASE)
        said = create(root_host, "one", url, "--store", f"{place}/memory/store")
        assert "storage: tree: an unpacked tree because the store lies on tmpfs" in said
    finally:
        root_host.destroy("one")
        subprocess.run(["umount", place / "memory"], check=True)
