# SPDX-License-Identifier: LGPL-2.1-or-later
"""The story of a create: an image's URL in, a container's rootfs and configuration out.

Read `create` from top to bottom: reference, image, policy, form, rootfs, guest, record.  How each is done is in the
module that it names.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from lxc_oci.acquire import Acquired, acquired, now
from lxc_oci.container import guest as guests
from lxc_oci.container import lxcconfig, provenance
from lxc_oci.container.lxcconfig import Line
from lxc_oci.container.overrides import Overrides
from lxc_oci.image.reference import Reference
from lxc_oci.kernel import durable
from lxc_oci.kernel.root import remove_tree
from lxc_oci.limits import Limits
from lxc_oci.log import Log
from lxc_oci.progress import Progress
from lxc_oci.rootfs import flat, overlay
from lxc_oci.rootfs.choose import choose, gather
from lxc_oci.rootfs.forms import Prepared
from lxc_oci.rootfs.prepare import prepare
from lxc_oci.source.open import SourceOptions
from lxc_oci.store import containers, inventory
from lxc_oci.store.home import Store

CLONE_HOOK = "/usr/share/lxc/hooks/oci-py-clone"
DESTROY_HOOK = "/usr/share/lxc/hooks/oci-py-destroy"


class Request(NamedTuple):
    """What lxc-create and the user ask for."""

    reference: Reference
    name: str
    directory: str  # the container's
    rootfs: str
    source: SourceOptions
    overrides: Overrides
    configuration: tuple[Line, ...]  # what lxc-create wrote, includes followed
    storage: str = "auto"
    mount_helper: str | None = None
    kernel_mount: bool = True
    require_verity: bool = False
    confined: bool = False  # root's container with an id map: this process is not root's


def create(
    request: Request,
    store: Store | None,
    limits: Limits,
    log: Log,
    progress: Progress,
    append: Callable[[bytes], None],
) -> None:
    """Make the container's rootfs and files, and at last `append` the text that its configuration gets.

    A failure leaves nothing in the container's directory, and nothing in the store but what is complete.  Raises
    OciError and OSError.
    """
    overlay.private_namespace()
    with (
        store.in_use() if store else nullcontext(),
        acquired(request.reference, request.source, store, limits, log.warn) as found,
        _undone_on_failure(request.directory, request.rootfs),
    ):
        log.detail(f"image {found.image.digest}{', known to the store' if found.stored else ''}")
        facts = gather(
            lxcconfig.last(request.configuration, "lxc.rootfs.path"),
            request.directory,
            request.rootfs,
            store.path if store else None,
        )
        choice = choose(
            request.storage, found.image.kind, facts, helper=request.mount_helper, kernel_mount=request.kernel_mount
        )
        log.detail(f"storage: {choice.form.value}: {choice.reason}")
        identity = os.urandom(16).hex()
        prepared = prepare(
            choice.form,
            container=request.directory,
            rootfs=request.rootfs,
            identity=identity,
            found=found,
            store=store,
            mount_helper=request.mount_helper,
            kernel_mount=request.kernel_mount,
            require_verity=request.require_verity,
            limits=limits,
            log=log,
            progress=progress,
        )
        places = (store.path,) if store else ()
        host = guests.host_facts(
            request.directory, request.name, request.configuration, places, confined=request.confined
        )
        with prepared.opened() as root:
            guest = guests.plan_guest(found.image.config, request.overrides, root, host, limits, log.warn)
            guests.write_guest(guest, root, host)
        _record(request, identity, found, prepared, store)
        provenance.write_options(request.directory, request.overrides)
        for name in (guests.GUEST_DIRECTORY, provenance.DIRECTORY):
            if os.path.isdir(os.path.join(request.directory, name)):
                durable.sync_files(os.path.join(request.directory, name))
        append(guest.text((*_hooks(), *prepared.lines)))
        log.info(f"created {request.name} from {found.reference} ({found.image.digest})")


def _hooks() -> Iterator[tuple[str, str]]:
    """Yield the lines of the hooks that do what LXC leaves undone at lxc-copy and lxc-snapshot, in every form."""
    for key, path in (("lxc.hook.clone", CLONE_HOOK), ("lxc.hook.destroy", DESTROY_HOOK)):
        if os.access(path, os.X_OK):
            yield key, path


def _record(request: Request, identity: str, found: Acquired, prepared: Prepared, store: Store | None) -> None:
    """Write what the container was made of, and tell the store who uses it."""
    created = now()
    if store is not None and prepared.uses:
        lxcpath, name = os.path.split(request.directory)
        uses = (*prepared.uses, inventory.image_part(found.image.digest))
        containers.remember(store, identity, lxcpath, name, found.image.digest, uses, created)
    provenance.write(
        request.directory,
        provenance.Provenance(
            identity=identity,
            reference=found.reference.text,
            digest=found.image.digest,
            index_digest=found.image.index_digest,
            platform=str(found.image.config.platform),
            form=prepared.form.value,
            uses=prepared.uses,
            store=store.path if store else "",
            created=created,
            wanted_platform=str(request.source.platform or ""),
            kernel_mount=request.kernel_mount,
            require_verity=request.require_verity,
        ),
        found.image,
    )


_OURS = ("oci-py", "overlay", "upper", "work", "helper", "oci", "fstab")


@contextmanager
def _undone_on_failure(directory: str, rootfs: str) -> Iterator[None]:
    """Take away what a create that fails has made in the container's directory and in the rootfs, which --dir may have
    put elsewhere, and nothing that was there before."""
    before = set(os.listdir(directory))
    fresh = flat.is_empty(rootfs)
    try:
        yield
    except BaseException:
        try:
            _remove(directory, [name for name in _OURS if name not in before])
            if fresh:
                flat.empty(rootfs)
        except OSError:
            pass  # the first error is the one that counts
        raise


def _remove(directory: str, names: list[str]) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            remove_tree(fd, os.fsencode(name))
    finally:
        os.close(fd)
