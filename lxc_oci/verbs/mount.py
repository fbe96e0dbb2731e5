# SPDX-License-Identifier: LGPL-2.1-or-later
"""`lxc-oci-py mount`: an image that must be unpacked, mounted by the mount-helper contract.

hooks/oci-py-mount hands these over (tar, PuzzleFS); squashfs and EROFS images it mounts itself.  The mount is the
caller's to undo, by `oci-py-mount umount`.
"""

import argparse
import os
import sys

from lxc_oci import limits as limit
from lxc_oci.acquire import acquired
from lxc_oci.errors import OciError, UnsupportedError, UsageError
from lxc_oci.image import reference as references
from lxc_oci.kernel import syscalls, userns
from lxc_oci.log import Level, Log
from lxc_oci.progress import Progress
from lxc_oci.rootfs import overlay
from lxc_oci.rootfs.choose import Form
from lxc_oci.rootfs.prepare import store_image
from lxc_oci.source.open import SourceOptions
from lxc_oci.store import trees
from lxc_oci.verbs import open_store


def run(arguments: argparse.Namespace, log: Log) -> int:
    """Have the image's tree in the store and mount it, writable where --persist is given; return 0."""

    target = os.path.abspath(arguments.mountpoint)
    if not os.path.isdir(target):
        raise UsageError(f"the mount point {target} is not a directory")
    if os.path.ismount(target):
        raise UsageError(f"{target} is already a mount point", "unmount it first: oci-py-mount umount")
    store = open_store(arguments, create=True)
    limits = limit.load()
    reference = references.parse(f"oci:{arguments.image}")
    options = SourceOptions(temporary=store.at("staging"))
    with (
        store.in_use(),
        acquired(reference, options, store, limits, log.warn) as found,
        Progress(sys.stderr, quiet=log.level is Level.QUIET) as progress,
    ):
        _, parts = store_image(Form.TREE, found, store, limits, log, progress)
    lower = trees.rootfs(store, os.path.basename(parts[0]))
    if arguments.persist:
        _mount_writable(lower, os.path.abspath(arguments.persist), target)
    else:
        _mount_read_only(lower, target)
    return 0


def _mount_writable(lower: str, persist: str, target: str) -> None:
    upper, work = os.path.join(persist, "upper"), os.path.join(persist, "work")
    fresh = not os.path.isdir(upper)
    for path in (upper, work):
        os.makedirs(path, 0o755, exist_ok=True)
    if fresh:
        overlay.copy_root_attributes(lower, upper)
    for path in (lower, upper):
        if any(char in path for char in ",\\:"):
            raise UnsupportedError(f"the path {path} has a character that overlay options cannot carry")
    overlay.mount(lower, upper, work, target)


def _mount_read_only(lower: str, target: str) -> None:
    place = os.fsencode(target)
    flags = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY
    if userns.current().initial:
        flags |= syscalls.MS_NOSUID | syscalls.MS_NODEV
    else:  # what the mount has already is locked, and must be said again
        flags |= os.statvfs(lower).f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)
    try:
        syscalls.mount(os.fsencode(lower), place, b"", syscalls.MS_BIND, b"")
        try:
            syscalls.mount(b"", place, b"", flags, b"")
        except BaseException:
            syscalls.umount2(place)
            raise
    except OSError as error:
        raise OciError(f"cannot mount the image on {target}: {error.strerror}") from error
