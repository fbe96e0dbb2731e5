# SPDX-License-Identifier: LGPL-2.1-or-later
"""A network namespace of the test's own with a bridge, and Debian's dnsmasq on it."""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support import need

TIMEOUT = 60
BRIDGE = "br0"
ADDRESS = "10.83.0.1"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}

# LXC looks for a bridge in /sys, which shows the devices of the namespace that it was mounted in.
_SETUP = """\
mount -t sysfs sysfs "$1"
mount --bind "$1/class/net" /sys/class/net
mount --bind "$1/devices/virtual/net" /sys/devices/virtual/net
echo
read line || true
"""


class Network:
    """The namespace; `prefix` before a command runs it there."""

    def __init__(self, directory: Path, holder: int) -> None:
        self.directory = directory
        self.prefix = [need.program("nsenter"), f"--net=/proc/{holder}/ns/net", f"--mount=/proc/{holder}/ns/mnt"]
        self.leases = directory / "leases"
        self.log = directory / "dnsmasq.log"
        self._server: subprocess.Popen[bytes] | None = None

    def run(self, *argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [*self.prefix, *map(str, argv)],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT,
            env=ENVIRONMENT,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{argv}: {done.stdout.decode()}{done.stderr.decode()}"
        return done

    def serve(self, lease: str = "2m", options: Sequence[str] = ()) -> None:
        """Start a DHCP server that also answers DNS."""
        argv = [need.program("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--bind-interfaces"]
        argv += [f"--interface={BRIDGE}", "--except-interface=lo", "--no-resolv", "--no-hosts", "--no-ping"]
        argv += [f"--dhcp-range=10.83.0.50,10.83.0.99,{lease}", "--domain=test.example", "--log-dhcp"]
        argv += [f"--dhcp-leasefile={self.leases}", f"--log-facility={self.log}", "--user=root", "--pid-file="]
        argv += options
        self._server = subprocess.Popen([*self.prefix, *argv], env=ENVIRONMENT)
        wait_for(lambda: self.log.exists() and b"started" in self.log.read_bytes(), "dnsmasq to start")

    def stop_serving(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.wait(TIMEOUT)
            self._server = None

    def said(self, text: str) -> int:
        """How often the server's log has `text`."""
        return self.log.read_text().count(text)


def wait_for(condition: object, what: str, seconds: float = TIMEOUT) -> None:
    """Look again and again until `condition()` holds; fail after a generous time."""
    end = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


@contextmanager
def network(directory: Path) -> Iterator[Network]:
    """Make the namespace with its bridge, and leave nothing of it."""
    need.root()
    read, write = os.pipe()
    own = directory / "sysfs"
    own.mkdir()
    holder = subprocess.Popen(
        [need.program("unshare"), "--net", "--mount", "sh", "-ec", _SETUP, "sh", own],
        stdin=read,
        stdout=subprocess.PIPE,
    )
    os.close(read)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"\n"
        made = Network(directory, holder.pid)
        made.run("ip", "link", "set", "lo", "up")
        made.run("ip", "link", "add", BRIDGE, "type", "bridge")
        made.run("ip", "address", "add", f"{ADDRESS}/24", "dev", BRIDGE)
        made.run("ip", "link", "set", BRIDGE, "up")
        try:
            yield made
        finally:
            made.stop_serving()
    finally:
        os.close(write)
        holder.wait(TIMEOUT)
        if holder.stdout:
            holder.stdout.close()
