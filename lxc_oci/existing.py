# SPDX-License-Identifier: LGPL-2.1-or-later
"""A container that exists: what a verb that changes it must know, and the lock that it holds meanwhile."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from lxc_oci.container import generation, idmap, lxcconfig, provenance
from lxc_oci.container.overrides import Overrides
from lxc_oci.container.provenance import Provenance
from lxc_oci.container.running import running
from lxc_oci.errors import AccessError, RefusedError, UnsupportedError, UsageError
from lxc_oci.image import platform as platforms
from lxc_oci.image import reference as references
from lxc_oci.image.config import Image
from lxc_oci.image.platform import Platform
from lxc_oci.image.reference import Reference
from lxc_oci.kernel import durable
from lxc_oci.limits import Limits
from lxc_oci.rootfs.base import Base
from lxc_oci.rootfs.choose import Form
from lxc_oci.source.resolve import resolve_manifest
from lxc_oci.store import mountplan
from lxc_oci.store.home import Store

ROOTFS = "rootfs"  # in the container's directory: the mount point, or a flat container's files


@dataclass(frozen=True)
class Container:
    """A container as an update finds it."""

    directory: str
    text: bytes  # its configuration
    number: int  # the generation in force
    facts: Provenance
    overrides: Overrides
    base: Base
    upper: str

    @property
    def name(self) -> str:
        """Its name for LXC."""
        return os.path.basename(self.directory)


@contextmanager
def locked(directory: str, *, stopped: bool = True) -> Iterator[None]:
    """Hold the container of ours in `directory` against other updates; with `stopped`, one that runs is refused.

    Raises AccessError when there is none, UsageError when it is none of ours or runs, UnavailableError when another
    process has it.
    """
    lxcpath, name = os.path.split(directory)
    if not os.path.exists(os.path.join(directory, "config")):
        raise AccessError(f"there is no container {name!r:.100} in {lxcpath}", "say where it is with -P")
    if provenance.read(directory) is None:
        raise UsageError(f"the container {name} was not made by lxc-oci-py")
    with durable.lock(os.path.join(directory, generation.DIRECTORY, "lock"), wait=False):
        if stopped:
            check_stopped(directory)
        yield


def check_stopped(directory: str) -> None:
    """Raise UsageError when the container runs."""
    lxcpath, name = os.path.split(directory)
    if running(lxcpath, name):
        raise UsageError(f"the container {name} is running", f"lxc-stop {name}")


def load(directory: str, store: Store) -> Container:
    """Read what the container is made of now.  Raises UnsupportedError for one whose image cannot be exchanged."""
    found = read(directory, store)
    if found.base.form is Form.FLAT:
        raise UnsupportedError(
            f"the container {found.name} has all files of its image for itself (flat), so there is nothing to exchange",
            f"first convert it: lxc-oci-py convert {found.name} --storage layered",
        )
    return found


def read(directory: str, store: Store) -> Container:
    """Read what a container of whatever form is made of now; a flat one's `upper` is its rootfs.

    Raises UnsupportedError for one whose writes lie over another container.
    """
    with open(os.path.join(directory, "config"), "rb") as file:
        text = file.read()
    number = generation.of(text)
    facts = provenance.read(directory, number)
    if facts is None:
        raise RefusedError(f"{directory} lacks the files of its generation {number}", "restore them from a backup")
    _check_ids(text, store)
    base = base_of(directory, number, facts, store)
    found = generation.overlay_of(text)
    name = os.path.basename(directory)
    if found is not None and (base.plan is not None or base.form is Form.FLAT):
        raise UnsupportedError(
            f"the container {name} is a snapshot clone over another container's rootfs",
            "work on that one, or make a copy without -s",
        )
    if found is not None:
        base, upper = replace(base, lower=found[0]), found[1]
    elif base.plan is None:
        base, upper = replace(base, form=Form.FLAT), os.path.join(directory, ROOTFS)
    else:
        upper = os.path.join(directory, base.upper)
    try:
        overrides = provenance.read_options(directory)
    except FileNotFoundError:
        raise UnsupportedError(
            f"the options that {name} was made with are not recorded", "make the container anew with its volumes"
        ) from None
    return Container(directory, text, number, facts, overrides, base, upper)


def base_of(directory: str, number: int, facts: Provenance, store: Store) -> Base:
    """Return what lies below the container's writes in generation `number`, whose facts are `facts`."""
    plan = mountplan.load(directory, generation.directory(number))
    tree = next((part for part in facts.uses if part.startswith("trees/")), "")
    return Base(Form(facts.form), facts.uses, store.at(tree, "rootfs") if tree and plan is None else "", plan)


def _check_ids(text: bytes, store: Store) -> None:
    """Refuse a container whose root is another than the store's: a tree's owners are those of one id map."""
    found = idmap.from_config(lxcconfig.expand(text))
    if found is None and store.idmap.initial:
        return
    if found is not None and not store.idmap.initial:
        maps = ((found.uids, store.idmap.uids), (found.gids, store.idmap.gids))
        if all(
            {(one.first, one.host, one.count) for one in ours} == {(one.inside, one.outside, one.count) for one in here}
            for ours, here in maps
        ):
            return
    hint = "run it as the user that made the container"
    if store.idmap.initial:
        hint += "; one that root made with an id map shares nothing with its image, and is made anew with its volumes"
    raise UnsupportedError("the container's id map is not the one of whoever runs this", hint)


def image_of(container: Container, number: int, limits: Limits) -> Image:
    """Return the image of a generation, from the documents that the container keeps."""
    facts = provenance.read(container.directory, number)
    assert facts is not None
    manifest, config = provenance.documents(container.directory, number)
    return resolve_manifest(
        manifest, config, platforms.recorded(facts.platform), limits, lambda _: None, digest=facts.digest
    )


def platform_of(facts: Provenance) -> Platform | None:
    """Return the platform to choose of an image that is there for several, None for the host's own."""
    return platforms.parse(facts.wanted_platform) if facts.wanted_platform else None


def same_image(facts: Provenance) -> Reference:
    """Return a reference of the very image that `facts` tell of, where there can be one."""
    reference = references.parse(facts.reference)
    if reference.transport != references.DOCKER:
        return reference
    return reference._replace(tag="", digest=facts.index_digest or facts.digest)
