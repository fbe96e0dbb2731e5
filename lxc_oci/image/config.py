# SPDX-License-Identifier: LGPL-2.1-or-later
"""The image configuration (image-spec config.md): typed and checked, still hostile in meaning.

Strings that pass here are only strings; container.* decides what may reach LXC.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from lxc_oci import jsonio
from lxc_oci.errors import RefusedError
from lxc_oci.image import mediatype
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor, Manifest
from lxc_oci.image.mediatype import LayerKind
from lxc_oci.image.platform import Platform, normal

# The digest of `{}`, which tools write as the config of images that have none.
EMPTY_OBJECT = Digest("sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a")
_MEMBERS = ("os", "architecture", "variant", "config", "rootfs", "created", "author")
_RUNNING = (
    "Entrypoint",
    "Cmd",
    "Env",
    "User",
    "WorkingDir",
    "StopSignal",
    "Volumes",
    "ExposedPorts",
    "Labels",
    "Healthcheck",
)


class ImageConfig(NamedTuple):
    """What an image says of how it runs; absent members have the specification's defaults."""

    platform: Platform
    diff_ids: tuple[Digest, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    labels: Mapping[str, str] = MappingProxyType({})
    healthcheck: tuple[str, ...] = ()
    created: str = ""
    author: str = ""


class Image(NamedTuple):
    """An image that was resolved: one manifest and its config, both verified, and the bytes they were."""

    digest: Digest  # of the manifest (where a source has none: of the one made for it)
    manifest: Manifest
    config: ImageConfig
    raw_manifest: bytes
    raw_config: bytes
    index_digest: Digest | None = None  # of the index that led here, what the tag pointed at
    kind: LayerKind = LayerKind.TAR  # of all its layers; a PuzzleFS image's others are chunks

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """The layers from the lowest to the highest."""
        return self.manifest.layers


def without_config(wanted: Platform) -> ImageConfig:
    """Return what an image without a config gets: a shell, as root, in `/`, with no environment."""
    return ImageConfig(platform=wanted, entrypoint=("/bin/sh",), working_dir="/", user="0:0")


def is_empty(descriptor: Descriptor) -> bool:
    """Tell whether a manifest's config descriptor stands for no config."""
    return descriptor.media_type == mediatype.OCI_EMPTY or descriptor.digest == EMPTY_OBJECT


def parse(raw: bytes) -> ImageConfig:
    """Parse an image configuration.  Raises RefusedError for wrong types, duplicate keys, a `rootfs.type` that is not
    `layers` (config.md: MUST error), and bad DiffIDs."""
    document = jsonio.parse(raw, "the image configuration")
    if not isinstance(document, dict):
        raise RefusedError("the image configuration is not a JSON object")
    document = jsonio.folded_members(document, _MEMBERS, "the image configuration")
    inner = jsonio.folded_members(_object(document, "config"), _RUNNING, "config in the image configuration")
    rootfs = jsonio.folded_members(_object(document, "rootfs"), ("type", "diff_ids"), "rootfs in the configuration")
    if rootfs and rootfs.get("type") != "layers":
        raise RefusedError(f"the image configuration has rootfs type {rootfs.get('type')!r:.50}, not 'layers'")
    return ImageConfig(
        platform=normal(*(_string(document, name) for name in ("os", "architecture", "variant"))),
        diff_ids=tuple(Digest(item, "DiffID") for item in _strings(rootfs, "diff_ids")),
        entrypoint=_strings(inner, "Entrypoint"),
        cmd=_strings(inner, "Cmd"),
        env=_strings(inner, "Env"),
        user=_string(inner, "User"),
        working_dir=_string(inner, "WorkingDir"),
        stop_signal=_string(inner, "StopSignal"),
        volumes=tuple(_object(inner, "Volumes")),
        exposed_ports=tuple(_object(inner, "ExposedPorts")),
        labels=_labels(inner),
        healthcheck=_strings(_object(inner, "Healthcheck"), "Test"),
        created=_string(document, "created"),
        author=_string(document, "author"),
    )


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise RefusedError(f"{name} in the image configuration is not an object")
    return found


def _string(value: dict[str, Any], name: str) -> str:
    found = value.get(name)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise RefusedError(f"{name} in the image configuration is not a string")
    return found


def _strings(value: dict[str, Any], name: str) -> tuple[str, ...]:
    found = value.get(name)
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise RefusedError(f"{name} in the image configuration is not a list of strings")
    return tuple(found)


def _labels(value: dict[str, Any]) -> Mapping[str, str]:
    found = _object(value, "Labels")
    if not all(isinstance(item, str) for item in found.values()):
        raise RefusedError("Labels in the image configuration are not strings")
    return found
