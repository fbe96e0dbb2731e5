# SPDX-License-Identifier: LGPL-2.1-or-later
"""An image read as a create reads it: opened, resolved, every byte of every layer verified."""

import os
from dataclasses import dataclass, field

from lxc_oci.image import platform, reference
from lxc_oci.image.config import Image
from lxc_oci.limits import Limits
from lxc_oci.source.open import SourceOptions, open_source
from lxc_oci.source.resolve import resolve
from lxc_oci.source.source import blob

AMD64 = platform.parse("linux/amd64")
LIMITS = Limits()


@dataclass
class Read:
    """What came: the image, the bytes of its layers, and what was warned of."""

    image: Image
    layers: list[bytes]
    warnings: list[str] = field(default_factory=list)


def read(
    url: str,
    temporary: str | os.PathLike[str],
    wanted: platform.Platform | None = AMD64,
    limits: Limits = LIMITS,
    piece: int = 1 << 16,
) -> Read:
    """Read the image at `url` for `wanted`; the tests' images are for amd64 whatever the host is."""
    warnings: list[str] = []
    options = SourceOptions(os.fspath(temporary), platform=wanted)
    source = open_source(reference.parse(url), options, limits, warnings.append)
    try:
        image = resolve(source, wanted, limits, warnings.append)
        layers = []
        for number, layer in enumerate(image.layers, 1):
            with blob(source, layer, f"layer {number}") as reader:
                layers.append(b"".join(iter(lambda reader=reader: reader.read(piece), b"")))
        return Read(image, layers, warnings)
    finally:
        source.close()
