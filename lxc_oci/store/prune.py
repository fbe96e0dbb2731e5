# SPDX-License-Identifier: LGPL-2.1-or-later
"""What may go: parts of the store that nobody uses, and has not used lately.

The caller holds the store alone (Store.alone), so no create runs; starts are safe because what they mount is
named in a configuration.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from lxc_oci.store import containers, marks, prefixes
from lxc_oci.store.home import REPLACED, Store

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


def plan(store: Store, on_step: Callable[[], None] = lambda: None) -> Plan:
    """Find what nobody uses.  Changes nothing but the times by which "lately" is told."""
    found = marks.collect(store, on_step)
    now = time.time()
    candidates = []
    for part in _PARTS:
        for name in sorted(os.listdir(store.at(part))):
            on_step()
            path = store.at(part, name)
            base, replaced, _ = name.partition(REPLACED)
            if found.mounted(f"{part}/{base}") if replaced else found.used(f"{part}/{name}"):
                touch(path)
                continue
            candidates.append(Candidate(f"{part}/{name}", disk_usage(path), now - used_at(path) < RECENT_SECONDS))
    for name in sorted(os.listdir(store.at("partial"))):
        path = store.at("partial", name)
        candidates.append(Candidate(f"partial/{name}", disk_usage(path), now - used_at(path) < RECENT_SECONDS))
    return Plan(tuple(candidates), tuple(found.stale))


def carry_out(
    store: Store, chosen: Plan, *, force: bool, on_step: Callable[[], None] = lambda: None
) -> list[Candidate]:
    """Remove the candidates of a plan made under the same lock, the recent ones only with `force`."""
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
    return removed


def touch(path: str) -> None:
    """Note that a part is in use now: its own modification time says when it was last."""
    try:
        os.utime(path, follow_symlinks=False)
    except FileNotFoundError:
        pass


def used_at(path: str) -> float:
    """Return when a part was last known to be used, in seconds since the epoch."""
    try:
        return os.lstat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def disk_usage(path: str) -> int:
    """Return the bytes on disk below `path` that nothing else holds: files with more links than are found here
    are shared with another tree."""
    total = 0
    links: dict[int, tuple[int, int]] = {}
    pending = [path]
    while pending:
        current = pending.pop()
        try:
            status = os.lstat(current)
            if os.path.isdir(current) and not os.path.islink(current):
                total += status.st_blocks * 512
                with os.scandir(current) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
                            continue
                        inner = entry.stat(follow_symlinks=False)
                        if inner.st_nlink == 1:
                            total += inner.st_blocks * 512
                        else:
                            seen, _ = links.get(inner.st_ino, (0, 0))
                            links[inner.st_ino] = (seen + 1, inner.st_blocks * 512)
                            if seen + 1 == inner.st_nlink:
                                total += inner.st_blocks * 512
            else:
                total += status.st_blocks * 512
        except FileNotFoundError:
            continue
    return total
