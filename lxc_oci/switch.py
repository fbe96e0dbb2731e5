# SPDX-License-Identifier: LGPL-2.1-or-later
"""The switch of a container to another generation: everything new is written and flushed, then one rename of the
configuration brings it into force; whatever stops us leaves the old generation or the new.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from lxc_oci import changes
from lxc_oci.changes import Changes, Conflict
from lxc_oci.container import generation, lxcconfig, network, provenance
from lxc_oci.container import guest as guests
from lxc_oci.container.provenance import Provenance
from lxc_oci.errors import OciError
from lxc_oci.existing import Container, check_stopped
from lxc_oci.image.config import Image
from lxc_oci.kernel import durable, syscalls
from lxc_oci.kernel.root import Root, remove_tree
from lxc_oci.limits import Limits
from lxc_oci.log import Log
from lxc_oci.rootfs import base as bases
from lxc_oci.rootfs.base import Base
from lxc_oci.store import containers, inventory, mountplan
from lxc_oci.store.home import Store


@dataclass(frozen=True)
class Report:
    """What is about to be done, for the user to see before it is."""

    container: str
    before: str  # references
    after: str
    changes: Changes
    conflicts: tuple[Conflict, ...] | None  # None: not looked at
    dropped: int | None  # bytes of the writes that --reset drops


Show = Callable[[Report], None]


@contextmanager
def new_generation(container: Container) -> Iterator[int]:
    """Give the number of a new generation; its files go when it does not come into force, with those of killed runs."""
    keep = provenance.history(container.directory, container.number)
    generation.discard(container.directory, keep)
    bases.discard_emptied(container.directory, generation.directory(container.number))
    number = container.number + 1
    try:
        yield number
    except BaseException:
        if generation.current(container.directory) != number:
            generation.discard(container.directory, keep)
        raise


def switch(
    container: Container,
    number: int,
    image: Image,
    base: Base,
    facts: Provenance,
    report: Report,
    store: Store,
    limits: Limits,
    log: Log,
    show: Show,
) -> None:
    """Write all of generation `number`, bring it into force, and remove what is not kept any more."""
    directory = generation.directory(number)
    host = host_facts(container, number, store)
    with ExitStack() as stack:
        before = stack.enter_context(bases.readable(container.base, store, limits))
        after = stack.enter_context(bases.readable(base, store, limits))
        reset = report.dropped is not None
        emptied = ""
        with ExitStack() as mounts:
            if not reset and (before is None or after is None):
                log.info("how a mount helper shows images is its own affair: changed files are kept and not listed")
            if reset:
                root, emptied = mounts.enter_context(bases.emptied(base, container.directory, directory, limits))
            else:
                report = replace(report, conflicts=_conflicts(container, before, after))
                root = mounts.enter_context(bases.merged(base, container.directory, directory, container.upper, limits))
            guest = guests.plan_guest(image.config, container.overrides, root, host, limits, log.warn)
            guests.write_guest(guest if reset else without_files(guest, container), root, host)
        if reset:
            if after is not None:
                bases.follow_root(None, bases.root_attributes(base, after, store), emptied)
            if base.plan is not None:
                mountplan.write(container.directory, base.plan, directory)
        provenance.write(container.directory, facts, image, number)
        show(report)
        text = configured(container, number, guest)
        if base.plan is None:
            text = generation.replace_rootfs(text, f"overlay:{base.lower}:{container.upper}")
        else:
            text = generation.replace_hook(text, number)
        remember(container, {number, *provenance.history(container.directory, container.number)}, facts, store)
        into_force(container, text)
        if reset:
            exchange(emptied, container.upper)
            bases.discard_emptied(container.directory, directory)
        elif before is not None and after is not None:
            old = bases.root_attributes(container.base, before, store)
            bases.follow_root(old, bases.root_attributes(base, after, store), container.upper)
    keep = provenance.history(container.directory, number)[: generation.KEPT]
    generation.discard(container.directory, keep)
    discard_layout(container.directory, keep)
    remember(container, set(keep), facts, store)


# --- the parts -----------------------------------------------------------------------------------------------------


def host_facts(container: Container, number: int, store: Store) -> guests.HostFacts:
    """Return what the plan of generation `number` must know."""
    configuration = lxcconfig.expand(lxcconfig.outside_blocks(container.text))
    found = guests.host_facts(container.directory, container.name, configuration, (store.path,))
    return found._replace(guest_directory=generation.guest_directory(number))


def into_force(container: Container, text: bytes) -> None:
    """Flush what was written, and make `text` the configuration of the container, which must still be stopped."""
    _flush(container.directory)
    check_stopped(container.directory)
    generation.write_config(container.directory, text)


def _conflicts(container: Container, before: Root | None, after: Root | None) -> tuple[Conflict, ...] | None:
    if before is None or after is None:
        return None
    with Root.at(container.upper) as upper:
        return tuple(sorted(changes.conflicts(upper, before, after), key=lambda found: found.path))


def without_files(guest: guests.Guest, container: Container) -> guests.Guest:
    """Leave out what the container has had since it was made, and may have changed."""
    kept = os.path.exists(os.path.join(container.directory, network.RESOLV_CONF))
    return guest._replace(files=(), resolv_conf=None if kept else guest.resolv_conf)


def configured(container: Container, number: int, guest: guests.Guest) -> bytes:
    """Return the configuration with the blocks of the new generation and every line of the user's as it was.

    Raises OciError when somebody has changed it since it was read.
    """
    with open(os.path.join(container.directory, "config"), "rb") as file:
        text = file.read()
    if text != container.text:
        raise OciError(f"the configuration of {container.name} was changed meanwhile", "try again")
    text = lxcconfig.replace_block(text, lxcconfig.IMAGE_BLOCK, guest.image, generation.note(number))
    if guest.options or lxcconfig.block_lines(text, lxcconfig.OPTIONS_BLOCK):
        text = lxcconfig.replace_block(text, lxcconfig.OPTIONS_BLOCK, guest.options)
    return text


def remember(container: Container, numbers: set[int], facts: Provenance, store: Store) -> None:
    """Tell the store what the generations `numbers` use."""
    found = [provenance.read(container.directory, number) for number in sorted(numbers)]
    uses = {part for one in found if one for part in (*one.uses, inventory.image_part(one.digest))}
    lxcpath, name = os.path.split(container.directory)
    identity = provenance.identity(container.directory)
    containers.remember(store, identity, lxcpath, name, facts.digest, sorted(uses), facts.created)


def _flush(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.syncfs(fd)
    finally:
        os.close(fd)


def exchange(one: str, other: str) -> None:
    """Let two directories change places, atomically."""
    syscalls.renameat2(
        syscalls.AT_FDCWD, os.fsencode(one), syscalls.AT_FDCWD, os.fsencode(other), syscalls.RENAME_EXCHANGE
    )
    durable.sync_directory(os.path.dirname(other))


def discard_layout(directory: str, keep: Sequence[int]) -> None:
    """Remove the first generation's layout for a helper once no generation has it."""
    layout = mountplan.HelperCall("", True).layout
    if generation.FIRST in keep or not os.path.isdir(os.path.join(directory, layout)):
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(fd, layout.encode())
    finally:
        os.close(fd)
