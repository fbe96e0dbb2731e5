# SPDX-License-Identifier: LGPL-2.1-or-later
"""LXC's other backing stores: the template is handed a mounted rootfs and fills it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import direct, need
from tests.support.host import Host


@pytest.fixture(autouse=True)
def _no_loop_devices_stay(place: Path) -> Iterator[None]:
    yield
    direct.check_no_loop_devices(place)


def again_if_taken(start: Callable[[], object]) -> object:
    """Try again when another program took the loop device that LXC had found free."""
    for _ in range(50):
        try:
            return start()
        except AssertionError as error:
            if "Failed to set loop fd" not in str(error):
                raise
    return start()


def lives(host: Host) -> None:
    assert again_if_taken(lambda: host.execute("one", "/bin/cat", "/etc/hostname")) == b"one\n"
    again_if_taken(lambda: host.start("one"))
    assert host.attach("one", "/bin/cat", "/proc/1/comm") == b"sh\n"
    host.stop("one")
    host.destroy("one")
    assert not (host.lxcpath / "one").exists()


def test_loop(root_host: Host, busybox: str) -> None:
    done = root_host.create("one", busybox, "-v", lxc=("-B", "loop", "--fssize", "30M", "--fstype", "ext4"))
    assert b"storage: flat: LXC's backing store is 'loop'" in done.stderr
    assert root_host.key("one", "lxc.rootfs.path").endswith("/one/rootdev")
    lives(root_host)


def test_a_loop_that_is_too_small(root_host: Host, busybox: str) -> None:
    done = root_host.create("one", busybox, lxc=("-B", "loop", "--fssize", "1M", "--fstype", "ext4"), check=False)
    assert done.returncode == 1
    direct.check_message(done, "space")
    assert not (root_host.lxcpath / "one").exists()
    root_host.create("one", busybox, lxc=("-B", "loop", "--fssize", "30M", "--fstype", "ext4"))


def test_btrfs(root_host: Host, busybox: str, place: Path) -> None:
    need.program("btrfs")
    own = root_host.lxcpath
    with direct.file_system(place, 128, ("mkfs.btrfs", "-q")) as mount_point:
        root_host.lxcpath = mount_point / "lxc"
        root_host.lxcpath.mkdir()
        try:
            done = root_host.create("one", busybox, "-v", lxc=("-B", "btrfs"))
            assert b"storage: flat: LXC's backing store is 'btrfs'" in done.stderr
            # A snapshot copy is a subvolume, which shares the files by itself.
            root_host.lxc("copy", "one", "-s", "-N", "two")
            assert root_host.execute("two", "/bin/cat", "/etc/hostname").strip() == b"two"
            root_host.destroy("two")
            lives(root_host)
        finally:
            root_host.lxcpath = own
