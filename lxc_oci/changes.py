# SPDX-License-Identifier: LGPL-2.1-or-later
"""What changes when a container goes from one image to another, as data: what the images say, and which of the
container's own files hide something that the new image changed.

Nothing is decided here, and nothing printed.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lxc_oci import sametree
from lxc_oci.container.guest import MOUNT_POINT
from lxc_oci.errors import RefusedError
from lxc_oci.image.config import Image
from lxc_oci.image.digest import Digest
from lxc_oci.image.mediatype import LayerKind
from lxc_oci.kernel.root import Root
from lxc_oci.layer import attributes

# Written by create for the container, whatever the image has there.
OURS = frozenset({b"etc/hostname", b"etc/hosts", b"etc/resolv.conf", MOUNT_POINT.encode()})


# --- what the images say -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Value:
    """One thing that an image says; "" where it says nothing."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Entries:
    """A list of an image: what is new and what is gone.  A variable with another value is both."""

    name: str
    added: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True)
class Changes:
    """The difference of two images."""

    before: Digest
    after: Digest
    shared_layers: int
    new_layers: int
    new_bytes: int  # compressed, as the new layers' descriptors say
    values: tuple[Value, ...]
    entries: tuple[Entries, ...]


def compare(before: Image, after: Image) -> Changes:
    """Return what `after` says otherwise than `before`."""
    known = set(_layers(before))
    new = [number for number, layer in enumerate(_layers(after)) if layer not in known]
    old, now = before.config, after.config
    values = (
        Value("entrypoint", _words(old.entrypoint), _words(now.entrypoint)),
        Value("cmd", _words(old.cmd), _words(now.cmd)),
        Value("user", old.user, now.user),
        Value("directory", old.working_dir, now.working_dir),
        Value("stop signal", old.stop_signal, now.stop_signal),
        Value("created", old.created, now.created),
    )
    entries = (
        _entries("environment", old.env, now.env),
        _entries("ports", old.exposed_ports, now.exposed_ports),
        _entries("volumes", old.volumes, now.volumes),
    )
    return Changes(
        before.digest,
        after.digest,
        len(after.layers) - len(new),
        len(new),
        sum(after.layers[number].size for number in new),
        tuple(value for value in values if value.before != value.after),
        tuple(entry for entry in entries if entry.added or entry.removed),
    )


def _layers(image: Image) -> tuple[Digest, ...]:
    """A tar layer is the same whatever compressed it."""
    return image.config.diff_ids if image.kind is LayerKind.TAR else tuple(layer.digest for layer in image.layers)


def _words(words: Sequence[str]) -> str:
    from lxc_oci import jsonio

    return jsonio.compact(list(words)).decode() if words else ""


def _entries(name: str, before: Sequence[str], after: Sequence[str]) -> Entries:
    return Entries(
        name,
        tuple(entry for entry in after if entry not in before),
        tuple(entry for entry in before if entry not in after),
    )


# --- files that the user and the image changed ----------------------------------------------------------------------


@dataclass(frozen=True)
class Conflict:
    """A file that the container changed or removed, and that the new image has otherwise than the old one."""

    path: str
    removed: bool  # by the container


def conflicts(upper: Root, before: Root, after: Root) -> Iterator[Conflict]:
    """Yield what is in the upper directory of an overlay and differs between the images `before` and `after`.

    The container's own counts, so nothing of this is an error.  Raises RefusedError for an upper directory whose
    files say that their content or their place is that of a lower one's: over another image they would show that
    image's.
    """
    pending = [b""]
    while pending:
        directory = pending.pop()
        for name in sametree.names(upper, directory):
            path = os.path.join(directory, name)
            if path in OURS:
                continue
            status, xattrs = _look(upper, path)
            if feature := attributes.dependence(xattrs):
                raise RefusedError(
                    f"/{os.fsdecode(path)} was written with overlayfs's {feature}, which depends on the old image",
                    "convert the container: lxc-oci-py convert NAME --storage flat",
                )
            whiteout = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
            if stat.S_ISDIR(status.st_mode) and not attributes.opaque(xattrs):
                pending.append(path)
                if _attributes_differ(before, after, path):
                    yield Conflict("/" + os.fsdecode(path), False)
            elif _differ(before, after, path):
                yield Conflict("/" + os.fsdecode(path), whiteout)


def _look(root: Root, path: bytes) -> tuple[os.stat_result, dict[str, bytes]]:
    """Return what `path` is and its extended attributes."""
    fd = root.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        return status, attributes.of(fd, status)
    finally:
        os.close(fd)


def _attributes_differ(before: Root, after: Root, path: bytes) -> bool:
    old, new = _status(before, path), _status(after, path)
    return old is not None and new is not None and _attributes(old) != _attributes(new)


def _differ(before: Root, after: Root, path: bytes) -> bool:
    """Tell whether two images have something else at `path`, or below it."""
    pending = [path]
    while pending:
        name = pending.pop()
        old, new = _status(before, name), _status(after, name)
        if old is None or new is None:
            if old is not new:
                return True
            continue
        if _attributes(old) != _attributes(new):
            return True
        if stat.S_ISREG(old.st_mode):
            if not sametree.same_content(before, after, name, old, new):
                return True
        elif stat.S_ISLNK(old.st_mode):
            if _link(before, name) != _link(after, name):
                return True
        elif stat.S_ISDIR(old.st_mode):
            names = sametree.names(before, name)
            if names != sametree.names(after, name):
                return True
            pending += [os.path.join(name, entry) for entry in names]
        elif old.st_rdev != new.st_rdev:
            return True
    return False


def _attributes(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mode, status.st_uid, status.st_gid


def _status(root: Root, path: bytes) -> os.stat_result | None:
    try:
        return root.lstat(path)
    except OSError:  # missing, or a parent that is no directory there
        return None


def _link(root: Root, path: bytes) -> bytes:
    directory, base = root.parent(path)
    try:
        return os.readlink(base, dir_fd=directory)
    finally:
        os.close(directory)
