# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which images the administrator allows: containers-policy.json(5).

A requirement that cannot be checked here refuses the image.  Where there is no policy file at all, everything is
allowed, as with the file that Debian installs.
"""

import base64
import binascii
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lxc_oci import jsonio
from lxc_oci.errors import RefusedError, UsageError
from lxc_oci.image import reference as references
from lxc_oci.image.digest import Digest
from lxc_oci.source import hostfiles
from lxc_oci.source.identity import DEFAULT_IDENTITY, Identity, parse_identity

if TYPE_CHECKING:
    from lxc_oci.image.reference import Reference
    from lxc_oci.limits import Limits
    from lxc_oci.source.open import SourceOptions

SYSTEM = "/etc/containers"
_KEY_MEMBERS = ("keyPath", "keyPaths", "keyData", "keyDatas")
# Members by type of requirement; an unknown one makes the file invalid, as it may carry a restriction.
_MEMBERS = {
    "insecureAcceptAnything": (),
    "reject": (),
    "signedBy": ("keyType", "keyPath", "keyPaths", "keyData", "signedIdentity"),
    "signedBaseLayer": ("baseLayerIdentity",),
    "sigstoreSigned": (
        *_KEY_MEMBERS,
        "fulcio",
        "pki",
        "rekorPublicKeyPath",
        "rekorPublicKeyPaths",
        "rekorPublicKeyData",
        "rekorPublicKeyDatas",
        "signedIdentity",
    ),
}
_CHECKABLE = frozenset({"type", "signedIdentity", *_KEY_MEMBERS})


@dataclass(frozen=True)
class Requirement:
    """One requirement; `uncheckable` names what of it is beyond us."""

    type: str
    keys: tuple[bytes | str, ...] = ()  # PEM, or the path of a file with it
    identity: Identity = DEFAULT_IDENTITY
    uncheckable: str = ""


@dataclass(frozen=True)
class Policy:
    """A policy file."""

    path: str
    default: tuple[Requirement, ...]
    transports: Mapping[str, Mapping[str, tuple[Requirement, ...]]]

    def requirements(self, reference: "Reference") -> tuple[Requirement, ...]:
        """Return what applies to `reference`: the most specific entry alone."""
        scopes = self.transports.get(reference.transport)
        if scopes is not None:
            for scope in (*_scopes(reference), ""):
                if scope in scopes:
                    return scopes[scope]
        return self.default


def load(environment: Mapping[str, str], system: str = SYSTEM) -> Policy | None:
    """Return the user's policy, else the system's, None when there is neither.

    Raises UsageError for one that cannot be read, or has anything in it that is not understood.
    """
    for path in hostfiles.policies(environment, system):
        try:
            return parse(hostfiles.read(path), path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return None


def check(
    policy: Policy | None,
    reference: "Reference",
    image: Digest | None,
    options: "SourceOptions",
    limits: "Limits",
    warn: Callable[[str], None],
) -> None:
    """Check whether `policy` allows an image.

    Call it with image None before anything is downloaded: it then checks what needs no image.  Call it with the
    digest of the chosen manifest before that image is used: signatures are then looked for in the registry.
    Raises RefusedError, UsageError for keys that cannot be used, and what the registry client raises.
    """
    if policy is None:
        return
    for requirement in policy.requirements(reference):
        if requirement.type == "insecureAcceptAnything":
            continue
        if requirement.type == "reject":
            raise RefusedError(f"the policy forbids {reference.text}", f"see {policy.path}")
        if requirement.uncheckable:
            raise RefusedError(
                f"the policy {policy.path} for {reference.text} requires {requirement.uncheckable}, which lxc-oci-py "
                "cannot check",
                "copy the image with skopeo, which can, into an OCI layout that the policy accepts",
            )
        if image is not None:
            _check_signatures(requirement, reference, image, options, limits, warn)


def _check_signatures(
    requirement: Requirement,
    reference: "Reference",
    image: Digest,
    options: "SourceOptions",
    limits: "Limits",
    warn: Callable[[str], None],
) -> None:
    from lxc_oci.source import sigstore

    if reference.transport != references.DOCKER:
        raise RefusedError(
            f"the policy requires a signature of {reference.text}, which can have none",
            "signatures are looked for in registries only",
        )
    from lxc_oci.source.registry import RegistrySource

    # A source of its own: the image may have come from the store, which has no signatures.
    with RegistrySource(reference, options, limits, warn) as source:
        sigstore.check(reference, image, source, requirement.keys, requirement.identity, limits)


def parse(raw: bytes, path: str) -> Policy:
    """Parse a policy file.  Raises UsageError."""
    try:
        document = jsonio.parse(raw, path)
    except RefusedError as error:
        raise UsageError(error.message) from error
    _check_members(document, ("default", "transports"), path)
    if "default" not in document:
        raise UsageError(f"{path} has no default")
    transports: dict[str, dict[str, tuple[Requirement, ...]]] = {}
    for transport, scopes in _object(document.get("transports", {}), path).items():
        transports[transport] = {}
        for scope, value in _object(scopes, f"{path}: {transport}").items():
            _check_scope(transport, scope, path)
            transports[transport][scope] = _requirements(value, path)
    return Policy(path, _requirements(document["default"], path), transports)


def _check_scope(transport: str, scope: str, path: str) -> None:
    """Refuse a scope that could never apply, and so would leave out what it was meant for."""
    if transport in (references.OCI, references.OCI_ARCHIVE, references.DIRECTORY):
        right = scope != "/" and os.path.normpath("/" + scope.lstrip("/")) == scope
    else:
        right = transport != references.DOCKER_ARCHIVE
    if scope and not right:
        raise UsageError(f"{path}: {scope!r:.200} is not a scope of {transport}")


def _requirements(value: Any, path: str) -> tuple[Requirement, ...]:
    if not isinstance(value, list) or not value:
        raise UsageError(f"{path}: the requirements of a scope are not a list with at least one")
    return tuple(_requirement(item, path) for item in value)


def _requirement(item: Any, path: str) -> Requirement:
    kind = _object(item, path).get("type")
    members = _MEMBERS.get(kind) if isinstance(kind, str) else None
    if not isinstance(kind, str) or members is None:
        raise UsageError(f"{path}: {kind!r:.50} is not a type of requirement")
    _check_members(item, ("type", *members), path)
    if kind in ("insecureAcceptAnything", "reject"):
        return Requirement(kind)
    if kind == "signedBy":
        return Requirement(kind, uncheckable="a GPG signature (signedBy)")
    if kind == "signedBaseLayer":
        return Requirement(kind, uncheckable=kind)
    identity = parse_identity(item.get("signedIdentity"), path)
    others = sorted(set(item) - _CHECKABLE)
    if others:
        return Requirement(kind, identity=identity, uncheckable=f"sigstoreSigned with {' and '.join(others)}")
    return Requirement(kind, _keys(item, path), identity)


def _keys(item: dict[str, Any], path: str) -> tuple[bytes | str, ...]:
    given = [name for name in _KEY_MEMBERS if name in item]
    if len(given) != 1:
        raise UsageError(f"{path}: sigstoreSigned needs exactly one of {', '.join(_KEY_MEMBERS)}")
    value = item[given[0]]
    values = value if given[0].endswith("s") else [value]
    if not isinstance(values, list) or not values or not all(isinstance(text, str) and text for text in values):
        raise UsageError(f"{path}: {given[0]} of sigstoreSigned is not what it should be")
    if given[0].startswith("keyPath"):
        return tuple(values)
    try:
        return tuple(base64.b64decode(text, validate=True) for text in values)
    except binascii.Error as error:
        raise UsageError(f"{path}: {given[0]} of sigstoreSigned is not base64") from error


def _scopes(reference: "Reference") -> list[str]:
    """Return the scopes that cover a reference, the most specific first."""
    if reference.transport == references.DOCKER:
        return _docker_scopes(reference)
    if reference.transport in (references.OCI, references.OCI_ARCHIVE, references.DIRECTORY):
        path = os.path.realpath(reference.path)
        # With the tag as the manual page says, although containers/image looks for the path alone.
        first = [] if reference.transport == references.DIRECTORY else [f"{path}:{reference.tag}"]
        # "/" is no scope: the transport's own default is "".
        parents = [path[:position] for position in range(len(path) - 1, 0, -1) if path[position] == "/"]
        return [*first, path, *parents]
    return []


def _docker_scopes(reference: "Reference") -> list[str]:
    name = reference.name
    scopes = [f"{name}@{reference.digest}" if reference.digest is not None else f"{name}:{reference.tag}"]
    while name:
        scopes.append(name)
        name = name.rpartition("/")[0]
    labels = reference.host.partition(":")[0].split(".")
    scopes += [f"*.{'.'.join(labels[start:])}" for start in range(1, len(labels))]
    return scopes


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{what} has something else where an object must be")
    return value


def _check_members(value: Any, known: Sequence[str], path: str) -> None:
    unknown = sorted(set(_object(value, path)) - set(known))
    if unknown:
        raise UsageError(f"{path}: {unknown[0]!r:.50} is not known there")
