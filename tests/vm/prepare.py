# SPDX-License-Identifier: LGPL-2.1-or-later
"""What goes into a box before its tests run: our packages, the tests, and the real helper if it could be built."""

from __future__ import annotations

from pathlib import Path

from tests.peers import build
from tests.vm.box import PROJECT, Box

# The environment of the tests in the box; CI=1: there, what a test needs and lacks is a failure.
GUEST_ENVIRONMENT = {"CI": "1", "LXC_OCI_PY_INSTALLED": "1"}


class Live:
    """A pytest plugin that lends a running box to tests/vm/host."""

    def __init__(self, box: Box) -> None:
        self.box = box


def packages_for(release: str) -> list[Path]:
    """What `make deb` made, for this release: Debian 12 lacks modules that Debian 13 has itself."""
    dist = PROJECT / "dist"
    ours = sorted(dist.glob("lxc-oci-py_*_all.deb"), key=lambda path: path.stat().st_mtime)
    if not ours:
        raise FileNotFoundError(f"no package in {dist}: make deb")
    return [ours[-1], *(sorted(dist.glob("python3-*.deb")) if release == "bookworm" else [])]


def prepare(box: Box) -> None:
    """Install our packages and bring the tests in, for good: tests cut the power."""
    box.install(packages_for(box.release))
    box.install_suite()
    atomfs = build.find("atomfs")
    if atomfs is not None:
        box.put("/usr/local/bin/atomfs", atomfs.read_bytes())
        box.check("chmod 755 /usr/local/bin/atomfs")
    box.check("sync")
