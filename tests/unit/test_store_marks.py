# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who uses what: configurations, records, snapshots, references and mounts, each alone enough."""

import os
import subprocess
from pathlib import Path

import pytest

from lxc_oci.image.digest import Digest
from lxc_oci.store import containers, home, marks
from tests.support import need

HEX = "ab" * 32
TREE = f"trees/{HEX}"
IMAGE = Digest("sha256:" + "cd" * 32)


@pytest.fixture
def store(tmp_path: Path) -> home.Store:
    return home.open_store(str(tmp_path / "store"))


@pytest.fixture
def lxcpath(tmp_path: Path) -> Path:
    path = tmp_path / "lxc"
    path.mkdir()
    return path


def container(lxcpath: Path, name: str, config: str = "") -> Path:
    directory = lxcpath / name
    (directory / "oci-py").mkdir(parents=True)
    (directory / "config").write_text(config)
    return directory


def users(found: marks.Marks) -> dict[str, set[str]]:
    """Who uses what, but for mounts: those of the whole machine count."""
    return {part: left for part, who in found.users.items() if (left := who - {"a mount"})}


def remember(store: home.Store, lxcpath: Path, name: str, identity: str = "1" * 32) -> None:
    containers.remember(store, identity, str(lxcpath), name, IMAGE, [TREE], "2026-01-01T00:00:00Z")


def test_a_configuration_is_enough(store: home.Store, lxcpath: Path) -> None:
    # The store may have been moved since, and LXC 6 writes no prefix.
    one = container(lxcpath, "one", f"lxc.rootfs.path = overlay:/old/place/{TREE}/rootfs:/x/overlay/delta\n")
    found = marks.collect(store, [str(lxcpath)])
    assert users(found) == {TREE: {str(one)}}
    assert found.used(TREE) and not found.mounted(TREE)


def test_a_record_of_ours_is_enough(store: home.Store, lxcpath: Path) -> None:
    one = container(lxcpath, "one")
    (one / "oci-py/plan.json").write_text(f'{{"lowers": [{{"path": "/s/indexes/sha256-{HEX}/index.erofs"}}]}}')
    assert marks.collect(store, [str(lxcpath)]).used(f"indexes/sha256-{HEX}")


def test_what_is_no_name_of_a_part_marks_nothing(store: home.Store, lxcpath: Path) -> None:
    container(lxcpath, "one", f"lxc.environment = A=trees/{HEX[:60]}\nlxc.environment = B=mytrees/{HEX}\n# trees/\n")
    assert users(marks.collect(store, [str(lxcpath)])) == {}


@pytest.mark.parametrize("place", ["lxc/one/snaps/snap0", "lxcsnaps/one/snap0"])
def test_snapshots_are_containers(store: home.Store, tmp_path: Path, place: str) -> None:
    container(tmp_path / "lxc", "one")
    container((tmp_path / place).parent, "snap0", f"lxc.rootfs.path = overlay:/s/{TREE}/rootfs:/d\n")
    assert marks.collect(store, [str(tmp_path / "lxc")]).used(TREE)


def test_a_configuration_that_is_a_link_counts(store: home.Store, lxcpath: Path, tmp_path: Path) -> None:
    one = container(lxcpath, "one")
    (one / "config").rename(tmp_path / "kept-elsewhere")
    (tmp_path / "kept-elsewhere").write_text(f"lxc.rootfs.path = overlay:/s/{TREE}/rootfs:/d\n")
    (one / "config").symlink_to(tmp_path / "kept-elsewhere")
    assert marks.collect(store, [str(lxcpath)]).used(TREE)


def test_a_fifo_in_the_place_of_a_configuration_is_not_waited_for(store: home.Store, lxcpath: Path) -> None:
    one = container(lxcpath, "one")
    (one / "config").unlink()
    os.mkfifo(one / "config")
    (one / "oci-py/a.json").mkdir()
    assert users(marks.collect(store, [str(lxcpath)])) == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_an_error(store: home.Store, lxcpath: Path) -> None:
    (container(lxcpath, "one") / "config").chmod(0)
    with pytest.raises(PermissionError):
        marks.collect(store, [str(lxcpath)])


def test_a_loop_of_links_is_an_error_and_not_an_unused_tree(store: home.Store, lxcpath: Path) -> None:
    one = container(lxcpath, "one")
    (one / "config").unlink()
    (one / "config").symlink_to("config")
    with pytest.raises(OSError, match="symbolic links"):
        marks.collect(store, [str(lxcpath)])


# --- references ------------------------------------------------------------------------------------------------


def test_a_reference_marks_the_parts_and_the_image(store: home.Store, lxcpath: Path) -> None:
    one = container(lxcpath, "one")
    remember(store, lxcpath, "one")
    found = marks.collect(store)
    assert users(found) == {TREE: {str(one)}, f"images/sha256-{IMAGE.hex}": {str(one)}}
    assert found.stale == []


def test_a_reference_makes_its_lxcpath_known(store: home.Store, lxcpath: Path) -> None:
    remember(store, lxcpath, "gone")
    container(lxcpath, "copy-of-it", f"lxc.rootfs.path = overlay:/s/{TREE}/rootfs:/d\n")
    found = marks.collect(store)
    assert found.stale == []  # it is all that tells of the lxcpath
    assert users(found) == {TREE: {str(lxcpath / "copy-of-it")}}


def test_another_container_of_the_same_name_keeps_nothing_alive(store: home.Store, lxcpath: Path) -> None:
    one = container(lxcpath, "one")
    remember(store, lxcpath, "one", "1" * 32)
    (one / "oci-py/id").write_text("2" * 32 + "\n")
    found = marks.collect(store)
    assert not found.used(TREE) and found.stale == ["1" * 32]
    (one / "oci-py/id").write_text("1" * 32 + "\n")
    assert marks.collect(store).used(TREE)


def test_an_lxcpath_is_known_as_long_as_something_in_it_is_used(store: home.Store, lxcpath: Path) -> None:
    remember(store, lxcpath, "gone", "1" * 32)
    remember(store, lxcpath, "gone-too", "2" * 32)
    copy = container(lxcpath, "copy", f"lxc.rootfs.path = overlay:/s/{TREE}/rootfs:/d\n")
    found = marks.collect(store)
    assert found.stale == ["2" * 32]
    remember(store, lxcpath, "copy", "3" * 32)
    assert marks.collect(store).stale == ["1" * 32, "2" * 32]
    (copy / "config").unlink()
    containers.forget(store, "3" * 32)
    assert marks.collect(store).stale == ["1" * 32, "2" * 32]


def test_earlier_generations_count(store: home.Store, lxcpath: Path) -> None:
    earlier = container(lxcpath, "one") / "oci-py/g2"
    earlier.mkdir()
    (earlier / "image.json").write_text(f'{{"uses": ["{TREE}"]}}')
    assert marks.collect(store, [str(lxcpath)]).used(TREE)


@pytest.mark.root
@pytest.mark.parametrize("name", ["", "lxc"])
def test_a_disk_that_is_mounted_tells_whether_a_container_is_gone(store: home.Store, tmp_path: Path, name: str) -> None:
    need.root()
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", disk], check=True)
    try:
        (disk / name).mkdir(exist_ok=True)
        remember(store, disk / name, "one")
        assert marks.collect(store).stale == ["1" * 32]
        if name:
            (disk / name).rmdir()
            assert marks.collect(store).stale == ["1" * 32]
    finally:
        subprocess.run(["umount", disk], check=True)
    # Its place may be an empty directory now, or the lxcpath missing in it.
    assert marks.collect(store).stale == [] and marks.collect(store).used(TREE)


@pytest.mark.parametrize("content", [b"", b"\0" * 200, b"{", b'{"lxcpath": 1}', b"[]", b'{"uses": null}'])
def test_a_reference_that_a_power_cut_left_half_is_passed_over(store: home.Store, content: bytes) -> None:
    Path(store.at("containers", "3" * 32)).write_bytes(content)
    assert users(marks.collect(store)) == {}


# --- mounts ----------------------------------------------------------------------------------------------------

_MOUNT = """
set -e
mount -t tmpfs none "$1"
mkdir -p "$1/upper" "$1/work" "$1/at"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/at"
echo mounted
read line
"""


@pytest.mark.root
@pytest.mark.parametrize("namespaces", [["-m"], ["-U", "-r", "-m"]])
def test_a_mount_in_any_namespace_is_enough(store: home.Store, tmp_path: Path, namespaces: list[str]) -> None:
    need.root()
    lower = Path(store.at(TREE, "rootfs"))
    lower.mkdir(parents=True)
    (tmp_path / "m").mkdir()
    argv = ["unshare", *namespaces, "sh", "-c", _MOUNT, "sh", str(tmp_path / "m"), str(lower)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"mounted\n"
        assert marks.collect(store).mounted(TREE)
        process.stdin.close()
    assert process.returncode in (0, 1)
    assert not marks.collect(store).used(TREE)
