# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan that hooks/oci-py-mount carries out at every start: lower layers, overlay, or an external helper.

A plan is data: it names files of the store by absolute path and the container's own by plain names below its
directory, so that a renamed or copied container needs no change.  Making the lowers is beyond this module.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lxc_oci import jsonio
from lxc_oci.errors import NoSpaceError, OciError, RefusedError, UnsupportedError
from lxc_oci.image.manifest import Manifest
from lxc_oci.image.mediatype import LayerKind, layer_kind
from lxc_oci.kernel import durable, run, syscalls
from lxc_oci.kernel.root import covered, identity
from lxc_oci.layer import verity
from lxc_oci.layer.verity import Verity
from lxc_oci.limits import Limits

HOOK = "/usr/share/lxc/hooks/oci-py-mount"
DIRECTORY = "oci-py"  # of the first generation of a container; later ones have their own below it
NAME = "plan.json"
VERSION = 1
UPPER, WORK = "upper", "work"

# kinds of lowers
TREE, SQUASHFS, EROFS, HELPER = "tree", "squashfs", "erofs", "helper"


@dataclass(frozen=True)
class Lower:
    """One lower layer: a directory (`tree`), an image file, or what an external helper mounts read-only."""

    kind: str
    path: str = ""
    devices: tuple[str, ...] = ()  # EROFS: further files that hold its data, such as the indexed tar
    fuse: bool = False  # not by the kernel
    verity: Verity | None = None


@dataclass(frozen=True)
class HelperCall:
    """How the external helper is called: HELPER mount [--persist UPPER] LAYOUT:NAME MOUNTPOINT."""

    program: str
    persist: bool  # else read-only, below our overlay
    layout: str = "oci"  # a directory of the container's
    name: str = "image"  # fixed: names of containers are not always tags (image-spec annotations.md)
    upper: str = "helper"
    seconds: int = 600


@dataclass(frozen=True)
class Plan:
    """What is mounted; `lowers` bottom first, as the layers of a manifest."""

    lowers: tuple[Lower, ...]
    userxattr: bool = False
    helper: HelperCall | None = None
    writable: bool = True  # else no overlay of the container's own, to look at an image

    @property
    def own(self) -> tuple[str, ...]:
        """The directories in the container's directory that hold its writes, and what the plan needs there."""
        if self.helper is None:
            return (UPPER, WORK) if self.writable else ()
        if self.helper.persist:
            return (self.helper.upper, self.helper.layout)
        return (UPPER, WORK, self.helper.layout)


def for_layers(
    manifest: Manifest, paths: Sequence[str], *, kernel: bool, require_verity: bool, userxattr: bool
) -> Plan:
    """Return the plan for an image of squashfs and EROFS layers whose blobs are the files `paths`.

    `kernel` lets the kernel parse them, else FUSE does.  Raises RefusedError for another kind of layer, a file that
    is no such image, and a layer without a verity root hash where `require_verity`.
    """
    lowers = []
    for number, (descriptor, path) in enumerate(zip(manifest.layers, paths, strict=True)):
        what = f"layer {number}"
        kind = layer_kind(descriptor.media_type)
        if kind not in (LayerKind.SQUASHFS, LayerKind.EROFS):
            raise RefusedError(f"{what} has the type {descriptor.media_type!r:.100}, which cannot be mounted")
        data = verity.of(descriptor, path, kind, what)
        if data is None:
            if require_verity:
                raise RefusedError(
                    f"{what} has no verity root hash", "leave out --require-verity, or ask the image's author for one"
                )
            verity.image_length(path, kind)
        # A user namespace may mount neither by the kernel.
        lowers.append(Lower(kind.value, path, (), userxattr or not kernel, data))
    return Plan(tuple(lowers), userxattr)


def render(plan: Plan) -> bytes:
    """Return the plan as hooks/oci-py-mount reads it."""
    document: dict[str, Any] = {"version": VERSION, "lowers": [_lower(lower) for lower in plan.lowers]}
    helper = plan.helper
    if plan.writable and (helper is None or not helper.persist):
        document |= {"upper": UPPER, "work": WORK}
    if plan.userxattr:
        document["userxattr"] = True
    if helper is not None:
        document["helper"] = {
            "program": helper.program,
            "persist": helper.persist,
            "layout": helper.layout,
            "name": helper.name,
            "upper": helper.upper,
            "seconds": helper.seconds,
        }
    return jsonio.dump(document)


def _lower(lower: Lower) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": lower.kind}
    if lower.kind != HELPER:
        found["path"] = lower.path
    if lower.devices:
        found["devices"] = list(lower.devices)
    if lower.fuse:
        found["driver"] = "fuse"
    if lower.verity is not None:
        found["verity"] = {"root": lower.verity.root, "offset": lower.verity.offset}
    return found


def parse(raw: bytes) -> Plan:
    """Return the plan of a plan.json.  Raises RefusedError."""
    document = jsonio.parse(raw, "the mount plan")
    try:
        if document["version"] != VERSION:
            raise RefusedError(f"the mount plan has version {document['version']!r:.20}", "upgrade lxc-oci-py")
        helper = document.get("helper")
        return Plan(
            tuple(
                Lower(
                    one["kind"],
                    one.get("path", ""),
                    tuple(one.get("devices", ())),
                    one.get("driver") == "fuse",
                    Verity(one["verity"]["root"], one["verity"]["offset"]) if one.get("verity") else None,
                )
                for one in document["lowers"]
            ),
            document.get("userxattr", False),
            HelperCall(**helper) if helper else None,
            bool(document.get("upper") or helper),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RefusedError("the mount plan is damaged", "make the container again") from error


def load(container: str, directory: str = DIRECTORY) -> Plan | None:
    """Return the plan of the container, or None when its form has none.  Raises RefusedError.

    `directory` is the generation's, below the container's.
    """
    try:
        with open(os.path.join(container, directory, NAME), "rb") as file:
            return parse(file.read())
    except FileNotFoundError:
        return None


def write(container: str, plan: Plan, directory: str = DIRECTORY) -> None:
    """Make what the plan needs in the container's directory, and the plan itself, durably.

    A helper's layout is not made here (store.helper.write_layout).  Raises OSError.
    """
    os.makedirs(os.path.join(container, directory), 0o755, exist_ok=True)
    for name in plan.own:
        if plan.helper is None or name != plan.helper.layout:
            os.makedirs(os.path.join(container, name), 0o755, exist_ok=True)
    # Read by the hook as the container's root, and by no other user; nothing in it is secret.
    durable.replace_file(os.path.join(container, directory, NAME), render(plan), 0o644)


@contextmanager
def attached(
    container: str,
    limits: Limits,
    *,
    hook: str = HOOK,
    directory: str = DIRECTORY,
    new: bool = False,
    hint: str = "",
) -> Iterator[str]:
    """Mount the rootfs of the container as a start would, for the time of the context; yields its path.

    `directory` is that of the generation whose plan is carried out, which need not be the one in force; `new` gives
    the upper directory, which is new, what the image says of `/`.  The caller is in a private mount namespace.
    Raises UnsupportedError with the hook's message, and `hint` where no other program said more; nothing stays mounted.
    """
    target = os.path.join(container, "rootfs")
    place = () if directory == DIRECTORY else (directory,)
    before = identity(target)
    try:
        _call(hook, "attach", limits, *(("--new",) if new else ()), container, *place, hint=hint)
        yield target
    except BaseException:
        try:
            if covered(target, before):
                _detach(hook, container, limits, *place)
        except (OciError, OSError):
            pass  # the first error is the one that counts
        raise
    _detach(hook, container, limits, *place)


def _detach(hook: str, container: str, limits: Limits, *place: str) -> None:
    """Unmount the rootfs: where a helper has a part in it, by the hook, who asks the helper; else it is one mount."""
    plan = load(container, *place)
    if plan is None or plan.helper is not None:
        _call(hook, "detach", limits, container, *place)
    else:
        syscalls.umount2(os.fsencode(os.path.join(container, "rootfs")))


@contextmanager
def image_mounted(stage: str, lower: Lower, limits: Limits, *, hook: str = HOOK) -> Iterator[str]:
    """Mount one image read-only below the private directory `stage` and yield where.  As `attached`."""
    os.mkdir(os.path.join(stage, "rootfs"), 0o700)
    write(stage, Plan((lower,), writable=False))
    with attached(stage, limits, hook=hook) as target:
        yield target


def _call(hook: str, verb: str, limits: Limits, *words: str, hint: str = "") -> None:
    result = run.run([hook, verb, *words], timeout=limits.helper_timeout + 60)
    if result.status == 0:
        return
    lines = [line.strip() for line in result.errors.decode("utf-8", "replace").splitlines() if line.strip()]
    message = lines[-1].partition("oci-py-mount: ")[2] or lines[-1] if lines else f"exit status {result.status}"
    if os.strerror(errno.ENOSPC) in message:
        raise NoSpaceError(message, "free space or inodes on the file system, then try again")
    # What a helper or a FUSE program said stands before the hook's own line.
    raise UnsupportedError(message, " / ".join(lines[-4:-1]) or hint)
