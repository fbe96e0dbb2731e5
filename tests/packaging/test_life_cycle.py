# SPDX-License-Identifier: LGPL-2.1-or-later
"""Install, remove, reinstall and purge, with and without containers, by real dpkg in a box."""

import subprocess
from pathlib import Path

import pytest

from tests.packaging.conftest import Box
from tests.support import need

HOOK = "/usr/share/lxc/hooks/oci-py-mount"
STORE = "/var/lib/lxc-oci-py"
TREE = f"{STORE}/trees/sha256-" + "0" * 64

pytestmark = pytest.mark.root


@pytest.fixture
def installed(box: Box, package: Path) -> Box:
    """A box with the package, whatever the machine had before."""
    need.program("lxc-create")
    box.run("/bin/sh", "-c", f"rm -rf {STORE} /var/lib/lxc/*")
    box.write(f"/tmp/{package.name}", package.read_bytes())
    install(box, package)
    return box


def install(box: Box, package: Path) -> None:
    box.run("dpkg", "--force-depends", "--force-unsafe-io", "--no-triggers", "--install", f"/tmp/{package.name}")


def make_container(box: Box, directory: str = "/var/lib/lxc/web") -> None:
    """Leave what a create leaves: a configuration with our hook, and something in the store."""
    box.write(f"{TREE}/bin/sh", b"kept")
    config = f"lxc.rootfs.path = overlay:{TREE}:{directory}/overlay/delta\nlxc.hook.pre-mount = {HOOK}\n"
    box.write(f"{directory}/config", config.encode())


def update_container(box: Box, directory: str) -> None:
    """Leave what later updates leave: a configuration that names neither the store nor an image."""
    make_container(box, directory)
    box.write(f"{directory}/config", f"lxc.hook.pre-mount = {HOOK} --generation=2\n".encode())
    box.write(f"{directory}/oci-py/g2/plan.json", f'{{"lower": ["{TREE}"]}}'.encode())


def test_nothing_is_left_without_containers(installed: Box) -> None:
    installed.write(f"{TREE}/bin/sh", b"in the store")
    installed.write("/etc/lxc-oci-py/limits.conf", b"layers = 100\n")
    assert "lxc-oci-py 0." in installed.run("/usr/bin/lxc-oci-py", "--version").stdout
    installed.run("dpkg", "--no-triggers", "--remove", "lxc-oci-py")
    assert installed.exists(STORE)
    said = installed.run("dpkg", "--no-triggers", "--purge", "lxc-oci-py").stdout
    assert f"removing {STORE}, which no container needs" in said
    places = ["/etc", "/usr/bin", "/usr/lib/python3", "/usr/share", "/var/lib"]
    left = installed.run("find", *places, "-xdev", "-name", "*oci[-_]py*").stdout.split()
    assert left == []


def test_a_removed_hook_says_what_to_install(installed: Box, package: Path) -> None:
    make_container(installed)
    real = installed.run("cat", HOOK).stdout
    said = installed.run("dpkg", "--no-triggers", "--remove", "lxc-oci-py").stdout
    assert "/var/lib/lxc/web/config" in said
    assert installed.exists("/var/lib/lxc/web/config") and installed.exists(TREE)
    done = installed.run(HOOK, check=False)
    assert done.returncode == 1
    assert done.stdout == "oci-py-mount: this container needs the package lxc-oci-py: apt install lxc-oci-py\n"
    install(installed, package)
    assert installed.run("cat", HOOK).stdout == real


@pytest.mark.parametrize("place", ["/var/lib/lxc/web", "/var/lib/lxc/old/snaps/snap0", "/srv/machines/web"])
def test_purge_keeps_a_store_that_is_needed(installed: Box, package: Path, place: str) -> None:
    make_container(installed, place)
    installed.write(f"{STORE}/containers/1", b'{\n  "lxcpath": "/srv/machines",\n  "name": "web"\n}\n')
    installed.run("mkdir", "-p", "/srv/machines")
    said = installed.run("dpkg", "--no-triggers", "--purge", "lxc-oci-py").stdout
    assert f"{STORE} is kept" in said and f"{place}/config" in said
    assert installed.run("cat", f"{TREE}/bin/sh").stdout == "kept"
    assert installed.exists(HOOK)
    install(installed, package)
    installed.run("rm", "-r", place)
    assert "is kept" not in installed.run("dpkg", "--no-triggers", "--purge", "lxc-oci-py").stdout
    assert not installed.exists(STORE) and not installed.exists(HOOK)


@pytest.mark.parametrize("place", ["/var/lib/lxc/web", "/var/lib/lxc/web/snaps/snap0", "/var/lib/lxcsnaps/web/snap0"])
def test_purge_keeps_a_store_that_an_update_needs(installed: Box, place: str) -> None:
    update_container(installed, place)
    said = installed.run("dpkg", "--no-triggers", "--purge", "lxc-oci-py").stdout
    assert f"{STORE} is kept" in said and f"{place}/oci-py/g2/plan.json" in said
    assert installed.exists(TREE)
    assert f"left for containers that name it: {HOOK}\n" in said


@pytest.mark.parametrize("mounted", [False, True])
def test_purge_keeps_a_store_whose_disk_is_not_mounted(installed: Box, mounted: bool) -> None:
    """The mount point is there, and empty."""
    installed.run("mkdir", "-p", "/mnt/machines")
    if mounted:
        installed.run("mount", "-t", "tmpfs", "none", "/mnt/machines")
    reference = b'{\n  "lxcpath": "/mnt/machines",\n  "name": "web",\n  "mountPoint": "/mnt/machines"\n}\n'
    installed.write(f"{STORE}/containers/1", reference)
    said = installed.run("dpkg", "--no-triggers", "--purge", "lxc-oci-py").stdout
    assert ("what is on /mnt/machines, which is not mounted now" in said) is not mounted
    assert installed.exists(STORE) is not mounted


def test_purge_empties_a_store_that_is_a_disk(installed: Box) -> None:
    installed.run("mkdir", "-p", STORE)
    installed.run("mount", "-t", "tmpfs", "none", STORE)
    installed.write(f"{TREE}/bin/sh", b"in the store")
    said = installed.run("dpkg", "--no-triggers", "--purge", "lxc-oci-py").stdout
    assert said.splitlines()[-1] == f"lxc-oci-py: removing {STORE}, which no container needs"
    assert installed.run("ls", "-A", STORE).stdout == ""


def test_a_user_s_container_gets_a_note_wherever_their_home_is(installed: Box) -> None:
    place = "/srv/people/ann/.local/share/lxc"
    installed.run("/bin/sh", "-c", "echo ann:x:4711:4711::/srv/people/ann:/bin/sh >>/etc/passwd")
    make_container(installed, f"{place}/web")
    installed.run("mkdir", f"{place}/trap")
    installed.run("mkfifo", f"{place}/trap/config")
    said = installed.run("timeout", "60", "dpkg", "--no-triggers", "--remove", "lxc-oci-py").stdout
    assert f"{place}/web/config" in said
    assert "this container needs the package" in installed.run(HOOK, check=False).stdout


def test_purge_keeps_a_store_whose_containers_are_elsewhere(installed: Box) -> None:
    """An lxcpath may be a disk that is not mounted now."""
    installed.write(f"{STORE}/containers/1", b'{\n  "lxcpath": "/mnt/machines",\n  "name": "web"\n}\n')
    said = installed.run("dpkg", "--no-triggers", "--purge", "lxc-oci-py").stdout
    assert "/mnt/machines, which is not there now" in said
    assert installed.exists(STORE)


def test_the_installed_program_is_this_one(
    installed: Box, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every module is compiled at installation: root must not write beside them later."""
    sources = installed.run("find", "/usr/lib/python3/dist-packages/lxc_oci", "-name", "*.py").stdout.split()
    compiled = installed.run("find", "/usr/lib/python3/dist-packages/lxc_oci", "-name", "*.pyc").stdout.split()
    assert len(compiled) == len(sources) > 10
    names = subprocess.run(["dpkg-deb", "-c", package], check=True, capture_output=True, text=True).stdout
    assert all(f".{source}" in names for source in sources)
