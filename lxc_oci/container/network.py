# SPDX-License-Identifier: LGPL-2.1-or-later
"""The container's network: fixed addresses of the user, or DHCP from outside for a container without an init.

Interfaces are LXC's and the user's; nothing of the image reaches this module.
"""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from lxc_oci.container.lxcconfig import Line, last, mount_entry
from lxc_oci.container.overrides import Overrides
from lxc_oci.errors import UsageError

HOOK = "/usr/share/lxc/hooks/oci-py-dhcp"
RESOLV_CONF = "oci-py/resolv.conf"  # below the container's directory; the hook writes it
_TYPE = re.compile(r"lxc\.net\.([0-9]{1,3})\.type\Z")
_LINKED = ("veth", "macvlan", "ipvlan", "vlan", "phys")
_DHCP_BY_DEFAULT = ("veth", "macvlan")


class Network(NamedTuple):
    """What the configuration says of the network; `dhcp` tells that the hook writes resolv.conf as well."""

    image: tuple[Line, ...]
    options: tuple[Line, ...]
    dns: tuple[str, ...]
    dhcp_dns: bool = False


def plan(overrides: Overrides, configuration: Sequence[Line], directory: str, *, system: bool) -> Network:
    """Plan the network of the container in `directory`; `system` images bring an init that does it.

    Raises UsageError for addresses that are none, and for those that no interface can have.
    """
    interfaces = _interfaces(configuration)
    dns = tuple(_address(text, "--dns") for text in overrides.dns)
    options = _fixed(overrides, configuration, interfaces)
    if not _wants_dhcp(overrides, configuration, interfaces, system=system):
        return Network((), options, dns)
    lines = [Line("lxc.hook.start-host", HOOK), Line("lxc.hook.stop", HOOK)]
    # Before root's stop hook LXC has removed the interfaces (start.c __lxc_start); this is run while they are there.
    downs = (f"lxc.net.{number}.script.down" for number in interfaces)
    lines += [Line(key, HOOK) for key in downs if not last(configuration, key)]
    if not dns:
        # Mounted by its inode, so that the hook need not open a path that the container could change.
        lines.append(mount_entry(os.path.join(directory, RESOLV_CONF), "etc/resolv.conf", "none", "bind"))
    if overrides.dhcp:
        return Network((), (*options, *lines), dns, not dns)
    return Network(tuple(lines), options, dns, not dns)


def _wants_dhcp(
    overrides: Overrides, configuration: Sequence[Line], interfaces: dict[str, str], *, system: bool
) -> bool:
    if overrides.dhcp is not None:
        if overrides.dhcp and not interfaces:
            raise UsageError(
                "--dhcp needs a network interface, and the container's configuration has none",
                "give lxc-create a configuration with lxc.net.0.type = veth (-f FILE)",
            )
        return overrides.dhcp
    if system or overrides.address or any(line.key == "lxc.hook.start-host" for line in configuration):
        return False
    return any(
        kind in _DHCP_BY_DEFAULT and not last(configuration, f"lxc.net.{number}.ipv4.address")
        for number, kind in interfaces.items()
    )


def _interfaces(configuration: Sequence[Line]) -> dict[str, str]:
    """Return the kinds of the interfaces that lead somewhere, by their numbers in the configuration."""
    found: dict[str, str] = {}
    for line in configuration:
        match = _TYPE.match(line.key)
        if match:
            found[match[1]] = line.value
    return {number: kind for number, kind in sorted(found.items(), key=lambda one: int(one[0])) if kind in _LINKED}


def _fixed(overrides: Overrides, configuration: Sequence[Line], interfaces: dict[str, str]) -> tuple[Line, ...]:
    if not overrides.address:
        if overrides.gateway:
            raise UsageError("--gateway needs --address", "such as --address 192.0.2.5/24 --gateway 192.0.2.1")
        return ()
    if not interfaces:
        raise UsageError(
            "--address needs a network interface, and the container's configuration has none",
            "give lxc-create a configuration with lxc.net.0.type = veth (-f FILE)",
        )
    number = next(iter(interfaces))
    lines = []
    for text in overrides.address:
        value, version = _interface(text)
        lines.append(Line(f"lxc.net.{number}.ipv{version}.address", value))
    seen = set()
    for text in overrides.gateway:
        value = _address(text, "--gateway")
        version = 6 if ":" in value else 4
        if version in seen:
            raise UsageError(f"--gateway {text!r:.100} is the second of IPv{version}")
        seen.add(version)
        lines.append(Line(f"lxc.net.{number}.ipv{version}.gateway", value))
    if "up" not in last(configuration, f"lxc.net.{number}.flags"):
        lines.append(Line(f"lxc.net.{number}.flags", "up"))
    return tuple(lines)


def _interface(text: str) -> tuple[str, int]:
    import ipaddress

    try:
        found = ipaddress.ip_interface(text)
    except ValueError as error:
        raise UsageError(
            f"--address {text!r:.100} is no address", "write ADDRESS/PREFIX, such as 192.0.2.5/24"
        ) from error
    if "/" not in text:
        raise UsageError(f"--address {text!r:.100} has no prefix length", "write ADDRESS/PREFIX, such as 192.0.2.5/24")
    return found.with_prefixlen, found.version


def _address(text: str, option: str) -> str:
    import ipaddress

    try:
        found = ipaddress.ip_address(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r:.100} is no address") from error
    if getattr(found, "scope_id", None):
        raise UsageError(f"{option} {text!r:.100} has an interface's name in it")
    return str(found)
