# SPDX-License-Identifier: LGPL-2.1-or-later
"""References: what a `--url` names, in the forms of containers-transports(5).

A reference is parsed once; nobody else takes a URL apart.  The grammar of names is that of the distribution
specification, so a part of a reference is never an option, a path component such as `..`, or a control
sequence.  The file system is asked for one thing only: which colon ends a path that has several.
"""

import os
import re
from collections.abc import Callable
from typing import NamedTuple

from lxc_oci.errors import RefusedError, UsageError
from lxc_oci.image.digest import Digest

DOCKER = "docker"
OCI = "oci"
OCI_ARCHIVE = "oci-archive"
DOCKER_ARCHIVE = "docker-archive"
DIRECTORY = "dir"
# What skopeo knows beyond these; containers-transports(5).
FOREIGN = frozenset({"atomic", "containers-storage", "docker-daemon", "ostree", "sif", "tarball"})

_TRANSPORTS = (
    "write docker://HOST/REPOSITORY:TAG, oci:DIRECTORY:NAME, oci-archive:FILE, docker-archive:FILE or dir:DIRECTORY"
)
_DOCKER_HUB = "docker.io"
_LATEST = "latest"
# Reference grammar of the distribution project; the lengths are its own.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::([0-9]+))?\Z")
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_IDENTIFIER = re.compile(r"[a-f0-9]{64}\Z")
_NAME_LENGTH = 255
# image-spec annotations.md, org.opencontainers.image.ref.name
_WORD = r"[A-Za-z0-9]+(?:(?:--|[-._:@+])[A-Za-z0-9]+)*"
_REF_NAME = re.compile(rf"{_WORD}(?:/{_WORD})*\Z")
_POSITION = re.compile(r"@[0-9]{1,6}\Z")
_DIGEST = re.compile(r"@((?:sha256|sha512):[^:@/]*)\Z")


class ShortNameError(UsageError):
    """A name without a host, which the host's registries.conf may know in full."""

    def __init__(self, message: str, hint: str, name: str) -> None:
        super().__init__(message, hint)
        self.name = name  # as it was written: `nginx`, `library/nginx:1.27`


class Reference(NamedTuple):
    """One image, named.  `tag` selects an image of a layout or archive too, by its name or as `@INDEX`."""

    transport: str
    host: str = ""  # as auth.json and registries.conf write it: `docker.io`, `localhost:5000`
    repository: str = ""
    path: str = ""  # absolute; for a foreign transport whatever follows its colon
    tag: str = ""
    digest: Digest | None = None

    @property
    def text(self) -> str:
        """The canonical URL, which is shown and recorded.  It holds no credentials."""
        selector = (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")
        return (f"{DOCKER}://" if self.transport == DOCKER else "") + self.name + selector

    @property
    def name(self) -> str:
        """Who hands the image out, without tag and digest: `HOST/REPOSITORY`, or `TRANSPORT:PATH`."""
        return f"{self.host}/{self.repository}" if self.transport == DOCKER else f"{self.transport}:{self.path}"

    @property
    def foreign(self) -> bool:
        """Whether only skopeo can read it."""
        return self.transport in FOREIGN

    def __str__(self) -> str:
        return self.text


def parse(url: str, exists: Callable[[str], bool] = os.path.exists) -> Reference:
    """Parse a URL.  Raises UsageError, never repeating what may be a password.

    A relative path is completed with the working directory.  Like skopeo, a path ends at its first colon; unlike
    it, at the first colon before which something `exists`, where there is such a one.
    """
    if not url:
        raise UsageError("no image URL is given", "write for example --url docker://docker.io/library/debian:stable")
    if not url.isprintable():
        # Control characters would reach terminals, logs and LXC's own header in the configuration.
        raise UsageError(f"the image URL {_shown(url)!r:.200} has characters that cannot be printed")
    transport, colon, rest = url.partition(":")
    if transport == DOCKER and colon:
        return _docker(rest, url)
    if transport == DIRECTORY and colon:
        return Reference(transport, path=_absolute(rest, url))
    if transport in (OCI, OCI_ARCHIVE, DOCKER_ARCHIVE) and colon:
        return _local(transport, rest, url, exists)
    if transport in FOREIGN and colon:
        if not rest:
            raise UsageError(f"{transport}: names no image")
        return Reference(transport, path=rest)
    if colon and rest.startswith(("/", "./", "../")) and transport not in ("http", "https"):
        raise UsageError(f"{transport!r:.50} is not a transport", _TRANSPORTS)
    message, hint = f"{_shown(url)!r:.200} does not say where the image is", _suggestion(url)
    if _is_short(url):
        raise ShortNameError(message, hint, url)
    raise UsageError(message, hint)


def normal(text: str) -> Reference:
    """Parse the name of an image as Docker's tools write it: `nginx` is docker.io/library/nginx:latest.

    Raises UsageError.
    """
    name, at, digest_text = text.partition("@")
    if at and "/" in digest_text:
        raise UsageError("the image URL has credentials in it", "give them with --username, or by --authfile")
    digest = _digest(digest_text) if at else None
    host, _, remainder = name.partition("/")
    if _without_host(name):
        host, remainder = _DOCKER_HUB, name
    if host == "index.docker.io":
        host = _DOCKER_HUB
    repository, colon, tag = remainder.partition(":")
    if host == _DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    match = _HOST.match(host)
    if not match or (match[1] and not 0 < int(match[1][:6]) < 65536):
        raise UsageError(f"{host!r:.100} is not the name of a registry")
    if not _REPOSITORY.match(repository):
        hint = "its letters are lower-case ones" if repository != repository.lower() else ""
        raise UsageError(f"{repository!r:.100} is not the name of a repository", hint)
    if len(host) + 1 + len(repository) > _NAME_LENGTH:
        raise UsageError(f"the name {repository!r:.30}… is longer than {_NAME_LENGTH} characters")
    if _IDENTIFIER.match(name):
        raise UsageError(f"{name} is an image's id, not a name", "pull by name@sha256:…")
    if (colon or not digest) and not _TAG.match(tag or ("" if colon else _LATEST)):
        raise UsageError(f"{tag!r:.150} is not a tag")
    return Reference(DOCKER, host, repository, tag=tag or ("" if digest else _LATEST), digest=digest)


def is_host_or_name(text: str) -> bool:
    """Tell whether `text` is a registry's host, or the full name of a namespace or repository there."""
    host, slash, repository = text.partition("/")
    return bool(_HOST.match(host)) and (not slash or bool(_REPOSITORY.match(repository)))


def is_ref_name(text: str) -> bool:
    """Tell whether `text` has the grammar of org.opencontainers.image.ref.name, so that it can select an image."""
    return bool(_REF_NAME.match(text))


def _without_host(name: str) -> bool:
    host, slash, _ = name.partition("/")
    return not slash or not (re.search(r"[.:]", host) or host == "localhost")


def _is_short(url: str) -> bool:
    try:
        return _without_host(url.partition("@")[0]) and bool(normal(url))
    except UsageError:
        return False


def _docker(rest: str, url: str) -> Reference:
    if not rest.startswith("//"):
        raise UsageError(f"{_shown(url)!r:.200} lacks the slashes of docker://", _suggestion(rest))
    if rest.startswith(("//https://", "//http://")):
        raise UsageError(f"{_shown(url)!r:.200} has a second scheme", "write docker://HOST/REPOSITORY:TAG")
    return normal(rest[2:])


def _local(transport: str, rest: str, url: str, exists: Callable[[str], bool]) -> Reference:
    digest = None
    if found := _DIGEST.search(rest):
        digest = _digest(found[1])
        rest = rest[: found.start()]
        if transport == DOCKER_ARCHIVE:
            raise UsageError(
                f"{_shown(url)!r:.200} pins a digest, but images in a docker-archive have no manifest",
                "select one by :NAME:TAG or :@INDEX",
            )
    path, tag = _split(rest, exists)
    if tag is not None and not _POSITION.match(tag):
        if transport == DOCKER_ARCHIVE:
            named = normal(tag)
            if named.digest is not None:
                raise UsageError(f"{tag!r:.150} does not select an image of an archive", "write :NAME:TAG or :@INDEX")
            tag = f"{named.host}/{named.repository}:{named.tag}"
        elif not is_ref_name(tag):
            raise UsageError(
                f"{tag!r:.150} is not the name of an image in {path!r:.200}", "write :NAME, :@INDEX or @sha256:…"
            )
    return Reference(transport, path=_absolute(path, url), tag=tag or "", digest=digest)


def _split(rest: str, exists: Callable[[str], bool]) -> tuple[str, str | None]:
    """Part a path from the selector behind it."""
    colons = [position for position, character in enumerate(rest) if character == ":"]
    for position in colons:
        if exists(rest[:position] or "."):
            return rest[:position], rest[position + 1 :]
    if not colons or exists(rest):
        return rest, None
    return rest[: colons[0]], rest[colons[0] + 1 :]


def _absolute(path: str, url: str) -> str:
    if not path:
        raise UsageError(f"{_shown(url)!r:.200} names no file or directory")
    if os.path.isabs(path):
        return path
    try:
        # Not abspath(): `a/..` is another directory where `a` is a symbolic link.
        path = os.path.join(os.getcwd(), path)
    except OSError as error:
        raise UsageError(f"the path {path!r:.200} is relative, and the working directory is gone") from error
    if not path.isprintable():
        raise UsageError(f"the path {path!r:.200} has characters that cannot be printed")
    return path


def _digest(text: str) -> Digest:
    try:
        return Digest(text, "the URL's digest")
    except RefusedError as error:
        raise UsageError(error.message, "a digest is sha256: and 64 lower-case hexadecimal digits") from error


def _shown(url: str) -> str:
    """`url` as messages may repeat it: without what stands before an `@` and could be a password."""
    _, at, behind = url.rpartition("@")
    return f"…@{behind}" if at and "/" in behind else url


def _suggestion(url: str) -> str:
    """The hint for a URL without a transport: the full name, if the text can be one."""
    try:
        return f"if it is in a registry, write {normal(url.removeprefix('https://').removeprefix('//')).text}"
    except UsageError:
        return _TRANSPORTS
