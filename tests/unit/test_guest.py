# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan of a guest: pure data, the same for the same image, with every field where it belongs."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from lxc_oci.container import guest, lxcconfig, volumes
from lxc_oci.container.guest import Guest, HostFacts
from lxc_oci.container.idmap import ContainerMap, Range
from lxc_oci.container.lxcconfig import Line
from lxc_oci.container.overrides import Overrides, TmpfsOption, VolumeOption
from lxc_oci.errors import OciError, RefusedError, UnsupportedError, UsageError
from lxc_oci.image.config import ImageConfig
from lxc_oci.image.platform import Platform
from lxc_oci.kernel.root import Root
from lxc_oci.limits import Limits
from tests.support import need

MAP = ContainerMap((Range(0, 100000, 65536),), (Range(0, 100000, 65536),))
Plan = Callable[..., Guest]


class Paths:
    """A host where all but /tmp is root's alone."""

    def safe(self, path: str) -> bool:
        return not path.startswith("/tmp")

    strange_to_images = safe


class Container:
    """A container's directory with a small rootfs, and facts of a host that never change."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rootfs = directory / "rootfs"
        (self.rootfs / "bin").mkdir(parents=True)
        (self.rootfs / "bin/app").write_text("")
        (self.rootfs / "bin/app").chmod(0o755)
        self.share = directory / "share"
        self.share.mkdir()
        for name in ("common.conf", "userns.conf"):
            (self.share / name).write_text("")
        self.warnings: list[str] = []

    @property
    def facts(self) -> HostFacts:
        return HostFacts("web", str(self.directory), 5, None, (), b"nameserver 192.0.2.1\n", Paths(), str(self.share))

    def plan(
        self, overrides: Overrides | None = None, *, facts: dict[str, object] | None = None, **members: object
    ) -> Guest:
        members.setdefault("entrypoint", ("/bin/app",))
        config = ImageConfig(Platform("linux", "amd64"))._replace(**members)  # type: ignore[arg-type]
        host = self.facts._replace(**(facts or {}))  # type: ignore[arg-type]
        with Root.at(str(self.rootfs)) as root:
            return guest.plan_guest(config, overrides or Overrides(), root, host, Limits(), self.warnings.append)

    def write(self, planned: Guest) -> None:
        need.root()
        with Root.at(str(self.rootfs)) as root:
            guest.write_guest(planned, root, self.facts)


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path / "web")


def get(planned: Guest, key: str) -> str:
    return lxcconfig.last(planned.lines, key)


def test_an_ordinary_image_needs_nothing_but_lines(container: Container) -> None:
    planned = container.plan(
        cmd=("serve",), env=("PATH=/bin", "HOME=/", "A=b c"), user="5:6", stop_signal="SIGQUIT", working_dir="/"
    )
    share = container.share
    log = container.directory / "console.log"
    assert planned.text([("lxc.rootfs.path", "dir:/x")]).decode() == (
        "lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed\n"
        f"lxc.include = {share}/common.conf\n"
        "lxc.uts.name = web\n"
        "lxc.rootfs.path = dir:/x\n"
        "# lxc-oci-py: begin image block\n"
        "lxc.init.cmd = /bin/app serve\n"
        "lxc.execute.cmd = /bin/app serve\n"
        "lxc.init.uid = 5\n"
        "lxc.init.gid = 6\n"
        "lxc.init.cwd = /\n"
        "lxc.signal.halt = SIGQUIT\n"
        "lxc.environment = PATH=/bin\n"
        "lxc.environment = HOME=/\n"
        "lxc.environment = A=b c\n"
        "lxc.mount.entry = tmpfs dev/shm tmpfs nosuid,nodev,mode=1777,create=dir 0 0\n"
        f"lxc.console.logfile = {log}\n"
        "lxc.console.size = 4MB\n"
        "lxc.console.rotate = 1\n"
        "# lxc-oci-py: end image block\n"
    )
    assert planned.wrapper == b"" and container.warnings == []


def test_planning_changes_nothing_and_is_repeatable(container: Container) -> None:
    before = sorted(path.name for path in container.directory.rglob("*"))
    members = {"volumes": ("/b", "/a"), "working_dir": "/new", "env": ("LD_X=1",)}
    assert container.plan(**members) == container.plan(**members)
    assert sorted(path.name for path in container.directory.rglob("*")) == before


@pytest.mark.root  # a user's container enters its working directory by the wrapper
def test_options_have_their_own_block(container: Container) -> None:
    overrides = Overrides(
        cmd=("x",), env=(("A", "2"),), user="7", workdir="/w", hostname="other", tmpfs=(TmpfsOption("/t"),)
    )
    planned = container.plan(overrides, env=("PATH=/bin", "A=1"), user="5", working_dir="/v")
    assert {line.key for line in planned.options} == {
        "lxc.init.cmd",
        "lxc.execute.cmd",
        "lxc.init.uid",
        "lxc.init.gid",
        "lxc.init.cwd",
        "lxc.environment",
        "lxc.mount.entry",
    }
    assert get(planned, "lxc.init.uid") == "7" and get(planned, "lxc.init.cwd") == "/w"
    assert get(planned, "lxc.uts.name") == "other"
    assert [line.value for line in planned.image if line.key == "lxc.environment"] == ["PATH=/bin", "HOME=/"]
    text = planned.text()
    assert lxcconfig.block_lines(text, lxcconfig.OPTIONS_BLOCK) == list(planned.options)
    assert lxcconfig.block_lines(text, lxcconfig.IMAGE_BLOCK) == list(planned.image)


@pytest.mark.parametrize(
    "major, arguments, plain",
    (
        (5, ("/bin/app", "a b"), False),
        (6, ("/bin/app", "a b"), True),
        (6, ("/bin/app", "'\" "), False),
        (7, ("/bin/app", ""), True),
    ),
)
def test_when_the_wrapper_is_needed(container: Container, major: int, arguments: tuple[str, ...], plain: bool) -> None:
    planned = container.plan(entrypoint=arguments, env=("PATH=/bin",), facts={"lxc_major": major})
    assert (planned.wrapper == b"") == plain
    assert (get(planned, "lxc.init.cmd") == "/.oci-py/init") != plain
    mounts = [line.value for line in planned.image if ".oci-py" in line.value and line.key == "lxc.mount.entry"]
    assert (
        mounts == []
        if plain
        else [f"{container.directory}/oci-py/guest .oci-py none bind,ro,nosuid,nodev,create=dir 0 0"]
    )


def test_other_architectures_use_the_images_shell(container: Container) -> None:
    platform = Platform("linux", "riscv64")
    planned = container.plan(platform=platform, entrypoint=("/bin/app", "a b"), env=("PATH=/bin",))
    assert planned.wrapper.startswith(b"#!/bin/sh\n") and planned.wrapper_mode == 0o755
    with pytest.raises(UnsupportedError, match=r"a\.b"):
        container.plan(platform=platform, env=("a.b=\n",))


def test_no_command(container: Container) -> None:
    with pytest.raises(RefusedError, match="no command"):
        container.plan(entrypoint=())
    (container.rootfs / "bin/sh").symlink_to("app")
    assert get(container.plan(entrypoint=()), "lxc.init.cmd") == "/bin/sh"


@pytest.mark.parametrize(
    "program, target, signal",
    (
        ("/bin/app", None, "SIGTERM"),
        ("/sbin/init", "/lib/systemd/systemd", ""),
        ("/lib/systemd/systemd", None, ""),
        ("systemd", None, ""),
        ("/sbin/init", "/bin/busybox", "SIGUSR1"),
        ("/init", None, "SIGTERM"),
    ),
)
def test_how_it_is_stopped(container: Container, program: str, target: str | None, signal: str) -> None:
    if target:
        (container.rootfs / "sbin").mkdir()
        (container.rootfs / "sbin/init").symlink_to(target)
    assert get(container.plan(entrypoint=(program,)), "lxc.signal.halt") == signal
    assert get(container.plan(entrypoint=(program,), stop_signal="SIGINT"), "lxc.signal.halt") == "SIGINT"


def test_working_directory_of_a_confined_root(container: Container) -> None:
    """Root inside can swap any directory; only an id map makes it somebody else outside."""
    need.root()
    (container.rootfs / "srv/www").mkdir(parents=True)
    planned = container.plan(working_dir="/srv/www", env=("PATH=/bin",))
    assert get(planned, "lxc.init.cwd") == "/srv/www" and not planned.wrapper
    planned = container.plan(working_dir="/srv/www", env=("PATH=/bin",), facts={"idmap": MAP})
    assert get(planned, "lxc.init.cwd") == "/" and b"/srv/www" in planned.wrapper
    planned = container.plan(working_dir="/srv/www", user="1000", env=("PATH=/bin",), facts={"idmap": MAP})
    assert get(planned, "lxc.init.cwd") == "/srv/www" and not planned.wrapper


def test_id_maps(container: Container) -> None:
    planned = container.plan(facts={"idmap": MAP})
    assert [line.value for line in planned.base if line.key == "lxc.include"] == [
        f"{container.share}/common.conf",
        f"{container.share}/userns.conf",
    ]
    with pytest.raises(RefusedError, match="id map"):
        container.plan(user="70000", facts={"idmap": MAP})


def test_supplementary_groups(container: Container) -> None:
    (container.rootfs / "etc").mkdir()
    (container.rootfs / "etc/passwd").write_text("app:x:5:6::/:\n")
    (container.rootfs / "etc/group").write_text("a:x:7:app\nb:x:8:app\n")
    assert get(container.plan(user="app"), "lxc.init.groups") == "7,8"
    assert container.warnings == []
    container.plan(user="app", facts={"idmap": MAP})
    assert len(container.warnings) == 1 and "groups" in container.warnings[0]
    container.plan(user="app", facts={"idmap": MAP, "lxc_major": 7})
    assert len(container.warnings) == 1


def test_a_console_of_the_user_stays(container: Container) -> None:
    planned = container.plan(facts={"configuration": (Line("lxc.console.path", "none"),)})
    assert not [line for line in planned.lines if line.key.startswith("lxc.console")]


def test_writing_twice_is_writing_once(container: Container) -> None:
    planned = container.plan(env=("LD_X=secret",), volumes=("/data",), working_dir="/srv/deep")
    old = os.umask(0o077)
    try:
        container.write(planned)
        (container.directory / "oci-py/volumes/data/kept").write_text("x")
        container.write(planned)
    finally:
        os.umask(old)
    program = container.directory / "oci-py/guest/init"
    assert program.read_bytes() == planned.wrapper and stat.S_IMODE(program.stat().st_mode) == 0o711
    assert stat.S_IMODE(program.parent.stat().st_mode) == 0o755
    assert (container.directory / "oci-py/volumes/data/kept").read_text() == "x"
    for name in ("srv/deep", "data", ".oci-py"):
        assert stat.S_IMODE((container.rootfs / name).stat().st_mode) == 0o755


def test_no_program_on_a_file_system_without_programs(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(container.directory)
    flags = [*real[:8], real.f_flag | os.ST_NOEXEC, real.f_namemax]
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(flags))
    container.plan(env=("PATH=/bin",))
    with pytest.raises(UnsupportedError, match="noexec"):
        container.plan(env=("LD_X=1",))


# --- volumes -----------------------------------------------------------------------------------------------------


def test_volumes_of_the_image(container: Container) -> None:
    need.root()
    (container.rootfs / "var/lib/db").mkdir(parents=True)
    (container.rootfs / "var/lib/db/seed").write_text("x")
    os.chown(container.rootfs / "var/lib/db/seed", 5, 6)
    os.chown(container.rootfs / "var/lib/db", 5, 6)
    (container.rootfs / "var/lib/db").chmod(0o750)
    (container.rootfs / "empty").mkdir()
    (container.rootfs / "empty").chmod(0o1777)
    (container.rootfs / "link").symlink_to("empty")
    planned = container.plan(volumes=("/var/lib/db/", "/link", "new/one", "/with space"))
    container.write(planned)
    home = container.directory / "oci-py/volumes"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert sorted(path.name for path in home.iterdir()) == ["empty", "new%2Fone", "var%2Flib%2Fdb", "with%20space"]
    database = home / "var%2Flib%2Fdb"
    assert (database / "seed").read_text() == "x" and (database / "seed").stat().st_uid == 5
    assert stat.S_IMODE(database.stat().st_mode) == 0o750 and database.stat().st_gid == 6
    assert stat.S_IMODE((home / "empty").stat().st_mode) == 0o1777
    entries = [
        f"{home}/empty empty none bind 0 0",
        f"{home}/new%2Fone new/one none bind 0 0",
        f"{home}/var%2Flib%2Fdb var/lib/db none bind 0 0",
        f"{home}/with%20space with\\040space none bind 0 0",
    ]
    assert list(planned.mounts.fstab) == entries
    fstab = container.directory / "fstab"
    assert fstab.read_text().splitlines() == entries
    assert f"lxc.mount.fstab = {fstab}" in planned.text().decode()


def test_the_users_mounts_come_before_the_images(container: Container) -> None:
    host = container.directory / "host dir"
    host.mkdir()
    (container.directory / "file").write_text("")
    overrides = Overrides(
        volumes=(
            VolumeOption(str(host), "/data", True),
            VolumeOption(str(container.directory / "file"), "/etc/x.conf"),
            VolumeOption("/usr", "/twice"),
            VolumeOption("/bin", "/twice"),
        ),
        tmpfs=(TmpfsOption("/cache", "1m"), TmpfsOption("/dev/shm", "2m")),
    )
    planned = container.plan(overrides, volumes=("/data", "/data/sub", "/database", "/cache"))
    escaped = str(host).replace(" ", "\\040")
    assert [line.value for line in planned.mounts.options] == [
        "tmpfs cache tmpfs nosuid,nodev,mode=1777,size=1m 0 0",
        f"{escaped} data none rbind,ro,nosuid,nodev 0 0",
        f"{container.directory}/file etc/x.conf none rbind 0 0",
        "/bin twice none rbind 0 0",
    ]
    assert planned.mounts.image[0].value == "tmpfs dev/shm tmpfs nosuid,nodev,mode=1777,create=dir,size=2m 0 0"
    assert [volume.target for volume in planned.mounts.volumes] == ["/database"]
    assert planned.mounts.files == ("/etc/x.conf",)
    container.write(planned)
    assert (container.rootfs / "etc/x.conf").read_bytes() == b""


def test_volumes_that_are_lxcs_own(container: Container) -> None:
    planned = container.plan(volumes=("/sys/fs/cgroup", "/data", "/dev/shm"))
    assert [volume.target for volume in planned.mounts.volumes] == ["/data"]
    assert len(container.warnings) == 2 and "'/sys/fs/cgroup' lies in /sys" in container.warnings[0]


def test_a_volume_that_the_host_lacks(container: Container) -> None:
    with pytest.raises(UsageError, match="No such file"):
        container.plan(Overrides(volumes=(VolumeOption("/none/such", "/data"),)))


def test_a_file_over_a_directory_is_refused(container: Container) -> None:
    (container.rootfs / "data").mkdir()
    planned = container.plan(Overrides(volumes=(VolumeOption("/etc/hostname", "/data"),)))
    with pytest.raises(OciError, match="directory in the image"):
        container.write(planned)


def test_names_of_volumes_differ(container: Container) -> None:
    long = "/" + "/".join(["x" * 100] * 4)
    with Root.at(str(container.rootfs)) as root:
        found = volumes.plan(("/a/b", "/a%2Fb", long, long + "y"), (), (), root, "/c", container.warnings.append)
    names = [volume.name for volume in found.volumes]
    assert len(set(names)) == 4 and all(len(name) <= 200 for name in names)
