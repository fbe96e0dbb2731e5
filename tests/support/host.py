# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host with LXC for one test: an lxcpath, a store and a default configuration of its own, as root or as a user.

Nothing of the real host's containers or network is touched; `close` destroys what is left and fails when something
stays mounted.
"""

import os
import pwd
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support import launch, need

_TIMEOUT = 120  # seconds; generous, the machine may be emulated


class Host:
    """LXC's verbs and ours, with the options that keep a test to itself."""

    def __init__(self, directory: Path, user: str | None = None) -> None:
        self.directory = directory
        self.user = user
        self.prefix: tuple[str, ...] = ()  # a command that runs root's commands
        self.lxcpath = directory / "lxc"
        # A user's store lies where the user may write: below the home directory.
        home = Path(pwd.getpwnam(user).pw_dir) if user else None
        self.store = home / f"store-{directory.name}" if home else directory / "store"
        self.template, self.command = launch.doors(directory)
        self.configuration = directory / "default.conf"
        lines = ["lxc.net.0.type = empty"]
        if user is not None:
            first, count = _subordinate_ids("/etc/subuid", user)
            lines += [f"lxc.idmap = u 0 {first} {count}"]
            first, count = _subordinate_ids("/etc/subgid", user)
            lines += [f"lxc.idmap = g 0 {first} {count}"]
        if os.path.isdir("/sys/kernel/security/apparmor"):
            # As Debian documents it: a user cannot load a profile.
            lines += [f"lxc.apparmor.profile = {'generated' if user is None else 'unconfined'}"]
        self.configuration.write_text("".join(f"{line}\n" for line in lines))
        self.lxcpath.mkdir(mode=0o755)
        if user is not None:
            owner = pwd.getpwnam(user)
            os.chown(self.lxcpath, owner.pw_uid, owner.pw_gid)

    # --- running -------------------------------------------------------------------------------------------

    def run(
        self,
        *argv: str | Path,
        check: bool = True,
        input: bytes | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float = _TIMEOUT,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program as this host's user; with `check`, a failure fails the test and shows the output."""
        command = [*self._become(), *map(str, argv)]
        done = subprocess.run(
            command,
            input=input if input is not None else b"",
            capture_output=True,
            timeout=timeout,
            env={**self._environment(), **(environment or {})},
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return done

    def _environment(self) -> dict[str, str]:
        home = pwd.getpwnam(self.user).pw_dir if self.user else "/root"
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": home,
            "LC_ALL": "C.UTF-8",
            "LXC_OCI_PY_STORE": str(self.store),
        }

    def _become(self) -> list[str]:
        if self.user is None:
            return list(self.prefix)
        return [str(launch.CHECKOUT / "tests/support/as-user"), self.user]

    def oci(self, *argv: str, check: bool = True, **words: object) -> subprocess.CompletedProcess[bytes]:
        """Run the command lxc-oci-py."""
        return self.run(self.command, *argv, check=check, **words)  # type: ignore[arg-type]

    def lxc(self, verb: str, name: str, *argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run `lxc-VERB -P LXCPATH -n NAME …`."""
        return self.run(f"lxc-{verb}", "-P", self.lxcpath, "-n", name, *argv, check=check)

    # --- the verbs -----------------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        url: str,
        *options: str,
        lxc: Sequence[str] = (),
        check: bool = True,
        input: bytes | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """`lxc-create -t oci-py -n NAME -- --url URL OPTIONS`; `lxc` are options of lxc-create."""
        return self.run(
            "lxc-create", "-P", self.lxcpath, "-f", self.configuration, "-n", name, "-t", self.template, *lxc,
            "--", "--url", url, *options, check=check, input=input,
        )  # fmt: skip

    def start(self, name: str) -> None:
        """Start a container in the background and wait until it runs."""
        log = self.lxcpath / f"{name}.log"
        started = self.lxc("start", name, "-d", "-l", "DEBUG", "-o", log, check=False)
        assert started.returncode == 0, f"{started.stderr.decode()}\n{log.read_text(errors='replace')[-4000:]}"
        self.lxc("wait", name, "-s", "RUNNING", "-t", "120")

    def stop(self, name: str, *options: str) -> None:
        """Stop a container and wait for its end."""
        self.lxc("stop", name, *options)
        self.lxc("wait", name, "-s", "STOPPED", "-t", "120")

    def execute(self, name: str, *argv: str, check: bool = True) -> bytes:
        """`lxc-execute NAME -- ARGV`; returns what it printed.  Without arguments, runs what the container says."""
        return self.lxc("execute", name, *(("--", *argv) if argv else ()), check=check).stdout

    def attach(self, name: str, *argv: str) -> bytes:
        """`lxc-attach NAME -- ARGV`; returns what it printed."""
        # Without systemd's delegation a user's lxc-attach cannot join the container's group, runs the program and
        # then says so by its status.
        strict = self.user is None or os.path.isdir("/run/systemd/system")
        return self.lxc("attach", name, "--clear-env", "--", *argv, check=strict).stdout

    def key(self, name: str, key: str) -> str:
        """The value of a configuration key as liblxc itself reads it."""
        output = self.lxc("info", name, "-c", key).stdout.decode()
        return output.partition(" = ")[2].rstrip("\n")

    def config(self, name: str) -> str:
        """The text of a container's configuration."""
        return (self.lxcpath / name / "config").read_text()

    def destroy(self, name: str, *options: str) -> None:
        """Destroy a container."""
        self.lxc("destroy", name, *options)

    # --- the end -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Destroy what is left; fail when a mount stays."""
        for container in sorted(self.lxcpath.iterdir()):
            if container.is_dir():
                self.lxc("stop", container.name, "-k", check=False)
        for container in sorted(self.lxcpath.iterdir(), reverse=True):
            if container.is_dir():
                self.lxc("destroy", container.name, "-s", "-f", check=False)
        subprocess.run(["rm", "-rf", "--one-file-system", self.store, self.lxcpath], check=True)
        left = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.directory) in line]
        assert not left, left


@contextmanager
def host(directory: Path, user: str | None = None) -> Iterator[Host]:
    """A Host for the time of the context."""
    need.root()
    need.program("lxc-create")
    for ancestor in (directory, *directory.parents):
        if str(ancestor).startswith("/tmp/") or str(ancestor).startswith("/var/lib/lxc/"):
            ancestor.chmod(ancestor.stat().st_mode | 0o011)  # the container's root must be able to pass
    made = Host(directory, user)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def test_user() -> Iterator[str]:
    """An unprivileged user with a range of subordinate ids, for the time of the context: this process's own, because
    another run of the tests may have one too."""
    need.root()
    need.program("newuidmap")
    name = f"oci-py-{os.getpid()}"
    subprocess.run(["userdel", "-r", "-f", name], check=False, capture_output=True)
    subprocess.run(["useradd", "-m", "-s", "/bin/sh", name], check=True)
    home = pwd.getpwnam(name).pw_dir
    os.chmod(home, 0o711)
    try:
        _subordinate_ids("/etc/subuid", name)
        yield name
    finally:
        _end_processes(name)
        for group in Path("/sys/fs/cgroup").glob(f"*/{name}"):
            subprocess.run(["find", str(group), "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"], check=False)
        subprocess.run(["userdel", "-r", "-f", name], check=False, capture_output=True)


def _end_processes(user: str) -> None:
    """Kill what a user still runs, and wait until it is gone: its control groups cannot be removed before."""
    first, count = _subordinate_ids("/etc/subuid", user)
    owners = {pwd.getpwnam(user).pw_uid, *range(first, first + count)}
    end = time.monotonic() + _TIMEOUT
    while time.monotonic() < end:
        found = [path for path in Path("/proc").glob("[0-9]*") if _owner(path) in owners]
        if not found:
            return
        for path in found:
            subprocess.run(["kill", "-KILL", path.name], check=False, capture_output=True)
        time.sleep(0.05)
    raise AssertionError(f"processes of {user} do not end: {found}")


def _owner(process: Path) -> int:
    try:
        if "\nState:\tZ" in (process / "status").read_text():
            return -1
        return process.stat().st_uid
    except OSError:
        return -1


def _subordinate_ids(path: str, user: str) -> tuple[int, int]:
    for line in Path(path).read_text().splitlines():
        owner, first, count = line.split(":")
        if owner == user:
            return int(first), int(count)
    raise AssertionError(f"{user} has no range in {path}")
