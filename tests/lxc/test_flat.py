# SPDX-License-Identifier: LGPL-2.1-or-later
"""The flat form: the image's own files in the rootfs, the same tree as the layered form's, and nobody else's."""

import os
import shutil
from pathlib import Path

from tests.support import direct, need
from tests.support import image as images
from tests.support import tree as trees
from tests.support.host import Host

MANY = (
    images.layer(
        images.directory("opt/dir", mode=0o2750, uid=7, gid=8, mtime=1_000_000),
        images.file("opt/dir/file", "content", mode=0o4755, uid=1000, gid=1000, mtime=1_234_567_890),
        images.hardlink("opt/hard", "opt/dir/file"),
        images.symlink("opt/soft", "../etc/passwd", uid=3),
        images.fifo("opt/fifo", mode=0o622),
        images.file("opt/gone", "x"),
        images.file("opt/hidden/inside", "x"),
        images.file("opt/xattr", "x", xattrs={"user.name": b"value"}),
        images.character("opt/null", 1, 3, mode=0o666),
    ),
    images.layer(images.whiteout("opt/gone"), images.opaque("opt/hidden"), images.file("opt/hidden/new", "y")),
)


def test_both_forms_give_the_same_tree(any_host: Host, place: Path) -> None:
    url = f"oci:{images.write_layout(place / 'image', {'latest': images.busybox_image({}, *MANY)})}:latest"
    any_host.create("flat", url, "--storage", "flat")
    any_host.create("tree", url)
    (lower,) = any_host.store.glob("trees/*/rootfs")
    left, right = trees.facts(lower), trees.facts(any_host.lxcpath / "flat/rootfs")
    # What a create writes for the container lies in the upper directory, beside the image's tree.
    own = {"etc", "etc/hostname", "etc/hosts", "etc/resolv.conf"}
    upper = direct.upper(any_host, "tree")
    assert {str(path.relative_to(upper)) for path in upper.rglob("*")} == own & {
        os.path.normpath(name) for name in right
    }
    for facts in (left, right):
        for name in [name for name in facts if os.path.normpath(name) in own]:
            del facts[name]
    # The directory itself changes when something is made in it.
    assert {**left, ".": None} == {**right, ".": None}
    assert "./opt/hidden/new" in left and "./opt/gone" not in left and "./opt/hidden/inside" not in left


def test_nothing_of_the_store_is_needed_later(any_host: Host, busybox: str) -> None:
    any_host.create("one", busybox, "--storage", "flat")
    shutil.rmtree(any_host.store)
    assert any_host.execute("one", "/bin/echo", "ran") == b"ran\n"


def squashed(place: Path) -> str:
    """The URL of a squashfs image of busybox."""
    static = Path(need.program("busybox")).read_bytes()
    layer = images.squashfs_layer(images.directory("bin"), images.program("bin/sh", static))
    return f"oci:{images.write_layout(place / 'image', {'latest': images.Image([layer], {})})}:latest"


def test_file_systems_need_no_store(root_host: Host, place: Path) -> None:
    root_host.create("one", squashed(place), "--no-cache")
    assert root_host.execute("one", "/bin/sh", "-c", "echo $((6 * 7))") == b"42\n"
    assert not root_host.store.exists()
    assert not [name for name in os.listdir(root_host.lxcpath / "one") if name.startswith(".")]


def test_a_damaged_file_system_without_a_store_leaves_nothing(root_host: Host, place: Path) -> None:
    url = squashed(place)
    (blob,) = [path for path in (place / "image/blobs/sha256").iterdir() if path.read_bytes()[:4] == b"hsqs"]
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    done = direct.run(root_host, "one", "--url", url, "--no-cache")
    assert done.returncode == 5
    direct.check_message(done, "layer 1 has digest")
    assert direct.leftovers(root_host, "one") == []


def test_a_directory_of_the_users_choice(root_host: Host, busybox: str, place: Path) -> None:
    rootfs = place / "elsewhere"
    root_host.create("one", busybox, lxc=("-B", "dir", "--dir", str(rootfs)))
    assert (rootfs / "bin/busybox").exists()
    assert root_host.key("one", "lxc.rootfs.path") == str(rootfs)
    assert root_host.execute("one", "/bin/cat", "/etc/hostname") == b"one\n"
    refused = root_host.create(
        "two", busybox, "--storage", "layered", lxc=("-B", "dir", "--dir", str(place / "x")), check=False
    )
    assert refused.returncode == 1
    direct.check_message(refused, "--storage layered is not possible", "--dir")
    assert not (root_host.lxcpath / "two").exists()


def test_a_directory_that_is_not_empty_is_left_alone(root_host: Host, busybox: str, place: Path) -> None:
    rootfs = place / "elsewhere"
    (rootfs / "home").mkdir(parents=True)
    (rootfs / "home/letter").write_text("mine")
    done = root_host.create("one", busybox, lxc=("-B", "dir", "--dir", str(rootfs)), check=False)
    assert done.returncode == 1
    direct.check_message(done, str(rootfs), "not empty")
    assert not (root_host.lxcpath / "one").exists()
    # What lxc-create itself removes with a half-made container is its own doing.
    direct.prepare(root_host, "one")
    (root_host.lxcpath / "one/rootfs/letter").write_text("mine")
    done = root_host.run(*direct.command(root_host, "one", "--url", busybox, "--storage", "flat"), check=False)
    assert done.returncode == 2
    direct.check_message(done, "not empty")
    assert (root_host.lxcpath / "one/rootfs/letter").read_text() == "mine"
