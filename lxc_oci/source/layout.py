# SPDX-License-Identifier: LGPL-2.1-or-later
"""OCI layouts (image-spec image-layout.md): `oci:DIRECTORY`, and with other files `oci-archive:FILE`.

An image is selected by its name, by its position, by its digest, or by being the only one.
"""

from lxc_oci import jsonio
from lxc_oci.errors import AccessError, RefusedError
from lxc_oci.image import manifest as manifests
from lxc_oci.image import mediatype
from lxc_oci.image import reference as references
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor, Index
from lxc_oci.image.reference import Reference
from lxc_oci.limits import Limits
from lxc_oci.source.files import DirectoryFiles, Files, read_whole
from lxc_oci.source.source import RawReader, checked_root, document

_REF_NAME = "org.opencontainers.image.ref.name"
_SHOWN = 20  # names that an error lists


class LayoutSource:
    """The image of `reference` in the layout whose files are `files`."""

    def __init__(self, reference: Reference, files: Files) -> None:
        self._reference = reference
        self._files = files

    def root(self, limits: Limits) -> tuple[Descriptor, bytes]:
        """See Source.  Raises AccessError listing the layout's names when the reference selects none or several."""
        self._check_version(limits)
        raw = read_whole(self._files, "index.json", f"the index of {self._reference.name}", limits.document_bytes)
        index = manifests.parse(raw, mediatype.OCI_INDEX, limits)
        assert isinstance(index, Index)  # the announced media type says so
        pinned = self._reference.digest
        if pinned is not None and not self._reference.tag and all(entry.digest != pinned for entry in index.manifests):
            # A manifest inside one of the indexes, or one that nothing names any more.
            content = read_whole(self._files, _blob(pinned), f"manifest {pinned}", limits.document_bytes)
            return checked_root(content, "", pinned, f"manifest {pinned}"), content
        entry = self._select(index)
        return entry, document(self, entry, f"the manifest of {self._reference.text}", limits)

    def open(self, descriptor: Descriptor, offset: int = 0) -> RawReader:
        """See Source."""
        return self._files.open(_blob(descriptor.digest), f"blob {descriptor.digest}", offset)

    def origin(self, descriptor: Descriptor) -> str:
        """See Source."""
        return self._reference.name

    def close(self) -> None:
        """See Source."""
        self._files.close()

    def _check_version(self, limits: Limits) -> None:
        what = f"oci-layout of {self._reference.name}"
        try:
            version = jsonio.parse(read_whole(self._files, "oci-layout", what, limits.token_bytes), what)
        except AccessError as error:
            if self._files.size("index.json") is not None:
                return  # skopeo and umoci have written such layouts, and nothing in the file is needed
            hint = error.hint
            if self._files.size("manifest.json") is not None:
                other = (
                    references.DIRECTORY if self._reference.transport == references.OCI else references.DOCKER_ARCHIVE
                )
                hint = f"it looks like {other}:{self._reference.path}"
            raise AccessError(f"{self._reference.name} is no OCI layout: {error.message}", hint) from error
        found = version.get("imageLayoutVersion") if isinstance(version, dict) else None
        if not isinstance(found, str) or not found.startswith("1."):
            raise RefusedError(f"{self._reference.name} has the layout version {found!r:.50}, not 1.0.0")

    def _select(self, index: Index) -> Descriptor:
        reference = self._reference
        entries = list(index.manifests)
        if reference.tag.startswith("@"):
            position = int(reference.tag[1:])
            if position >= len(entries):
                raise AccessError(f"{reference.name} has no image {reference.tag}, it has {len(entries)}")
            entries = [entries[position]]
        elif reference.tag:
            # A name may itself end in a digest: tools copy `name@sha256:…` as it is.
            names = {reference.tag, f"{reference.tag}@{reference.digest}"}
            entries = [entry for entry in entries if entry.annotations.get(_REF_NAME) in names]
            if not entries:
                raise AccessError(f"{reference.name} has no image named {reference.tag!r}", _names(index))
        if reference.digest is not None:
            matching = [entry for entry in entries if entry.digest == reference.digest]
            if not matching:
                raise RefusedError(
                    f"{reference.tag!r} in {reference.name} is {entries[0].digest}, not {reference.digest}",
                    "it was replaced since the digest was noted; drop the digest to take what is there",
                )
            entries = matching
        if len({entry.digest for entry in entries}) > 1:
            chosen = f"named {reference.tag!r}" if reference.tag else "and the URL selects none"
            raise AccessError(f"{reference.name} has {len(entries)} images {chosen}", _names(index))
        if not entries:
            raise AccessError(f"{reference.name} has no image")
        return entries[0]


def open_layout(reference: Reference) -> LayoutSource:
    """Return the source of an `oci:` reference."""
    return LayoutSource(reference, DirectoryFiles(reference.path))


def _blob(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _names(index: Index) -> str:
    """The hint that lists what can be selected: names that a URL can have, else positions."""
    names = [entry.annotations.get(_REF_NAME, "") for entry in index.manifests]
    shown = [f":{name}" if references.is_ref_name(name) else f":@{number}" for number, name in enumerate(names)]
    more = ", …" if len(shown) > _SHOWN else ""
    return f"select one of: {', '.join(shown[:_SHOWN])}{more}" if shown else ""
