# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hosts and images for the end-to-end tests, which run real LXC."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import host as hosts
from tests.support import image as images
from tests.support import need
from tests.support import registry as registries


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path that other users can pass: pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="oci-py-", dir="/var/tmp") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture
def root_host(place: Path) -> Iterator[hosts.Host]:
    """LXC as root."""
    with hosts.host(place) as made:
        yield made


@pytest.fixture(scope="session")
def test_user() -> Iterator[str]:
    """An unprivileged user who may run containers."""
    with hosts.test_user() as name:
        yield name


@pytest.fixture
def user_host(place: Path, test_user: str) -> Iterator[hosts.Host]:
    """LXC as an unprivileged user."""
    with hosts.host(place, test_user) as made:
        yield made


@pytest.fixture
def fuse_for_users() -> Iterator[None]:
    """Give /dev/fuse the mode that udev gives it; here may be no udev."""
    if not os.path.exists("/dev/fuse"):
        need.missing("/dev/fuse is missing")
    before = os.stat("/dev/fuse").st_mode & 0o7777
    os.chmod("/dev/fuse", 0o666)
    yield
    os.chmod("/dev/fuse", before)


@pytest.fixture(params=["root", "user"])
def any_host(request: pytest.FixtureRequest) -> hosts.Host:
    """Both of them, in turn."""
    made: hosts.Host = request.getfixturevalue(f"{request.param}_host")
    return made


@pytest.fixture(scope="session")
def layouts() -> Iterator[Path]:
    """A directory for OCI layouts that every user can read."""
    with tempfile.TemporaryDirectory(prefix="oci-py-images-", dir="/var/tmp") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture(scope="session")
def busybox(layouts: Path) -> str:
    """The URL of an image with a busybox, an entrypoint that waits, and nothing else."""
    made = images.Image(
        [images.busybox_rootfs()],
        {
            "Entrypoint": ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"],
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GREETING=hello world"],
        },
    )
    path = layouts / "busybox"
    images.write_layout(path, {"latest": made})
    return f"oci:{path}:latest"


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[registries.Registry]:
    """A registry without TLS and logins, for all tests: use a repository of the test's own."""
    with registries.serve(tmp_path_factory.mktemp("registry")) as made:
        yield made
