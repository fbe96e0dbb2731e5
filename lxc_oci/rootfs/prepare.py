# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a form and an image to a rootfs: each form's own few steps, with the store where there is one.

What only one form needs is imported when that form is made: a warm create takes a few hundredths of a second.
"""

import os
from typing import TYPE_CHECKING

from lxc_oci.acquire import Acquired
from lxc_oci.errors import RefusedError, UnsupportedError
from lxc_oci.kernel import userns
from lxc_oci.kernel.root import Root
from lxc_oci.limits import Limits
from lxc_oci.log import Log
from lxc_oci.progress import Progress
from lxc_oci.rootfs import flat, lxcoverlay
from lxc_oci.rootfs.choose import Form
from lxc_oci.rootfs.forms import Prepared
from lxc_oci.rootfs.layers import Layers
from lxc_oci.store import inventory, trees
from lxc_oci.store.home import Store
from lxc_oci.store.images import directory_name

if TYPE_CHECKING:
    from lxc_oci.layer.displaced import Displaced
    from lxc_oci.layer.record import RecordWriter
    from lxc_oci.store.indexes import Index


def prepare(
    form: Form,
    *,
    container: str,
    rootfs: str,
    identity: str,
    found: Acquired,
    store: Store | None,
    mount_helper: str | None,
    kernel_mount: bool,
    require_verity: bool,
    limits: Limits,
    log: Log,
    progress: Progress,
) -> Prepared:
    """Make the rootfs of a container in the chosen form.  Raises OciError and OSError."""
    layers = Layers(found, store, limits, log, progress, kernel_mount=kernel_mount, temporary=container)
    if require_verity:
        check_verity(found)
    if form is Form.FLAT:
        return flat.prepare(rootfs, lambda root: _fill_flat(root, found, store, layers))
    if store is None:
        raise UnsupportedError(f"a rootfs of the form {form.value} needs the store")
    if form is Form.INDEX:
        made = _ensure_indexes(found, store, layers, log)
        if made:
            return _prepare_indexed(container, identity, made, limits)
        form = Form.TREE
    if form is Form.OVERLAY:
        name = _ensure_tree(found, store, layers)
        return lxcoverlay.prepare(container, trees.rootfs(store, name), f"trees/{name}")
    if form is Form.TREE:
        return _prepare_tree(container, identity, found, store, layers, limits)
    from lxc_oci.rootfs import mounted
    from lxc_oci.store import helper as helpers
    from lxc_oci.store import mountplan

    with layers.files(read=False) as files:
        uses = tuple(f"blobs/{directory_name(digest)}" for digest in files)
        userxattr = not userns.current().initial
        if form is Form.HELPER:
            assert mount_helper is not None
            call = helpers.call(helpers.resolve(mount_helper), limits)
            helpers.write_layout(container, call, found.image, files)
            plan = helpers.plan(call, userxattr=userxattr)
        else:
            plan = mountplan.for_layers(
                found.image.manifest,
                [files[layer.digest] for layer in found.image.layers],
                kernel=True,
                require_verity=require_verity,
                userxattr=userxattr,
            )
        return mounted.prepare(form, container, identity, plan, uses, limits)


def check_verity(found: Acquired) -> None:
    """Refuse an image that has a layer without a dm-verity root hash; tar and PuzzleFS layers have none."""
    from lxc_oci.layer import verity

    for number, layer in enumerate(found.image.layers):
        what = f"layer {number + 1}"
        if verity.root_hash(layer, what) is None:
            raise RefusedError(
                f"{what} has no verity root hash", "leave out --require-verity, or ask the image's author for one"
            )


def _fill_flat(root: Root, found: Acquired, store: Store | None, layers: Layers) -> None:
    """Put the image's files into `root`: those of a tree that the store has, else from the blobs, which are kept."""
    identities = inventory.of_image(found.image)
    count = trees.copy(store, identities, root) if store is not None else 0
    with layers.fetched_once():
        layers.fill(root, count)
        if count < len(identities):
            layers.keep_blobs()


def store_image(
    form: Form,
    found: Acquired,
    store: Store,
    limits: Limits,
    log: Log,
    progress: Progress,
    *,
    kernel_mount: bool = True,
) -> tuple[Form, tuple[str, ...]]:
    """Have all of an image in the store, for containers to come; return its form and its parts' names there.

    Raises OciError and OSError.
    """
    layers = Layers(found, store, limits, log, progress, kernel_mount=kernel_mount)
    if form is Form.INDEX:
        made = _ensure_indexes(found, store, layers, log)
        if made:
            return form, tuple(index.part for index in made)
        form = Form.TREE
    if form in (Form.TREE, Form.OVERLAY):
        return form, (f"trees/{_ensure_tree(found, store, layers)}",)
    with layers.files() as files:
        return form, tuple(f"blobs/{directory_name(digest)}" for digest in files)


def _ensure_tree(found: Acquired, store: Store, layers: Layers) -> str:
    """Have the image's tree in the store; return its name."""

    def fill(root: Root, first: int, record: "RecordWriter", displaced: "Displaced") -> None:
        layers.fill(root, first, record, displaced)
        layers.drop_blobs()  # before the tree is flushed, or they would be too

    return trees.ensure(store, inventory.of_image(found.image), fill)


def _ensure_indexes(found: Acquired, store: Store, layers: Layers, log: Log) -> list["Index"]:
    """Have an index of every layer in the store; none where the image takes a tree."""
    from lxc_oci.store import indexes

    known = [indexes.find(store, diff_id) for diff_id in found.image.config.diff_ids]
    made = [index for index in known if index is not None]
    if len(made) < len(known):
        if trees.facts(store, trees.name(store, inventory.of_image(found.image))) is not None:
            log.detail("storage: tree: the store has the image unpacked")
            return []
        made, reason = layers.index()
        if reason:
            log.detail(f"storage: tree: a layer cannot be mounted by itself: {reason}")
            return []
        layers.drop_blobs()
    return made


def _prepare_tree(
    container: str, identity: str, found: Acquired, store: Store, layers: Layers, limits: Limits
) -> Prepared:
    """Have the image's tree in the store, and a plan that mounts it."""
    from lxc_oci.rootfs import mounted, overlay
    from lxc_oci.store import mountplan

    name = _ensure_tree(found, store, layers)
    lower = trees.rootfs(store, name)
    plan = mountplan.Plan((mountplan.Lower(mountplan.TREE, lower),), userxattr=not userns.current().initial)
    prepared = mounted.prepare(Form.TREE, container, identity, plan, (f"trees/{name}",), limits)
    overlay.copy_root_attributes(lower, os.path.join(container, mountplan.UPPER))
    return prepared


def _prepare_indexed(container: str, identity: str, made: list["Index"], limits: Limits) -> Prepared:
    """Write a plan that mounts the indexes `made`."""
    from lxc_oci.rootfs import mounted
    from lxc_oci.store import indexes, mountplan

    plan = mountplan.Plan(tuple(mountplan.Lower(mountplan.EROFS, index.index, (index.tar,)) for index in made))
    prepared = mounted.prepare(Form.INDEX, container, identity, plan, tuple(index.part for index in made), limits)
    attributes = indexes.root_attributes(made)
    if attributes is not None:
        mounted.set_root(container, attributes.mode, attributes.uid, attributes.gid, attributes.mtime_ns)
    return prepared
