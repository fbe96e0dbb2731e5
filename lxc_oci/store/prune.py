# SPDX-License-Identifier: LGPL-2.1-or-later
"""What may go: parts of the store that nobody uses, and has not used lately.

The caller holds the store alone (Store.alone), so no create runs; starts are safe because what they mount is
named in a configuration.
"""

import glob
import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lxc_oci.store import containers, marks, prefixes, resolutions
from lxc_oci.store.home import REPLACED, Store, touch

RECENT_SECONDS = 24 * 60 * 60
_PARTS = ("trees", "indexes", "blobs", "images")


@dataclass(frozen=True)
class Candidate:
    """One part that nobody uses."""

    part: str  # name below the store
    size: int  # bytes that its removal frees, hard-linked files that others share not counted
    recent: bool  # used or made less than RECENT_SECONDS ago


@dataclass(frozen=True)
class Plan:
    """What prune would remove."""

    candidates: tuple[Candidate, ...]
    stale: tuple[str, ...]  # references of containers that are gone


def plan(store: Store, lxcpaths: Iterable[str] = (), on_step: Callable[[], None] = lambda: None) -> Plan:
    """Find what nobody uses; `lxcpaths` as for marks.collect.  Changes nothing but the times by which "lately" is told.

    Raises OSError.
    """
    found = marks.collect(store, lxcpaths, on_step)
    now = time.time()
    unused: list[tuple[str, bool]] = []
    for part in (*_PARTS, "partial"):
        for name in sorted(os.listdir(store.at(part))):
            on_step()
            path = store.at(part, name)
            base, replaced, _ = name.partition(REPLACED)
            if found.mounted(f"{part}/{base}") if replaced else found.used(f"{part}/{name}"):
                touch(path)
            else:
                # What was replaced is damaged, and nobody will ever use it again.
                unused.append((f"{part}/{name}", not replaced and now - used_at(path) < RECENT_SECONDS))
    candidates = []
    links: Links = {}
    # What goes without --force is counted first: a file that a recent tree shares with it is freed by both only.
    for part, recent in sorted(unused, key=lambda item: item[1]):
        on_step()
        candidates.append(Candidate(part, disk_usage(store.at(part), links), recent))
    return Plan(tuple(candidates), tuple(found.stale))


def carry_out(
    store: Store, chosen: Plan, *, force: bool, on_step: Callable[[], None] = lambda: None
) -> list[Candidate]:
    """Remove the candidates of a plan made under the same lock, the recent ones only with `force`.  Raises OSError."""
    removed = []
    for candidate in chosen.candidates:
        on_step()
        if candidate.recent and not force:
            continue
        store.remove(store.at(candidate.part))
        removed.append(candidate)
    for identity in chosen.stale:
        containers.forget(store, identity)
    prefixes.forget_missing(store)
    resolutions.forget_missing(store)
    _remove_leftovers(store)
    return removed


def _remove_leftovers(store: Store) -> None:
    """Remove what only the living need, as nobody else is here: lock files, and temporary names of killed processes."""
    for entry in os.scandir(store.at("locks")):
        if entry.name != "store":
            os.unlink(entry.path)
    for pattern in (".*.tmp", "*/.*.tmp", "images/*/.*.tmp"):
        for path in glob.glob(pattern, root_dir=store.path, include_hidden=True):
            os.unlink(store.at(path))


def used_at(path: str) -> float:
    """Return when a part was last known to be used, in seconds since the epoch."""
    try:
        return os.lstat(path).st_mtime
    except FileNotFoundError:
        return 0.0


# inode → how many of its names were found; what frees it is the last
Links = dict[int, int]


def disk_usage(path: str, links: Links) -> int:
    """Return the bytes on disk that the removal of `path` frees, after all else that was counted with these `links`.

    A file with more names than were found is shared with another tree, and is not freed.
    """
    total = 0
    pending = [path]
    while pending:
        current = pending.pop()
        try:
            status = os.lstat(current)
            total += _freed(status, links)
            if stat.S_ISDIR(status.st_mode):
                with os.scandir(current) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
                        else:
                            total += _freed(entry.stat(follow_symlinks=False), links)
        except FileNotFoundError:
            continue
    return total


def _freed(status: os.stat_result, links: Links) -> int:
    if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
        found = links[status.st_ino] = links.get(status.st_ino, 0) + 1
        if found < status.st_nlink:
            return 0
    return status.st_blocks * 512
