# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bearer tokens (distribution-spec's token server protocol): fetched for one scope, kept until they expire.

A challenge is a stranger's word.  It may send us to another host, as Docker Hub does, but never over plain
HTTP and never to an internal address, and what comes back is used for the registry that asked and nothing else.
A login goes to the registry's own host and to those of its own domain; elsewhere we are nobody, or who the user's auth
files say that we are there.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from lxc_oci import jsonio
from lxc_oci.errors import AccessError, OciError, RefusedError, UnavailableError
from lxc_oci.limits import Limits
from lxc_oci.source import url as urls
from lxc_oci.source.auth import Credentials
from lxc_oci.source.source import read_limited
from lxc_oci.source.transport import Response
from lxc_oci.source.url import Url

_CLIENT = "lxc-oci-py"
_DEFAULT_LIFE = 60  # seconds, what the specification says where expires_in is missing; also the least we believe
_LONGEST_LIFE = 3600
_MARGIN = 5  # a token this close to its end is not sent

_SISTERS = {"scw.cloud": "scaleway.com"}  # domains of one owner: of registries, and of their token servers

# (method, url, headers, body): one exchange that follows redirects of GET and waits for busy servers.
Ask = Callable[[str, Url, Mapping[str, str], bytes | None], Response]


@dataclass(frozen=True, repr=False)
class Token:
    """A token and the monotonic time after which it is not sent any more."""

    text: str
    until: float


class Tokens:
    """The tokens of one registry for one repository's scope."""

    def __init__(
        self,
        scope: str,
        credentials: Callable[[], Credentials | None],
        credentials_of: Callable[[str], Credentials | None],
        ask: Ask,
        limits: Limits,
    ) -> None:
        """`credentials` are the registry's, `credentials_of` those that the user has for a host of another domain."""
        self._scope = scope  # several are separated by spaces
        self._credentials = credentials
        self._credentials_of = credentials_of
        self.withheld: AccessError | None = None  # what to say when it did not work without the login
        self._ask = ask
        self._limits = limits
        self._token: Token | None = None
        self._lock = threading.Lock()

    def current(self) -> str | None:
        """Return a token that is still good, or None."""
        token = self._token
        return token.text if token is not None and time.monotonic() < token.until - _MARGIN else None

    def fetch(self, parameters: Mapping[str, str], registry: Url, insecure: bool, refused: str | None) -> str:
        """Return a token for the challenge's `parameters` (realm, service).

        `refused` is the token that the registry did not take, if any: when another thread has replaced it
        meanwhile, the new one is returned.  Raises AccessError, RefusedError, UnavailableError.
        """
        with self._lock:
            current = self.current()
            if current is not None and current != refused:
                return current
            realm = check_realm(parameters.get("realm", ""), registry, insecure)
            self._token = self._request(realm, parameters.get("service", ""), self._credentials_for(realm, registry))
            return self._token.text

    def _credentials_for(self, realm: Url, registry: Url) -> Credentials | None:
        """Return the credentials that the token server may have."""
        self.withheld = None
        credentials = self._credentials()
        if credentials is None or may_know(realm.host, registry.host):
            return credentials
        found = self._credentials_of(realm.authority)
        if found is None:
            self.withheld = AccessError(
                f"{registry.authority} wants its login to be sent to {realm.authority}, which is of another domain",
                f"if {realm.authority} may have it, add an entry for {realm.authority} to the auth file (--authfile)",
            )
        return found

    def _request(self, realm: Url, service: str, credentials: Credentials | None) -> Token:
        fields = {"service": service} if service else {}
        fields["scope"] = self._scope
        headers = {"Accept": "application/json"}
        started = time.monotonic()
        if credentials is not None and credentials.identity_token:
            fields |= {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": _CLIENT,
            }
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            response = self._ask("POST", realm, headers, urlencode(fields).encode("ascii"))
        else:
            if credentials is not None:
                fields["account"] = credentials.username
                headers["Authorization"] = credentials.basic()
            separator = "&" if "?" in realm.target else "?"
            scopes = [("scope", scope) for scope in fields.pop("scope").split()]
            query = urlencode([*fields.items(), *scopes])
            url = Url(realm.scheme, realm.host, realm.port, f"{realm.target}{separator}{query}")
            response = self._ask("GET", url, headers, None)
        try:
            if response.status != 200:
                raise self._failure(response, credentials)
            raw = read_limited(response.read, self._limits.token_bytes, f"the token of {realm.authority}")
        finally:
            response.close()
        return _parse(raw, realm, started)

    def _failure(self, response: Response, credentials: Credentials | None) -> OciError:
        host = response.url.authority
        if response.status in (400, 401, 403, 404) and self.withheld is not None:
            return self.withheld
        if response.status in (400, 401, 403, 404) and credentials is not None:
            who = f"the user {credentials.username!r:.50}" if credentials.username else "the identity token"
            return AccessError(f"{host} does not accept {who}", "log in again: podman login, skopeo login")
        if response.status in (401, 403):
            return AccessError(f"{host} gives no token without a login", "podman login or skopeo login, or --authfile")
        return UnavailableError(f"{host} answers with status {response.status} instead of a token")


def _domain(host: str) -> str:
    return ".".join(host.split(".")[-2:])


def may_know(realm: str, registry: str) -> bool:
    """Tell whether the host `realm` may have the login for `registry`, which names it as its token server."""
    return realm == registry or urls.share_parent(realm, registry) or _SISTERS.get(_domain(registry)) == _domain(realm)


def check_realm(realm: str, registry: Url, insecure: bool) -> Url:
    """Return the URL of the token server that a challenge of `registry` names.

    Raises RefusedError for plain HTTP (CVE-2019-10214), unless the registry was declared insecure, and for an
    internal address other than the registry's own host (CVE-2026-12566).
    """
    if not realm:
        raise RefusedError(f"{registry.authority} asks for a token but does not say from where")
    url = urls.parse(realm)
    if url.scheme != "https" and not insecure:
        raise RefusedError(
            f"{registry.authority} sends us for a token to {url.shown}, which is not https",
            "if that is right, declare the registry insecure (--insecure or registries.conf)",
        )
    if url.host != registry.host and urls.is_internal(url.host):
        raise RefusedError(f"{registry.authority} sends us for a token to the internal address {url.host}")
    return url


def _parse(raw: bytes, realm: Url, started: float) -> Token:
    what = f"the token of {realm.authority}"
    try:
        document: Any = jsonio.parse(raw, what)
    except RefusedError:
        document = None  # its text may be a secret
    if not isinstance(document, dict):
        raise RefusedError(
            f"{realm.authority} answers with something else than a token", "is there a captive portal or a proxy?"
        )
    text = document.get("token") or document.get("access_token")
    # It goes into a header: what is not printable ASCII would end the line.
    if not isinstance(text, str) or not text.isascii() or not text.isprintable() or " " in text:
        raise RefusedError(f"{what} is not a string that can be sent")
    life = document.get("expires_in")
    seconds = life if type(life) is int else _DEFAULT_LIFE
    return Token(text, started + min(max(seconds, _DEFAULT_LIFE), _LONGEST_LIFE))
