# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which proxy a URL goes through: HTTPS_PROXY, HTTP_PROXY and NO_PROXY as Go's programs (skopeo, podman) read them.

Nothing else in the environment steers a connection: no .netrc, no ALL_PROXY (P23).
"""

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from lxc_oci.errors import UnsupportedError, UsageError
from lxc_oci.source import url as urls
from lxc_oci.source.url import Url


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy and the value of Proxy-Authorization for it, which is a secret."""

    host: str
    port: int
    authorization: str = ""

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"


class Proxies:
    """The proxies that an environment asks for."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._https = _setting(environment, "HTTPS_PROXY")
        # A CGI program's HTTP_PROXY is the client's `Proxy:` header (CVE-2016-5385).
        self._http = "" if "REQUEST_METHOD" in environment else _setting(environment, "HTTP_PROXY")
        value = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
        self._exceptions = [word for word in (part.strip().lower() for part in value.split(",")) if word]

    def find(self, url: Url) -> Proxy | None:
        """Return the proxy for `url`, None where it is contacted directly.

        Raises UsageError for a setting that is no URL, and UnsupportedError for another kind of proxy than HTTP.
        """
        name, value = ("HTTPS_PROXY", self._https) if url.scheme == "https" else ("HTTP_PROXY", self._http)
        return _parse(name, value) if value and not self._excepted(url) else None

    def _excepted(self, url: Url) -> bool:
        address = urls.address(url.host)
        if url.host == "localhost" or (address is not None and address.is_loopback):
            return True
        for word in self._exceptions:
            if word == "*":
                return True
            host, port = _split(word)
            if port is not None and port != url.port:
                continue
            if address is not None:
                if _contains(host, address):
                    return True
            elif host.startswith((".", "*.")):
                if url.host.endswith(host.lstrip("*")):
                    return True
            elif url.host == host or url.host.endswith(f".{host}"):
                return True
        return False


def _setting(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.lower()) or ""


def _parse(name: str, value: str) -> Proxy:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise UsageError(f"{name} is not the URL of a proxy", "write http://HOST:PORT")
    if parts.scheme != "http":
        raise UnsupportedError(
            f"{name} asks for a {parts.scheme} proxy",
            "only http:// proxies are supported; NO_PROXY names the hosts that need none",
        )
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
    return Proxy(host, port or 80, authorization)


def _split(word: str) -> tuple[str, int | None]:
    host, colon, port = word.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.endswith("]")):
        return host.strip("[]"), int(port)
    return word.strip("[]"), None


def _contains(word: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(word, strict=False)
    except ValueError:
        return False
