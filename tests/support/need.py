# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a test needs of the machine: a skip where it lacks on a user's machine, a failure in CI."""

import os
import shutil
from typing import NoReturn

import pytest


def program(name: str) -> str:
    """The path of the program `name`, system directories included."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    return path or missing(f"{name} is not installed")


def root() -> None:
    """The test must run as root of the initial user namespace."""
    if os.geteuid() != 0:
        missing("needs root")


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where everything must be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
