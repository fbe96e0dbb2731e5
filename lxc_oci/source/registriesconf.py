# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which places an image may come from, in order: registries.conf(5) version 2 with its drop-ins.

Version 1 is understood as far as pulling needs it.  Files are read as containers/image reads them, its matching of
`example.com` against `example.com:5000` included: the same host gives the same answer as with skopeo and podman.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lxc_oci.errors import RefusedError, UsageError
from lxc_oci.image import reference as references
from lxc_oci.source import hostfiles

if TYPE_CHECKING:
    from lxc_oci.image.reference import Reference

SYSTEM = "/etc/containers"
_NAME = "registries.conf"
_USES = ("", "all", "digest-only", "tag-only")
_SETTING = re.compile(r"^\s*[^\s#]", re.MULTILINE)
_SEPARATORS = (":", "/", "@")


@dataclass(frozen=True)
class Endpoint:
    """One place to pull an image from."""

    host: str  # `host[:port]` as configuration files write it; `docker.io` for the Hub
    repository: str
    insecure: bool = False

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}"


@dataclass(frozen=True)
class _Mirror:
    location: str
    insecure: bool
    use: str


@dataclass(frozen=True)
class _Registry:
    """One [[registry]] table."""

    prefix: str
    location: str
    insecure: bool
    blocked: bool
    by_digest_only: bool
    mirrors: tuple[_Mirror, ...]
    origin: str  # the file


@dataclass
class Registries:
    """What the files say, merged."""

    tables: dict[str, _Registry] = field(default_factory=dict)
    helpers: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)

    def places(self, reference: "Reference", insecure: bool) -> list[Endpoint]:
        """Return the places to pull `reference` from, mirrors first and the registry itself last.

        `insecure` is the command line's word for the registry, not for its mirrors.  Raises RefusedError when the
        image is blocked, and UsageError when a location does not give a name.
        """
        # A prefix with a tag matches nothing: containers/image looks up the name alone.
        table = self._find(reference.name)
        if table is None:
            return [Endpoint(reference.host, reference.repository, insecure)]
        found = []
        for mirror in table.mirrors:
            use = "digest-only" if table.by_digest_only else mirror.use
            if use != ("tag-only" if reference.digest is not None else "digest-only"):
                found.append(_rewritten(table, mirror.location, mirror.insecure, reference))
        # `blocked` is about a place; a mirror of a blocked registry may still be one to pull from.
        found = [place for place in found if not self._blocks(place)]
        try:
            found.append(self.own(reference, insecure))
        except RefusedError:
            if not found:
                raise
        return found

    def own(self, reference: "Reference", insecure: bool) -> Endpoint:
        """Return the registry itself that `reference` means, never a mirror.  Raises as `places` does."""
        table = self._find(reference.name)
        if table is None:
            return Endpoint(reference.host, reference.repository, insecure)
        own = _rewritten(table, table.location, table.insecure or insecure, reference)
        if table.blocked or self._blocks(own):
            raise RefusedError(f"{table.prefix} is blocked by {table.origin}")
        return own

    def suggestions(self, name: str) -> list[str]:
        """Return the URLs that a short name could stand for: its alias, else one for each search registry.

        Nobody is asked; what is no name of an image is left out.
        """
        bare = re.split("[:@]", name, maxsplit=1)[0]
        selector = name[len(bare) :]
        alias = self.aliases.get(bare)
        found = []
        for text in [alias + selector] if alias else [f"{host}/{name}" for host in self.search]:
            try:
                found.append(references.normal(text).text)
            except UsageError:
                continue
        return found

    def _blocks(self, place: Endpoint) -> bool:
        table = self._find(str(place))
        return table is not None and table.blocked

    def _find(self, name: str) -> _Registry | None:
        matching = [table for table in self.tables.values() if _match(name, table.prefix) is not None]
        return max(matching, key=lambda table: len(table.prefix)) if matching else None


def load(environment: Mapping[str, str], system: str = SYSTEM) -> Registries:
    """Read the files: the user's instead of the system's where there are some.

    Raises UsageError for a file that cannot be read or that contradicts itself.
    """
    found = Registries()
    own = os.path.join(hostfiles.home(environment), ".config/containers")
    named = environment.get("CONTAINERS_REGISTRIES_CONF", "")
    directories = [f"{system}/{_NAME}.d", f"{own}/{_NAME}.d"]
    if named:
        path = named
    elif os.path.exists(f"{own}/{_NAME}"):
        path = f"{own}/{_NAME}"
        directories = directories[1:]
    else:
        path = f"{system}/{_NAME}"
    _merge(found, path, required=bool(named), drop_in=False)
    for directory in directories:
        for drop_in in _drop_ins(directory):
            _merge(found, drop_in, required=False, drop_in=True)
    return found


def _drop_ins(directory: str) -> Iterator[str]:
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UsageError(f"cannot read {directory}: {error.strerror}") from error
    for name in names:
        path = os.path.join(directory, name)
        if name.endswith(".conf") and not os.path.isdir(path):
            yield path


def _merge(found: Registries, path: str, *, required: bool, drop_in: bool) -> None:
    """Add the tables of one file; a later file replaces tables with the same prefix."""
    try:
        text = hostfiles.read(path).decode("utf-8")
        if not _SETTING.search(text):
            return  # comments alone, as distributions install it
        import tomllib

        document = tomllib.loads(text)
    except (FileNotFoundError, NotADirectoryError) as error:
        if required:
            raise UsageError(f"{path} does not exist") from error
        return
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    old = document.get("registries")
    if isinstance(old, dict):
        if drop_in or "registry" in document:
            raise UsageError(f"{path} has version 1 of registries.conf where version 2 must be")
        document = _from_version_1(old, path)
    tables = [_table(item, path) for item in _tables(document, "registry", path)]
    _check_consistent(tables, path)
    first: dict[str, _Registry] = {}
    for table in tables:
        first.setdefault(table.prefix, table)
    found.tables |= first
    if "unqualified-search-registries" in document:
        found.search = _strings(document, "unqualified-search-registries", path)
    if "credential-helpers" in document:
        found.helpers = _strings(document, "credential-helpers", path)
    aliases = document.get("aliases", {})
    if not isinstance(aliases, dict) or not all(isinstance(value, str) for value in aliases.values()):
        raise UsageError(f"{path}: the aliases are not a table of strings")
    found.aliases |= aliases


def _from_version_1(old: dict[str, Any], path: str) -> dict[str, Any]:
    def listed(name: str) -> list[str]:
        return _strings(_typed(old, name, dict, {}, path), "registries", path)

    blocked, insecure = listed("block"), listed("insecure")
    tables = [
        {"location": location, "blocked": location in blocked, "insecure": location in insecure}
        for location in dict.fromkeys((*blocked, *insecure))
    ]
    return {"registry": tables, "unqualified-search-registries": listed("search")}


def _table(item: dict[str, Any], path: str) -> _Registry:
    location = _location(item, "location", path)
    prefix = _location(item, "prefix", path) or location
    if not prefix:
        raise UsageError(f"{path}: a [[registry]] has neither prefix nor location")
    wildcard = prefix.startswith("*.")
    if not wildcard and not location:
        raise UsageError(f"{path}: the [[registry]] {prefix} has no location")
    if wildcard and any(separator in prefix for separator in _SEPARATORS):
        raise UsageError(f"{path}: the prefix {prefix} is not of the form *.example.com")
    if item.get("pull-from-mirror"):
        raise UsageError(f"{path}: pull-from-mirror belongs to a [[registry.mirror]], not to {prefix}")
    by_digest_only = _typed(item, "mirror-by-digest-only", bool, False, path)
    mirrors = []
    for mirror in _tables(item, "mirror", path):
        target = _location(mirror, "location", path)
        use = _typed(mirror, "pull-from-mirror", str, "", path)
        if not target:
            raise UsageError(f"{path}: a mirror of {prefix} has no location")
        if use not in _USES:
            raise UsageError(f"{path}: {use!r:.50} is not a value of pull-from-mirror")
        if use and by_digest_only:
            raise UsageError(f"{path}: {prefix} has mirror-by-digest-only and a mirror with pull-from-mirror")
        mirrors.append(_Mirror(target, _typed(mirror, "insecure", bool, False, path), use))
    return _Registry(
        prefix,
        location,
        _typed(item, "insecure", bool, False, path),
        _typed(item, "blocked", bool, False, path),
        by_digest_only,
        tuple(mirrors),
        path,
    )


def _check_consistent(tables: Sequence[_Registry], path: str) -> None:
    """One location must not be secure and insecure at once."""
    seen: dict[str, _Registry] = {}
    for table in tables:
        other = seen.setdefault(table.location or table.prefix, table)
        if (other.insecure, other.blocked) != (table.insecure, table.blocked):
            raise UsageError(f"{path}: {table.location or table.prefix} is there twice, with different settings")


def _match(name: str, prefix: str) -> int | None:
    """Return how much of an image's name `prefix` covers, None where it does not match."""
    if prefix.startswith("*."):
        start = name.find(prefix[1:])
        if start < 0 or "/" in name[:start]:
            return None
        end = start + len(prefix) - 1
    elif name.startswith(prefix):
        end = len(prefix)
    else:
        return None
    return end if end == len(name) or name[end] in _SEPARATORS else None


def _rewritten(table: _Registry, location: str, insecure: bool, reference: "Reference") -> Endpoint:
    if not location:
        return Endpoint(reference.host, reference.repository, insecure)
    text = location + reference.name[_match(reference.name, table.prefix) or 0 :]
    try:
        place = references.normal(text)
    except UsageError as error:
        raise UsageError(f"{table.origin}: {reference.name} becomes {text!r:.200}, which names no image") from error
    if place.name != text:
        raise UsageError(
            f"{table.origin}: {reference.name} becomes {text!r:.200}, which is not the full name of an image"
        )
    return Endpoint(place.host, place.repository, insecure)


def _location(item: dict[str, Any], name: str, path: str) -> str:
    value: str = _typed(item, name, str, "", path).rstrip("/")
    if value.startswith(("http://", "https://")):
        raise UsageError(f"{path}: {value!r:.100} has a scheme, which a {name} must not have")
    return value


def _tables(document: dict[str, Any], name: str, path: str) -> list[dict[str, Any]]:
    value: list[dict[str, Any]] = _typed(document, name, list, [], path)
    if not all(isinstance(item, dict) for item in value):
        raise UsageError(f"{path}: {name} is not an array of tables")
    return value


def _strings(document: dict[str, Any], name: str, path: str) -> list[str]:
    value: list[str] = _typed(document, name, list, [], path)
    if not all(isinstance(item, str) for item in value):
        raise UsageError(f"{path}: {name} is not an array of strings")
    return value


def _typed(item: dict[str, Any], name: str, kind: type, default: Any, path: str) -> Any:
    value = item.get(name, default)
    if not isinstance(value, kind):
        raise UsageError(f"{path}: {name} is not a {kind.__name__}")
    return value
