# SPDX-License-Identifier: LGPL-2.1-or-later
"""URLs that a registry may send us to: parsed strictly, compared by origin, shown without their secrets.

Only `http` and `https` exist here (P23).  A host is ASCII: `169。254。169。254` is an address to some resolvers and
a harmless name to some checks (CVE-2026-12566).
"""

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from lxc_oci.errors import RefusedError

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # a gateway takes it for the IPv4 address at its end (RFC 6052)
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253})\Z")
# Below a country's domain, the registries of names.
_SECOND_LEVEL = frozenset({"ac", "co", "com", "edu", "go", "gov", "ne", "net", "or", "org"})
# What may stand in a path or query as it is; "%" because it is escaped already.
_SAFE = "!$%&'()*+,/:;=?@[]~-._"


@dataclass(frozen=True)
class Url:
    """One http or https URL."""

    scheme: str
    host: str  # lower case; an IPv6 address without its brackets
    port: int
    target: str  # path and query, as they go into the request line

    @property
    def origin(self) -> tuple[str, str, int]:
        """What credentials are bound to (RFC 6454)."""
        return (self.scheme, self.host, self.port)

    @property
    def authority(self) -> str:
        """`host[:port]`, the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    @property
    def shown(self) -> str:
        """The URL for messages: a query may hold a signature or a token."""
        return f"{self.scheme}://{self.authority}{self.target.partition('?')[0]}"

    def join(self, location: str) -> "Url":
        """Return the URL that a Location header or a relative reference names.  Raises RefusedError."""
        try:
            joined = urljoin(str(self), location.strip())
        except ValueError as error:  # brackets, or letters that IDNA takes for others
            raise RefusedError(f"{location.partition('?')[0]!r:.200} is not a URL: {error}") from None
        return parse(joined)


def parse(text: str) -> Url:
    """Parse an absolute URL.  Raises RefusedError for other schemes, user names, and hosts that are not ASCII."""
    shown = text.partition("?")[0]
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise RefusedError(f"{shown!r:.200} is not a URL: {error}") from None
    if parts.scheme not in _PORTS:
        raise RefusedError(f"{shown!r:.200} is not an http or https URL")
    if "@" in parts.netloc:
        raise RefusedError(f"{parts.scheme}://{host} comes with a user name in the URL")
    if not _HOST.match(host) and not _is_ipv6(host):
        raise RefusedError(f"{shown!r:.200} has no valid host name")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Url(parts.scheme, host, port or _PORTS[parts.scheme], quote(target, safe=_SAFE))


def split_host(text: str, what: str) -> tuple[str, int | None]:
    """Split `host[:port]` as it stands in image names and configuration files.  Raises RefusedError."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if "/" in text or "@" in text or not (_HOST.match(host) or _is_ipv6(host)):
        raise RefusedError(f"{what} {text!r:.100} is not a host name with an optional port")
    return host, port


def address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that `host` spells, None for a name.

    `2852039166` and `0xA9.254.43518` are addresses too, to a resolver.  What leads to an IPv4 address is that one.
    """
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    if isinstance(found, ipaddress.IPv6Address):
        if found in _NAT64:
            return ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        return found.ipv4_mapped or found.sixtofour or found
    return found


def is_internal(host: str) -> bool:
    """Tell whether `host` is an address literal that a stranger has no business to send us to."""
    found = address(host)
    return found is not None and (not found.is_global or found.is_multicast)


def share_parent(one: str, other: str) -> bool:
    """Tell whether two host names are of one domain, which somebody has registered: `registry.example.com` and
    `auth.example.com`, but not two below `co.uk`, nor addresses, nor names without a dot."""
    if address(one) is not None or address(other) is not None:
        return False
    first, second = (host.rstrip(".").split(".") for host in (one, other))
    count = 3 if len(first) > 2 and len(first[-1]) == 2 and first[-2] in _SECOND_LEVEL else 2
    return len(first) >= count and first[-count:] == second[-count:]


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return "%" not in host
