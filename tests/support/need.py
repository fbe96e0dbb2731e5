# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a test needs of the machine: a skip where it lacks on a user's machine, a failure in CI.

Not for what a test is about: that our program copes without mkfs.erofs is a test, not a skip.
"""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

_SYSTEM = "/usr/local/sbin:/usr/sbin:/sbin"


def program(name: str, package: str | None = None) -> str:
    """The path of the program *name*, system directories included; *package* is the Debian package to name."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM}")
    return path or missing(f"{name} is not installed{_from(package)}")


def module(name: str, package: str | None = None) -> None:
    """The Python module *name* can be imported."""
    if importlib.util.find_spec(name) is None:
        missing(f"there is no Python module {name}{_from(package)}")


def root() -> None:
    """The test runs as root of the initial user namespace."""
    if os.geteuid() != 0:
        missing("needs root")
    if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        missing("needs root of the initial user namespace")


def kernel_filesystem(name: str) -> None:
    """The kernel mounts file systems of this type, after loading the module for it if need be."""
    if not _has_filesystem(name):
        kernel_module(name, load=True)
        if not _has_filesystem(name):
            missing(f"this kernel has no file system {name}")


def kernel_module(name: str, *, load: bool = False) -> None:
    """The kernel has the module *name*, built in or loaded or, with *load*, to be loaded now."""
    if Path("/sys/module", name.replace("-", "_")).exists():
        return
    modprobe = shutil.which("modprobe", path=_SYSTEM)
    argv = [modprobe, *([] if load else ["--dry-run"]), "--quiet", name] if modprobe else ["false"]
    if subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        missing(f"this kernel has no module {name}")


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where everything must be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _has_filesystem(name: str) -> bool:
    return name in Path("/proc/filesystems").read_text().split()


def _from(package: str | None) -> str:
    return f" (Debian: {package})" if package else ""
