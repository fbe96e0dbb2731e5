# SPDX-License-Identifier: LGPL-2.1-or-later
"""A container without an init or a DHCP client gets, renews and gives back its address."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxc_oci.container.network import HOOK
from lxc_oci.container.overrides import Overrides
from tests.support import bridge, need
from tests.support.bridge import Network, wait_for
from tests.support.guestbox import Box, image_config, make_rootfs
from tests.support.launch import CHECKOUT, INSTALLED

VETH = f"lxc.net.0.type = veth\nlxc.net.0.link = {bridge.BRIDGE}\nlxc.net.0.flags = up"
# Answers every connection with what it knows of its network when it starts.
SERVER = """\
ip -4 addr show dev eth0 > /out/address
ip route > /out/route
cat /etc/resolv.conf > /out/resolv
echo > /out/started
trap 'exit 0' TERM
while :; do sleep 1 & wait $!; done
"""


@pytest.fixture
def net(place: Path) -> Iterator[Network]:
    with bridge.network(place) as made:
        yield made


class Running:
    """A box that is started in a test's network."""

    def __init__(self, net: Network, lxcpath: Path, name: str = "app", network: str = VETH) -> None:
        self.net = net
        self.box = Box(lxcpath, name, network=network)
        make_rootfs(self.box.rootfs)
        for applet in ("ip", "nslookup"):
            (self.box.rootfs / "bin" / applet).symlink_to("busybox")
        (self.box.rootfs / "serve").write_text(SERVER)
        (self.box.rootfs / "etc").mkdir()

    def make(self, overrides: Overrides | None = None, **members: object) -> None:
        members.setdefault("entrypoint", ("/bin/sh", "/serve"))
        self.box.make(image_config(env=("PATH=/bin",), **members), overrides)
        config = self.box.directory / "config"
        hook = HOOK if INSTALLED else str(CHECKOUT / "hooks/oci-py-dhcp")
        config.write_text(config.read_text().replace(HOOK, hook))

    @property
    def options(self) -> list[str]:
        return ["-n", self.box.name, "-P", str(self.box.lxcpath)]

    def start(self) -> None:
        log = self.box.directory / "log"
        done = self.net.run(need.program("lxc-start"), *self.options, "-d", "-o", log, "-l", "DEBUG", check=False)
        assert done.returncode == 0, log.read_text()
        wait_for((self.box.rootfs / "out/started").exists, "the application to start")

    def stop(self) -> None:
        self.net.run(need.program("lxc-stop"), *self.options, "-t", "30")
        (self.box.rootfs / "out/started").unlink(missing_ok=True)

    def read(self, name: str) -> str:
        return (self.box.rootfs / "out" / name).read_text()

    def attach(self, *argv: str) -> str:
        done = self.net.run(need.program("lxc-attach"), *self.options, "--", *argv)
        return done.stdout.decode()

    def destroy(self) -> None:
        self.net.run(need.program("lxc-stop"), *self.options, "-k", check=False)


@pytest.fixture
def app(net: Network, place: Path) -> Iterator[Running]:
    made = Running(net, place / "lxc")
    yield made
    made.destroy()


def clients(app: Running) -> list[int]:
    """The processes of the hook that are left of this container."""
    config = b"LXC_CONFIG_FILE=" + os.fsencode(app.box.directory / "config")
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if config not in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    continue
                argv = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if len(argv) > 3 and argv[2].endswith(b"/oci-py-dhcp"):
                found.append(int(entry))
    return found


def test_address_route_and_name_server(app: Running) -> None:
    """DHCP is on without being asked for: a veth without an address, an image without an init."""
    app.net.serve()
    app.make()
    app.start()
    assert "inet 10.83.0." in app.read("address") and "/24 brd 10.83.0.255" in app.read("address")
    assert "default via 10.83.0.1 dev eth0" in app.read("route")
    assert app.read("resolv") == "nameserver 10.83.0.1\nsearch test.example\n"
    lease = app.net.leases.read_text().split()
    assert lease[2] in app.read("address") and lease[3] == "app"
    app.stop()
    wait_for(lambda: app.net.said("DHCPRELEASE") == 1, "the lease to come back")
    assert app.net.leases.read_text() == ""
    assert clients(app) == []


def test_the_same_address_at_the_next_start(app: Running) -> None:
    app.net.serve()
    (app.box.directory / "oci-py").mkdir()
    (app.box.directory / "oci-py/id").write_text("0123456789abcdef0123456789abcdef\n")
    app.make()
    app.start()
    first = app.read("address").split("inet ")[1].split()[0]
    app.stop()
    app.start()
    assert app.read("address").split("inet ")[1].split()[0] == first
    app.stop()


def test_nothing_of_the_image_is_followed(app: Running, place: Path) -> None:
    app.net.serve()
    victim = place / "victim"
    victim.write_text("host's own")
    (app.box.rootfs / "etc/resolv.conf").symlink_to(victim)
    app.make()
    app.start()
    assert victim.read_text() == "host's own"
    assert app.read("resolv").startswith("nameserver 10.83.0.1\n")
    app.stop()


def test_the_client_has_few_rights(app: Running) -> None:
    app.net.serve()
    app.make()
    app.start()
    (client,) = clients(app)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{client}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == ["65534"] * 4 and status["Groups"].strip() == ""
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 1 << 10 | 1 << 12 | 1 << 13
    assert status["NoNewPrivs"] == "1"
    assert os.readlink(f"/proc/{client}/cwd") == "/"
    app.stop()


def test_killed_containers_leave_no_client(app: Running) -> None:
    app.net.serve()
    app.make()
    app.start()
    pid = app.net.run("lxc-info", *app.options, "-pH").stdout.decode().strip()
    os.kill(int(pid), 9)
    wait_for(lambda: clients(app) == [], "the client to end")
    wait_for(lambda: app.net.said("DHCPRELEASE") == 1, "the lease to come back")


def test_a_reboot_gets_an_address_again(app: Running) -> None:
    app.net.serve()
    (app.box.rootfs / "serve").write_text(
        SERVER.replace("trap 'exit 0' TERM", "trap 'exit 0' TERM; trap 'reboot -f' HUP")
    )
    (app.box.rootfs / "bin/reboot").symlink_to("busybox")
    app.make()
    app.start()
    (app.box.rootfs / "out/started").unlink()
    app.attach("/bin/sh", "-c", "kill -HUP 1")
    wait_for((app.box.rootfs / "out/started").exists, "the application to start again")
    assert "inet 10.83.0." in app.read("address")
    app.stop()
    assert clients(app) == []


def test_without_a_server_the_start_goes_on(app: Running) -> None:
    app.make()
    app.start()
    assert "inet " not in app.read("address")
    log = (app.box.directory / "log").read_text()
    assert "has no address after 15 seconds" in log
    app.net.serve()
    wait_for(lambda: app.net.said("DHCPACK") > 0, "the client to try again")
    wait_for(lambda: "inet 10.83.0." in app.attach("/bin/ip", "-4", "addr"), "the address")
    assert app.attach("/bin/cat", "/etc/resolv.conf").startswith("nameserver 10.83.0.1\n")
    app.stop()


def test_not_asked_for(app: Running) -> None:
    app.net.serve()
    app.make(Overrides(dhcp=False))
    app.start()
    assert "inet " not in app.read("address")
    app.stop()
    assert app.net.said("DHCPDISCOVER") == 0


def test_a_fixed_address(app: Running) -> None:
    app.net.serve()
    app.make(Overrides(address=("10.83.0.7/24",), gateway=(bridge.ADDRESS,), dns=("10.83.0.1", "2001:db8::1")))
    app.start()
    assert "inet 10.83.0.7/24" in app.read("address")
    assert "default via 10.83.0.1" in app.read("route")
    assert app.read("resolv") == "nameserver 10.83.0.1\nnameserver 2001:db8::1\n"
    app.stop()
    assert app.net.said("DHCPDISCOVER") == 0


def test_two_interfaces(net: Network, place: Path) -> None:
    second = VETH.replace("net.0", "net.1")
    app = Running(net, place / "lxc", network=f"{VETH}\n{second}")
    try:
        net.serve()
        app.make()
        app.start()
        found = app.attach("/bin/ip", "-4", "addr")
        assert found.count("inet 10.83.0.") == 2
        app.stop()
        wait_for(lambda: net.said("DHCPRELEASE") == 2, "the leases to come back")
    finally:
        app.destroy()


def test_classless_routes_and_many_servers(app: Running) -> None:
    routes = "--dhcp-option=121,0.0.0.0/0,10.83.0.1,192.0.2.0/24,10.83.0.9,198.51.100.7/32,0.0.0.0"
    servers = "--dhcp-option=6,10.83.0.1,10.83.0.2,10.83.0.3,10.83.0.4"
    app.net.serve(options=(routes, servers))
    app.make(Overrides(dhcp=True))
    app.start()
    assert "192.0.2.0/24 via 10.83.0.9" in app.read("route")
    assert "198.51.100.7 dev eth0" in app.read("route")
    assert app.read("resolv").count("nameserver") == 3
    app.stop()


def test_with_an_id_map(net: Network, place: Path) -> None:
    """The client works as the container's root does: in its user namespace, with no right outside."""
    app = Running(net, place / "lxc", network=f"{VETH}\nlxc.idmap = u 0 100000 65536\nlxc.idmap = g 0 100000 65536")
    try:
        net.serve()
        app.make()
        for directory, _, files in os.walk(app.box.directory):
            for path in (directory, *(os.path.join(directory, name) for name in files)):
                os.chown(path, 100000, 100000, follow_symlinks=False)
        if not os.path.exists("/etc/subuid"):
            need.missing("no /etc/subuid: no user of this machine has a range of ids")
        (place / "ids").write_text("root:100000:65536\n")
        for name in ("/etc/subuid", "/etc/subgid"):  # in the mount namespace of this test
            net.run("mount", "--bind", place / "ids", name)
        app.start()
        assert "inet 10.83.0." in app.read("address") and app.read("resolv").startswith("nameserver 10.83.0.1\n")
        (client,) = clients(app)
        uid = Path(f"/proc/{client}/status").read_text().split("Uid:\t")[1].split()[0]
        assert uid == str(100000 + 65534)
        app.stop()
        wait_for(lambda: net.said("DHCPRELEASE") == 1, "the lease to come back")
    finally:
        app.destroy()


@pytest.mark.long
def test_the_lease_is_renewed(app: Running) -> None:
    """A lease of two minutes is renewed after one, without a gap."""
    app.net.serve("2m")
    app.make()
    app.start()
    assert app.net.said("DHCPACK") == 1
    wait_for(lambda: app.net.said("DHCPACK") >= 2, "the renewal", 100)
    assert app.net.said("DHCPDISCOVER") == 1
    wait_for(lambda: "valid_lft 1" in app.attach("/bin/ip", "-4", "addr"), "the lifetime")
    app.stop()


@pytest.mark.long
def test_the_lease_is_bound_again(app: Running) -> None:
    """A server that lost its memory refuses, and the client begins anew; one that is silent is asked by broadcast."""
    app.net.serve("2m")
    app.make()
    app.start()
    app.net.stop_serving()
    app.net.leases.unlink()
    app.net.serve("2m", ("--dhcp-range=10.83.0.200,10.83.0.250,2m", "--dhcp-authoritative"))
    wait_for(lambda: app.net.said("DHCPACK") >= 2, "an address again", 200)
    wait_for(lambda: "inet 10.83.0." in app.attach("/bin/ip", "-4", "addr"), "the address")
    app.stop()
