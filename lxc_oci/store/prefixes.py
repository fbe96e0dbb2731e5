# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which tree holds which prefix of layers: one small file for each ChainID, naming a tree.

Hints only: a tree that is gone, or a hint that is missing, costs a download and nothing else.
"""

import os
from collections.abc import Sequence

from lxc_oci.image.digest import Digest
from lxc_oci.store.home import Store


def note(store: Store, chain: Sequence[Digest], tree: str) -> None:
    """Note that `tree` (its directory's name) holds every prefix of `chain`.  Raises OSError."""
    for identity in chain:
        path = store.at("prefixes", identity.hex)
        if _hint(store, identity) is not None:
            continue
        try:
            os.unlink(path)  # it led to a tree that is gone
        except FileNotFoundError:
            pass
        try:
            os.symlink(tree, path)
        except FileExistsError:
            pass


def find(store: Store, chain: Sequence[Digest]) -> tuple[str, int] | None:
    """Return the tree that shares the longest prefix with `chain`, and the number of layers shared, or None."""
    for count in range(len(chain), 0, -1):
        tree = _hint(store, chain[count - 1])
        if tree is not None:
            return tree, count
    return None


def _hint(store: Store, identity: Digest) -> str | None:
    """Return the tree that a hint names, if there is one and it is sound."""
    try:
        tree = os.readlink(store.at("prefixes", identity.hex))
    except OSError:
        return None
    plain = tree == os.path.basename(tree) and tree not in (".", "..")
    return tree if plain and store.has("trees", tree) else None


def forget_missing(store: Store) -> None:
    """Remove hints at trees that are gone."""
    directory = store.at("prefixes")
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(directory, name)
        try:
            if not os.path.isdir(store.at("trees", os.readlink(path))):
                os.unlink(path)
        except OSError:  # gone, or no link
            continue
