# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who uses what: the containers' own files, live mounts and references, taken together.

Everything that is named anywhere counts as used: a configuration may have been copied, renamed,
snapshotted or restored without us, so the search is for names of the store's parts in any of the files
that a container of ours has, not for references that we wrote.
"""

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from lxc_oci.store import containers
from lxc_oci.store.containers import Reference
from lxc_oci.store.home import Store

# How parts of the store are named, whatever the path before them: a store may have been moved.
_PART = re.compile(rb"\b(trees|indexes|blobs|images)/([A-Za-z0-9-]{64,})")
_MOUNT = "a mount"
_OURS = "oci-py"  # in a container's directory
_MAXIMUM = 16 << 20  # bytes of one file that are searched; LXC configurations have a few thousand


@dataclass
class Marks:
    """What is in use, and by whom."""

    users: dict[str, set[str]] = field(default_factory=dict)  # `trees/…` → labels such as `/var/lib/lxc/web`
    stale: list[str] = field(default_factory=list)  # identities of references whose container is gone

    def add(self, part: str, user: str) -> None:
        """Note that `user` uses `part`."""
        self.users.setdefault(part, set()).add(user)

    def mounted(self, part: str) -> bool:
        """Tell whether a mount names `part`."""
        return _MOUNT in self.users.get(part, ())

    def used(self, part: str) -> bool:
        """Tell whether anybody uses `part`."""
        return part in self.users


def collect(store: Store, lxcpaths: Iterable[str] = (), on_step: Callable[[], None] = lambda: None) -> Marks:
    """Look at every container of every known lxcpath, every mount and every reference.

    `lxcpaths` are looked at beside those that references name; `on_step` is called for each container, for progress.
    Raises OSError for what cannot be read and is there: it might name something.
    """
    marks = Marks()
    known = dict.fromkeys(lxcpaths, False)  # whether a reference keeps each of them known
    gone: dict[str, list[str]] = {}
    # The references first: a container that is renamed while its lxcpath is read is found by one of its names.
    for reference in containers.every(store):
        on_step()
        known.setdefault(reference.lxcpath, False)
        if _lives(reference):
            known[reference.lxcpath] = True
            for part in (*reference.uses, f"images/{reference.image.replace(':', '-')}"):
                marks.add(part, os.path.join(reference.lxcpath, reference.name))
        else:
            gone.setdefault(reference.lxcpath, []).append(reference.identity)
    for lxcpath, remembered in sorted(known.items()):
        found = False
        for directory in _container_directories(lxcpath):
            on_step()
            for path in _files(directory):
                for part in _parts(path):
                    marks.add(part, directory)
                    found = True
        # A container that was copied or renamed without us may have no reference: its lxcpath must not be forgotten.
        marks.stale += gone.get(lxcpath, [])[1 if found and not remembered else 0 :]
    for path in _mount_tables():
        try:
            parts = _parts(path)
        except OSError:  # the process has ended
            continue
        for part in parts:
            marks.add(part, _MOUNT)
    return marks


def _lives(reference: Reference) -> bool:
    """Tell whether the container of a reference is there, or may be: its disk may not be mounted now."""
    if reference.mount_point and not os.path.ismount(reference.mount_point):
        return True
    if not reference.mount_point and not os.path.isdir(reference.lxcpath):
        return True
    directory = os.path.join(reference.lxcpath, reference.name)
    try:
        with open(os.path.join(directory, _OURS, "id"), "rb") as file:
            found = file.read(100).strip()
    except OSError:
        return os.path.isdir(directory)
    # Another one of the same name, whose own files say what it uses.
    return found in (b"", reference.identity.encode())


def _container_directories(lxcpath: str) -> Iterator[str]:
    """Yield the directories of containers, and of their snapshots (LXCPATH/NAME/snaps/snapN, of old LXCPATHsnaps)."""
    for directory in _subdirectories(lxcpath):
        yield directory
        yield from _subdirectories(os.path.join(directory, "snaps"))
    for directory in _subdirectories(f"{lxcpath}snaps"):
        yield from _subdirectories(directory)


def _subdirectories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _files(directory: str) -> Iterator[str]:
    """Yield the files of a container that may name parts of the store: of all its generations."""
    yield os.path.join(directory, "config")
    ours = os.path.join(directory, _OURS)
    for place in (ours, *_subdirectories(ours)):
        try:
            names = os.listdir(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        yield from (os.path.join(place, name) for name in names if name.endswith(".json"))


def _mount_tables() -> Iterator[str]:
    """Yield the mount tables of all processes, one for each mount namespace, and the files behind loop devices."""
    seen = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            namespace = os.readlink(f"/proc/{name}/ns/mnt")
        except FileNotFoundError:
            continue
        except OSError:  # of another user namespace: its table may be read all the same
            namespace = name
        if namespace not in seen:
            seen.add(namespace)
            yield f"/proc/{name}/mountinfo"
    yield from glob.iglob("/sys/block/loop*/loop/backing_file")


def _parts(path: str) -> set[str]:
    """Return the parts that a file names, none when there is no such file.  Raises OSError."""
    try:
        # A link is followed: people keep configurations elsewhere, and only names are searched for.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return set()
    try:
        content = b""
        while len(content) < _MAXIMUM and (part := os.read(fd, 1 << 20)):
            content += part
    except IsADirectoryError:
        return set()
    finally:
        os.close(fd)
    return {f"{match[1].decode()}/{match[2].decode()}" for match in _PART.finditer(content)}
