# SPDX-License-Identifier: LGPL-2.1-or-later
"""`docker-archive:`, what `docker save` and `podman save` write: manifest.json, configurations and layers.

Such an archive has no OCI manifest, so one is made, always the same for the same content.  Its layers are
what the archive holds: mostly plain tars, whose digests the configuration has as DiffIDs; a compressed one
is hashed here, unless its name is its digest.  Either way the reader above verifies blob and DiffID.
"""

import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lxc_oci import jsonio
from lxc_oci.errors import AccessError, RefusedError, UsageError
from lxc_oci.image import config as configs
from lxc_oci.image import digest as digests
from lxc_oci.image import mediatype
from lxc_oci.image import reference as references
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from lxc_oci.image.reference import Reference
from lxc_oci.limits import Limits
from lxc_oci.source.archive import ArchiveFiles
from lxc_oci.source.files import read_whole
from lxc_oci.source.source import RawReader
from lxc_oci.source.tarindex import Member, normal
from lxc_oci.source.unwrap import compression_of

_CHUNK = 1 << 20
_SHOWN = 20  # names that an error lists
_BLOB = re.compile(r"blobs/(sha256)/([a-f0-9]{64})\Z")
_CONFIG = re.compile(r"(?:.*/)?(?:sha256:)?([a-f0-9]{64})(?:\.json)?\Z")


@dataclass(frozen=True)
class Saved:
    """One image of manifest.json: names of members, and the names that the image was saved by."""

    config: str
    layers: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class _Contents:
    """The image that was chosen: the manifest made for it, and which member has which blob."""

    raw: bytes
    members: dict[Digest, str]


class DockerArchiveSource:
    """The image of `reference` in an archive; `temporary` is where a compressed one is decompressed."""

    def __init__(self, reference: Reference, temporary: str, limits: Limits) -> None:
        self._reference = reference
        self._limits = limits
        self._files = ArchiveFiles(reference.path, temporary, limits)
        self._lock = threading.Lock()
        self._contents: _Contents | None = None

    def root(self, limits: Limits) -> tuple[Descriptor, bytes]:
        """See Source.  Raises AccessError listing the archive's names when the reference selects none or several."""
        raw = self._load().raw
        return Descriptor(mediatype.OCI_MANIFEST, digests.sha256(raw), len(raw)), raw

    def open(self, descriptor: Descriptor, offset: int = 0) -> RawReader:
        """See Source."""
        name = self._load().members.get(descriptor.digest)
        if name is None:
            raise AccessError(f"{self._reference.name} has no blob {descriptor.digest}")
        return self._files.open(name, f"blob {descriptor.digest}", offset)

    def origin(self, descriptor: Descriptor) -> str:
        """See Source."""
        return self._reference.name

    def close(self) -> None:
        """See Source."""
        self._files.close()

    def _load(self) -> _Contents:
        with self._lock:
            if self._contents is None:
                what = f"manifest.json of {self._reference.name}"
                if self._files.size("manifest.json") is None:
                    raise self._no_manifest()
                raw = read_whole(self._files, "manifest.json", what, self._limits.document_bytes)
                saved = _select(_parse(raw, what, self._limits), self._reference)
                self._contents = _contents(self._files, saved, self._reference, self._limits)
            return self._contents

    def _no_manifest(self) -> AccessError | RefusedError:
        if self._files.size("index.json") is not None:
            return AccessError(
                f"{self._reference.name} is no docker-archive", f"it looks like oci-archive:{self._reference.path}"
            )
        if self._files.size("repositories") is not None:
            return RefusedError(
                f"{self._reference.name} was saved by a Docker before 1.10", "save it again by a current one"
            )
        return AccessError(f"{self._reference.name} is no docker-archive: it has no manifest.json")


def _parse(raw: bytes, what: str, limits: Limits) -> list[Saved]:
    document = jsonio.parse(raw, what)
    if not isinstance(document, list):
        raise RefusedError(f"{what} is not a list")
    images = []
    for item in document:
        if not isinstance(item, dict):
            raise RefusedError(f"{what} has an image that is not an object")
        members = jsonio.folded_members(item, ("Config", "RepoTags", "Layers"), what)
        layers = _strings(members.get("Layers"), what)
        if len(layers) > limits.layers:
            raise RefusedError(f"{what} has an image of {len(layers)} layers, more than the limit of {limits.layers}")
        config = members.get("Config")
        if not isinstance(config, str) or not config:
            raise RefusedError(f"{what} has an image without a configuration")
        images.append(Saved(normal(config), tuple(map(normal, layers)), _strings(members.get("RepoTags"), what)))
    return images


def _strings(value: Any, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RefusedError(f"{what} has something else in the place of a list of names")
    return tuple(value)


def _select(images: Sequence[Saved], reference: Reference) -> Saved:
    found = list(images)
    if reference.tag.startswith("@"):
        position = int(reference.tag[1:])
        if position >= len(images):
            raise AccessError(f"{reference.name} has no image {reference.tag}, it has {len(images)}", _names(images))
        found = [images[position]]
    elif reference.tag:
        found = [image for image in images if any(_full(tag) == reference.tag for tag in image.tags)]
        if not found:
            raise AccessError(f"{reference.name} has no image named {reference.tag}", _names(images))
    if len(found) > 1:
        chosen = f"named {reference.tag}" if reference.tag else "and the URL selects none"
        raise AccessError(f"{reference.name} has {len(found)} images {chosen}", _names(images))
    if not found:
        raise AccessError(f"{reference.name} has no image")
    return found[0]


def _full(tag: str) -> str:
    """The name that Docker means by one of its short names, "" for what is none."""
    try:
        named = references.normal(tag)
    except UsageError:
        return ""
    return f"{named.name}:{named.tag}"


def _names(images: Sequence[Saved]) -> str:
    """The hint that lists what can be selected: names that a URL can have, else positions."""
    names = [next((tag for tag in image.tags if _full(tag)), "") for image in images]
    shown = [f":{name}" if name else f":@{number}" for number, name in enumerate(names)]
    more = ", …" if len(shown) > _SHOWN else ""
    return f"select one of: {', '.join(shown[:_SHOWN])}{more}" if shown else ""


def _contents(files: ArchiveFiles, saved: Saved, reference: Reference, limits: Limits) -> _Contents:
    """Make the manifest of `saved`.  Raises RefusedError when configuration and layers do not belong together."""
    raw = read_whole(files, saved.config, f"the configuration in {reference.name}", limits.document_bytes)
    if named := _CONFIG.match(saved.config):
        digests.check(raw, Digest(f"sha256:{named[1]}"), f"the configuration in {reference.name}")
    diff_ids = configs.parse(raw).diff_ids
    if len(diff_ids) != len(saved.layers):
        raise RefusedError(f"{reference.name} has {len(saved.layers)} layers, but DiffIDs of {len(diff_ids)}")
    config = Descriptor(mediatype.OCI_CONFIG, digests.sha256(raw), len(raw))
    members = {config.digest: saved.config}
    layers = []
    hashed: dict[Member | None, Digest] = {}  # a member may be 500 layers, by as many names
    for name, diff_id in zip(saved.layers, diff_ids, strict=True):
        layer = _layer(files, name, diff_id, reference, hashed)
        members[layer.digest] = name
        layers.append(layer)
    manifest = {
        "schemaVersion": 2,
        "mediaType": mediatype.OCI_MANIFEST,
        "config": _written(config),
        "layers": [_written(layer) for layer in layers],
    }
    return _Contents(jsonio.compact(manifest), members)


def _layer(
    files: ArchiveFiles, name: str, diff_id: Digest, reference: Reference, hashed: dict[Member | None, Digest]
) -> Descriptor:
    what = f"layer {name} in {reference.name}"
    reader = files.open(name, what)
    try:
        head = reader.read(6)
        size = files.size(name) or 0
        compression = compression_of(head)
        if compression not in ("gzip", "zstd"):
            return Descriptor(mediatype.OCI_LAYER, diff_id, size)
        media_type = f"{mediatype.OCI_LAYER}+{compression}"
        if named := _BLOB.match(name):
            return Descriptor(media_type, Digest(f"{named[1]}:{named[2]}"), size)
        member = files.member(name)
        if member not in hashed:
            hasher = hashlib.sha256(head)
            while data := reader.read(_CHUNK):
                hasher.update(data)
            hashed[member] = Digest(f"sha256:{hasher.hexdigest()}")
        return Descriptor(media_type, hashed[member], size)
    finally:
        reader.close()


def _written(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}
