# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which places an image may come from, in order: registries.conf(5) version 2 with its drop-ins."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lxc_oci.image.reference import Reference


@dataclass(frozen=True)
class Endpoint:
    """One place to pull a repository from."""

    host: str  # `host[:port]` as configuration files write it; `docker.io` for the Hub
    repository: str
    insecure: bool = False

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}"


def places(reference: "Reference", insecure: bool) -> list[Endpoint]:
    """Return the places to pull `reference` from, the first to be tried first."""
    return [Endpoint(reference.host, reference.repository, insecure)]
