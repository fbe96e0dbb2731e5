# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which variable goes which way, and which directories of the host only root can fill."""

import os
from pathlib import Path

import pytest

from lxc_oci.container import environment, overrides
from lxc_oci.container.environment import DEFAULT_PATH, Environment, HostPaths
from lxc_oci.errors import RefusedError, UsageError
from lxc_oci.limits import Limits
from tests.support import need

SAFE = {"/usr/bin", "/bin", "/root", "/"}


class Host:
    """Paths of a host with images in /store and in an lxcpath with a space."""

    def safe(self, path: str) -> bool:
        return path in SAFE

    def strange_to_images(self, path: str) -> bool:
        return not path.startswith(("/store", "/lxc path"))


def plan(
    image: tuple[str, ...], user: tuple[tuple[str, str], ...] = (), *, major: int = 5, warnings: list[str] | None = None
) -> Environment:
    warn = (warnings if warnings is not None else []).append
    return environment.plan(image, user, "/root", major, Host(), Limits(), warn)


def entries(lines: tuple[environment.Line, ...]) -> list[str]:
    return [line.value for line in lines]


def test_defaults_only_where_nothing_is_set() -> None:
    found = plan(())
    assert found.path == DEFAULT_PATH
    assert dict(found.wrapped) == {"PATH": DEFAULT_PATH}, "/usr/local is not in this test's safe directories"
    assert entries(found.image) == ["PATH=/usr/bin:/bin", "HOME=/root"]
    found = plan(("PATH=/bin", "HOME=/"))
    assert entries(found.image) == ["PATH=/bin", "HOME=/"] and not found.wrapped
    found = plan((), (("PATH", "/bin"), ("HOME", "/")))
    assert entries(found.image) == [] and entries(found.user) == ["PATH=/bin", "HOME=/"]


def test_the_last_of_a_name_holds() -> None:
    found = plan(("A=1", "PATH=/bin", "A=2", "HOME=/"), (("B", "1"), ("B", "2"), ("PATH", "/usr/bin")))
    assert entries(found.image) == ["A=2", "HOME=/"]
    assert entries(found.user) == ["B=2", "PATH=/usr/bin"]
    assert found.path == "/usr/bin"


def test_no_import_from_the_host() -> None:
    warnings: list[str] = []
    found = plan(("HOST", "=x", "", "PATH=/bin", "HOME=/"), warnings=warnings)
    assert entries(found.image) == ["PATH=/bin", "HOME=/"]
    assert len(warnings) == 3 and "'HOST'" in warnings[0]


@pytest.mark.parametrize(
    "name, value",
    (
        ("LD_PRELOAD", "/x"),
        ("LD_ANYTHING_NEW", "1"),
        ("GCONV_PATH", "/x"),
        ("MALLOC_TRACE", "/etc/x"),
        ("BASH_ENV", "/x"),
        ("BASH_FUNC_x%%", "() { :; }"),
        ("ENV", "/x"),
        ("IFS", "/"),
        ("PS4", "$(id)"),
        ("PYTHONHOME", "/x"),
        ("PERL5LIB", "/x"),
        ("GIT_SSH_COMMAND", "x"),
        ("LXC_NAME", "x"),
        ("SYSTEMD_LOG_TARGET", "x"),
        ("X", "() { :; }; id"),
        ("HOME", "/tmp"),
        ("TMPDIR", "/x"),
        ("TZ", ":/x/y"),
        ("TZ", "/x/y"),
        ("TZ", "../../x"),
        ("XDG_CONFIG_HOME", "/x"),
        ("LANGUAGE", "../../../x"),
        ("LANGUAGE", "de:x/y"),
        ("LC_ALL", "/x"),
        ("TEXTDOMAINDIR", "/usr/bin"),
        ("TAR_OPTIONS", "--checkpoint-action=exec=id"),
        ("APT_CONFIG", "/usr/bin"),
        ("XTABLES_LIBDIR", "x"),
        ("IP_LIB_DIR", "x"),
        ("MODPROBE_OPTIONS", "-C x"),
        ("RSYNC_RSH", "id"),
        ("WGETRC", "/x"),
        ("LD_X_LIBDIR", "/usr/bin"),
        ("PHPRC", "x"),
        ("PHP_INI_SCAN_DIR", "x"),
        ("SSLKEYLOGFILE", "/root"),
        ("CURL_HOME", "/root"),
        ("GTK_MODULES", "x"),
        ("ANYTHING", "/store/trees/x"),
        ("ANYTHING", "-f/store/x"),
        ("ANYTHING", "a=1,b=/store/x"),
        ("ANYTHING", "/usr/bin:/store"),
        ("ANYTHING", "'/store/x'"),
        ("ANYTHING", "a/b#/store/x"),
        ("ANYTHING", "x=/lxc path/x"),
        ("ANYTHING", "../x"),
        ("ANYTHING", "x/.."),
        ("ANYTHING", "/bin:" * 65),
        ("A", "line\nline"),
        ("A\tB\x01", "x"),
    ),
)
def test_only_for_the_guest(name: str, value: str) -> None:
    assert (name, value) in plan((f"{name}={value}",)).wrapped
    assert (name, value) in plan((), ((name, value),)).wrapped


@pytest.mark.parametrize(
    "variable",
    (
        "LANG=C",
        "LC_ALL=C.UTF-8",
        "LANGUAGE=en_US:en",
        "PGDATA=/var/lib/x",
        "TZ=Europe/Berlin",
        "NGINX_VERSION=1",
        "a.b-c=d",
        "ES_PATH_CONF=/usr/share/elasticsearch/config",
        "GITLAB_OMNIBUS_CONFIG=external_url 'http://gitlab'",
        "TOMCAT_NATIVE_LIBDIR=/usr/bin",
        "GOSU_VERSION=1.17",
        "ELLIPSIS=wait... what",
        "DATA=--data=/var/lib/x,/bin",
        "LDAP=x",
        "HOME=/root",
    ),
)
def test_for_everybody(variable: str) -> None:
    assert variable in entries(plan((variable,)).image)


def test_lxc_7_needs_no_wrapper_but_for_line_ends() -> None:
    found = plan(("LD_PRELOAD=/x", "PATH=/tmp", "HOME=/tmp", "A=b\nc"), major=7)
    assert found.wrapped == (("A", "b\nc"),)
    assert {line.key for line in found.image} == {"lxc.environment.runtime"}


@pytest.mark.parametrize(
    "image",
    (
        tuple(f"A{number}=" for number in range(4097)),
        ("A=" + "x" * 131_072,),
        tuple(f"A{number}={'x' * 100_000}" for number in range(11)),
        ("A=\0",),
    ),
)
def test_limits(image: tuple[str, ...]) -> None:
    with pytest.raises(RefusedError):
        plan(image)


# --- --env and --env-file ----------------------------------------------------------------------------------------


def test_files_and_pairs(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_bytes(b"# comment\n\n  A=1 \nB=x=y\nC\nD\r\nE=\n P*\n\xff=\xfe\nF=# no comment\n")
    caller = {"C": "caller", "P1": "1", "P2": "2", "Q": "3"}
    found = overrides.environment([str(path)], ["A=2", "Q", "NONE", "G=a b"], caller)
    assert found == (
        ("A", "1 "),
        ("B", "x=y"),
        ("C", "caller"),
        ("E", ""),
        ("P1", "1"),
        ("P2", "2"),
        ("\udcff", "\udcfe"),
        ("F", "# no comment"),
        ("A", "2"),
        ("Q", "3"),
        ("G", "a b"),
    )


@pytest.mark.parametrize("pair", ("=x", "", " =x"))
def test_pairs_without_a_name(pair: str) -> None:
    with pytest.raises(UsageError, match="--env"):
        overrides.environment([], [pair])


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        overrides.environment([str(tmp_path / "none")], [])


# --- directories of the host -------------------------------------------------------------------------------------


def test_the_systems_own_directories() -> None:
    judge = HostPaths((), initial_namespace=os.geteuid() == 0)
    for path in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        assert judge.safe(path)
    for path in (
        "",
        ".",
        "bin",
        "/proc/self/root/bin",
        "/dev/fd",
        "/tmp",
        "/tmp/none/bin",
        "/usr/../tmp",
        "/run/x",
        "/var/tmp",
    ):
        assert not judge.safe(path), path


def test_who_can_fill_a_directory(tmp_path: Path) -> None:
    need.root()
    home = Path("/usr/lib") / f"oci-py-test-{os.getpid()}"
    home.mkdir()
    try:
        (home / "fine").mkdir()
        (home / "writable").mkdir()
        (home / "writable").chmod(0o777)
        (home / "writable/below").mkdir()
        (home / "theirs").mkdir()
        os.chown(home / "theirs", 1000, 0)
        (home / "grouped").mkdir()
        os.chown(home / "grouped", 0, 1000)
        (home / "grouped").chmod(0o775)
        (home / "link").symlink_to("/tmp")
        (home / "good-link").symlink_to("fine")
        (home / "dangling").symlink_to("theirs/none")
        judge = HostPaths((str(home / "fine/store"),), initial_namespace=True)
        for name in ("fine", "fine/none/bin", "good-link", "none"):
            assert judge.safe(str(home / name)), name
        for name in (
            "writable",
            "writable/below",
            "theirs",
            "theirs/x",
            "grouped",
            "link",
            "link/x",
            "dangling",
            "fine/store",
            "good-link/store/bin",
        ):
            assert not judge.safe(str(home / name)), name
        strange = {
            name
            for name in (
                "fine",
                "theirs",
                "grouped",
                "none",
                "writable",
                "writable/below",
                "link/x",
                "fine/store",
                "good-link/store/x",
            )
            if judge.strange_to_images(str(home / name))
        }
        assert strange == {"fine", "theirs", "grouped", "none"}
        inside = HostPaths((), initial_namespace=False)
        assert not inside.safe(str(home / "fine")), "in a user namespace other users' ids look like root's"
        assert inside.safe("/usr/bin") and inside.safe("/")
    finally:
        for name in ("writable/below", "fine", "writable", "theirs", "grouped"):
            (home / name).rmdir()
        for name in ("link", "good-link", "dangling"):
            (home / name).unlink()
        home.rmdir()
