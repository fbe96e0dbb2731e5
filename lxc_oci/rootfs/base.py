# SPDX-License-Identifier: LGPL-2.1-or-later
"""What lies below a container's own writes, and how another image is put there.

The container keeps the way in which its rootfs is mounted: by LXC's overlay store, by our hook's plan, or by an
external helper.  What is made here has names of its own; nothing that the container uses now is changed.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from lxc_oci.acquire import Acquired
from lxc_oci.errors import OciError, RefusedError, UnsupportedError
from lxc_oci.kernel import run, userns
from lxc_oci.kernel.root import Root, remove_tree
from lxc_oci.limits import Limits
from lxc_oci.log import Log
from lxc_oci.progress import Progress
from lxc_oci.rootfs import overlay
from lxc_oci.rootfs.choose import Form, choose, gather
from lxc_oci.rootfs.prepare import store_image
from lxc_oci.store import blobs, indexes, mountplan, trees
from lxc_oci.store import helper as helpers
from lxc_oci.store.home import Store
from lxc_oci.store.images import directory_name
from lxc_oci.store.mountplan import Lower, Plan

_RESET = "reset"  # in a generation's directory: a container's worth of new directories
_COPY_SECONDS = 600


@dataclass(frozen=True)
class Base:
    """An image below an upper directory: `lower` for LXC's overlay store, else `plan` for our hook."""

    form: Form
    uses: tuple[str, ...]  # names below the store
    lower: str = ""
    plan: Plan | None = None

    @property
    def upper(self) -> str:
        """Where the writes are when `plan` says it, below the container's directory."""
        helper = self.plan.helper if self.plan else None
        return helper.upper if helper and helper.persist else mountplan.UPPER


def missing(base: Base, store: Store) -> str:
    """Return a part that the store does not have any more, or ""."""
    return next((part for part in base.uses if not os.path.exists(store.at(part)) or _damaged(store, part)), "")


def _damaged(store: Store, part: str) -> bool:
    return part.startswith(("trees/", "indexes/")) and not store.has(part)


def renew(
    now: Base,
    container: str,
    directory: str,
    found: Acquired,
    store: Store,
    *,
    kernel_mount: bool,
    require_verity: bool,
    limits: Limits,
    log: Log,
    progress: Progress,
) -> Base:
    """Have the image `found` in the store in a form that can take the place of `now`; `directory` is the new
    generation's.  Raises OciError and OSError."""
    if now.plan is not None and now.plan.helper is not None:
        _, parts = store_image(Form.HELPER, found, store, limits, log, progress)
        call = replace(now.plan.helper, layout=f"{directory}/oci")
        files = {layer.digest: blobs.blob_path(store, layer.digest) for layer in found.image.layers}
        helpers.write_layout(container, call, found.image, files)
        return Base(Form.HELPER, parts, plan=replace(now.plan, helper=call))
    form = Form.OVERLAY
    if now.plan is not None:
        # A container that our hook mounts keeps it, although LXC's overlay store would be chosen for a new one.
        wanted = _choice(container, found, store, kernel_mount)
        form = Form.TREE if wanted is Form.OVERLAY else wanted
    return _in_store(form, found, store, kernel_mount, require_verity, limits, log, progress)


def choose_anew(
    container: str,
    found: Acquired,
    store: Store,
    *,
    kernel_mount: bool,
    require_verity: bool,
    limits: Limits,
    log: Log,
    progress: Progress,
) -> Base:
    """Have the image `found` in the store in the form that a new container would take.  Raises UnsupportedError where
    it would be flat, OciError and OSError."""
    form = _choice(container, found, store, kernel_mount)
    return _in_store(form, found, store, kernel_mount, require_verity, limits, log, progress)


def _choice(container: str, found: Acquired, store: Store, kernel: bool) -> Form:
    facts = gather(f"dir:{container}/rootfs", container, os.path.join(container, "rootfs"), store.path)
    return choose("layered", found.image.kind, facts, helper=None, kernel_mount=kernel).form


def _in_store(
    wanted: Form,
    found: Acquired,
    store: Store,
    kernel_mount: bool,
    require_verity: bool,
    limits: Limits,
    log: Log,
    progress: Progress,
) -> Base:
    """Have the image in the store in the form `wanted`, or a tree where it cannot have that; return what it is."""
    userxattr = not userns.current().initial
    form, parts = store_image(wanted, found, store, limits, log, progress, kernel_mount=kernel_mount)
    if form is Form.MOUNTED:
        plan = mountplan.for_layers(
            found.image.manifest,
            [blobs.blob_path(store, layer.digest) for layer in found.image.layers],
            kernel=kernel_mount,
            require_verity=require_verity,
            userxattr=userxattr,
        )
        return Base(form, parts, plan=plan)
    if form is Form.INDEX:
        names = [f"indexes/{directory_name(diff_id)}" for diff_id in found.image.config.diff_ids]
        made = [Lower(mountplan.EROFS, store.at(name, indexes.INDEX), (store.at(name, indexes.TAR),)) for name in names]
        return Base(form, parts, plan=Plan(tuple(made), userxattr))
    tree = trees.rootfs(store, os.path.basename(parts[0]))
    if form is Form.OVERLAY:
        return Base(form, parts, tree)
    return Base(Form.TREE, parts, plan=Plan((Lower(mountplan.TREE, tree),), userxattr))


def again(base: Base, container: str, directory: str) -> Base:
    """Return an earlier base for the new generation in `directory`; what it has in the container is copied there."""
    helper = base.plan.helper if base.plan else None
    if base.plan is None or helper is None:
        return base
    call = replace(helper, layout=f"{directory}/oci")
    source, target = os.path.join(container, helper.layout), os.path.join(container, call.layout)
    os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
    cp = run.require("cp", "coreutils")
    # Blobs never change: a second name for them is a copy.
    result = run.run([cp, "-al", "-T", "--", source, target], timeout=_COPY_SECONDS)
    if result.status:
        raise OciError(f"cannot copy {source}: {result.message()}")
    return replace(base, plan=replace(base.plan, helper=call))


# --- looking inside ------------------------------------------------------------------------------------------------


@contextmanager
def readable(base: Base, store: Store, limits: Limits) -> Iterator[Root | None]:
    """Give the image's files alone, read-only; None for an external helper's, who mounts them in its own way only."""
    if base.plan is None:
        with Root.at(base.lower) as root:
            yield root
    elif base.plan.helper is not None:
        yield None
    else:
        with store.stage() as stage:
            os.mkdir(os.path.join(stage.path, "rootfs"), 0o700)
            mountplan.write(stage.path, replace(base.plan, writable=False))
            with mountplan.attached(stage.path, limits) as target, Root.at(target) as root:
                yield root


@contextmanager
def merged(base: Base, container: str, directory: str, upper: str, limits: Limits) -> Iterator[Root]:
    """Give the rootfs that the container will see: the image with the writes in `upper` (a path) above."""
    if base.plan is not None:
        mountplan.write(container, base.plan, directory)
        with mountplan.attached(container, limits, directory=directory) as target, Root.at(target) as root:
            yield root
        return
    _check_path(base.lower)
    place = os.path.join(container, directory, "root")
    os.makedirs(place, 0o755, exist_ok=True)
    work = os.path.join(os.path.dirname(upper), "work")
    os.makedirs(work, 0o755, exist_ok=True)
    with overlay.mounted(base.lower, upper, work, place), Root.at(place) as root:
        yield root
    os.rmdir(place)


@contextmanager
def emptied(base: Base, container: str, directory: str, limits: Limits) -> Iterator[tuple[Root, str]]:
    """As `merged`, with a new upper directory (the second that is given) that will take the place of the old one."""
    if base.plan is not None and base.plan.helper is not None:
        raise UnsupportedError(
            f"how {base.plan.helper.program} keeps writes is its own affair, so --reset cannot drop them",
            "make the container anew",
        )
    stage = os.path.join(container, directory, _RESET)
    upper, work, target = (os.path.join(stage, name) for name in (mountplan.UPPER, mountplan.WORK, "rootfs"))
    for path in (upper, work, target):
        os.makedirs(path, 0o755)
    if base.plan is not None:
        mountplan.write(stage, base.plan)
        with mountplan.attached(stage, limits), Root.at(target) as root:
            yield root, upper
        return
    _check_path(base.lower)
    overlay.copy_root_attributes(base.lower, upper)
    with overlay.mounted(base.lower, upper, work, target), Root.at(target) as root:
        yield root, upper


def discard_emptied(container: str, directory: str) -> None:
    """Remove what `emptied` made, the old writes once they are in there.  Raises OSError."""
    try:
        fd = os.open(os.path.join(container, directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove_tree(fd, _RESET.encode())
    finally:
        os.close(fd)


RootAttributes = tuple[int, int, int]  # mode, uid, gid


def root_attributes(base: Base, root: Root, store: Store) -> RootAttributes:
    """Return what the image of `base` says of `/`; `root` are its files alone.  Raises OSError."""
    if base.form is Form.INDEX:
        made = [index for index in (indexes.read(store, part) for part in base.uses) if index]
        said = indexes.root_attributes(made)
        return (said.mode, said.uid, said.gid) if said else (0o755, 0, 0)
    return _attributes(os.fstat(root.fd))


def follow_root(before: RootAttributes | None, after: RootAttributes, upper: str) -> None:
    """Let `upper` say of `/` what the new image says, where it is new or says what the old one did.  Raises OSError."""
    own = _attributes(os.stat(upper))
    if before not in (None, own):
        return  # changed by the user
    if own != after:
        mode, uid, gid = after
        os.chown(upper, uid, gid)
        os.chmod(upper, mode)


def _attributes(status: os.stat_result) -> RootAttributes:
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def _check_path(lower: str) -> None:
    if any(char in lower for char in ",\\:"):
        raise RefusedError(f"the path {lower} has a character that overlay options cannot carry")
