# SPDX-License-Identifier: LGPL-2.1-or-later
"""An image that boots and one without an init, with the configuration that Debian's LXC comes with.

That is AppArmor's generated profile for root's containers, and an interface on lxcbr0, where LXC's dnsmasq answers.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import image as images
from tests.support.bridge import wait_for
from tests.vm.guest.login import USER, Login

pytestmark = pytest.mark.box

SYSTEM = "oci:/srv/images/system:latest"  # of tests/vm/image.py
LEASES = Path("/var/lib/misc/dnsmasq.lxcbr0.leases")
BOOT_SECONDS = 240  # generous, for a container in an emulated machine
# systemd tries these where no capability is dropped; LXC drops none in a user namespace, which cannot do them.
KERNELS = {"sys-kernel-config.mount", "sys-kernel-debug.mount", "systemd-modules-load.service"}
SERVER = "trap 'exit 0' TERM; while :; do sleep 1; done"


@pytest.fixture(params=["root", USER])
def login(request: pytest.FixtureRequest) -> Login:
    return Login(request.param)


@pytest.fixture
def system(login: Login) -> Iterator[str]:
    """A container of an image whose entrypoint is systemd."""
    login.create("system", SYSTEM)
    yield "system"
    login.destroy("system")


@pytest.fixture
def plain(login: Login) -> Iterator[str]:
    """A container of an image that brings neither an init nor a DHCP client."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        made = images.busybox_image({"Entrypoint": ["/bin/sh", "-c", SERVER], "Env": ["PATH=/bin"]})
        images.write_layout(f"{directory}/image", {"latest": made})
        login.create("plain", f"oci:{directory}/image:latest")
        yield "plain"
        login.destroy("plain")


def test_systemd_reaches_multi_user_and_stops(login: Login, system: str) -> None:
    login.start(system)
    is_active = ("/bin/systemctl", "is-active", "multi-user.target")
    # Before its bus is up systemctl fails.
    wait_for(lambda: login.attach(system, *is_active, check=False) == "active\n", "multi-user.target", BOOT_SECONDS)
    failed = login.attach(system, "/bin/systemctl", "--failed", "--plain", "--no-legend", "--no-pager").splitlines()
    assert {line.split()[0] for line in failed} <= (KERNELS if login.is_user else set())
    assert login.attach(system, "/bin/cat", "/proc/1/comm") == "systemd\n"
    login.stop(system)


def test_address_by_dhcp_without_an_init(login: Login, plain: str) -> None:
    assert LEASES.read_text() == ""
    login.start(plain)
    (lease,) = LEASES.read_text().splitlines()
    address = lease.split()[2]
    assert f"inet {address}/24" in login.attach(plain, "/bin/busybox", "ip", "-4", "address", "show", "dev", "eth0")
    assert "default via 10.0.3.1" in login.attach(plain, "/bin/busybox", "ip", "route")
    assert login.attach(plain, "/bin/cat", "/etc/resolv.conf").startswith("nameserver 10.0.3.1\n")
    login.stop(plain)
    wait_for(lambda: LEASES.read_text() == "", "the lease to come back")
    wait_for(lambda: not subprocess.run(["pgrep", "-f", "hooks/oci-py-dhcp"], capture_output=True).stdout, "its end")
