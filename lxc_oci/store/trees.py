# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees: an image's layers applied on top of each other, kept once, used by many containers.

A tree is addressed by the ChainID of its layers (image-spec config.md), in a user namespace by the id map as
well, because its files have mapped owners.  It is complete when it has its name; nothing in it is changed after.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from lxc_oci import jsonio
from lxc_oci.errors import RefusedError
from lxc_oci.image.digest import Digest
from lxc_oci.kernel.root import Root
from lxc_oci.layer import record
from lxc_oci.layer.unpack import Unpacker
from lxc_oci.limits import Limits
from lxc_oci.store import clone, prefixes
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


# What the caller does: apply the layers from this number on with the unpacker it is given.
Apply = Callable[[Unpacker, int], None]


def ensure(
    store: Store,
    layers: Sequence[Digest],
    apply: Apply,
    limits: Limits,
    warn: Callable[[str], None],
) -> str:
    """Return the name of the tree of `layers`, made with `apply` if need be.

    One process makes it, the others wait for its lock.  Raises what `apply` raises, and OSError.
    """
    chain = chain_ids(layers) or [_EMPTY]
    name = key(store, chain[-1])
    path = store.at("trees", name)
    if _exists(path):
        return name
    with store.locked("tree-" + name):
        if _exists(path):
            return name
        with store.stage() as stage, _umask(0):
            staged = os.path.join(stage.path, "tree")
            os.mkdir(staged, 0o700)
            os.mkdir(os.path.join(staged, "rootfs"), 0o755)
            found = prefixes.find(store, [_mapped(store, item) for item in chain]) if layers else None
            with Root.at(os.path.join(staged, "rootfs")) as root, open(os.path.join(staged, "record"), "wb") as file:
                writer = record.RecordWriter(file)
                first, shared = 0, 0
                if found is not None:
                    base, first = found
                    shared = clone.rebuild(store.at("trees", base), first, root, writer)
                unpacker = Unpacker(root, limits, warn, record=writer)
                apply(unpacker, first)
                writer.flush()
            _write_facts(staged, TreeFacts(tuple(layers), writer.size, shared, writer.entries))
            store.publish(staged, path)
        prefixes.note(store, [_mapped(store, item) for item in chain], name)
    return name


_EMPTY = Digest("sha256:" + hashlib.sha256(b"").hexdigest())


def _exists(path: str) -> bool:
    if not os.path.isdir(path):
        return False
    touch(path)
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


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    """Set the umask that the unpacker wants: modes of an image are taken as they are."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
