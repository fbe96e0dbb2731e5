# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which user namespace this process is in, as /proc tells it."""

from dataclasses import dataclass
from typing import NamedTuple

_WHOLE = 4294967295  # the length of the initial namespace's one extent


@dataclass(frozen=True)  # not a NamedTuple: those have a method `count`
class Extent:
    """One line of /proc/PID/uid_map or gid_map: `count` ids from `inside` are `outside` in the parent namespace."""

    inside: int
    outside: int
    count: int


class IdMap(NamedTuple):
    """The id maps of a process (user_namespaces(7))."""

    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]

    @property
    def initial(self) -> bool:
        """Whether this is the initial user namespace, or one that maps every id to itself."""
        identity = (Extent(0, 0, _WHOLE),)
        return self.uids == identity and self.gids == identity

    @property
    def maps_host_root(self) -> bool:
        """Whether the host's root is an id in here although the map is not the identity.

        lxc-create run by root maps it for a container with an idmap; such a process could write files of the
        host's root.
        """
        return not self.initial and any(extent.outside == 0 and extent.count for extent in self.uids)

    def without(self, uid: int, gid: int) -> "IdMap":
        """Return the maps without the one id that lxc-create adds for its caller beside the container's own."""
        return IdMap(
            tuple(extent for extent in self.uids if (extent.inside, extent.count) != (uid, 1)),
            tuple(extent for extent in self.gids if (extent.inside, extent.count) != (gid, 1)),
        )

    def key(self) -> str:
        """Return a text that is equal for equal maps."""
        return ";".join(
            ",".join(f"{extent.inside}:{extent.outside}:{extent.count}" for extent in extents)
            for extents in (self.uids, self.gids)
        )


def current() -> IdMap:
    """Return the id maps of this process."""
    return IdMap(_read("/proc/self/uid_map"), _read("/proc/self/gid_map"))


def overflow_uid() -> int:
    """Return the uid that ids without a mapping are shown as."""
    with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
        return int(file.read())


def _read(path: str) -> tuple[Extent, ...]:
    with open(path, encoding="ascii") as file:
        return tuple(sorted((Extent(*map(int, line.split())) for line in file), key=lambda extent: extent.inside))
