# SPDX-License-Identifier: LGPL-2.1-or-later
"""External mount helpers: which one, what it is given, and the first call that shows how it must be called.

    HELPER mount --persist UPPER OCI_DIR:NAME MOUNTPOINT
    HELPER umount MOUNTPOINT

The calls themselves are made by hooks/oci-py-mount, here through store.mountplan, so that create and every
start make the same ones.  How a helper keeps writes is its own affair.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace

from lxc_oci import jsonio
from lxc_oci.errors import OciError, UnsupportedError, UsageError
from lxc_oci.image import mediatype
from lxc_oci.image.config import Image
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from lxc_oci.kernel import durable, run, userns
from lxc_oci.kernel.root import remove_tree
from lxc_oci.limits import Limits
from lxc_oci.store import mountplan
from lxc_oci.store.mountplan import HelperCall, Lower, Plan

_OVERFLOW = 65534  # the owner of what has no id in a user namespace


def resolve(command: str) -> str:
    """Return the absolute path of what --mount-helper names: a path, or a program in the system's PATH.

    Raises UsageError: it is one program without arguments, and root will run it at every start.
    """
    path = os.path.abspath(command) if "/" in command else run.find(command)
    if path is None or not os.access(path, os.X_OK) or not os.path.isfile(path):
        raise UsageError(
            f"the mount helper {command!r:.200} is not an executable program",
            "--mount-helper takes the name or the path of one program, without arguments",
        )
    changeable = _changeable(os.path.realpath(path))
    if changeable:
        raise UsageError(
            f"the mount helper {path} can be changed by other users, who would become this one at the next start",
            f"{changeable} must belong to root, and nobody else may write to it",
        )
    return path


def _changeable(path: str) -> str:
    """Return what of a program's path another user could change or replace: itself, or a directory above; else ""."""
    owners = {0, os.geteuid()}
    if not userns.current().initial:
        owners.add(_OVERFLOW)  # the host's root
    while True:
        status = os.stat(path)
        writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        sticky = status.st_mode & stat.S_ISVTX and stat.S_ISDIR(status.st_mode)  # there the owner alone replaces a file
        if status.st_uid not in owners or (writable and not sticky):
            return path
        if path == "/":
            return ""
        path = os.path.dirname(path)


def call(program: str, limits: Limits) -> HelperCall:
    """Return how `program` is called before anything else is known of it."""
    return HelperCall(program, persist=True, seconds=limits.helper_timeout)


def plan(helper: HelperCall, *, userxattr: bool) -> Plan:
    """Return the plan of a container whose image `helper` mounts."""
    return Plan((Lower(mountplan.HELPER),), userxattr, helper)


def write_layout(container: str, helper: HelperCall, image: Image, blobs: Mapping[Digest, str]) -> None:
    """Make the OCI layout that the helper reads, in the container's directory; `blobs` are files of the store.

    The blobs themselves are linked, not their directory: puzzlefs 0.2 refuses a symbolic link there.  Where they
    lie on another file system they are copied.  What was there is replaced.  Raises OSError.
    """
    layout = os.path.join(container, helper.layout)
    fd = os.open(container, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(fd, os.fsencode(helper.layout))
    finally:
        os.close(fd)
    documents = {image.digest: image.raw_manifest, image.manifest.config.digest: image.raw_config or b"{}"}
    for algorithm in sorted({digest.algorithm for digest in (*documents, *blobs)}):
        os.makedirs(os.path.join(layout, "blobs", algorithm), 0o755)
    for digest, path in blobs.items():
        _link(path, _blob(layout, digest))
    for digest, content in documents.items():
        durable.replace_file(_blob(layout, digest), content)
    root = Descriptor(image.manifest.media_type, image.digest, len(image.raw_manifest))
    durable.replace_file(os.path.join(layout, "index.json"), jsonio.dump(_index(root, helper.name)))
    durable.replace_file(os.path.join(layout, "oci-layout"), jsonio.dump({"imageLayoutVersion": "1.0.0"}))


def _index(root: Descriptor, name: str) -> dict[str, object]:
    return {
        "schemaVersion": 2,
        "mediaType": mediatype.OCI_INDEX,
        "manifests": [
            {
                "mediaType": root.media_type,
                "digest": root.digest,
                "size": root.size,
                "annotations": {"org.opencontainers.image.ref.name": name},
            }
        ],
    }


def _blob(layout: str, digest: Digest) -> str:
    return os.path.join(layout, "blobs", digest.algorithm, digest.hex)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        pass
    except OSError:  # EXDEV, EMLINK, or a file system without hard links
        with open(source, "rb") as reader, open(target, "xb") as writer:
            os.fchmod(writer.fileno(), 0o644)
            durable.copy(reader.fileno(), writer.fileno())


@contextmanager
def mounted(
    container: str,
    chosen: Plan,
    limits: Limits,
    *,
    hook: str = mountplan.HOOK,
    directory: str = mountplan.DIRECTORY,
    new: bool = False,
) -> Iterator[str]:
    """Write the plan and mount the rootfs by the helper for the time of the context; yields the rootfs.  As `attached`.

    The first call is the contract's.  When it fails and the helper does not know --persist (puzzlefs 0.2.0), the
    helper mounts read-only and the overlay above is ours; the plan is rewritten so that starts do the same.  Raises
    UnsupportedError with what the helper said; then nothing is mounted.
    """
    helper = chosen.helper
    if helper is None:
        raise ValueError("the plan has no helper")

    def attached() -> AbstractContextManager[str]:
        return mountplan.attached(container, limits, hook=hook, directory=directory, new=new)

    mountplan.write(container, chosen, directory)
    with ExitStack() as stack:
        try:
            target = stack.enter_context(attached())
        except UnsupportedError:
            if not helper.persist or _knows_persist(helper.program, limits):
                raise
            mountplan.write(container, replace(chosen, helper=replace(helper, persist=False)), directory)
            target = stack.enter_context(attached())
        yield target


def _knows_persist(program: str, limits: Limits) -> bool:
    """Ask a helper for its own help; one that has none keeps the contract, or is broken."""
    try:
        result = run.run([program, "mount", "--help"], timeout=min(limits.helper_timeout, 30))
    except OciError:
        return True
    text = result.output + result.errors
    return b"--persist" in text or b"mount" not in text.lower()
