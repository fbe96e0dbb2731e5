# SPDX-License-Identifier: LGPL-2.1-or-later
"""Manifests and indexes: typed, validated, and refused where two readers could disagree.

Bytes come in verified; which platform's manifest is taken is decided here, what a
layer means is not.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from lxc_oci import jsonio
from lxc_oci.errors import RefusedError
from lxc_oci.image import mediatype
from lxc_oci.image.digest import Digest
from lxc_oci.image.mediatype import LayerKind
from lxc_oci.image.platform import Platform, normal
from lxc_oci.limits import Limits

_MAXIMUM_SIZE = 2**63 - 1
_DOCUMENT = ("schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations")
_DESCRIPTOR = ("mediaType", "digest", "size", "urls", "annotations", "data", "artifactType", "platform")
_PLATFORM = ("os", "architecture", "variant")


class Descriptor(NamedTuple):
    """image-spec descriptor.md: what a blob is, its digest, and its size in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = MappingProxyType({})
    platform: Platform | None = None
    artifact_type: str = ""


class Manifest(NamedTuple):
    """image-spec manifest.md, or Docker's schema 2."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = MappingProxyType({})
    artifact_type: str = ""


class Index(NamedTuple):
    """image-spec image-index.md, or Docker's manifest list."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = MappingProxyType({})


def parse(raw: bytes, media_type: str, limits: Limits) -> Manifest | Index:
    """Parse a manifest or an index that was announced as `media_type` ("" where nothing announced it).

    Raises RefusedError: for a document with members of both kinds, compared without case as Go's decoder does
    (CVE-2021-41190), a `mediaType` that differs from the announced one, Docker's schema 1, wrong types, too many
    layers.
    """
    document = jsonio.parse(raw, "the manifest")
    if not isinstance(document, dict):
        raise RefusedError("the manifest is not a JSON object")
    _check_unambiguous(document)
    inner = _text(document, "mediaType", "the manifest")
    if inner and media_type and inner != media_type:
        raise RefusedError(f"the manifest calls itself {inner!r:.100} but was announced as {media_type!r:.100}")
    kind = inner or media_type
    version = document.get("schemaVersion")
    if kind in mediatype.DOCKER_SCHEMA_1 or (type(version) is int and version == 1) or "fsLayers" in document:
        raise RefusedError(
            "the image has a Docker schema 1 manifest, which is not supported",
            "push it again with a current docker, podman or skopeo to convert it",
        )
    if type(version) is not int or version != 2:
        raise RefusedError(f"the manifest has schemaVersion {version!r:.50}, not 2")
    if not kind:
        kind = mediatype.OCI_INDEX if "manifests" in document else mediatype.OCI_MANIFEST
    if kind in mediatype.INDEXES:
        manifests = _list(document, "manifests", "the index")
        return Index(
            kind,
            tuple(_descriptor(item, f"entry {number} of the index") for number, item in enumerate(manifests, 1)),
            _annotations(document, "the index"),
        )
    if kind in mediatype.MANIFESTS:
        items = _list(document, "layers", "the manifest")
        layers = tuple(_descriptor(item, f"layer {number}") for number, item in enumerate(items, 1))
        # A PuzzleFS manifest lists its chunks as layers: nothing is stacked, and the document's size bounds them.
        chunked = any(mediatype.layer_kind(layer.media_type) is LayerKind.PUZZLEFS for layer in layers)
        if len(layers) > limits.layers and not chunked:
            raise RefusedError(f"the manifest has {len(layers)} layers, more than the limit of {limits.layers}")
        for number, layer in enumerate(layers, 1):
            if layer.size > limits.layer_bytes:
                raise RefusedError(
                    f"layer {number} has {layer.size} bytes, more than the limit of {limits.layer_bytes}",
                    "if that is right, raise layer_bytes in /etc/lxc-oci-py/limits.conf",
                )
        return Manifest(
            kind,
            _descriptor(document.get("config"), "the manifest's config"),
            layers,
            _annotations(document, "the manifest"),
            _text(document, "artifactType", "the manifest"),
        )
    raise RefusedError(
        f"{kind!r:.100} is not a media type of an image manifest or index", "is the URL that of an image?"
    )


def candidates(index: Index, wanted: Platform) -> list[Descriptor]:
    """Return the entries of `index` that may be or lead to the image for `wanted`, best first.

    Those for the best platform come first, in the order of the index; then indexes without a platform, which
    must be looked into.  An entry without a platform is taken only where it is the index's one image.
    """
    images = [entry for entry in index.manifests if _is_image(entry)]
    found = [entry for platform in wanted.alternatives() for entry in images if entry.platform == platform]
    found += [entry for entry in images if entry.platform is None and entry.media_type in mediatype.INDEXES]
    if not found and len(images) == 1 and images[0].platform is None:
        return images
    return found


def offered(index: Index) -> list[str]:
    """Return the platforms that `index` has images for, for a message."""
    return sorted({str(entry.platform) for entry in index.manifests if entry.platform and _is_image(entry)})


def _is_image(entry: Descriptor) -> bool:
    """Tell whether an entry of an index is an image or index, not an attestation, signature or other artifact."""
    if entry.media_type not in mediatype.MANIFESTS | mediatype.INDEXES:
        return False
    if entry.annotations.get("vnd.docker.reference.type"):
        return False
    return entry.platform is None or "unknown" not in (entry.platform.os, entry.platform.architecture)


def _check_unambiguous(document: dict[str, Any]) -> None:
    """Refuse what another reader could take for the other kind of document."""
    jsonio.exact_members(document, _DOCUMENT, "the manifest")
    if "manifests" in document and ("layers" in document or "config" in document):
        raise RefusedError("the document is both an index and a manifest")


def _descriptor(value: Any, what: str) -> Descriptor:
    if not isinstance(value, dict):
        raise RefusedError(f"{what} is not a descriptor")
    jsonio.exact_members(value, _DESCRIPTOR, what)
    media_type = _text(value, "mediaType", what)
    if not media_type:
        raise RefusedError(f"{what} has no mediaType")
    if not media_type.isascii() or not media_type.isprintable():
        raise RefusedError(f"{what} has the mediaType {media_type!r:.100}, which is none")
    digest = Digest(value.get("digest"), f"the digest of {what}")
    size = value.get("size")
    if type(size) is not int or not 0 <= size <= _MAXIMUM_SIZE:
        raise RefusedError(f"{what} has size {size!r:.50}, not a number of bytes")
    if "+encrypted" in media_type:
        raise RefusedError(f"{what} is encrypted, which is not supported")
    return Descriptor(
        media_type,
        digest,
        size,
        _annotations(value, what),
        _platform(value.get("platform"), what),
        _text(value, "artifactType", what),
    )


def _platform(value: Any, what: str) -> Platform | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise RefusedError(f"{what} has a platform that is not an object")
    jsonio.exact_members(value, _PLATFORM, what)
    system, architecture, variant = (_text(value, name, what) for name in _PLATFORM)
    return normal(system, architecture, variant) if system or architecture else None


def _annotations(value: dict[str, Any], what: str) -> Mapping[str, str]:
    found = value.get("annotations")
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(item, str) for item in found.values()):
        raise RefusedError(f"{what} has annotations that are not strings")
    return found


def _text(value: dict[str, Any], name: str, what: str) -> str:
    found = value.get(name)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise RefusedError(f"{what} has a {name} that is not a string")
    return found


def _list(value: dict[str, Any], name: str, what: str) -> list[Any]:
    found = value.get(name)
    if not isinstance(found, list):
        raise RefusedError(f"{what} has no list {name!r}")
    return found
