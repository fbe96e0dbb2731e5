# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our package over its life, with containers that run: upgraded, removed, purged, installed again, by apt.

By its name the last of the box's tests: it leaves no package for others.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.box import DEBS, Box
from tests.vm.prepare import packages_for

pytestmark = pytest.mark.box

PREVIOUS = "0.0.9"
STORE = "/var/lib/lxc-oci-py"
APT = "DEBIAN_FRONTEND=noninteractive apt-get --yes"
RUNNING = "lxc-wait -n {name} -s RUNNING -t 60 && lxc-info -n {name} -p -H"


def previous_package(package: Path, directory: Path) -> Path:
    """The same program as an earlier version."""
    tree = directory / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    for name, line in {
        "DEBIAN/control": f"Version: {PREVIOUS}-1",
        "usr/lib/python3/dist-packages/lxc_oci/__init__.py": f'__version__ = "{PREVIOUS}"',
    }.items():
        path = tree / name
        text, count = re.subn(f"^{re.escape(line.split()[0])} .*$", line, path.read_text(), flags=re.MULTILINE)
        assert count == 1
        path.write_text(text)
    made = directory / f"lxc-oci-py_{PREVIOUS}-1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, made], check=True)
    return made


@pytest.fixture
def previous(box: Box) -> Iterator[str]:
    """The path in the box of an earlier version of our package."""
    with tempfile.TemporaryDirectory() as directory:
        made = previous_package(packages_for(box.release)[0], Path(directory))
        box.unpack([(made, made.name)], DEBS)
        yield f"{DEBS}/{made.name}"


def test_containers_outlive_the_package(box: Box, image: str, configuration: str, previous: str) -> None:
    current = f"{DEBS}/{packages_for(box.release)[0].name}"
    box.check(["dpkg", "--install", previous])
    assert PREVIOUS in box.check(["lxc-oci-py", "--version"])
    box.check(["lxc-create", "-n", "kept", "-f", configuration, "-t", "oci-py", "--", "--url", image])
    box.check(["lxc-create", "-n", "hers", "-t", "oci-py", "--", "--url", image], user="user")
    box.check(["lxc-start", "-n", "kept"])
    box.check(["lxc-unpriv-start", "-n", "hers"], user="user")
    pid = box.check(RUNNING.format(name="kept"))
    hers = box.check(RUNNING.format(name="hers"), user="user")

    box.check(f"{APT} install {current}")
    assert PREVIOUS not in box.check(["lxc-oci-py", "--version"])
    assert box.check(RUNNING.format(name="kept")) == pid
    assert box.check(RUNNING.format(name="hers"), user="user") == hers
    box.check(["lxc-attach", "-n", "kept", "--", "/bin/sh", "-c", "echo mine > /etc/mine"])
    box.check(["lxc-stop", "-k", "-n", "kept"])
    box.check(["lxc-stop", "-k", "-n", "hers"], user="user")
    # Where layers are mounted, its configuration names no image from here on: the plan of its third form does.
    for storage in ("flat", "layered"):
        box.check(["lxc-oci-py", "convert", "--storage", storage, "kept"])
    box.check(["lxc-start", "-n", "kept"])
    box.check(["lxc-unpriv-start", "-n", "hers"], user="user")
    pid = box.check(RUNNING.format(name="kept"))
    box.check(RUNNING.format(name="hers"), user="user")
    box.check(["lxc-destroy", "-f", "-n", "hers"], user="user")

    removed = box.check(f"{APT} remove lxc-oci-py")
    assert "/var/lib/lxc/kept/config" in removed
    assert box.check(RUNNING.format(name="kept")) == pid
    box.check(["lxc-stop", "-k", "-n", "kept"])
    assert box.run("lxc-start -F -n kept -o /root/log -l DEBUG").status != 0
    assert "this container needs the package lxc-oci-py: apt install lxc-oci-py" in box.check("cat /root/log")
    assert f"{STORE} is kept" in box.check(f"{APT} purge lxc-oci-py")

    box.check(f"{APT} install {current}")
    box.check(["lxc-start", "-n", "kept"])
    box.check(RUNNING.format(name="kept"))
    assert box.check(["lxc-attach", "-n", "kept", "--", "/bin/cat", "/etc/mine"]) == "mine\n"
    assert box.check("lxc-oci-py verify 2>/dev/null") == ""
    box.check(["lxc-destroy", "-f", "-n", "kept"])
    assert f"removing {STORE}, which no container needs" in box.check(f"{APT} purge lxc-oci-py")
    assert box.check(f"ls -d {STORE} /usr/share/lxc/hooks/oci-py-* 2>/dev/null || true") == ""
