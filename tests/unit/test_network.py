# SPDX-License-Identifier: LGPL-2.1-or-later
"""When DHCP is on, and which fixed addresses an interface can have."""

import pytest

from lxc_oci.container import lxcconfig, network
from lxc_oci.container.network import HOOK, Network
from lxc_oci.container.overrides import Overrides
from lxc_oci.errors import UsageError

VETH = b"lxc.net.0.type = veth\nlxc.net.0.link = lxcbr0\nlxc.net.0.flags = up\n"


def plan(configuration: bytes, overrides: Overrides | None = None, *, system: bool = False) -> Network:
    return network.plan(overrides or Overrides(), lxcconfig.parse(configuration), "/c", system=system)


def pairs(lines: tuple[lxcconfig.Line, ...]) -> list[tuple[str, str]]:
    return [(line.key, line.value) for line in lines]


DHCP = [
    ("lxc.hook.start-host", HOOK),
    ("lxc.hook.stop", HOOK),
    ("lxc.net.0.script.down", HOOK),
    ("lxc.mount.entry", "/c/oci-py/resolv.conf etc/resolv.conf none bind 0 0"),
]


@pytest.mark.parametrize(
    "configuration, system, expected",
    (
        (VETH, False, True),
        (VETH, True, False),
        (b"", False, False),
        (b"lxc.net.0.type = empty\n", False, False),
        (b"lxc.net.0.type = none\n", False, False),
        (b"lxc.net.0.type = macvlan\n", False, True),
        (b"lxc.net.0.type = phys\n", False, False),
        (VETH + b"lxc.net.0.ipv4.address = 10.0.3.5/24\n", False, False),
        (VETH + b"lxc.net.0.ipv4.address = 10.0.3.5/24\nlxc.net.1.type = veth\n", False, True),
        (VETH + b"lxc.net.0.type = empty\n", False, False),
        (VETH + b"lxc.hook.start-host = /usr/share/lxc/hooks/dhclient\n", False, False),
    ),
)
def test_dhcp_by_default(configuration: bytes, system: bool, expected: bool) -> None:
    found = plan(configuration, system=system)
    assert [pair for pair in pairs(found.image) if "net.1" not in pair[0]] == (DHCP if expected else [])
    assert found.dhcp_dns == expected and found.options == ()


def test_the_user_decides() -> None:
    assert plan(VETH, Overrides(dhcp=False)) == Network((), (), ())
    found = plan(VETH, Overrides(dhcp=True), system=True)
    assert pairs(found.options) == DHCP and found.image == ()
    found = plan(VETH, Overrides(dhcp=True, dns=("192.0.2.1",)))
    assert pairs(found.options) == DHCP[:3] and found.dns == ("192.0.2.1",) and not found.dhcp_dns
    with pytest.raises(UsageError, match="--dhcp needs"):
        plan(b"", Overrides(dhcp=True))


def test_a_script_of_the_user_stays() -> None:
    found = plan(VETH + b"lxc.net.0.script.down = /mine\nlxc.net.3.type = macvlan\n")
    assert [key for key, _ in pairs(found.image) if "script" in key] == ["lxc.net.3.script.down"]


def test_fixed_addresses() -> None:
    overrides = Overrides(address=("192.0.2.5/24", "2001:db8::5/64"), gateway=("192.0.2.1", "2001:DB8::1"))
    assert pairs(plan(VETH, overrides).options) == [
        ("lxc.net.0.ipv4.address", "192.0.2.5/24"),
        ("lxc.net.0.ipv6.address", "2001:db8::5/64"),
        ("lxc.net.0.ipv4.gateway", "192.0.2.1"),
        ("lxc.net.0.ipv6.gateway", "2001:db8::1"),
    ]
    assert plan(VETH, overrides).image == ()


def test_the_first_interface_that_leads_somewhere() -> None:
    configuration = b"lxc.net.10.type = veth\nlxc.net.2.type = veth\nlxc.net.1.type = empty\n"
    assert pairs(plan(configuration, Overrides(address=("192.0.2.5/24",))).options) == [
        ("lxc.net.2.ipv4.address", "192.0.2.5/24"),
        ("lxc.net.2.flags", "up"),
    ]


@pytest.mark.parametrize(
    "overrides, message",
    (
        (Overrides(address=("192.0.2.5",)), "prefix"),
        (Overrides(address=("192.0.2.5/33",)), "no address"),
        (Overrides(address=("192.0.2/24",)), "no address"),
        (Overrides(address=("192.0.2.5/24\nlxc.x = 1",)), "no address"),
        (Overrides(address=("",)), "no address"),
        (Overrides(gateway=("192.0.2.1",)), "needs --address"),
        (Overrides(address=("192.0.2.5/24",), gateway=("gate",)), "--gateway"),
        (Overrides(address=("192.0.2.5/24",), gateway=("192.0.2.1", "192.0.2.2")), "second"),
        (Overrides(dns=("192.0.2.1\nsearch x",)), "--dns"),
        (Overrides(dns=("fe80::1%eth0",)), "--dns"),
    ),
)
def test_addresses_that_are_none(overrides: Overrides, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(VETH, overrides)


def test_an_address_needs_an_interface() -> None:
    with pytest.raises(UsageError, match="interface"):
        plan(b"lxc.net.0.type = empty\n", Overrides(address=("192.0.2.5/24",)))
