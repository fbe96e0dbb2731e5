# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees: an image's layers applied on top of each other, kept once, used by many containers.

A tree is addressed by the ChainID of its layers (image-spec config.md), in a user namespace by the id map as
well, because its files have mapped owners.  It is complete when it has its name; nothing in it is changed after.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from lxc_oci import jsonio
from lxc_oci.errors import OciError, RefusedError
from lxc_oci.image.digest import Digest
from lxc_oci.kernel import durable
from lxc_oci.kernel.root import Root, remove_tree
from lxc_oci.store import prefixes
from lxc_oci.store.home import Store, touch

if TYPE_CHECKING:  # what makes trees is imported when one is made
    from lxc_oci.layer.displaced import Displaced
    from lxc_oci.layer.rebuild import Rebuilt
    from lxc_oci.layer.record import RecordWriter


class TreeFacts(NamedTuple):
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


# What the caller does: apply the layers from this number on to the root, write the record, keep what they displace.
Fill = Callable[[Root, int, "RecordWriter", "Displaced"], None]


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
        chain = [_mapped(store, item) for item in chain_ids(layers)]
        with _first_to_make(store, chain) as base:
            if base is None or not _extend(store, base, layers, fill, path):
                _apply(store, None, layers, fill, path)
            prefixes.note(store, chain, wanted)
    return wanted


@contextmanager
def _first_to_make(store: Store, chain: Sequence[Digest]) -> Iterator[tuple[str, int] | None]:
    """Give the tree that shares most layers; who wants the next layer over it, too, waits and has one more to share.

    Else ten new images over one new base would fetch that ten times.
    """
    while True:
        base = prefixes.find(store, chain)
        count = base[1] if base else 0
        if count == len(chain):
            yield base
            return
        with store.locked("layer-" + chain[count].hex):
            if prefixes.find(store, chain) == base:
                yield base
                return


def copy(store: Store, layers: Sequence[Digest], root: Root) -> int:
    """Copy into the empty `root` what the store has of `layers`, and return how many layers that is.

    Nothing is shared by hard links: the copy belongs to a container, which may change it.  Raises OSError.
    """
    base = prefixes.find(store, [_mapped(store, item) for item in chain_ids(layers)])
    if base is None:
        return 0
    from lxc_oci.layer.rebuild import rebuild

    try:
        with _opened(store, base[0]) as (larger, aside, record):
            rebuild(larger, record, aside, base[1], root, link=False)
    except (OciError, FileNotFoundError):
        for name in os.listdir(root.fd):
            if name != "lost+found":  # of a container's own file system
                remove_tree(root.fd, os.fsencode(name))
        return 0
    return base[1]


def _extend(store: Store, base: tuple[str, int], layers: Sequence[Digest], fill: Fill, path: str) -> bool:
    """Make the tree `path` from the tree that shares its first layers; return False where that one lacks something."""
    try:
        _apply(store, base, layers, fill, path)
    except _BaseUnusable:
        return False
    return True


class _BaseUnusable(Exception):
    """A tree that should hold the first layers does not."""


def _apply(store: Store, base: tuple[str, int] | None, layers: Sequence[Digest], fill: Fill, path: str) -> None:
    """Make and publish the tree `path`, the first layers from the store where `base` has them."""
    from lxc_oci.layer.displaced import Displaced
    from lxc_oci.layer.rebuild import Rebuilt
    from lxc_oci.layer.record import RecordWriter

    with store.stage() as stage, ExitStack() as stack:
        staged = os.path.join(stage.path, "tree")
        for name in (staged, f"{staged}/rootfs", f"{staged}/displaced"):
            os.mkdir(name, 0o700)
        os.chmod(f"{staged}/rootfs", 0o755)  # where the image says nothing of `/`, whatever the umask
        root = stack.enter_context(Root.at(f"{staged}/rootfs"))
        aside = stack.enter_context(Root.at(f"{staged}/displaced"))
        file = stack.enter_context(open(f"{staged}/record", "xb"))
        lower = Rebuilt(0, 0, 0) if base is None else _rebuild(store, base, root, file)
        writer = RecordWriter(file)
        before = os.umask(0)
        try:
            with durable.flushed_ahead(staged):
                fill(root, base[1] if base else 0, writer, Displaced(aside.fd))
        finally:
            os.umask(before)
        facts = TreeFacts(tuple(layers), lower.size + writer.size, lower.shared, lower.entries + writer.entries)
        _write_facts(staged, facts)
        store.publish(staged, path)


def _rebuild(store: Store, base: tuple[str, int], root: Root, record: BinaryIO) -> "Rebuilt":
    from lxc_oci.layer.rebuild import rebuild
    from lxc_oci.layer.record import copy_layers

    name, count = base
    try:
        with _opened(store, name) as (larger, aside, larger_record):
            copy_layers(larger_record, count, record)
            return rebuild(larger, larger_record, aside, count, root)
    except (OciError, FileNotFoundError) as error:
        raise _BaseUnusable from error


@contextmanager
def _opened(store: Store, name: str) -> Iterator[tuple[Root, Root, BinaryIO]]:
    """Open a tree's files, what its layers displaced, and its record."""
    with (
        Root.at(rootfs(store, name)) as files,
        Root.at(store.at("trees", name, "displaced")) as aside,
        open(store.at("trees", name, "record"), "rb") as record,
    ):
        yield files, aside, record


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
