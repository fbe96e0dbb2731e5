# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees: an image's layers applied on top of each other, kept once, used by many containers.

A tree is addressed by the ChainID of its layers (image-spec config.md), in a user namespace by the id map as
well, because its files have mapped owners.  It is complete when it has its name; nothing in it is changed after.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lxc_oci import jsonio
from lxc_oci.errors import RefusedError
from lxc_oci.image.digest import Digest
from lxc_oci.kernel.root import Root
from lxc_oci.layer.record import RecordWriter
from lxc_oci.store import prefixes
from lxc_oci.store.home import Store
from lxc_oci.store.prune import touch


@dataclass(frozen=True)
class TreeFacts:
    """What is known of a tree without reading it."""

    layers: tuple[Digest, ...]  # DiffIDs, or what stands for them
    size: int  # bytes of all regular files
    shared: int  # of these, bytes that were shared with another tree when it was made
    entries: int


def chain_ids(layers: Sequence[Digest]) -> list[Digest]:
    """Return the ChainID of every prefix of `layers` (image-spec config.md, "Layer ChainID")."""
    chain: list[Digest] = []
    for layer in layers:
        if not chain:
            chain.append(layer)
        else:
            chain.append(Digest("sha256:" + hashlib.sha256(f"{chain[-1]} {layer}".encode()).hexdigest()))
    return chain


def key(store: Store, chain_id: Digest) -> str:
    """Return the name of a tree's directory."""
    if store.idmap.initial:
        return chain_id.hex
    return hashlib.sha256(f"{chain_id} {store.idmap.key()}".encode()).hexdigest()


def name(store: Store, layers: Sequence[Digest]) -> str:
    """Return the name that the tree of `layers` has, or will have."""
    return key(store, chain_ids(layers)[-1] if layers else _EMPTY)


def rootfs(store: Store, name: str) -> str:
    """Return the path of a tree's files."""
    return store.at("trees", name, "rootfs")


def facts(store: Store, name: str) -> TreeFacts | None:
    """Return what is known of the tree `name`, or None when there is none."""
    try:
        with open(store.at("trees", name, "facts.json"), "rb") as file:
            found = jsonio.parse(file.read(), "facts.json")
        return TreeFacts(
            tuple(Digest(layer) for layer in found["layers"]), found["size"], found["shared"], found["entries"]
        )
    except (FileNotFoundError, NotADirectoryError, RefusedError, KeyError, TypeError):
        return None


# What the caller does: apply the layers from this number on to the root, and write the record.
Fill = Callable[[Root, int, RecordWriter], None]


def ensure(store: Store, layers: Sequence[Digest], fill: Fill) -> str:
    """Return the name of the tree of `layers`, made with `fill` if need be.

    One process makes it, the others wait for its lock.  Raises what `fill` raises, and OSError.
    """
    wanted = name(store, layers)
    path = store.at("trees", wanted)
    if _usable(store, wanted):
        return wanted
    with store.locked("tree-" + wanted):
        if _usable(store, wanted):
            return wanted
        with store.stage() as stage:
            staged = os.path.join(stage.path, "tree")
            os.mkdir(staged, 0o700)
            os.mkdir(os.path.join(staged, "rootfs"), 0o755)
            with open(os.path.join(staged, "record"), "xb") as file, Root.at(os.path.join(staged, "rootfs")) as root:
                writer = RecordWriter(file)
                fill(root, 0, writer)
            _write_facts(staged, TreeFacts(tuple(layers), writer.size, 0, writer.entries))
            store.publish(staged, path)
        prefixes.note(store, [_mapped(store, item) for item in chain_ids(layers)], wanted)
    return wanted


_EMPTY = Digest("sha256:" + hashlib.sha256(b"").hexdigest())


def _usable(store: Store, name: str) -> bool:
    """Tell whether there is a sound tree of that name, and note that it is used."""
    if not store.has("trees", name):
        return False
    touch(store.at("trees", name))
    return True


def _mapped(store: Store, chain_id: Digest) -> Digest:
    """Return a ChainID that also stands for the id map, for the table of prefixes."""
    if store.idmap.initial:
        return chain_id
    return Digest("sha256:" + key(store, chain_id))


def _write_facts(directory: str, tree: TreeFacts) -> None:
    content = jsonio.dump(
        {"layers": list(tree.layers), "size": tree.size, "shared": tree.shared, "entries": tree.entries}
    )
    with open(os.path.join(directory, "facts.json"), "wb") as file:
        file.write(content)  # flushed with all the rest by publish
