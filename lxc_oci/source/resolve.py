# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a source to one image: through indexes to the manifest for a platform, and to its configuration.

What comes out is verified and consistent: layers of one kind, a DiffID for each tar layer, and a platform that
was asked for or is the host's.
"""

from collections.abc import Callable

from lxc_oci.errors import AccessError, RefusedError, UnsupportedError
from lxc_oci.image import config as configs
from lxc_oci.image import digest as digests
from lxc_oci.image import manifest as manifests
from lxc_oci.image import mediatype, platform
from lxc_oci.image.config import Image, ImageConfig
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor, Index, Manifest
from lxc_oci.image.mediatype import LayerKind
from lxc_oci.image.platform import Platform
from lxc_oci.limits import Limits
from lxc_oci.source import binfmt
from lxc_oci.source.source import Source, document

_CONFIGS = frozenset({mediatype.OCI_CONFIG, mediatype.DOCKER_CONFIG})
_NO_CONFIG = b"{}"


def resolve(source: Source, wanted: Platform | None, limits: Limits, warn: Callable[[str], None]) -> Image:
    """Return the image in `source` for the platform `wanted`, or for this host's where that is None.

    Raises AccessError when there is none for it, RefusedError for documents that are damaged, ambiguous,
    inconsistent or nested too deep, UnsupportedError for media types that are not known.
    """
    root, raw = source.root(limits)
    walk = _Walk(source, wanted or platform.host(), limits)
    found = walk.descend(root, raw, 1)
    if found is None:
        raise AccessError(f"the image has no manifest for {walk.wanted}", walk.hint())
    descriptor, raw_manifest, manifest = found
    raw_config = _NO_CONFIG
    if not configs.is_empty(manifest.config):
        _check_config_type(manifest)
        raw_config = document(source, manifest.config, "the image configuration", limits)
    image = _image(manifest, raw_manifest, raw_config, descriptor.digest, descriptor.platform or walk.wanted)
    check_platform(image, wanted, warn)
    if descriptor.digest == root.digest:
        return image
    return Image(
        image.digest, manifest, image.config, raw_manifest, raw_config, index_digest=root.digest, kind=image.kind
    )


def resolve_manifest(
    raw_manifest: bytes,
    raw_config: bytes,
    wanted: Platform | None,
    limits: Limits,
    warn: Callable[[str], None],
    *,
    digest: Digest | None = None,
) -> Image:
    """Return the image of a manifest and a configuration that were kept; no source is needed.

    The bytes are the digest's already, where one is given.  The platform is checked again, since another may be
    wanted now.  Raises as `resolve`.
    """
    manifest = manifests.parse(raw_manifest, "", limits)
    if not isinstance(manifest, Manifest):
        raise RefusedError("the document kept as a manifest is an index")
    if not configs.is_empty(manifest.config):
        _check_config_type(manifest)
        digests.check(raw_config, manifest.config.digest, "the image configuration")
    image = _image(
        manifest, raw_manifest, raw_config, digest or digests.sha256(raw_manifest), wanted or platform.host()
    )
    check_platform(image, wanted, warn)
    return image


def check_platform(image: Image, wanted: Platform | None, warn: Callable[[str], None]) -> None:
    """Refuse an image for another platform than was asked for, or than the host's where none was.

    Warns when it was asked for and the host cannot run it.  An image that does not say what it is for passes.
    """
    found = image.config.platform
    host = platform.host()
    if found.os not in ("", "linux"):
        raise UnsupportedError(f"the image is for {found}, and LXC runs Linux")
    if not found.architecture:
        return
    expected = wanted or host
    if not expected.runs(found):
        hint = "" if wanted else f"if this host can run it all the same, say --platform {found}"
        raise RefusedError(f"the image is for {found}, not for {expected}", hint)
    if wanted is not None and not host.runs(found):
        reason = binfmt.obstacle(found.architecture, host.architecture)
        if reason:
            warn(f"the image is for {found}, which this host cannot run: {reason}")


class _Walk:
    """The search through nested indexes, which a stranger wrote: depth and number of documents are bounded."""

    def __init__(self, source: Source, wanted: Platform, limits: Limits) -> None:
        self.wanted = wanted
        self._source = source
        self._limits = limits
        self._seen: set[Digest] = set()
        self._offered: set[str] = set()

    def descend(
        self, descriptor: Descriptor, raw: bytes | None, depth: int
    ) -> tuple[Descriptor, bytes, Manifest] | None:
        """Return the first manifest below `descriptor` that fits, or None."""
        if descriptor.digest in self._seen:
            return None
        self._seen.add(descriptor.digest)
        if len(self._seen) > self._limits.index_documents:
            raise RefusedError(f"the image's indexes have more than {self._limits.index_documents} documents")
        if raw is None:
            what = "a nested index" if descriptor.media_type in mediatype.INDEXES else "the manifest"
            raw = document(self._source, descriptor, what, self._limits)
        parsed = manifests.parse(raw, descriptor.media_type, self._limits)
        if isinstance(parsed, Manifest):
            return descriptor, raw, parsed
        if depth > self._limits.index_depth:
            raise RefusedError(f"the image's indexes are nested deeper than the limit of {self._limits.index_depth}")
        return self._choose(parsed, depth)

    def _choose(self, index: Index, depth: int) -> tuple[Descriptor, bytes, Manifest] | None:
        self._offered.update(manifests.offered(index))
        for entry in manifests.candidates(index, self.wanted):
            found = self.descend(entry, None, depth + 1)
            if found is not None:
                return found
        return None

    def hint(self) -> str:
        """What there was, for the error."""
        offered = ", ".join(sorted(self._offered))
        return f"it offers {offered}; choose with --platform" if offered else "its index lists no image for a platform"


def _check_config_type(manifest: Manifest) -> None:
    if manifest.config.media_type not in _CONFIGS:
        kind = manifest.artifact_type or manifest.config.media_type
        raise UnsupportedError(
            f"this is no container image but an artifact of type {kind!r:.100}", "is the URL that of an image?"
        )


def _image(manifest: Manifest, raw_manifest: bytes, raw_config: bytes, digest: Digest, assumed: Platform) -> Image:
    """Put an image together; `assumed` is the platform of one without a configuration."""
    kind = _kind(manifest)
    if configs.is_empty(manifest.config):
        config: ImageConfig = configs.without_config(assumed)
        raw_config = _NO_CONFIG
    else:
        config = configs.parse(raw_config)
    # DiffIDs of file system images are optional (they are checked with the layers), PuzzleFS has none.
    if kind is LayerKind.TAR and len(config.diff_ids) != len(manifest.layers):
        raise RefusedError(
            f"the image has {len(manifest.layers)} layers, but its configuration has DiffIDs of {len(config.diff_ids)}",
            "the image was built wrongly" if config.diff_ids else "layers without DiffIDs cannot be verified",
        )
    return Image(digest, manifest, config, raw_manifest, raw_config, kind=kind)


def _kind(manifest: Manifest) -> LayerKind:
    """Return the one kind of all layers.  Raises UnsupportedError for an unknown type, RefusedError for a mixture."""
    kinds = [mediatype.layer_kind(layer.media_type) for layer in manifest.layers]
    known = {kind for kind in kinds if kind is not None}
    if len(known) > 1:
        names = " and ".join(sorted(kind.value for kind in known))
        raise RefusedError(f"the image mixes {names} layers", "the image was built wrongly")
    if LayerKind.PUZZLEFS in known:
        # Its other layers are chunks of data, whose media types are the builder's choice.
        if kinds.count(LayerKind.PUZZLEFS) > 1:
            raise RefusedError("the image has more than one PuzzleFS rootfs", "the image was built wrongly")
        return LayerKind.PUZZLEFS
    for number, (kind, layer) in enumerate(zip(kinds, manifest.layers, strict=True), 1):
        if kind is None:
            raise UnsupportedError(
                f"layer {number} has the media type {layer.media_type!r:.100}, which is not supported",
                "layers may be tar, squashfs, EROFS or PuzzleFS",
            )
    return known.pop() if known else LayerKind.TAR
