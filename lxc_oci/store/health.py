# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading everything in the store again and comparing it with what it should be.

A tree is compared with the record made when it was applied, an index's tar file with its DiffID, a blob with its
digest.  What is damaged is marked: create does not use it, and the next pull puts a new one in its place.
"""

import hashlib
import os
from collections.abc import Callable, Iterator

from lxc_oci import jsonio
from lxc_oci.errors import OciError
from lxc_oci.image.digest import Digest
from lxc_oci.kernel.root import Root
from lxc_oci.layer import record
from lxc_oci.store import images, trees
from lxc_oci.store.home import DAMAGED, REPLACED, Store


def check(store: Store, on_step: Callable[[], None] = lambda: None) -> Iterator[tuple[str, str]]:
    """Yield (part, what is wrong) for everything that is damaged, as it is found.  Raises OSError."""
    for part, look in (("images", _image), ("trees", _tree), ("indexes", _index), ("blobs", _blob)):
        for name in sorted(os.listdir(store.at(part))):
            if REPLACED in name:  # known to be damaged, and only there for containers that have it mounted
                continue
            on_step()
            try:
                for problem in look(store, name):
                    yield f"{part}/{name}", problem
            except OciError as error:
                yield f"{part}/{name}", error.message
            except FileNotFoundError as error:
                yield f"{part}/{name}", f"{os.path.basename(os.fsdecode(error.filename or name))} is missing"


def mark(store: Store, part: str) -> None:
    """Note that `part` is damaged, so that it is not used and is replaced by the next pull.  Raises OSError."""
    kind, _, name = part.partition("/")
    if kind in ("trees", "indexes"):
        with open(store.at(kind, name, DAMAGED), "wb"):
            pass
    else:  # a manifest, a configuration or a blob costs little to fetch again
        store.remove(store.at(part))


def _image(store: Store, name: str) -> Iterator[str]:
    algorithm, _, value = name.partition("-")
    if images.load(store, Digest(f"{algorithm}:{value}")) is None:
        yield "the manifest or the configuration is not what it was"


def _tree(store: Store, name: str) -> Iterator[str]:
    facts = trees.facts(store, name)
    if facts is None:
        yield "the facts are not readable"
        return
    if trees.name(store, facts.layers) != name:
        return  # made for a container with another id map: its owners cannot be compared in this one
    with Root.at(trees.rootfs(store, name)) as root, open(store.at("trees", name, "record"), "rb") as file:
        yield from record.verify(root, file)


def _index(store: Store, name: str) -> Iterator[str]:
    algorithm, _, value = name.partition("-")
    with open(store.at("indexes", name, "facts.json"), "rb") as file:
        facts = jsonio.parse(file.read(), "facts.json")
    if _digest(store.at("indexes", name, "layer.tar"), algorithm) != value:
        yield "layer.tar is not what its DiffID says"
    wanted = facts.get("index") if isinstance(facts, dict) else None
    if _digest(store.at("indexes", name, "index.erofs"), "sha256") != wanted:
        yield "index.erofs is not what was made"


def _blob(store: Store, name: str) -> Iterator[str]:
    algorithm, _, value = name.partition("-")
    if _digest(store.at("blobs", name), algorithm) != value:
        yield "the content is not what its digest says"


def _digest(path: str, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
