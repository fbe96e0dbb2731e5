# SPDX-License-Identifier: LGPL-2.1-or-later
"""The box is what it claims to be, and our package is installed in it as on a user's machine."""

import os
import platform
import re
import subprocess
from pathlib import Path

import pytest

from tests.support import need

pytestmark = pytest.mark.box


def output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def codename() -> str:
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def test_kernel_is_debians() -> None:
    assert "Debian" in platform.version()
    release = {"bookworm": (6, 1), "trixie": (6, 12)}[codename()]
    major, minor = re.match(r"(\d+)\.(\d+)", platform.release()).groups()  # type: ignore[union-attr]
    assert (int(major), int(minor)) == release


def test_apparmor_confines_lxc_start() -> None:
    assert Path("/sys/module/apparmor/parameters/enabled").read_text() == "Y\n"
    profiles = Path("/sys/kernel/security/apparmor/profiles").read_text().splitlines()
    enforced = {line for line in profiles if line.startswith("/usr/bin/lxc-")}
    # Debian 12 has no profile for lxc-copy.
    also = {"/usr/bin/lxc-copy (enforce)"} if codename() == "trixie" else set()
    assert enforced == {"/usr/bin/lxc-start (enforce)"} | also


def test_cgroups_are_unified_and_systemd_runs() -> None:
    assert Path("/sys/fs/cgroup/cgroup.controllers").exists()
    assert Path("/proc/1/comm").read_text() == "systemd\n"


def test_nothing_failed_at_boot() -> None:
    assert output("systemctl", "--failed", "--plain", "--no-legend") == ""


def test_no_network_but_lxcs_own() -> None:
    assert set(os.listdir("/sys/class/net")) <= {"lo", "lxcbr0"}


@pytest.mark.parametrize("name", ["erofs", "squashfs", "overlay", "btrfs", "fuse"])
def test_kernel_has_filesystem(name: str) -> None:
    need.kernel_filesystem(name)


@pytest.mark.parametrize("name", ["dm-verity", "loop", "veth"])
def test_kernel_has_module(name: str) -> None:
    need.kernel_module(name)


def test_every_dependency_and_recommendation_is_installed() -> None:
    """apt leaves out what it cannot get, silently if it is only recommended; tests would then run without."""
    fields = output("dpkg-query", "-W", "-f", "${Depends},${Recommends}", "lxc-oci-py")
    names = [re.match(r"[a-z0-9.+-]+", field.strip())[0] for field in fields.split(",") if field.strip()]  # type: ignore[index]
    assert "lxc" in names and "uidmap" in names
    for name in names:
        assert output("dpkg-query", "-W", "-f", "${db:Status-Status}", name) == "installed", name


def test_the_installed_package_is_what_runs() -> None:
    found = output("/usr/bin/python3", "-c", "import lxc_oci; print(lxc_oci.__file__)").strip()
    assert found == "/usr/lib/python3/dist-packages/lxc_oci/__init__.py"
    assert os.environ["LXC_OCI_PY_INSTALLED"] == "1"
