# SPDX-License-Identifier: LGPL-2.1-or-later
"""The container's id map as its configuration says it: which ids exist inside."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lxc_oci.container.lxcconfig import Line, values
from lxc_oci.errors import UsageError


@dataclass(frozen=True)  # not a NamedTuple: those have a method `count`
class Range:
    """`count` ids from `first` inside the container are `host` and following outside."""

    first: int
    host: int
    count: int


class ContainerMap(NamedTuple):
    """`lxc.idmap`, by kind."""

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]


def from_config(lines: Iterable[Line]) -> ContainerMap | None:
    """Return the map of a container's configuration, None without one.  Raises UsageError for a malformed line."""
    uids: list[Range] = []
    gids: list[Range] = []
    for value in values(lines, "lxc.idmap"):
        kind, *numbers = value.split()
        if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
            raise UsageError(f"lxc.idmap = {value:.100} is not KIND INSIDE OUTSIDE COUNT")
        extent = Range(*(int(number) for number in numbers))
        if kind in ("u", "b"):
            uids.append(extent)
        if kind in ("g", "b"):
            gids.append(extent)
    return ContainerMap(tuple(uids), tuple(gids)) if uids or gids else None


def inside(number: int, ranges: Sequence[Range]) -> bool:
    """Tell whether `number` is an id of the container."""
    return any(extent.first <= number < extent.first + extent.count for extent in ranges)
