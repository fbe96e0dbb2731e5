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
    directory = store.at("prefixes")
    for identity in chain:
        path = os.path.join(directory, identity.hex)
        if not os.path.lexists(path):
            try:
                os.symlink(tree, path)
            except FileExistsError:
                pass


def find(store: Store, chain: Sequence[Digest]) -> tuple[str, int] | None:
    """Return the tree that shares the longest prefix with `chain`, and the number of layers shared, or None."""
    for count in range(len(chain), 0, -1):
        try:
            tree = os.readlink(store.at("prefixes", chain[count - 1].hex))
        except OSError:
            continue
        if tree == os.path.basename(tree) and store.has("trees", tree):
            return tree, count
    return None


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
        except FileNotFoundError:
            continue
