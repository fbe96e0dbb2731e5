# SPDX-License-Identifier: LGPL-2.1-or-later
"""Media types: what a descriptor says that its bytes are.  Words only, no I/O."""

import re
from enum import Enum

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})

_TAR = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.(?:nondistributable\.)?v1\.tar"
    r"|docker\.image\.rootfs\.(?:foreign\.)?diff\.tar)(?:[.+](gzip|zstd))?\Z"
)
# stacker's types carry the vendor, and a suffix for dm-verity (atomfs pkg/squashfs, pkg/erofs).
_SQUASHFS = re.compile(r"application/vnd\.[^/]+\.image\.layer\.squashfs(?:[.+].*)?\Z")
_EROFS = re.compile(r"application/vnd\.[^/]+\.image\.layer\.erofs(?:[.+].*)?\Z")
_PUZZLEFS = re.compile(r"application/vnd\.puzzlefs\.image\.rootfs\..+\Z")


class LayerKind(Enum):
    """How a layer's bytes become files."""

    TAR = "tar"
    SQUASHFS = "squashfs"
    EROFS = "erofs"
    PUZZLEFS = "puzzlefs"


def layer_kind(media_type: str) -> LayerKind | None:
    """Return the kind of a layer, or None for a media type that is not known."""
    for pattern, kind in (
        (_TAR, LayerKind.TAR),
        (_SQUASHFS, LayerKind.SQUASHFS),
        (_EROFS, LayerKind.EROFS),
        (_PUZZLEFS, LayerKind.PUZZLEFS),
    ):
        if pattern.match(media_type):
            return kind
    return None


def size_may_be_less(media_type: str) -> bool:
    """Tell whether a blob may be shorter than its descriptor says.

    puzzlefs 0.2.0 writes the uncompressed size into the descriptors of compressed chunks; the digest is right.
    """
    return media_type.startswith("application/vnd.puzzlefs.image.filedata.") and media_type.endswith("+zstd")


def tar_compression(media_type: str) -> str:
    """Return `gzip`, `zstd` or `` (plain) as the media type of a tar layer says."""
    match = _TAR.match(media_type)
    return (match[1] or "") if match else ""
