# SPDX-License-Identifier: LGPL-2.1-or-later
"""References from containers to the store, and the lxcpaths where containers were ever made.

A reference is a hint, written before its container uses anything: copies, snapshots, restores and renames
by LXC itself bypass us.  store.marks puts references, configurations and live mounts together.
"""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lxc_oci import jsonio
from lxc_oci.errors import RefusedError
from lxc_oci.image.digest import Digest
from lxc_oci.kernel import durable
from lxc_oci.store.home import Store


class Reference(NamedTuple):
    """One container that was made from the store."""

    identity: str
    lxcpath: str
    name: str
    image: Digest
    uses: tuple[str, ...]  # names below the store: `trees/…`, `indexes/…`, `blobs/…`
    created: str  # RFC 3339
    mount_point: str  # of the file system that the lxcpath lies on, "" where that is not known


def remember(
    store: Store, identity: str, lxcpath: str, name: str, image: Digest, uses: Sequence[str], created: str
) -> None:
    """Write the reference of the container `identity`, durably: it may be all that tells of its lxcpath.

    hooks/oci-py-clone writes the same for a copy.  Raises OSError.
    """
    facts = {
        "lxcpath": lxcpath,
        "name": name,
        "image": image,
        "uses": list(uses),
        "created": created,
        "mountPoint": _mount_point(lxcpath),
    }
    durable.replace_file(store.at("containers", identity), jsonio.dump(facts), 0o600, flush=True)


def _mount_point(path: str) -> str:
    path = os.path.realpath(path)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


def forget(store: Store, identity: str) -> None:
    """Remove a reference; a missing one is no error."""
    try:
        os.unlink(store.at("containers", identity))
    except FileNotFoundError:
        pass


def every(store: Store) -> Iterator[Reference]:
    """Yield all references that can be read."""
    for identity in sorted(os.listdir(store.at("containers"))):
        if identity.startswith("."):
            continue
        try:
            with open(store.at("containers", identity), "rb") as file:
                facts = jsonio.parse(file.read(), identity)
            yield Reference(
                identity,
                facts["lxcpath"],
                facts["name"],
                Digest(facts["image"]),
                tuple(facts["uses"]),
                facts["created"],
                facts.get("mountPoint", ""),
            )
        except (FileNotFoundError, RefusedError, KeyError, TypeError, AttributeError):
            continue
