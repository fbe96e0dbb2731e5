# SPDX-License-Identifier: LGPL-2.1-or-later
"""The package as a builder of Debian's builds it: by a plain user, with its tests, on Debian 12 and on Debian 13."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, SYSTEM
from tests.packaging.test_package import content, listing
from tests.support import need, trixie

pytestmark = [pytest.mark.root, pytest.mark.long]

_BUILDER = (
    *("build-essential", "debhelper", "dh-python", "python3-all", "python3-setuptools", "lintian", "man-db"),
    *("python3-hypothesis", "python3-orjson", "python3-pytest", "python3-zstandard"),
)
# $1 is the root directory of a Debian, $2 a directory that is /srv there; then a command.
_ENTER = """
root=$1 work=$2
shift 2
mount --bind "$work" "$root/srv"
mount -t tmpfs -o mode=1777 none "$root/tmp"
[ "$root" = / ] || for place in proc sys dev; do mount --rbind "/$place" "$root/$place"; done
exec chroot "$root" "$@"
"""


def inside(root: Path, work: Path, *argv: str | Path) -> str:
    """Run a program in a Debian and return all that it prints."""
    enter = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-euc", _ENTER, "enter", root, work]
    done = subprocess.run(
        [*enter, *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=SYSTEM,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory of nobody's with all that a source package has."""
    tree = tmp_path / "work/lxc-oci-py"
    leave = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "dist", "build")
    shutil.copytree(ROOT, tree, ignore=leave)
    subprocess.run(["chown", "-R", "nobody:nogroup", tree.parent], check=True)
    tree.parent.chmod(0o755)
    return tree.parent


@pytest.mark.parametrize("debian", [lambda: Path("/"), lambda: trixie.tree(_BUILDER, "builder")], ids=["here", "13"])
def test_a_user_builds_and_tests_it(debian: Callable[[], Path], work: Path, package: Path, tmp_path: Path) -> None:
    need.module("hypothesis", "python3-hypothesis")
    root = debian()
    user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", "--chdir=/srv/lxc-oci-py"]
    said = inside(root, work, *user, "dpkg-buildpackage", "-us", "-uc", "-b")
    assert " passed" in said
    (built,) = work.glob("*.deb")
    assert listing(built) == listing(package)
    ours, theirs = content(package, tmp_path / "ours"), content(built, tmp_path / "theirs")
    programs = [name for name in ours if name.startswith(("usr/bin/", "usr/share/lxc/"))]
    assert len(programs) > 4
    for name in programs:
        assert theirs[name] == ours[name], name
    assert inside(root, work, "/srv/lxc-oci-py/packaging/lint-package", f"/srv/{built.name}") == ""


def test_debian_13_finds_nothing_in_the_source(work: Path) -> None:
    if not os.path.exists(ROOT / ".git"):
        need.missing("this is no checkout")
    subprocess.run([ROOT / "packaging/build-source", work / "source"], check=True, stdout=subprocess.DEVNULL)
    (made,) = (work / "source").glob("*.dsc")
    command = ["/srv/lxc-oci-py/packaging/lint-package", f"/srv/source/{made.name}"]
    assert inside(trixie.tree(_BUILDER, "builder"), work, *command) == ""
