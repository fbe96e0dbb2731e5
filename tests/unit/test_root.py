# SPDX-License-Identifier: LGPL-2.1-or-later
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxc_oci.errors import RefusedError
from lxc_oci.kernel.root import Root, remove_tree


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/passwd").write_text("inside")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("outside")
    with Root.at(str(tmp_path / "root")) as opened:
        yield opened
    assert (tmp_path / "etc/passwd").read_text() == "outside"
    assert os.listdir(tmp_path / "etc") == ["passwd"]


@pytest.mark.parametrize(
    "name",
    [b"etc/passwd", b"/etc/passwd", b"../etc/passwd", b"/../../etc/passwd", b"absolute/passwd", b"up/etc/passwd"],
)
def test_names_are_resolved_inside(root: Root, tmp_path: Path, name: bytes) -> None:
    (tmp_path / "root/absolute").symlink_to("/etc")
    (tmp_path / "root/up").symlink_to("../..")
    assert root.read(name, 100) == b"inside"
    assert root.stat(name).st_size == 6


def test_a_link_itself_can_be_asked_for(root: Root, tmp_path: Path) -> None:
    (tmp_path / "root/l").symlink_to("/etc/passwd")
    assert stat.S_ISLNK(root.lstat(b"l").st_mode)
    assert stat.S_ISREG(root.stat(b"l").st_mode)


def test_magic_links_are_not_followed(root: Root, tmp_path: Path) -> None:
    (tmp_path / "root/link").symlink_to("/proc/self/root/etc/passwd")
    with pytest.raises(FileNotFoundError):
        root.read(b"link", 100)


def test_only_regular_files_of_a_size_are_read(root: Root, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "root/fifo")
    for name in (b"fifo", b"etc"):
        with pytest.raises(RefusedError, match="regular"):
            root.read(name, 100)
    with pytest.raises(RefusedError, match="larger than 5"):
        root.read(b"etc/passwd", 5)
    with pytest.raises(FileNotFoundError):
        root.read(b"missing", 5)


@pytest.mark.parametrize("name", [b"", b"/", b".", b"..", b"etc/.", b"etc/.."])
def test_a_parent_needs_a_name(root: Root, name: bytes) -> None:
    with pytest.raises(RefusedError):
        root.parent(name)


def test_directories_are_made_inside(root: Root, tmp_path: Path) -> None:
    (tmp_path / "root/link").symlink_to("/etc")
    os.close(root.make_directories(b"/link/./a/../b/c", 0o700))
    assert (tmp_path / "root/etc/b/c").is_dir()
    assert stat.S_IMODE((tmp_path / "root/etc/b").stat().st_mode) == 0o700
    os.close(root.make_directories(b"../../etc/d"))
    assert (tmp_path / "root/etc/d").is_dir()
    with pytest.raises(NotADirectoryError):
        root.make_directories(b"etc/passwd/x")


def test_a_file_is_replaced_and_never_written_through(root: Root, tmp_path: Path) -> None:
    (tmp_path / "root/etc/hosts").symlink_to(tmp_path / "etc/passwd")
    os.link(tmp_path / "root/etc/passwd", tmp_path / "root/etc/same")
    me = (os.getuid(), os.getgid())
    root.replace_file(b"etc/hosts", b"new", 0o640, me)
    root.replace_file(b"etc/same", b"new", 0o644, me)
    root.replace_file(b"etc/fresh", b"", 0o600, me)
    assert (tmp_path / "root/etc/hosts").read_text() == "new"
    assert not (tmp_path / "root/etc/hosts").is_symlink()
    assert stat.S_IMODE((tmp_path / "root/etc/hosts").stat().st_mode) == 0o640
    assert (tmp_path / "root/etc/passwd").read_text() == "inside"
    (tmp_path / "root/etc/directory").mkdir()
    with pytest.raises((IsADirectoryError, PermissionError)):
        root.replace_file(b"etc/directory", b"x", 0o644, me)


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    root = Root.at(str(tmp_path))
    root.close()
    root.close()


def test_a_root_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OSError) as caught:
        Root.at(str(tmp_path / "link"))
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)


# --- removal ----------------------------------------------------------------------------------------------------------


def remove(path: Path) -> None:
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        remove_tree(parent, os.fsencode(path.name))
    finally:
        os.close(parent)


def test_removal_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/etc")
    (tmp_path / "wide").mkdir()
    for number in range(50):
        (tmp_path / f"wide/{number}/below").mkdir(parents=True)
        (tmp_path / f"wide/{number}/below/file").touch()
        (tmp_path / f"wide/{number}/link").symlink_to("/")
    for name in ("file", "link", "wide", "missing"):
        remove(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_removal_of_a_very_deep_tree(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):  # deeper than PATH_MAX and than Python's recursion
        os.mkdir(b"directory", dir_fd=fd)
        below = os.open(b"directory", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open(b"file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    remove(tmp_path / "directory")
    assert os.listdir(tmp_path) == []


def test_removal_of_directories_that_nobody_may_enter(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    (tmp_path / "a/b").chmod(0)
    (tmp_path / "a").chmod(0o500)
    if os.geteuid() == 0:
        remove(tmp_path / "a")
        assert os.listdir(tmp_path) == []
    else:  # without the capability, what was made unwritable on purpose is an error, not silence
        with pytest.raises(PermissionError):
            remove(tmp_path / "a")
        (tmp_path / "a").chmod(0o700)
        remove(tmp_path / "a")
        assert os.listdir(tmp_path) == []
