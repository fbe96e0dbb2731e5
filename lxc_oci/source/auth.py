# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose name we pull in: containers-auth.json(5), Docker's config.json, and credential helpers.

It finds credentials; what a server may get of them is decided in `endpoint` and `token`.
"""

import base64
import binascii
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lxc_oci import jsonio
from lxc_oci.errors import AccessError, OciError, RefusedError, UsageError
from lxc_oci.kernel import run
from lxc_oci.limits import Limits
from lxc_oci.source import hostfiles

if TYPE_CHECKING:
    from lxc_oci.image.reference import Reference
    from lxc_oci.source.registriesconf import Endpoint

_AUTH_FILES = "containers-auth.json"  # registries.conf's name for the files, among helpers
_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
_HUB_KEY = "https://index.docker.io/v1/"  # what docker login has always called the Hub
_TOKEN_USER = "<token>"  # a helper's name for an identity token
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
# What helpers need to find their own secrets; none of these is one.
_HELPER_ENVIRONMENT = (
    *("HOME", "USER", "LOGNAME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"),
    *("GNUPGHOME", "PASSWORD_STORE_DIR", "AWS_PROFILE", "AWS_REGION", "CLOUDSDK_CONFIG"),
    *("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR", "NO_PROXY", "no_proxy"),
)
_PROXIES = (
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
)  # for helpers too, unless there is a password in it


@dataclass(frozen=True, repr=False)
class Credentials:
    """A user's name and password, or an identity token (an OAuth2 refresh token).  Has no repr: it is a secret."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def basic(self) -> str:
        """The value of Authorization for Basic (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


class Keyring:
    """Where credentials are looked for, in containers-auth.json(5)'s order."""

    def __init__(
        self,
        authfile: str | None,
        environment: Mapping[str, str],
        limits: Limits,
        warn: Callable[[str], None],
        helpers: Sequence[str] = (),
    ) -> None:
        self._authfile = authfile
        self._environment = environment
        self._limits = limits
        self._warn = warn
        self._helpers = tuple(helpers) or (_AUTH_FILES,)

    def find(self, host: str, repository: str) -> Credentials | None:
        """Return the credentials for `host` (`docker.io` for the Hub) and `repository`, None to be anonymous.

        A place that fails does not end the search: its error counts where no other has credentials.
        Raises UsageError for files that cannot be read, and AccessError for helpers that fail.
        """
        failures: list[OciError] = []
        for helper in self._helpers:
            try:
                found = self._in_files(host, repository) if helper == _AUTH_FILES else self._ask(helper, host)
            except OciError as error:
                failures.append(error)
                continue
            if found is not None:
                return found
        if failures:
            first, *others = failures
            raise type(first)("; ".join([first.message, *(error.message for error in others)]), first.hint)
        return None

    def _in_files(self, host: str, repository: str) -> Credentials | None:
        for path, explicit in self._paths():
            document = self._read(path, explicit)
            if document is None:
                continue
            legacy = os.path.basename(path) == ".dockercfg"
            found = self._in_document(document, path, legacy, host, repository)
            if found is not None:
                return found
        return None

    def _paths(self) -> Iterator[tuple[str, bool]]:
        """Yield the files in order, and whether the user named the file."""
        environment = self._environment
        named = self._authfile or environment.get("REGISTRY_AUTH_FILE", "")
        if named:
            yield os.path.abspath(named), True
            return
        yield os.path.join(hostfiles.runtime(environment), "auth.json"), False
        yield os.path.join(hostfiles.config_home(environment), "containers/auth.json"), False
        home = hostfiles.home(environment)
        yield os.path.join(environment.get("DOCKER_CONFIG", "") or os.path.join(home, ".docker"), "config.json"), False
        yield os.path.join(home, ".dockercfg"), False

    def _read(self, path: str, explicit: bool) -> dict[str, Any] | None:
        try:
            raw = hostfiles.read(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            if explicit:
                raise UsageError(f"the credentials file {path} does not exist") from error
            return None
        except OSError as error:
            if explicit:
                raise UsageError(f"cannot read the credentials file {path}: {error.strerror}") from error
            # It may be another user's, as seen from a user namespace.
            self._warn(f"credentials in {path} are not used: {error.strerror}")
            return None
        if not raw.strip():
            return None
        try:
            document = jsonio.parse(raw, path)
        except RefusedError:
            raise UsageError(f"the credentials file {path} is not valid JSON, or has a key twice") from None
        if not isinstance(document, dict):
            raise UsageError(f"the credentials file {path} is not a JSON object")
        return document

    def _in_document(
        self, document: dict[str, Any], path: str, legacy: bool, host: str, repository: str
    ) -> Credentials | None:
        names = _aliases(host)
        helpers = document.get("credHelpers")
        if not legacy and isinstance(helpers, dict):
            for name in names:
                if isinstance(helpers.get(name), str):
                    # For a host that has a helper, the entries of this file do not count.
                    return self._ask(helpers[name], name)
        entries = document if legacy else document.get("auths")
        entry = _entry(entries, host, repository, legacy) if isinstance(entries, dict) else None
        if entry is not None:
            found = _decode(entry)
            if found is not None:
                return found
            if entry.get("auth"):
                self._warn(f"the entry for {host} in {path} is not valid and not used")
        store = document.get("credsStore")
        if not legacy and isinstance(store, str) and store:
            try:
                return self._ask(store, _HUB_KEY if host in _HUB else host)
            except OciError as error:
                # Not asked for by name, as credHelpers are: containers/image does not even look at it.
                self._warn(f"the credsStore of {path} is not used: {error.message}")
        return None

    def _ask(self, helper: str, server: str) -> Credentials | None:
        """Run docker-credential-HELPER (docker-credential-helpers' protocol)."""
        if not _HELPER.match(helper):
            raise UsageError(f"{helper!r:.100} is not the name of a credential helper")
        program = f"docker-credential-{helper}"
        path = run.find(program)
        if path is None:
            raise AccessError(
                f"the credential helper {program} is not installed",
                f"install it into a directory of {run.SYSTEM_PATH}, or use --authfile",
            )
        passed = [*_HELPER_ENVIRONMENT, *(name for name in _PROXIES if "@" not in self._environment.get(name, ""))]
        environment = {name: self._environment[name] for name in passed if name in self._environment}
        result = run.run(
            [path, "get"],
            timeout=self._limits.helper_timeout,
            input=server.encode(),
            environment=environment,
        )
        if result.status != 0:
            if b"credentials not found" in result.output.lower() + result.errors.lower():
                return None
            raise AccessError(
                f"the credential helper {program} fails for {server} with status {result.status}",
                f"try: echo {server} | {program} get",
            )
        try:
            answer = jsonio.parse(result.output, f"the answer of {program}")
        except RefusedError:
            answer = None  # its text may be the secret
        if not isinstance(answer, dict) or not all(
            isinstance(answer.get(name), str) for name in ("Username", "Secret")
        ):
            raise AccessError(f"the credential helper {program} answers with something else than credentials")
        if answer["Username"] == _TOKEN_USER:
            return Credentials(identity_token=answer["Secret"])
        return Credentials(answer["Username"], answer["Secret"]) if answer["Username"] else None


class Finder(Protocol):
    """Finds the credentials for one registry, or for another host that it names as its token server."""

    def __call__(self, token_server: str = "", /) -> Credentials | None: ...


def chooser(
    keyring: Keyring, reference: "Reference", place: "Endpoint", username: str | None, password: str | None
) -> Finder:
    """Return what finds the credentials for `place`, from which `reference` is pulled or to which it is pushed.

    A name and password given on the command line are for the registry that it names, and not for mirrors or for
    where registries.conf sends us instead.
    """
    given = None
    if username is not None and place.host == reference.host:
        given = Credentials(username, password or "")

    def find(token_server: str = "", /) -> Credentials | None:
        if token_server:
            return keyring.find(token_server, "")
        return given or keyring.find(place.host, place.repository)

    return find


def _aliases(host: str) -> tuple[str, ...]:
    return (host, *(name for name in (*_HUB, _HUB_KEY) if name != host)) if host in _HUB else (host,)


def _entry(entries: dict[str, Any], host: str, repository: str, legacy: bool) -> dict[str, Any] | None:
    """Return the entry with the longest matching key.  Keys match whole path components only (CVE-2021-41092)."""
    keys = [host]
    if not legacy:
        parts = repository.split("/")
        keys = [f"{host}/{'/'.join(parts[:count])}" for count in range(len(parts), 0, -1)] + keys
    for key in keys:
        if isinstance(entries.get(key), dict):
            return entries[key]  # type: ignore[no-any-return]
    # Old keys: with a scheme and a path, or one of the Hub's other names.
    wanted = _normalized(host)
    for key, entry in entries.items():
        stripped = key.removeprefix("http://").removeprefix("https://")
        if legacy or stripped != key:
            stripped = stripped.partition("/")[0]
        if _normalized(stripped) == wanted and isinstance(entry, dict):
            return entry
    return None


def _normalized(host: str) -> str:
    return "index.docker.io" if host in _HUB else host


def _decode(entry: dict[str, Any]) -> Credentials | None:
    """Return what an entry holds, None for the empty ones that docker writes when a helper keeps the secret."""
    token = entry.get("identitytoken")
    token = token if isinstance(token, str) else ""
    username = password = ""
    text = entry.get("auth")
    if isinstance(text, str) and text:
        try:
            # Go, and so whoever wrote the file, passes over line breaks.
            raw = base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
            username, colon, password = raw.decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            colon = ""
        if not colon:
            username = password = ""
    elif isinstance(entry.get("username"), str) and isinstance(entry.get("password"), str):
        username, password = entry["username"], entry["password"]
    password = password.strip("\0")
    if not token and not username:
        return None
    return Credentials(username, password, token)
