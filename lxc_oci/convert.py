# SPDX-License-Identifier: LGPL-2.1-or-later
"""The story of a conversion: a flat container that shares its image from now on, or a layered one that has all files
for itself.

The new form is made beside the old one and compared with it, file by file, before the container's configuration names
it.  Generations before it are given up: they are of the other form.
"""

import os
from contextlib import ExitStack
from dataclasses import dataclass

from lxc_oci import existing, sametree
from lxc_oci.acquire import acquired, now
from lxc_oci.container import generation, guestfiles, provenance
from lxc_oci.container import guest as guests
from lxc_oci.errors import OciError, RefusedError, UnsupportedError, UsageError
from lxc_oci.existing import Container
from lxc_oci.image.config import Image
from lxc_oci.kernel import durable, run, userns
from lxc_oci.kernel.root import Root, remove_tree
from lxc_oci.limits import Limits
from lxc_oci.log import Log
from lxc_oci.progress import Progress
from lxc_oci.rootfs import base as bases
from lxc_oci.rootfs import overlay
from lxc_oci.rootfs.base import Base
from lxc_oci.rootfs.choose import HOOK, Form
from lxc_oci.rootfs.mounted import MARKER
from lxc_oci.source.open import SourceOptions
from lxc_oci.store import containers, mountplan
from lxc_oci.store.home import Store
from lxc_oci.switch import (
    configured,
    discard_layout,
    exchange,
    host_facts,
    into_force,
    new_generation,
    remember,
    without_files,
)

_COPY_SECONDS = 24 * 60 * 60
_SHOWN = 5  # differences that an error names
_FLAT = "flat"  # in the new generation's directory, while it is filled
_OVERLAY, _DELTA = "overlay", "delta"  # where LXC's own `-B overlay` has the writes


@dataclass(frozen=True)
class Request:
    """What the user asks of a conversion."""

    directory: str  # the container's
    layered: bool  # else flat
    source: SourceOptions


def convert(request: Request, store: Store, limits: Limits, log: Log, progress: Progress) -> None:
    """Give the container the other form.  Raises OciError and OSError; the container is then as it was."""
    overlay.private_namespace()
    with existing.locked(request.directory), store.in_use():
        container = existing.read(request.directory, store)
        if request.layered is (container.base.form is not Form.FLAT):
            raise UsageError(
                f"the container {container.name} is {'layered' if request.layered else 'flat'} already",
                "nothing needs to be done",
            )
        if request.layered:
            _check_flat(container)
            _to_layered(container, request.source, store, limits, log, progress)
        else:
            _to_flat(container, store, limits, log)


# --- to flat -------------------------------------------------------------------------------------------------------


def _to_flat(container: Container, store: Store, limits: Limits, log: Log) -> None:
    image = existing.image_of(container, container.number, limits)
    old = generation.directory(container.number)
    with new_generation(container) as number:
        directory = os.path.join(container.directory, generation.directory(number))
        flat = os.path.join(directory, _FLAT)
        os.makedirs(flat, 0o755)
        with (
            bases.merged(container.base, container.directory, old, container.upper, limits) as merged,
            Root.at(flat) as root,
        ):
            guestfiles.copy_directory(merged.fd, root.fd, seconds=_COPY_SECONDS)
            _check_same(merged, root)
        with Root.at(flat) as root:
            text = _guest(container, number, image, root, store, limits, log)
        rootfs = os.path.join(container.directory, existing.ROOTFS)
        text = generation.set_rootfs(generation.set_hook(text, ""), f"dir:{rootfs}", "")
        _record(container, number, image, Form.FLAT, ())
        # Until the configuration says otherwise, the old form is mounted over what lies there.
        exchange(flat, rootfs)
        try:
            into_force(container, text)
        except BaseException:
            if generation.current(container.directory) != number:
                exchange(flat, rootfs)
            raise
    containers.forget(store, provenance.identity(container.directory))
    _remove(container.directory, generation.directory(number), _FLAT)
    helper = container.base.plan.helper if container.base.plan else None
    for name in (*(container.base.plan.own if container.base.plan else ()), _OVERLAY):
        if helper is None or name != helper.layout:
            _remove(container.directory, name)
    generation.discard(container.directory, [number])
    discard_layout(container.directory, [number])
    log.info(f"{container.name} has its files for itself now; the image stays in the store until it is pruned")


# --- to layered ----------------------------------------------------------------------------------------------------


def _check_flat(container: Container) -> None:
    """Refuse what is not a directory of the container's own, or lies below something else."""
    rootfs = os.path.join(container.directory, existing.ROOTFS)
    if generation.rootfs_of(container.text) not in (rootfs, f"dir:{rootfs}"):
        raise UnsupportedError(
            f"the rootfs of {container.name} is not the directory {rootfs}",
            "only a container whose files are there can be layered; make a new one and copy its data",
        )
    for name in ("lxc_snapshots", "snaps"):
        path = os.path.join(container.directory, name)
        if os.path.exists(path) and (os.listdir(path) if os.path.isdir(path) else os.path.getsize(path)):
            raise UnsupportedError(
                f"{container.name} has snapshots or snapshot clones, which lie over its rootfs", "destroy them first"
            )


def _to_layered(
    container: Container, options: SourceOptions, store: Store, limits: Limits, log: Log, progress: Progress
) -> None:
    options = options._replace(platform=options.platform or existing.platform_of(container.facts))
    with (
        acquired(existing.same_image(container.facts), options, store, limits, log.warn) as found,
        new_generation(container) as number,
    ):
        if found.image.digest != container.facts.digest:
            raise RefusedError(
                f"{container.facts.reference} has another image now than {container.name} was made from",
                "make the container anew from it; only over its own image can one be layered",
            )
        directory = generation.directory(number)
        base = bases.choose_anew(
            container.directory,
            found,
            store,
            kernel_mount=container.facts.kernel_mount,
            require_verity=container.facts.require_verity,
            limits=limits,
            log=log,
            progress=progress,
        )
        rootfs = os.path.join(container.directory, existing.ROOTFS)
        with ExitStack() as stack:
            root, upper = stack.enter_context(bases.emptied(base, container.directory, directory, limits))
            _synchronize(rootfs, f"/proc/self/fd/{root.fd}", root.fd)
            with Root.at(rootfs) as flat:
                _check_same(flat, root)
            text = _guest(container, number, found.image, root, store, limits, log)
        text = _place(container, number, base, upper, text)
        _record(container, number, found.image, base.form, base.uses)
        facts = provenance.read(container.directory, number)
        assert facts is not None
        remember(container, {number}, facts, store)
        made = _mount_point(container, number, base)
        into_force(container, text)
        exchange(made, rootfs)
    _remove(container.directory, generation.directory(number), _FLAT)
    bases.discard_emptied(container.directory, generation.directory(number))
    generation.discard(container.directory, [number])
    log.info(f"{container.name} shares its image ({facts.digest}) now")


def _synchronize(source: str, target: str, fd: int) -> None:
    """Make `target`, a mounted overlay, what `source` is; only what differs is written."""
    rsync = run.require("rsync", "rsync")
    # A window of -1 compares nanoseconds too.
    argv = [rsync, "-aHAXSx", "--numeric-ids", "--checksum", "--modify-window=-1", "--delete", "--"]
    argv += [f"{source}/", f"{target}/"]
    result = run.run(argv, timeout=_COPY_SECONDS, pass_fds=(fd,))
    if result.status:
        raise OciError(
            f"cannot copy what was changed in {source}: {result.message()}",
            "nothing was changed; remove the cause and convert again",
        )


def _place(container: Container, number: int, base: Base, made: str, text: bytes) -> bytes:
    """Put the new upper directory where the container will have it, and return the configuration for that."""
    parts = (_OVERLAY, _DELTA) if base.plan is None else (mountplan.UPPER,)
    upper = os.path.join(container.directory, *parts)
    _remove(container.directory, *parts)  # of a killed run
    os.makedirs(os.path.dirname(upper), 0o755, exist_ok=True)
    os.rename(made, upper)
    if base.plan is None:
        options = "" if userns.current().initial else "userxattr"
        return generation.set_rootfs(text, f"overlay:{base.lower}:{upper}", options)
    mountplan.write(container.directory, base.plan, generation.directory(number))
    return generation.replace_hook(generation.set_hook(text, HOOK), number)


def _mount_point(container: Container, number: int, base: Base) -> str:
    """Make what takes the rootfs's place: an empty directory, to mount on."""
    status = os.stat(os.path.join(container.directory, existing.ROOTFS))
    path = os.path.join(container.directory, generation.directory(number), _FLAT)
    os.mkdir(path, 0o755)
    os.chown(path, status.st_uid, status.st_gid)
    if base.plan is not None:
        identity = provenance.identity(container.directory)
        durable.replace_file(os.path.join(path, MARKER), f"{identity}\n".encode())
    return path


# --- both ----------------------------------------------------------------------------------------------------------


def _check_same(one: Root, other: Root) -> None:
    """Raise OciError when two trees differ."""
    found = []
    for difference in sametree.differences(one, other):
        found.append(difference)
        if len(found) == _SHOWN:
            break
    if found:
        raise OciError(
            f"the other form would not be the same: {'; '.join(found)}", "nothing was changed; please report this"
        )


def _guest(
    container: Container, number: int, image: Image, root: Root, store: Store, limits: Limits, log: Log
) -> bytes:
    """Write the wrapper of the new generation, and return the configuration with its blocks."""
    host = host_facts(container, number, store)
    guest = guests.plan_guest(image.config, container.overrides, root, host, limits, log.warn)
    guests.write_guest(without_files(guest, container), root, host)
    return configured(container, number, guest)


def _record(container: Container, number: int, image: Image, form: Form, uses: tuple[str, ...]) -> None:
    facts = container.facts._replace(
        identity=provenance.identity(container.directory), form=form.value, uses=uses, created=now(), previous=0
    )
    provenance.write(container.directory, facts, image, number)


def _remove(directory: str, *names: str) -> None:
    """Remove a directory of the container's with all that is in it; a missing one is no error."""
    path = os.path.join(directory, *names)
    if not os.path.lexists(path):
        return
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(fd, os.fsencode(os.path.basename(path)))
    finally:
        os.close(fd)
