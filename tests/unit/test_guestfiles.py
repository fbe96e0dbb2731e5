# SPDX-License-Identifier: LGPL-2.1-or-later
"""Host name, hosts and resolv.conf, and the paths below a root that an image chose."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxc_oci.container import guestfiles, paths
from lxc_oci.container.guestfiles import GuestFile
from lxc_oci.errors import RefusedError, UsageError
from lxc_oci.kernel.root import Root
from tests.support import need

HOST = b"nameserver 192.0.2.1\nsearch example\n"
FROM_HOST = (GuestFile("etc/resolv.conf", HOST),)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    (tmp_path / "root").mkdir()
    with Root.at(str(tmp_path / "root")) as opened:
        yield opened


@pytest.fixture
def place(tmp_path: Path, root: Root) -> Path:
    return tmp_path / "root"


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ("a", "web-1.example", "web_1", "9", "A" * 63))
def test_host_names(name: str) -> None:
    assert guestfiles.check_hostname(name, "x") == name
    hostname, hosts = guestfiles.identity_files(name)
    assert hostname == GuestFile("etc/hostname", f"{name}\n".encode())
    assert f"127.0.1.1\t{name}\n".encode() in hosts.content and b"::1\tlocalhost" in hosts.content


@pytest.mark.parametrize("name", ("", "-a", "a-", ".a", "a.", "a b", "a\n", "ä", "A" * 64, "a/b"))
def test_what_is_no_host_name(name: str) -> None:
    with pytest.raises(UsageError, match="host name"):
        guestfiles.check_hostname(name, "--hostname")


# --- resolv.conf -------------------------------------------------------------------------------------------------


def test_resolv_conf_comes_from_the_host(root: Root, place: Path) -> None:
    assert guestfiles.resolv_conf(root, (), HOST, system=False) == FROM_HOST
    (place / "etc").mkdir()
    (place / "etc/resolv.conf").write_text("")
    assert guestfiles.resolv_conf(root, (), HOST, system=False) == FROM_HOST, "builders leave an empty file"
    assert guestfiles.resolv_conf(root, (), b"", system=False) == ()


def test_resolv_conf_of_the_image_stays(root: Root, place: Path) -> None:
    (place / "etc").mkdir()
    (place / "etc/resolv.conf").write_text("nameserver 198.51.100.1\n")
    assert guestfiles.resolv_conf(root, (), HOST, system=False) == ()
    (place / "etc/resolv.conf").rename(place / "etc/real")
    (place / "etc/resolv.conf").symlink_to("/etc/real")
    assert guestfiles.resolv_conf(root, (), HOST, system=False) == ()


def test_a_link_to_nowhere_is_an_inits(root: Root, place: Path) -> None:
    (place / "etc").mkdir()
    (place / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    assert guestfiles.resolv_conf(root, (), HOST, system=True) == ()
    assert guestfiles.resolv_conf(root, (), HOST, system=False) == FROM_HOST


def test_the_users_servers_hold(root: Root, place: Path) -> None:
    (place / "etc").mkdir()
    (place / "etc/resolv.conf").write_text("nameserver 198.51.100.1\n")
    (found,) = guestfiles.resolv_conf(root, ("192.0.2.7", "2001:db8::1"), HOST, system=True)
    assert found.content == b"nameserver 192.0.2.7\nnameserver 2001:db8::1\n"


@pytest.mark.parametrize(
    "usual, upstream, expected",
    (
        ("nameserver 192.0.2.1\n", None, "nameserver 192.0.2.1\n"),
        ("nameserver 127.0.0.53\n", "nameserver 192.0.2.2\n", "nameserver 192.0.2.2\n"),
        ("nameserver 127.0.0.53\n", None, "nameserver 127.0.0.53\n"),
        (
            "nameserver 127.0.0.1\nnameserver 192.0.2.1\n",
            "nameserver 192.0.2.2\n",
            "nameserver 127.0.0.1\nnameserver 192.0.2.1\n",
        ),
        ("nameserver ::1\n", "nameserver 192.0.2.2\n", "nameserver 192.0.2.2\n"),
        ("", "nameserver 192.0.2.2\n", ""),
        (None, None, ""),
    ),
)
def test_a_stub_on_the_hosts_loopback_is_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usual: str | None, upstream: str | None, expected: str
) -> None:
    for name, attribute, content in (("a", "_RESOLV_CONF", usual), ("b", "_UPSTREAM_RESOLV_CONF", upstream)):
        if content is not None:
            (tmp_path / name).write_text(content)
        monkeypatch.setattr(guestfiles, attribute, str(tmp_path / name))
    assert guestfiles.host_resolv_conf() == expected.encode()


# --- writing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ("nothing", "no etc", "file", "link", "directory", "fifo", "hard link"))
def test_writing_replaces_whatever_was_there(root: Root, place: Path, tmp_path: Path, before: str) -> None:
    need.root()
    outside = tmp_path / "outside"
    outside.write_text("outside")
    target = place / "etc/hosts"
    if before != "no etc":
        target.parent.mkdir()
    if before == "file":
        target.write_text("old")
    elif before == "link":
        target.symlink_to(outside)
    elif before == "directory":
        (target / "deep/er").mkdir(parents=True)
    elif before == "fifo":
        os.mkfifo(target)
    elif before == "hard link":
        os.link(outside, target)
    os.umask(0o077)
    try:
        guestfiles.write(root, (GuestFile("etc/hosts", b"new"),))
    finally:
        os.umask(0o022)
    assert target.read_text() == "new" and outside.read_text() == "outside"
    status = target.lstat()
    assert stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o644 and status.st_uid == 0
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o755


def test_a_linked_etc_becomes_real(root: Root, place: Path) -> None:
    need.root()
    (place / "usr/etc/sub").mkdir(parents=True)
    (place / "usr/etc/sub/file").write_text("x")
    (place / "usr/etc/link").symlink_to("/proc/1/root")
    (place / "usr/etc").chmod(0o711)
    os.chown(place / "usr/etc/sub/file", 7, 8)
    os.setxattr(place / "usr/etc/sub", "user.note", b"kept")
    (place / "etc").symlink_to("/usr/etc")
    guestfiles.write(root, (GuestFile("etc/hosts", b"new"),))
    etc = place / "etc"
    assert etc.is_dir() and not etc.is_symlink() and stat.S_IMODE(etc.stat().st_mode) == 0o711
    assert (etc / "hosts").read_text() == "new" and not (place / "usr/etc/hosts").exists()
    assert (etc / "sub/file").read_text() == "x" and (etc / "sub/file").stat().st_gid == 8
    assert os.readlink(etc / "link") == "/proc/1/root"
    assert os.getxattr(etc / "sub", "user.note") == b"kept"


# --- paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, expected", (("/", "/"), ("//a///b/./", "/a/b"), ("/a b", "/a b"), ("/...", "/...")))
def test_plain_paths(text: str, expected: str) -> None:
    assert paths.plain(text, "x") == expected


@pytest.mark.parametrize("text", ("", "a", "./a", "/..", "/a/../b", "/a\n", "/\x7f", "/a\0"))
def test_paths_that_are_not_plain(text: str) -> None:
    with pytest.raises(RefusedError):
        paths.plain(text, "x")


def test_real_paths(root: Root, place: Path) -> None:
    (place / "a/b").mkdir(parents=True)
    (place / "absolute").symlink_to("/a")
    (place / "a/up").symlink_to("../../../../a/b")
    (place / "a/chain").symlink_to("/absolute/up/new")
    (place / "a/self").symlink_to(".")
    for path, expected in (
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/absolute", "/a"),
        ("/absolute/b/x/y", "/a/b/x/y"),
        ("/a/up", "/a/b"),
        ("/a/chain/z", "/a/b/new/z"),
        ("/a/self/self/b", "/a/b"),
        ("/none/at/all", "/none/at/all"),
    ):
        assert paths.real(root, path, "x") == expected


def test_real_paths_that_are_refused(root: Root, place: Path) -> None:
    (place / "loop").symlink_to("loop2")
    (place / "loop2").symlink_to("loop")
    (place / "file").write_text("")
    (place / "to-proc").symlink_to("/proc/self/fd/3")
    (place / "deep").mkdir()
    (place / "deep/dev").symlink_to("../../dev")
    for path in (
        "/loop",
        "/loop/x",
        "/file/x",
        "/proc",
        "/sys/x",
        "/to-proc",
        "/deep/dev/x",
        "/.oci-py",
        "/" + "x" * 300,
    ):
        with pytest.raises(RefusedError):
            paths.real(root, path, "x")
    assert paths.real(root, "/deep/proc", "x") == "/deep/proc"
    with pytest.raises(RefusedError, match="root"):
        paths.real(root, "/", "x", mountable=True)


def test_who_can_swap_a_directory(root: Root, place: Path) -> None:
    need.root()
    (place / "srv/app/web").mkdir(parents=True)
    (place / "tmp/x").mkdir(parents=True)
    (place / "tmp").chmod(0o1777)
    (place / "open/x").mkdir(parents=True)
    (place / "open").chmod(0o777)
    os.chown(place / "srv/app", 1000, 1000)
    for path, expected in (
        ("/", True),
        ("/srv", True),
        ("/srv/app", True),
        ("/srv/app/web", False),
        ("/srv/none/x", True),
        ("/tmp/x", True),
        ("/open", True),
        ("/open/x", False),
    ):
        assert paths.only_roots_to_change(root, path) == expected, path
