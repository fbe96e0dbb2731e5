# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pull as the program does, without a store: resolve an image and read every layer of it, verified."""

import threading
from dataclasses import dataclass, field
from typing import Any

from lxc_oci.image import platform
from lxc_oci.image import reference as references
from lxc_oci.image.config import Image
from lxc_oci.limits import Limits
from lxc_oci.source import source as sources
from lxc_oci.source.open import SourceOptions
from lxc_oci.source.registry import RegistrySource
from lxc_oci.source.resolve import resolve

QUICK = Limits(connect_timeout=5, idle_timeout=5, rate_window=5, minimum_rate=1024, retries=3)


@dataclass
class Sleeps:
    """Takes the place of time.sleep: notes how long would have been waited."""

    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, seconds: float) -> None:
        with self.lock:
            self.seconds.append(seconds)


@dataclass
class Pulled:
    """What came."""

    image: Image
    layers: list[bytes]
    warnings: list[str]


def source(
    url: str, *, limits: Limits = QUICK, warnings: list[str] | None = None, sleep: Any = None, **options: Any
) -> RegistrySource:
    """The source of a docker:// URL; `options` are members of SourceOptions, `sleep` takes the place of waiting."""
    said = [] if warnings is None else warnings
    settings = SourceOptions(temporary="/nonexistent", **options)
    return RegistrySource(references.parse(url), settings, limits, said.append, sleep=sleep or Sleeps())


def pull(url: str, *, limits: Limits = QUICK, sleep: Any = None, **options: Any) -> Pulled:
    """Resolve and read an image whole."""
    warnings: list[str] = []
    wanted = options.setdefault("platform", platform.parse("linux/amd64"))
    with source(url, limits=limits, warnings=warnings, sleep=sleep, **options) as opened:
        image = resolve(opened, wanted, limits, warnings.append)
        layers = []
        for layer in image.layers:
            with sources.blob(opened, layer, "the layer") as reader:
                layers.append(b"".join(iter(lambda: reader.read(1 << 16), b"")))
    return Pulled(image, layers, warnings)
