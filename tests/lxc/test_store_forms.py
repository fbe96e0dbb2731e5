# SPDX-License-Identifier: LGPL-2.1-or-later
"""The form `tree` shows what a flat container has, for images that want care; damage is found and repaired."""

import json
import os
import pwd
import shutil
from pathlib import Path

import pytest

from tests.support import forms
from tests.support import image as images
from tests.support.host import Host
from tests.support.image import character, directory, file, hardlink, layer, opaque, symlink, whiteout

TREE = ("--no-kernel-mount",)  # for what is said of trees, where the image could be indexed too
BASE = layer(
    directory("bin"),
    file("bin/sh", b"#!", mode=0o755),
    directory("etc"),
    directory("usr"),
    directory("usr/lib"),
    file("usr/lib/one", b"one" * 50_000),
    symlink("lib", "usr/lib"),
    directory("srv"),
    file("srv/hidden"),
    directory("tmp", mode=0o1777),
)
CASES = {
    "implied parents": [layer(file("lib/two", b"2"), file("tmp/new"))],
    "a hard link to a file of a lower layer": [layer(hardlink("usr/lib/again", "lib/one"))],
    "and that file changed after": [
        layer(hardlink("usr/lib/again", "usr/lib/one")),
        layer(file("usr/lib/one", b"changed")),
    ],
    "whiteouts": [layer(whiteout("usr/lib/one"), opaque("srv"), file("srv/new"), whiteout("tmp"))],
    "a whiteout and the same name again": [layer(whiteout("srv")), layer(directory("srv"), file("srv/other"))],
    "overlayfs's own attributes and nodes": [
        layer(
            directory("srv", xattrs={"trusted.overlay.opaque": b"y", "user.overlay.opaque": b"y"}),
            file("etc/redirected", xattrs={"trusted.overlay.redirect": b"/etc/shadow", "user.note": b"x"}),
            character("bin/sh2", 0, 0),
        )
    ],
}


def url(place: Path, name: str, *layers: images.Layer) -> str:
    made = images.Image(layers, {"Entrypoint": ["/bin/sh"]}, platform=images.busybox_image().platform)
    return f"oci:{images.write_layout(place / name, {'latest': made})}:latest"


@pytest.mark.parametrize("what", CASES)
def test_u40_a_tree_shows_what_a_flat_container_has(root_host: Host, place: Path, what: str) -> None:
    image = url(place, "image", BASE, *CASES[what])
    root_host.create("flat", image, "--storage", "flat")
    # As one tree; and over a tree of the base that another container uses, whose inodes must not change.
    root_host.create("whole", image, "--store", str(place / "whole"))
    root_host.create("base", url(place, "base", BASE))
    before = forms.shown(root_host.lxcpath / "base")
    root_host.create("extended", image)
    shown = {name: forms.shown(root_host.lxcpath / name) for name in ("flat", "whole", "extended")}
    assert forms.differences(shown["flat"], shown["whole"]) == []
    assert forms.differences(shown["flat"], shown["extended"]) == []
    assert forms.differences(before, forms.shown(root_host.lxcpath / "base")) == []
    assert root_host.oci("verify").stdout == b""
    for path in shown["flat"].values():
        assert not [name for name in path["xattrs"] if "overlay" in name]


def test_the_umask_does_not_matter(root_host: Host, place: Path) -> None:
    image = url(place, "image", BASE)
    root_host.create("usual", image)
    before = os.umask(0o077)
    try:
        root_host.create("tree", image, "--store", str(place / "other"))
        root_host.create("flat", image, "--storage", "flat")
    finally:
        os.umask(before)
    usual = forms.shown(root_host.lxcpath / "usual")
    assert usual["."]["mode"] == "0o755"
    for name in ("tree", "flat"):
        assert forms.differences(usual, forms.shown(root_host.lxcpath / name)) == []


def test_f19_damage_is_found_reported_and_replaced(any_host: Host, place: Path, busybox: str) -> None:
    any_host.create("one", busybox, *TREE)
    (tree,) = (any_host.store / "trees").iterdir()
    with open(tree / "rootfs/etc/passwd", "r+b") as file_:
        file_.write(b"X")
    (tree / "rootfs/etc/extra").touch()
    done = any_host.oci("verify", check=False)
    assert done.returncode == 5
    said = done.stdout.decode()
    assert f"trees/{tree.name}: etc/passwd: has other content\n" in said
    assert f"trees/{tree.name}: etc/extra: is not of the image\n" in said
    done = any_host.create("two", busybox, *TREE)
    assert b"layer 1" in done.stderr
    assert any_host.oci("verify").stdout == b""
    # What was there stays for containers that have it mounted, until prune finds that none has.
    assert len(os.listdir(any_host.store / "trees")) == 2
    for name in ("one", "two"):
        assert any_host.execute(name, "/bin/cat", "/etc/passwd").startswith(b"root:")
    any_host.oci("prune")
    assert os.listdir(any_host.store / "trees") == [tree.name]


def test_prune_keeps_a_damaged_tree_that_is_mounted(root_host: Host, busybox: str) -> None:
    root_host.create("one", busybox, *TREE)
    root_host.start("one")
    (tree,) = (root_host.store / "trees").iterdir()
    (tree / "rootfs/etc/extra").touch()
    root_host.oci("verify", check=False)
    root_host.create("two", busybox, *TREE)
    root_host.oci("prune", "--force")
    assert len(os.listdir(root_host.store / "trees")) == 2
    assert root_host.attach("one", "/bin/cat", "/etc/group").startswith(b"root:")
    root_host.stop("one", "-k")
    root_host.oci("prune", "--force")
    assert os.listdir(root_host.store / "trees") == [tree.name]


def test_f14_what_is_mounted_stays_even_if_nothing_else_tells(any_host: Host, busybox: str, place: Path) -> None:
    any_host.create("one", busybox, *TREE)
    any_host.start("one")
    (any_host.lxcpath / "one").rename(place / "moved-away")
    for reference in (any_host.store / "containers").iterdir():
        reference.unlink()
    any_host.oci("prune", "--force")
    assert len(os.listdir(any_host.store / "trees")) == 1
    (place / "moved-away").rename(any_host.lxcpath / "one")
    any_host.stop("one", "-k")


# --- what the verbs print --------------------------------------------------------------------------------------


def test_list_and_prune_tell_all(any_host: Host, busybox: str) -> None:
    assert any_host.oci("list").stdout.decode().split() == [
        "IMAGE", "DIGEST", "PLATFORM", "SIZE", "SHARED", "CONTAINERS",
    ]  # fmt: skip
    any_host.create("one", busybox, *TREE)
    any_host.create("two", busybox, *TREE)
    (row,) = json.loads(any_host.oci("list", "--json").stdout)
    assert row["references"] == [busybox] and row["storage"] == ["trees"]
    assert row["containers"] == [str(any_host.lxcpath / name) for name in ("one", "two")]
    assert row["bytes"] > 1_000_000 and row["sharedBytes"] == 0
    line = any_host.oci("list").stdout.decode().splitlines()[1]
    assert line.split()[0] == busybox and line.endswith(f"{any_host.lxcpath}/one, {any_host.lxcpath}/two")
    assert json.loads(any_host.oci("prune", "--json", "--force").stdout)["removed"] == []
    for name in ("one", "two"):
        any_host.destroy(name)
    found = json.loads(any_host.oci("prune", "--json").stdout)
    assert found["removed"] == [] and {item["name"].split("/")[0] for item in found["recent"]} == {"images", "trees"}
    dry = json.loads(any_host.oci("prune", "--json", "--force", "--dry-run").stdout)
    assert dry["dryRun"] and len(os.listdir(any_host.store / "trees")) == 1
    done = json.loads(any_host.oci("prune", "--json", "--force").stdout)
    assert done["removed"] == dry["removed"] and done["bytes"] == dry["bytes"] > 1_000_000
    assert os.listdir(any_host.store / "trees") == []
    assert json.loads(any_host.oci("verify", "--json").stdout) == {"damaged": {}}


def test_a_hundred_containers_cost_one_image(root_host: Host, busybox: str) -> None:
    import subprocess

    def used() -> int:
        paths = [root_host.store, root_host.lxcpath]
        return sum(
            int(subprocess.run(["du", "-sxB1", path], capture_output=True, check=True).stdout.split()[0])
            for path in paths
        )

    root_host.create("c0", busybox)
    first = used()
    for number in range(1, 6):
        root_host.create(f"c{number}", busybox)
    assert (used() - first) / 5 < 100_000


def test_a_store_that_the_container_cannot_enter_is_not_mounted(user_host: Host, busybox: str) -> None:
    # Seen from where create runs it can be entered: the user has an id there, and none at a start.
    home = Path(pwd.getpwnam(user_host.user or "").pw_dir)
    closed = home / "closed"
    closed.mkdir()
    shutil.chown(closed, user_host.user, user_host.user)
    closed.chmod(0o700)
    user_host.store = closed / "store"
    try:
        said = user_host.create("one", busybox, "--verbose").stderr.decode()
        assert f"storage: flat: the container's root cannot enter {closed}" in said
        assert user_host.execute("one", "/bin/echo", "ran") == b"ran\n"
        closed.chmod(0o711)
        assert "storage: tree" in user_host.create("two", busybox, "--verbose").stderr.decode()
        assert user_host.execute("two", "/bin/echo", "ran") == b"ran\n"
    finally:
        user_host.run("lxc-destroy", "-P", user_host.lxcpath, "-n", "two", check=False)
        shutil.rmtree(closed)
