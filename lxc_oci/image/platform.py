# SPDX-License-Identifier: LGPL-2.1-or-later
"""Platforms: OS, architecture and variant, as Go and the image specification write them."""

import os
import re
import sys
from typing import NamedTuple

from lxc_oci.errors import UsageError

_MACHINES = {
    "x86_64": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv8l": ("arm", "v7"),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
    "mips64": ("mips64le" if sys.byteorder == "little" else "mips64", ""),
}
# A CPU of one variant runs binaries of those that follow it.
_VARIANTS = {"arm": ("v8", "v7", "v6", "v5"), "arm64": ("v8",), "amd64": ("v4", "v3", "v2", "v1")}
# What stands for "no variant" where an index names one all the same: the usual baseline first.
_BASELINES = {"arm": ("v7", "v6", "v5", "v8"), "arm64": ("v8",), "amd64": ("v1",)}
_WORD = re.compile(r"[a-z0-9._-]+\Z")


class Platform(NamedTuple):
    """What an image runs on."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def alternatives(self) -> tuple["Platform", ...]:
        """Return the platforms whose images run on this one, best first (containers/image pkg/platform)."""
        order = _VARIANTS.get(self.architecture, ())
        if not self.variant:
            variants = ("", *_BASELINES.get(self.architecture, ()))
        elif self.variant in order:
            variants = (*order[order.index(self.variant) :], "")
        else:  # v9 runs what v8 does; of another variant nothing is known
            variants = (self.variant, *(order if self.architecture == "arm64" else ()), "")
        return tuple(Platform(self.os, self.architecture, variant) for variant in variants)

    def runs(self, image: "Platform") -> bool:
        """Tell whether an image for `image` runs on this platform."""
        return image in self.alternatives()


def normal(system: str, architecture: str, variant: str) -> Platform:
    """Return a platform as it is compared: arm64 and arm64/v8 are one (containerd's normalisation)."""
    return Platform(system, architecture, variant or ("v8" if architecture == "arm64" else ""))


def host() -> Platform:
    """Return the platform of the running kernel."""
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return normal("linux", architecture, variant)


def recorded(text: str) -> Platform | None:
    """Return the platform of an image as str() wrote it; None for that of an image without an architecture."""
    return parse(text) if "/" in text else None


def parse(text: str) -> Platform:
    """Parse `OS/ARCH[/VARIANT]`.  Raises UsageError."""
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(_WORD.match(part) for part in parts):
        raise UsageError(f"{text!r} is not a platform", "write OS/ARCH or OS/ARCH/VARIANT, such as linux/arm64")
    system, architecture, variant = (*parts, "")[:3]
    if architecture in _MACHINES:  # people write uname's names
        architecture, default = _MACHINES[architecture]
        variant = variant or default
    return normal(system, architecture, variant)
