# SPDX-License-Identifier: LGPL-2.1-or-later
"""One registry, as the distribution specification describes it: requests with their redirects, retries and login.

Which bytes are wanted, and whether they are right, is the business of `registry`.
"""

import re
import threading
import time
from collections.abc import Callable, Container, Mapping

from lxc_oci import __version__, jsonio
from lxc_oci.errors import AccessError, OciError, RefusedError, UnavailableError
from lxc_oci.limits import Limits
from lxc_oci.log import escape
from lxc_oci.source import challenge, patience
from lxc_oci.source import url as urls
from lxc_oci.source.auth import Credentials, Finder
from lxc_oci.source.certs import Trust
from lxc_oci.source.connection import ConnectionFailed
from lxc_oci.source.patience import Patience
from lxc_oci.source.registriesconf import Endpoint
from lxc_oci.source.token import Tokens
from lxc_oci.source.transport import Response, Transport, Upload
from lxc_oci.source.url import Url

_HUB_HOST = "registry-1.docker.io"
_REDIRECTS = (301, 302, 303, 307, 308)
_SAME_AGAIN = (307, 308)  # with the same body (RFC 9110, 15.4); after the others a client would send none
_ERROR_BYTES = 64 * 1024
_WINDOW = re.compile(r"\bw=([1-9][0-9]{0,7})\Z")
_SHOWN = 300  # characters of a server's own words
_LOGIN_HINT = "log in with `podman login {0}` or `skopeo login {0}`, or give --authfile FILE"


class RegistryEndpoint:
    """A registry and a repository in it.  Safe to use from several threads."""

    def __init__(
        self,
        place: Endpoint,
        transport: Transport,
        trust: Trust,
        credentials: Finder,
        limits: Limits,
        sleep: Callable[[float], object] = time.sleep,
        scope: str = "",
    ) -> None:
        """`scope` is what tokens are asked for (distribution-spec, "Token Scope"): to pull, where nothing is said."""
        self.place = place
        host, port = urls.split_host(_HUB_HOST if place.host == "docker.io" else place.host, "registry")
        self._host, self._port = host, port
        self._transport = transport
        self._trust = trust
        self._limits = limits
        self._sleep = sleep
        self._find_credentials = credentials
        self._found: list[Credentials | None] = []  # at most one: asked for once, and only after a challenge
        self._of_token_server: list[Credentials | None] = []
        self._lock = threading.Lock()
        self._scheme = "" if place.insecure else "https"  # "" until an insecure registry has answered
        self._answered = False
        self._basic = ""
        self._bearer: Mapping[str, str] | None = None
        scope = scope or f"repository:{place.repository}:pull"
        self._tokens = Tokens(scope, self._credentials, self._credentials_of, self._ask, limits)

    def url(self, path: str) -> Url:
        """Return the URL of `path` below /v2/REPOSITORY/."""
        scheme = self._scheme or "https"
        port = self._port or (443 if scheme == "https" else 80)
        return Url(scheme, self._host, port, f"/v2/{self.place.repository}/{path}")

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        accept: Container[int] = (200,),
        *,
        body: bytes | Upload | None = None,
        url: Url | None = None,
    ) -> Response:
        """Return the answer to a request for `path` below /v2/REPOSITORY/, with a status out of `accept`.

        `url` is where the registry said instead that a `body` goes; such a request is made once, because what came
        of half of it is not known.  Raises AccessError (not found, login needed), UnavailableError, RefusedError.
        """
        waiting = Patience(self._limits, self._sleep)
        refreshed = False
        while True:
            authorization = self._authorization()
            try:
                response = self._send(method, path, headers, authorization, body, url)
            except ConnectionFailed as error:
                if url is not None or (error.fresh and not self._answered):
                    raise
                waiting.wait(error)
                continue
            self._answered = True
            if response.status in accept:
                return response
            ours = response.url.origin == self.url("").origin
            if response.status == 401 and ours and not refreshed:
                # Once for each request: a registry that never is content must not keep us busy.
                refreshed = True
                challenges = challenge.parse(response.headers("WWW-Authenticate"))
                response.drain()
                if self._answer(challenges, authorization):
                    continue
                raise self._unauthorized(authorization is not None)
            failure, after = self._failure(response, path)
            if isinstance(failure, UnavailableError) and url is None:
                waiting.wait(failure, after)
                continue
            raise failure

    def place_of(self, location: str, answered: Url) -> Url:
        """Return the URL that the answer of `answered` sends us to with what we upload.  Raises RefusedError."""
        target = answered.join(location)
        if target.scheme == "http" and not (self.place.insecure and self.url("").scheme == "http"):
            raise RefusedError(
                f"{self.place.host} wants the upload at {target.shown}, which is not https",
                "its administrator must let it name https addresses; --insecure is for a registry that has plain HTTP",
            )
        return target

    def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        authorization: str | None,
        body: bytes | Upload | None,
        url: Url | None,
    ) -> Response:
        all_headers = {"User-Agent": f"lxc-oci-py/{__version__}", "Accept-Encoding": "identity", **headers}
        if authorization is not None:
            all_headers["Authorization"] = authorization
        if not self._scheme:
            self._find_scheme(all_headers)
        target = url or self.url(path)
        if target.origin != self.url("").origin:
            all_headers.pop("Authorization", None)
        return self._follow(method, target, all_headers, body, resend=True)

    def _find_scheme(self, headers: Mapping[str, str]) -> None:
        """Find out whether a registry that was declared insecure speaks TLS.  No other is ever contacted over plain
        HTTP (CVE-2014-5277)."""
        with self._lock:
            if self._scheme:
                return
            for scheme in ("https", "http"):
                url = Url(scheme, self._host, self._port or (443 if scheme == "https" else 80), "/v2/")
                try:
                    self._exchange("GET", url, {name: headers[name] for name in ("User-Agent",)}).drain()
                except ConnectionFailed:
                    if scheme == "http":
                        raise
                else:
                    self._scheme = scheme
                    return

    def _ask(self, method: str, url: Url, headers: Mapping[str, str], body: bytes | None) -> Response:
        """Ask a token server."""
        waiting = Patience(self._limits, self._sleep)
        while True:
            after = None
            try:
                response = self._follow(method, url, {"User-Agent": f"lxc-oci-py/{__version__}", **headers}, body)
                if response.status not in patience.TRANSIENT:
                    return response
                failure, after = self._failure(response, "token")
            except ConnectionFailed as error:
                if error.fresh:
                    raise
                failure = error
            if not isinstance(failure, UnavailableError):
                raise failure
            waiting.wait(failure, after)

    def _follow(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        body: bytes | Upload | None,
        *,
        resend: bool = False,
    ) -> Response:
        """Send a request and follow redirects: Authorization stays with the origin it was made for.

        With `resend` a body goes along, which must be no secret: a token server's is one.
        """
        headers = dict(headers)
        follow = _REDIRECTS if body is None else _SAME_AGAIN if resend else ()
        for _ in range(self._limits.redirects + 1):
            response = self._exchange(method, url, headers, body)
            if response.status not in follow:
                return response
            try:
                location = response.header("Location")
                if not location:
                    raise RefusedError(f"{url.shown} redirects to nowhere")
                target = url.join(location)
                if target.scheme == "http" and not (self.place.insecure and url.scheme == "http"):
                    raise RefusedError(f"{url.shown} redirects to {target.shown}, which is not https")
            except BaseException:
                response.close()
                raise
            response.drain()
            if target.origin != url.origin:
                headers.pop("Authorization", None)
            url = target
        raise RefusedError(f"{url.shown}: more than {self._limits.redirects} redirects")

    def _exchange(
        self, method: str, url: Url, headers: Mapping[str, str], body: bytes | Upload | None = None
    ) -> Response:
        context = None
        # containers-certs.d(5) goes by the name that the user writes: docker.io, example.com:443.
        known = self.place.host if url.origin == self.url("").origin else url.authority
        if url.scheme == "https":
            context = self._trust.context(known, self.place.host, self.place.insecure)
        return self._transport.exchange(
            method, url, headers, context, body=body, named=url.host == self._host, known=known
        )

    def _credentials(self) -> Credentials | None:
        with self._lock:
            if not self._found:
                self._found.append(self._find_credentials())
            return self._found[0]

    def _credentials_of(self, token_server: str) -> Credentials | None:
        """Return what the user has stored for the token server itself."""
        found = self._find_credentials(token_server)
        self._of_token_server.append(found)
        return found

    def _authorization(self) -> str | None:
        """Return what an earlier challenge of this registry has asked for, None before there was one."""
        if self._bearer is not None:
            token = self._tokens.current()
            if token is None:
                token = self._tokens.fetch(self._bearer, self.url(""), self.place.insecure, None)
            return f"Bearer {token}"
        return self._basic or None

    def _answer(self, challenges: list[challenge.Challenge], sent: str | None) -> bool:
        """Prepare the authorization that the challenges ask for; False when there is none."""
        for asked in challenges:
            if asked.scheme == "bearer":
                refused = sent.removeprefix("Bearer ") if sent is not None else None
                self._tokens.fetch(asked.parameters, self.url(""), self.place.insecure, refused)
                self._bearer = asked.parameters
                return True
        if any(asked.scheme == "basic" for asked in challenges):
            credentials = self._credentials()
            if credentials is not None and credentials.username and credentials.basic() != sent:
                self._basic, self._bearer = credentials.basic(), None
                return True
        return False

    def _unauthorized(self, sent: bool) -> AccessError:
        credentials = self._credentials()
        if self._tokens.withheld is not None:
            return self._tokens.withheld
        if credentials is None:
            return AccessError(f"{self.place} needs a login, or does not exist", _LOGIN_HINT.format(self.place.host))
        who = f"user {credentials.username!r:.50}" if credentials.username else "the identity token"
        return AccessError(
            f"{self.place.host} does not accept {who} for {self.place.repository}", _LOGIN_HINT.format(self.place.host)
        )

    def _failure(self, response: Response, path: str) -> tuple[OciError, float | None]:
        """Return what an answer with an unexpected status means, and when the server wants to be asked again."""
        host, status = response.url.authority, response.status
        ours = response.url.origin == self.url("").origin
        code, words = self._words(response)
        after = patience.retry_after(response.header("Retry-After"))
        remaining, _, quota = response.header("RateLimit-Remaining").partition(";")
        said = f": {words}" if words else ""
        if status in (429, 503) and (status == 429 or code == "TOOMANYREQUESTS" or after is not None):
            hint = f"try again {patience.when(after) if after is not None else _within(quota)}"
            if self._credentials_unknown_or_none():
                hint += "; a login may have a higher limit (podman login)"
            if status == 429 and remaining == "0" and after is None:
                after = float("inf")  # a quota of hours: Docker Hub does not say when it ends
            what = "does not answer more requests for now" if status == 429 else "is busy"
            return UnavailableError(f"{host} {what}{said}", hint), after
        if status in patience.TRANSIENT:
            return UnavailableError(f"{host} answers with status {status}{said}", "try again later"), after
        if status in (401, 403) and not ours:
            # A signed URL that has expired: the registry makes a new one.
            return UnavailableError(f"{host}, where {self.place.host} sends us, denies access{said}"), None
        if status == 401:
            return self._unauthorized(True), None
        if status == 403:
            return AccessError(f"{self.place} is denied{said}", _LOGIN_HINT.format(self.place.host)), None
        if status == 404:
            return AccessError(f"{self.place} has no {_shown(path)}{said}", "is the name right?"), None
        return UnavailableError(f"{host} answers with status {status}{said}"), float("inf")

    def _credentials_unknown_or_none(self) -> bool:
        return not self._found or self._found[0] is None

    def _words(self, response: Response) -> tuple[str, str]:
        """Return the code and the words of an error answer (distribution-spec, "Error Codes"), safe to show."""
        parts = []
        try:
            left = min(self._limits.token_bytes, _ERROR_BYTES)
            while left > 0 and (data := response.read(left)):
                parts.append(data)
                left -= len(data)
        except ConnectionFailed:
            pass
        finally:
            response.close()
        try:
            document = jsonio.parse(b"".join(parts), "the error")
            error = document["errors"][0]
            code, message = error.get("code"), error.get("message")
        except (RefusedError, KeyError, IndexError, TypeError, AttributeError):
            return "", ""
        code = code if isinstance(code, str) else ""
        message = message if isinstance(message, str) else ""
        words = escape(" ".join(part for part in (code, message) if part))[:_SHOWN]
        return code, self._without_secrets(words)

    def _without_secrets(self, text: str) -> str:
        """A server may say back to us what we said to it."""
        secrets = [self._tokens.current() or "", self._basic.removeprefix("Basic ")]
        for credentials in (*self._found, *self._of_token_server):
            if credentials is not None:
                secrets += [credentials.password, credentials.identity_token]
        for secret in secrets:
            if secret:
                text = text.replace(secret, "***")
        return text


def _within(quota: str) -> str:
    """Say when a quota is whole again, of which Docker Hub says how long it is counted for: `w=21600`."""
    match = _WINDOW.search(quota)
    return f"within {patience.span(int(match[1]))}" if match else "later"


def _shown(path: str) -> str:
    """`manifests/1.27` in the words of a message."""
    kind, _, name = path.partition("/")
    if kind == "manifests":
        return f"manifest {name}" if ":" in name else f"tag {name!r:.150}"
    return f"{kind.removesuffix('s')} {name}".rstrip()
