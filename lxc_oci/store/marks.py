# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who uses what: the containers' own files, live mounts and references, taken together.

Everything that is named anywhere counts as used: a configuration may have been copied, renamed,
snapshotted or restored without us, so the search is for names of the store's parts in any of the files
that a container of ours has, not for references that we wrote.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lxc_oci.store import containers
from lxc_oci.store.home import Store

SYSTEM_LXCPATH = "/var/lib/lxc"
# How parts of the store are named, whatever the path before them: a store may have been moved.
_PART = re.compile(rb"\b(trees|indexes|blobs|images)/([A-Za-z0-9-]{64,})")
_MOUNT = "a mount"
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


def collect(store: Store, on_step: Callable[[], None] = lambda: None) -> Marks:
    """Look at every container of every known lxcpath, every mount and every reference.

    `on_step` is called for each container, for progress.  What cannot be read is skipped only when it is gone.
    """
    marks = Marks()
    lxcpaths = {SYSTEM_LXCPATH}
    for reference in containers.every(store):
        on_step()
        lxcpaths.add(reference.lxcpath)
        directory = os.path.join(reference.lxcpath, reference.name)
        if os.path.isdir(directory) or not os.path.isdir(reference.lxcpath):
            # A missing lxcpath may be a disk that is not mounted now.
            for part in (*reference.uses, f"images/{reference.image.replace(':', '-')}"):
                marks.add(part, directory)
        else:
            marks.stale.append(reference.identity)
    for lxcpath in sorted(lxcpaths):
        for directory in _container_directories(lxcpath):
            on_step()
            for path in _files(directory):
                for part in _parts(path):
                    marks.add(part, directory)
    for path in _mount_tables():
        for part in _parts(path):
            marks.add(part, _MOUNT)
    return marks


def _container_directories(lxcpath: str) -> Iterator[str]:
    """Yield the directories of containers, and of their snapshots (LXCPATH/NAME/snaps/snapN)."""
    for directory in _subdirectories(lxcpath):
        yield directory
        yield from _subdirectories(os.path.join(directory, "snaps"))


def _subdirectories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _files(directory: str) -> Iterator[str]:
    """Yield the files of a container that may name parts of the store."""
    yield os.path.join(directory, "config")
    ours = os.path.join(directory, "oci-py")
    try:
        names = os.listdir(ours)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if name.endswith(".json"):
            yield os.path.join(ours, name)


def _mount_tables() -> Iterator[str]:
    """Yield the mount tables of all processes, one for each mount namespace."""
    seen = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            namespace = os.readlink(f"/proc/{name}/ns/mnt")
        except OSError:  # gone, or not ours to see
            continue
        if namespace not in seen:
            seen.add(namespace)
            yield f"/proc/{name}/mountinfo"


def _parts(path: str) -> set[str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return set()
    try:
        content = b""
        while len(content) < _MAXIMUM and (part := os.read(fd, 1 << 20)):
            content += part
    except OSError:  # a directory, or a process that ended
        return set()
    finally:
        os.close(fd)
    return {f"{match[1].decode()}/{match[2].decode()}" for match in _PART.finditer(content)}
