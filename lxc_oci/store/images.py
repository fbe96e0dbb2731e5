# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is kept of an image itself: manifest and config verbatim, and who was allowed to have them.

The layers are kept by trees, indexes and blobs.  A stored image is used without asking the registry only
for a name under which a registry has handed it out before (zot CVE-2024-39897).
"""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lxc_oci import jsonio
from lxc_oci.errors import RefusedError
from lxc_oci.image import digest as digests
from lxc_oci.image.digest import Digest
from lxc_oci.kernel import durable
from lxc_oci.store.home import Store


class StoredImage(NamedTuple):
    """An image's documents as they were received, and what is known of how they came."""

    digest: Digest
    raw_manifest: bytes
    raw_config: bytes
    names: tuple[str, ...]  # `host/repository` (or another source's text) that handed it out
    references: tuple[str, ...]  # every reference that it was pulled by
    indexes: tuple[Digest, ...]  # digests of indexes that led to it
    added: str  # RFC 3339


def directory_name(digest: Digest) -> str:
    """Return the file name that stands for `digest`: no colon, which overlay options split at."""
    return f"{digest.algorithm}-{digest.hex}"


def load(store: Store, digest: Digest) -> StoredImage | None:
    """Return the stored image, its bytes checked against their digests, or None.

    A damaged one counts as absent: the next pull replaces it.
    """
    path = store.at("images", directory_name(digest))
    try:
        raw_manifest = _read(path, "manifest.json")
        raw_config = _read(path, "config.json")
        facts = jsonio.parse(_read(path, "facts.json"), "facts.json")
        digests.check(raw_manifest, digest, "the stored manifest")
        digests.check(raw_config, Digest(facts["config"]), "the stored configuration")
        return StoredImage(
            digest,
            raw_manifest,
            raw_config,
            tuple(facts["names"]),
            tuple(facts["references"]),
            tuple(Digest(item) for item in facts["indexes"]),
            facts["added"],
        )
    except (FileNotFoundError, RefusedError, KeyError, TypeError):
        return None


def save(
    store: Store,
    digest: Digest,
    raw_manifest: bytes,
    raw_config: bytes,
    *,
    name: str,
    reference: str,
    indexes: Sequence[Digest] = (),
    added: str,
) -> None:
    """Keep an image, or add a name to one that is kept.  Raises OSError."""
    known = load(store, digest)
    if known is not None and _knows(known, name, reference, indexes):
        return
    path = store.at("images", directory_name(digest))
    with store.locked("image-" + directory_name(digest)):
        known = load(store, digest)  # another process may have been faster
        facts = {
            "config": digests.sha256(raw_config),
            "names": sorted({*(known.names if known else ()), name}),
            "references": sorted({*(known.references if known else ()), reference}),
            "indexes": sorted({*(known.indexes if known else ()), *indexes}),
            "added": known.added if known else added,
        }
        if known is not None:
            durable.write_file(os.path.join(path, "facts.json"), jsonio.dump(facts))
            return
        store.remove(path)  # damaged, or not there
        with store.stage() as stage:
            staged = os.path.join(stage.path, "image")
            os.mkdir(staged, 0o700)
            durable.replace_file(os.path.join(staged, "manifest.json"), raw_manifest)
            durable.replace_file(os.path.join(staged, "config.json"), raw_config)
            durable.replace_file(os.path.join(staged, "facts.json"), jsonio.dump(facts))
            store.publish(staged, path)


def _knows(image: StoredImage, name: str, reference: str, indexes: Sequence[Digest]) -> bool:
    return name in image.names and reference in image.references and set(indexes) <= set(image.indexes)


def every(store: Store) -> Iterator[StoredImage]:
    """Yield all images whose documents are sound."""
    for name in sorted(os.listdir(store.at("images"))):
        algorithm, _, value = name.partition("-")
        try:
            digest = Digest(f"{algorithm}:{value}")
        except RefusedError:
            continue
        image = load(store, digest)
        if image is not None:
            yield image


def _read(directory: str, name: str) -> bytes:
    with open(os.path.join(directory, name), "rb") as file:
        return file.read()
