# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a name and a root digest led to for a platform, so that a second container asks for nothing.

The key holds the name under which a registry handed the image out: knowing a digest alone opens nothing
(zot CVE-2024-39897).
"""

import hashlib
import os

from lxc_oci.errors import RefusedError
from lxc_oci.image.digest import Digest
from lxc_oci.image.platform import Platform
from lxc_oci.kernel import durable
from lxc_oci.store.home import Store
from lxc_oci.store.images import directory_name


def remember(store: Store, name: str, root: Digest, platform: Platform, manifest: Digest) -> None:
    """Note that `root`, handed out as `name`, has `manifest` for `platform`.  Raises OSError."""
    path = _path(store, name, root, platform)
    if lookup(store, name, root, platform) != manifest:
        durable.write_file(path, manifest.encode())


def lookup(store: Store, name: str, root: Digest, platform: Platform) -> Digest | None:
    """Return the manifest's digest, or None when this name did not lead to it before."""
    return _read(_path(store, name, root, platform))


def forget_missing(store: Store) -> None:
    """Remove what leads to images that are gone."""
    for name in os.listdir(store.at("resolutions")):
        path = store.at("resolutions", name)
        image = _read(path)
        if image is None or not os.path.isdir(store.at("images", directory_name(image))):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass


def _read(path: str) -> Digest | None:
    try:
        with open(path, encoding="ascii") as file:
            return Digest(file.read(200))
    except (FileNotFoundError, RefusedError, UnicodeDecodeError):
        return None


def _path(store: Store, name: str, root: Digest, platform: Platform) -> str:
    return store.at("resolutions", hashlib.sha256(f"{name}\n{root}\n{platform}".encode()).hexdigest())
