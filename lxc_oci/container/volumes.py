# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volumes of the image and of the user → mount entries, and the directories that keep an image's volumes.

A volume of the image lies in the container's own directory, gets what the image has at that path the first time,
and then outlives stop, start and update.  Its name there tells the path, so that an update finds it again.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lxc_oci.container import guestfiles, paths
from lxc_oci.container.lxcconfig import Line, encode, mount_entry
from lxc_oci.container.overrides import TmpfsOption, VolumeOption
from lxc_oci.errors import RefusedError, UsageError
from lxc_oci.kernel import durable
from lxc_oci.kernel.root import Root, remove_tree

SHARED_MEMORY = "/dev/shm"  # LXC's own /dev has none; --tmpfs sets its size
FSTAB = "fstab"  # in the container's directory, where LXC has its own
DIRECTORY = "oci-py/volumes"  # below the container's directory
_NAME_BYTES = 200
_PLAIN_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")


class ImageVolume(NamedTuple):
    """A directory of the container's that is mounted on `target`, a real path in the root."""

    name: str
    target: str


class Mounts(NamedTuple):
    """What the container mounts; `directories` and `files` must exist in its root before it starts.

    The image's volumes stand in the container's fstab, which LXC itself copies and hooks/oci-py-clone rewrites: an
    ephemeral copy (lxc-copy -e) is started with the configuration of the original, and would write to its volumes.
    """

    image: tuple[Line, ...]
    fstab: tuple[str, ...]  # lines as of lxc.mount.entry
    options: tuple[Line, ...]
    volumes: tuple[ImageVolume, ...]
    directories: tuple[str, ...]
    files: tuple[str, ...] = ()


def plan(
    image: Sequence[str],
    volumes: Sequence[VolumeOption],
    tmpfs: Sequence[TmpfsOption],
    root: Root,
    directory: str,
    warn: Callable[[str], None],
) -> Mounts:
    """Plan the mounts below `root` for the container in `directory`.

    The user's mount on a path takes the place of the image's volume there; of two of the user's, the last holds.
    A volume in /proc, /sys or /dev is left out with a warning: images for Docker ask for /sys/fs/cgroup.
    Raises RefusedError and UsageError.
    """
    shared = ""
    ours: dict[str, Line] = {}
    directories: list[str] = []
    files: list[str] = []
    for bind in volumes:
        target = _target(root, bind.container, "--volume")
        try:
            status = os.stat(bind.host)
        except OSError as error:
            raise UsageError(f"--volume {bind.host!r:.200}: {error.strerror}", "create it on the host first") from error
        (directories if stat.S_ISDIR(status.st_mode) else files).append(target)
        # LXC sets the flags of a bind mount only where one of them is `ro` (conf.c mount_entry, 5.0 to 7.0).
        options = "rbind,ro,nosuid,nodev" if bind.read_only else "rbind"
        ours[target] = mount_entry(bind.host, target[1:], "none", options)
    for memory in tmpfs:
        if paths.plain(memory.container, "--tmpfs") == SHARED_MEMORY:
            shared = f",size={memory.size}" if memory.size else ""
            continue
        target = _target(root, memory.container, "--tmpfs")
        directories.append(target)
        options = "nosuid,nodev,mode=1777" + (f",size={memory.size}" if memory.size else "")
        ours[target] = mount_entry("tmpfs", target[1:], "tmpfs", options)
    theirs: dict[str, tuple[ImageVolume, Line]] = {}
    for path in image:
        try:
            target = _target(root, path if path.startswith("/") else "/" + path, "the image's volume")
        except paths.OwnedByLXC as refusal:
            warn(f"{refusal.message}; it is left out")
            continue
        if any(target == other or target.startswith(other + "/") for other in ours):
            continue  # what the user mounts keeps what is written below it
        volume = ImageVolume(_name(target), target)
        source = os.path.join(directory, DIRECTORY, volume.name)
        theirs[target] = volume, mount_entry(source, target[1:], "none", "bind")
        directories.append(target)
    # A mount on a path hides those below it, so the shorter come first.
    order = sorted(theirs)
    return Mounts(
        (mount_entry("tmpfs", SHARED_MEMORY[1:], "tmpfs", f"nosuid,nodev,mode=1777,create=dir{shared}"),),
        tuple(theirs[target][1].value for target in order),
        tuple(ours[target] for target in sorted(ours)),
        tuple(theirs[target][0] for target in order),
        tuple(sorted(set(directories))),
        tuple(sorted(set(files))),
    )


def write(mounts: Mounts, root: Root, directory: str) -> None:
    """Create the mount points in the root and the image's volumes, those that are new with the image's content, and
    add the volumes to the container's fstab.  What an earlier image had stays mounted: it is the user's data.

    Raises OciError and OSError.
    """
    for target in mounts.directories:
        paths.make_directory(root, target)
    for target in mounts.files:
        _make_file(root, target)
    if not mounts.volumes:
        return
    home = os.path.join(directory, DIRECTORY)
    os.makedirs(home, mode=0o700, exist_ok=True)
    for volume in mounts.volumes:
        _fill(volume, root, home)
    _add_to_fstab(os.path.join(directory, FSTAB), mounts.fstab)


def _add_to_fstab(path: str, lines: Sequence[str]) -> None:
    try:
        with open(path, "rb") as file:
            before = [line for line in file.read().split(b"\n") if line]
    except FileNotFoundError:
        before = []
    added = [line for line in map(encode, lines) if line not in before]
    if added:
        durable.replace_file(path, b"".join(line + b"\n" for line in (*before, *added)))


def _fill(volume: ImageVolume, root: Root, home: str) -> None:
    """Create one volume.  It has its name only when it is complete."""
    final = os.path.join(home, volume.name)
    if os.path.lexists(final):
        return
    temporary = os.path.join(home, f".{hashlib.sha256(volume.name.encode()).hexdigest()[:16]}.new")
    home_fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(home_fd, os.path.basename(temporary).encode())
        os.mkdir(temporary, 0o700)
        source = root.open(encode(volume.target), os.O_RDONLY | os.O_DIRECTORY)
        try:
            target = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if os.listdir(source):
                    guestfiles.copy_directory(source, target)
                else:
                    status = os.fstat(source)
                    os.fchown(target, status.st_uid, status.st_gid)
                    os.fchmod(target, stat.S_IMODE(status.st_mode))
            finally:
                os.close(target)
        finally:
            os.close(source)
        os.rename(temporary, final)
    finally:
        os.close(home_fd)


def _make_file(root: Root, target: str) -> None:
    """Create an empty file as the mount point of a file, unless something is there."""
    name = encode(target)
    os.close(root.make_directories(os.path.dirname(name)))
    parent, base = root.parent(name)
    try:
        os.close(
            os.open(base, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent)
        )
    except FileExistsError:
        if stat.S_ISDIR(os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode):
            raise RefusedError(
                f"--volume {target!r:.200} is a directory in the image, but a file on the host"
            ) from None
    finally:
        os.close(parent)


def _target(root: Root, path: str, what: str) -> str:
    target = paths.real(root, paths.plain(path, what), what, mountable=True)
    return paths.plain(target, what)  # a link of the image may have brought in a control character


def _name(target: str) -> str:
    """Return the file name that stands for a path: readable, and another for every path."""
    name = "".join(
        chr(byte) if byte in _PLAIN_BYTES else f"%{byte:02X}" for byte in encode(target[1:])
    )  # as urllib.parse.quote does, without its import
    if len(name) <= _NAME_BYTES:
        return name
    return hashlib.sha256(encode(target)).hexdigest()
