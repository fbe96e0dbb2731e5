# SPDX-License-Identifier: LGPL-2.1-or-later
"""A package built once, and a box to install it in: the machine's own tree under an overlay."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import need

ROOT = Path(__file__).parents[2]
SYSTEM = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what packages are built from: all builds of a run see the same."""
    copy = tmp_path_factory.mktemp("sources") / "lxc-oci-py"
    leave = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "dist", "tests", "benchmarks")
    shutil.copytree(ROOT, copy, ignore=leave)
    return copy


@pytest.fixture(scope="session")
def package(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as `make deb` builds it."""
    need.program("dpkg-buildpackage")
    need.program("dh_python3")
    destination = tmp_path_factory.mktemp("package")
    subprocess.run([sources / "packaging/build-deb", destination], check=True, stdout=subprocess.DEVNULL)
    (path,) = destination.glob("*.deb")
    return path


@pytest.fixture(scope="session")
def own_dpkg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer with a copy of dpkg's database: the machine's may change while a test runs."""
    layer = tmp_path_factory.mktemp("dpkg")
    layer.chmod(0o755)  # it becomes the root directory of the box
    (layer / "var/lib").mkdir(parents=True)
    shutil.copytree("/var/lib/dpkg", layer / "var/lib/dpkg", symlinks=True)
    if os.listdir(layer / "var/lib/dpkg/updates"):
        need.missing("dpkg is at work on this machine")
    os.setxattr(layer / "var/lib/dpkg", "trusted.overlay.opaque", b"y")
    return layer


class Box:
    """The machine's tree with an overlay on top, in a mount namespace that ends with the test."""

    def __init__(self, directory: Path, own_dpkg: Path) -> None:
        self.root = directory / "root"
        script = """
            mount -t tmpfs -o mode=755 none "$1"
            mkdir "$1/work" "$1/root"
            cp -a "$2" "$1/upper"
            mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" none "$1/root"
            for name in proc sys dev; do mount --rbind "/$name" "$1/root/$name"; done
            mount -t tmpfs -o mode=1777 none "$1/root/tmp"
            echo ready
            exec cat
        """
        self._holder = subprocess.Popen(
            [
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "/bin/sh",
                "-euc",
                script,
                "box",
                str(directory),
                str(own_dpkg),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=SYSTEM,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            self.close()
            need.missing("an overlay over the root file system cannot be mounted here")

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program in the box and return how it ended, standard error with standard output."""
        done = subprocess.run(
            ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "chroot", str(self.root), *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**SYSTEM, "DEBIAN_FRONTEND": "noninteractive"},
            text=True,
        )
        assert done.returncode == 0 or not check, f"{argv}: {done.stdout}"
        return done

    def write(self, path: str, content: bytes) -> None:
        """Write a file in the box, its directories made."""
        subprocess.run(
            ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "chroot", str(self.root)]
            + ["/bin/sh", "-euc", 'mkdir -p "${1%/*}"; cat >"$1"', "write", path],
            input=content,
            check=True,
            env=SYSTEM,
        )

    def exists(self, path: str) -> bool:
        """Tell whether a path is there in the box."""
        return self.run("test", "-e", path, check=False).returncode == 0

    def close(self) -> None:
        """End the namespace, and its mounts with it."""
        assert self._holder.stdin is not None and self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait()


@pytest.fixture
def box(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Box]:
    """A box for one test."""
    need.root()
    need.program("nsenter")
    made = Box(tmp_path, request.getfixturevalue("own_dpkg"))
    try:
        yield made
    finally:
        made.close()
        assert os.listdir(tmp_path) == []
