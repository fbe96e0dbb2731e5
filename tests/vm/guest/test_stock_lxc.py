# SPDX-License-Identifier: LGPL-2.1-or-later
"""LXC's own containers work in the box, so that a failure of ours is ours; and a forbidden mount is told."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.guest.denials import Watch
from tests.vm.guest.login import USER, as_user

pytestmark = pytest.mark.box

SUITE = Path(__file__).resolve().parents[3]
TEMPLATE = str(Path(__file__).resolve().with_name("lxc-tiny"))


def run(*argv: str) -> str:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}"
    return done.stdout


@pytest.fixture
def stock() -> Iterator[str]:
    """A container of LXC's own making in the usual place."""
    run("lxc-create", "-n", "stock", "-t", TEMPLATE)
    yield "stock"
    run("lxc-destroy", "-f", "-n", "stock")


@pytest.fixture
def hers() -> Iterator[str]:
    """One of the unprivileged user."""
    run(*as_user("lxc-create", "-n", "hers", "-t", TEMPLATE))
    yield "hers"
    run(*as_user("lxc-destroy", "-f", "-n", "hers"))


def test_root_container_is_confined(stock: str) -> None:
    run("lxc-start", "-n", stock)
    run("lxc-wait", "-n", stock, "-s", "RUNNING", "-t", "60")
    pid = run("lxc-info", "-n", stock, "-p", "-H").strip()
    label = Path(f"/proc/{pid}/attr/current").read_text()
    assert "lxc-stock" in label and "enforce" in label
    assert run("lxc-attach", "-n", stock, "--", "cat", "/proc/1/comm") == "sleep\n"
    run("lxc-stop", "-k", "-n", stock)


def test_user_container_in_a_delegated_group(hers: str) -> None:
    run(*as_user("lxc-unpriv-start", "-n", hers))
    run(*as_user("lxc-wait", "-n", hers, "-s", "RUNNING", "-t", "60"))
    pid = run(*as_user("lxc-info", "-n", hers, "-p", "-H")).strip()
    assert os.stat(f"/proc/{pid}").st_uid == 100000
    assert f"/user@{os.stat(f'/home/{USER}').st_uid}.service/" in Path(f"/proc/{pid}/cgroup").read_text()
    assert run(*as_user("lxc-unpriv-attach", "-n", hers, "--", "id", "-u")).splitlines()[-1] == "0"
    run(*as_user("lxc-stop", "-k", "-n", hers))


FORBIDDEN = """\
import subprocess

def test_that_sees_nothing_wrong() -> None:
    subprocess.run(["lxc-start", "-n", "stock"], check=False)
    subprocess.run(["lxc-stop", "-k", "-n", "stock"], check=False)
"""


def test_a_mount_elsewhere_fails_the_test(stock: str, tmp_path: Path, denials: Watch) -> None:
    """The check itself: a hook mounts outside the container's directory, its test passes, and yet the run fails."""
    hook = Path("/var/lib/lxc/stock/hook")
    # Not a plain read-write mount: in Debian 12 `mount options=(rw, make-slave) -> **` of lxc-start's profile, meant
    # for propagation alone, lets those through everywhere (CVE-2016-1585).
    hook.write_text("#!/bin/sh\nmkdir -p /run/elsewhere\nmount --bind /usr /run/elsewhere || true\n")
    hook.chmod(0o755)
    with open("/var/lib/lxc/stock/config", "a", encoding="ascii") as config:
        config.write(f"lxc.hook.pre-mount = {hook}\nlxc.apparmor.profile = lxc-container-default-cgns\n")
    (tmp_path / "test_inner.py").write_text(FORBIDDEN)
    plain = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", f"--rootdir={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(SUITE)}
    command = [sys.executable, *plain, "-p", "tests.vm.guest.denials", str(tmp_path)]
    watched = subprocess.run(command, env=environment, capture_output=True, text=True)
    taken = denials.take(operation="mount", name="/run/elsewhere/")
    assert taken and taken[0].fields["profile"] == "/usr/bin/lxc-start"
    assert watched.returncode == 1 and 'apparmor="DENIED"' in watched.stdout, watched.stdout
    assert "1 passed, 1 error" in watched.stdout
