# SPDX-License-Identifier: LGPL-2.1-or-later
"""LXC's verbs on containers that create made, in every form, with a prune after each: what they use stays.

The hooks that make this work are tested one by one in test_mount_hook.
"""

import os
import shutil
from pathlib import Path

import pytest

from tests.support import image as images
from tests.support import need
from tests.support.host import Host

CASES = [
    "root-tree",
    "user-tree",
    pytest.param("root-mounted", marks=pytest.mark.long),
    pytest.param("root-flat", marks=pytest.mark.long),
    pytest.param("user-flat", marks=pytest.mark.long),
]
WAITS = ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"]


@pytest.fixture(scope="module")
def urls(layouts: Path) -> dict[str, str]:
    """The same busybox as a tar and as a squashfs layer."""
    need.program("mksquashfs", "squashfs-tools")
    made = images.busybox_image({"Cmd": WAITS})
    tree = layouts / "unpacked"
    packed = images.Image([_squashed(made.layers[0].plain, tree)], {"Cmd": WAITS}, platform=made.platform)
    return {
        kind: f"oci:{images.write_layout(layouts / f'store-{kind}', {'latest': image})}:latest"
        for kind, image in (("tar", made), ("squashfs", packed))
    }


def _squashed(plain: bytes, tree: Path) -> images.Layer:
    import subprocess

    tree.mkdir()
    subprocess.run(["tar", "-C", tree, "-xp", "--numeric-owner"], input=plain, check=True)
    subprocess.run(["mksquashfs", tree, f"{tree}.squashfs", "-quiet", "-no-progress"], check=True)
    blob = Path(f"{tree}.squashfs").read_bytes()
    return images.Layer(blob, images.SQUASHFS, images.digest(blob))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, urls: dict[str, str]) -> tuple[Host, str]:
    """A host, and the form of its container `one`, which has run and written."""
    who, form = request.param.split("-")
    host: Host = request.getfixturevalue(f"{who}_host")
    options = {"flat": ("--storage", "flat"), "tree": ("--no-kernel-mount",), "mounted": ()}[form]
    said = host.create("one", urls["squashfs" if form == "mounted" else "tar"], *options, "--verbose").stderr.decode()
    assert f"storage: {form}" in said, said
    host.execute("one", "/bin/sh", "-c", "echo mine > /etc/mine")
    return host, form


def prune(host: Host) -> None:
    host.oci("prune", "--force")
    assert host.oci("verify").stdout == b""


def kept(host: Host) -> list[str]:
    """What the store has of images, unpacked or not."""
    return sorted(name for part in ("trees", "indexes", "blobs") for name in os.listdir(host.store / part))


def mine(host: Host, name: str) -> bytes:
    return host.execute(name, "/bin/cat", "/etc/mine")


def test_every_verb_and_prune_after_each(case: tuple[Host, str]) -> None:
    host, _ = case
    prune(host)
    assert mine(host, "one") == b"mine\n"
    host.lxc("copy", "one", "-N", "two")
    prune(host)
    host.execute("two", "/bin/sh", "-c", "echo two > /etc/mine")
    assert (mine(host, "one"), mine(host, "two")) == (b"mine\n", b"two\n")
    host.lxc("copy", "two", "-R", "-N", "three")
    prune(host)
    assert mine(host, "three") == b"two\n"
    host.lxc("snapshot", "one")
    prune(host)
    host.execute("one", "/bin/sh", "-c", "echo changed > /etc/mine")
    host.lxc("snapshot", "one", "-r", "snap0")
    prune(host)
    assert mine(host, "one") == b"mine\n"
    host.lxc("snapshot", "one", "-r", "snap0", "-N", "four")
    host.lxc("destroy", "one", "-s")
    prune(host)
    assert mine(host, "four") == b"mine\n"
    for name in ("three", "four"):
        host.destroy(name)
    prune(host)
    left = [path.name for path in host.store.glob("*/*") if path.name != "store"]
    assert left == [], left
    assert os.listdir(host.lxcpath) == []


def test_a_snapshot_clone_and_an_ephemeral_one(case: tuple[Host, str]) -> None:
    host, _ = case
    host.lxc("copy", "one", "-s", "-N", "two")
    prune(host)
    assert mine(host, "two") == b"mine\n"
    assert host.lxc("destroy", "one", check=False).returncode != 0  # LXC knows who is over it
    # It goes when it has stopped.
    host.lxc("copy", "one", "-e", "-N", "brief")
    host.lxc("wait", "brief", "-s", "RUNNING", "-t", "60")
    prune(host)
    assert host.attach("brief", "/bin/cat", "/etc/mine") == b"mine\n"
    host.lxc("stop", "brief", "-k")
    host.lxc("wait", "brief", "-s", "STOPPED", "-t", "60")
    prune(host)
    assert mine(host, "two") == b"mine\n"


def test_a_snapshot_clone_of_a_flat_container_needs_it(root_host: Host, urls: dict[str, str]) -> None:
    root_host.create("one", urls["tar"], "--storage", "flat")
    root_host.lxc("copy", "one", "-s", "-N", "two")
    assert root_host.lxc("destroy", "one", check=False).returncode != 0
    assert root_host.execute("two", "/bin/echo", "ran") == b"ran\n"


def test_what_is_moved_and_restored(root_host: Host, urls: dict[str, str], place: Path) -> None:
    root_host.create("one", urls["tar"])
    root_host.execute("one", "/bin/sh", "-c", "echo mine > /etc/mine")
    # Moved by hand inside the lxcpath, into an lxcpath that another container made known, and out and back.
    root_host.create("here", urls["tar"])
    (root_host.lxcpath / "one").rename(root_host.lxcpath / "moved")
    before = kept(root_host)
    assert before
    prune(root_host)
    assert kept(root_host) == before
    root_host.destroy("here")
    backup = place / "backup"
    shutil.copytree(root_host.lxcpath / "moved", backup / "one", symlinks=True)
    (root_host.lxcpath / "moved").rename(root_host.lxcpath / "one")
    shutil.rmtree(root_host.lxcpath / "one")
    (backup / "one").rename(root_host.lxcpath / "one")
    prune(root_host)
    assert kept(root_host) == before
    assert mine(root_host, "one") == b"mine\n"


def test_a_copy_in_a_second_lxcpath_is_found(case: tuple[Host, str]) -> None:
    host, _ = case
    second = host.directory / "second"
    second.mkdir(mode=0o755)
    status = host.lxcpath.stat()
    os.chown(second, status.st_uid, status.st_gid)
    host.lxc("copy", "one", "-N", "two", "-p", second)
    host.destroy("one")
    prune(host)
    first, host.lxcpath = host.lxcpath, second
    assert mine(host, "two") == b"mine\n"
    host.destroy("two")
    prune(host)
    host.lxcpath = first
    assert kept(host) == os.listdir(host.store / "containers") == []


def test_f13_creates_starts_and_prunes_at_once(root_host: Host, urls: dict[str, str]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def live(number: int) -> bytes:
        name = f"c{number}"
        root_host.create(name, urls["tar"])
        try:
            return root_host.execute(name, "/bin/echo", name)
        finally:
            root_host.destroy(name)

    def prunes() -> None:
        for _ in range(8):
            root_host.oci("prune", "--force")

    with ThreadPoolExecutor(4) as pool:
        pruning = pool.submit(prunes)
        assert list(pool.map(live, range(6))) == [f"c{number}\n".encode() for number in range(6)]
        pruning.result()
    assert root_host.oci("verify").stdout == b""
