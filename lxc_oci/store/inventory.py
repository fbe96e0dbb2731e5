# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which parts of the store an image consists of, and what they cost."""

import hashlib
import os

from lxc_oci import jsonio
from lxc_oci.errors import RefusedError
from lxc_oci.image import config as configs
from lxc_oci.image import manifest as manifests
from lxc_oci.image.config import Image
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor, Manifest
from lxc_oci.image.mediatype import LayerKind, layer_kind
from lxc_oci.limits import Limits
from lxc_oci.store import trees
from lxc_oci.store.home import REPLACED, Store
from lxc_oci.store.images import StoredImage, directory_name


def image_part(digest: Digest) -> str:
    """Return the name below the store of an image's documents."""
    return f"images/{directory_name(digest)}"


def identities(kind: LayerKind, layers: tuple[Descriptor, ...], diff_ids: tuple[Digest, ...]) -> tuple[Digest, ...]:
    """Return what the layers of a tree are known by: DiffIDs, or what the blobs are where a kind has none.

    A PuzzleFS image is one layer, named by its metadata; the chunks are content of it.
    """
    if kind is LayerKind.TAR:
        return diff_ids
    return tuple(_identity(kind, layer) for layer in (layers[:1] if kind is LayerKind.PUZZLEFS else layers))


def _identity(kind: LayerKind, layer: Descriptor) -> Digest:
    """Name a blob and how it is read: the same bytes can be a file system and a tar archive, of another tree.

    The verity root hash that was checked belongs to it, or a wrong one would be believed where the tree is made.
    """
    from lxc_oci.layer import verity  # the layers of most images are tar files

    root = verity.root_hash(layer, "a layer") or ""
    return Digest("sha256:" + hashlib.sha256(f"{kind.value} {layer.digest} {root}".encode()).hexdigest())


def of_image(image: Image) -> tuple[Digest, ...]:
    """Return the identities of an image's layers."""
    return identities(image.kind, image.layers, image.config.diff_ids)


def trees_by_layers(store: Store) -> dict[tuple[Digest, ...], list[str]]:
    """Return the names of all trees by their layers: in a user namespace one image may have several, by id map."""
    found: dict[tuple[Digest, ...], list[str]] = {}
    for name in sorted(os.listdir(store.at("trees"))):
        tree = trees.facts(store, name)
        if tree is not None and REPLACED not in name:
            found.setdefault(tree.layers, []).append(name)
    return found


def parts_of(store: Store, image: StoredImage, known: dict[tuple[Digest, ...], list[str]]) -> list[str]:
    """Return the parts of the store (`trees/…`, `indexes/…`, `blobs/…`) that hold what `image` consists of.

    `known` is what trees_by_layers returned.
    """
    try:
        manifest = manifests.parse(image.raw_manifest, "", Limits())
        if not isinstance(manifest, Manifest):
            return []
        diff_ids = () if configs.is_empty(manifest.config) else configs.parse(image.raw_config).diff_ids
    except RefusedError:
        return []
    kind = (layer_kind(manifest.layers[0].media_type) if manifest.layers else None) or LayerKind.TAR
    layers = identities(kind, manifest.layers, diff_ids)
    parts = [f"trees/{name}" for name in known.get(layers, ())]
    parts += [f"indexes/{directory_name(layer)}" for layer in layers]
    parts += [f"blobs/{directory_name(layer.digest)}" for layer in manifest.layers]
    return [part for part in parts if os.path.lexists(store.at(part))]


def sizes(store: Store, part: str) -> tuple[int, int]:
    """Return (bytes, of these shared with other parts) of one part."""
    kind, _, name = part.partition("/")
    if kind == "trees":
        found = trees.facts(store, name)
        return (found.size, found.shared) if found else (0, 0)
    path = store.at(part)
    try:
        if kind == "indexes":
            with open(os.path.join(path, "facts.json"), "rb") as file:
                return int(jsonio.parse(file.read(), "facts.json")["size"]), 0
        return os.lstat(path).st_size, 0
    except (FileNotFoundError, NotADirectoryError, RefusedError, KeyError, TypeError, ValueError):
        return 0, 0
