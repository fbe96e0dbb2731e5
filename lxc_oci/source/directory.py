# SPDX-License-Identifier: LGPL-2.1-or-later
"""`dir:DIRECTORY`: one image as skopeo writes it, each blob a file named by its digest."""

from lxc_oci import jsonio
from lxc_oci.image import manifest as manifests
from lxc_oci.image import mediatype
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor, Manifest
from lxc_oci.image.reference import Reference
from lxc_oci.limits import Limits
from lxc_oci.source.files import DirectoryFiles, read_whole
from lxc_oci.source.source import RawReader, checked_root
from lxc_oci.source.unwrap import compression_of


class DirectorySource:
    """The image in the directory of `reference`."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._files = DirectoryFiles(reference.path)

    def root(self, limits: Limits) -> tuple[Descriptor, bytes]:
        """See Source.  No file says the media type: it is the document's own."""
        raw = read_whole(self._files, "manifest.json", f"the manifest of {self._reference.text}", limits.document_bytes)
        raw = self._relabelled(raw, limits)
        return checked_root(raw, "", None, "the manifest"), raw

    def open(self, descriptor: Descriptor, offset: int = 0) -> RawReader:
        """See Source."""
        what = f"blob {descriptor.digest}"
        for name in _names(descriptor.digest):
            if self._files.size(name) is not None:
                return self._files.open(name, what, offset)
        return self._files.open(descriptor.digest.hex, what, offset)  # for its error

    def _relabelled(self, raw: bytes, limits: Limits) -> bytes:
        """Return the manifest with plain tar layers called so.

        What skopeo copies here from a docker-archive or a Docker daemon it calls gzip and leaves as it is.
        """
        manifest = manifests.parse(raw, "", limits)
        if not isinstance(manifest, Manifest):
            return raw
        plain = [number for number, layer in enumerate(manifest.layers) if self._is_plain(layer)]
        if not plain:
            return raw
        document = jsonio.parse(raw, "the manifest")
        for number in plain:
            layer = document["layers"][number]
            layer["mediaType"] = layer["mediaType"].removesuffix("gzip").rstrip(".+")
        return jsonio.compact(document)

    def _is_plain(self, layer: Descriptor) -> bool:
        if mediatype.tar_compression(layer.media_type) != "gzip":
            return False
        for name in _names(layer.digest):
            if self._files.size(name) is not None:
                reader = self._files.open(name, f"blob {layer.digest}")
                try:
                    return not compression_of(reader.read(6))
                finally:
                    reader.close()
        return False

    def origin(self, descriptor: Descriptor) -> str:
        """See Source."""
        return self._reference.name

    def close(self) -> None:
        """See Source."""


def _names(digest: Digest) -> tuple[str, ...]:
    """The names that skopeo gives to a layer or config, to a manifest in an index, and before its format 1.1."""
    name = digest.hex if digest.algorithm == "sha256" else f"{digest.algorithm}-{digest.hex}"
    return name, f"{name}.manifest.json", digest.hex, f"{digest.hex}.tar"
