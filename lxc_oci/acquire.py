# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a URL to an image that was resolved, with the store before the registry.

Shared by every verb that needs an image.  A warm create by digest asks nobody; one by tag asks the registry one
question, whether the tag still means what the store has.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from lxc_oci.image import platform as platforms
from lxc_oci.image import reference as references
from lxc_oci.image.config import Image
from lxc_oci.image.digest import Digest
from lxc_oci.image.platform import Platform
from lxc_oci.image.reference import Reference
from lxc_oci.limits import Limits
from lxc_oci.source import hostfiles, resolve
from lxc_oci.source.open import SourceOptions, open_source
from lxc_oci.source.source import Source
from lxc_oci.store import images, resolutions
from lxc_oci.store.blobs import CachingSource
from lxc_oci.store.home import Store


class Acquired(NamedTuple):
    """An image, and where its layers come from when the store lacks them."""

    reference: Reference
    image: Image
    source: Source
    stored: bool  # its documents came from the store


@contextmanager
def acquired(
    reference: Reference,
    options: SourceOptions,
    store: Store | None,
    limits: Limits,
    warn: Callable[[str], None],
) -> Iterator[Acquired]:
    """Resolve `reference`, if the host's policy allows it; its source stays open for the time of the context."""
    check = _policy(reference, options, limits, warn)
    check(None)

    def connect() -> Source:
        return open_source(reference, options, limits, warn)

    cached = store if reference.transport == references.DOCKER else None
    source: Source = CachingSource(cached, connect) if cached else connect()
    try:
        image = _stored(reference, options, store, source, limits, warn)
        stored = image is not None
        if image is None:
            image = resolve.resolve(source, options.platform, limits, warn)
        check(image.digest)
        if store is not None and not stored:
            remember(store, reference, options.platform, image)
        yield Acquired(reference, image, source, stored)
    finally:
        source.close()


def _policy(
    reference: Reference, options: SourceOptions, limits: Limits, warn: Callable[[str], None]
) -> Callable[[Digest | None], None]:
    """Return what raises when the host's policy forbids an image; without a policy file, nothing is even imported."""
    if not any(map(os.path.lexists, hostfiles.policies(os.environ))):
        return lambda digest: None
    from lxc_oci.source import policy

    found = policy.load(os.environ)
    return lambda digest: policy.check(found, reference, digest, options, limits, warn)


def _stored(
    reference: Reference,
    options: SourceOptions,
    store: Store | None,
    source: Source,
    limits: Limits,
    warn: Callable[[str], None],
) -> Image | None:
    """Return the image as the store has it, if this name led to it before and still does."""
    if store is None or not isinstance(source, CachingSource):
        return None
    wanted = options.platform or platforms.host()
    if reference.digest is not None:
        # No registry is asked, but the administrator may have blocked this one since.
        from lxc_oci.source import registriesconf

        registriesconf.load(os.environ).places(reference, options.insecure)
    root = reference.digest or source.announced()
    if root is None:
        return None
    manifest = resolutions.lookup(store, reference.name, root, wanted)
    found = images.load(store, manifest) if manifest is not None else None
    if found is None:
        return None
    return resolve.resolve_manifest(
        found.raw_manifest, found.raw_config, options.platform, limits, warn, digest=found.digest
    )


def remember(store: Store, reference: Reference, wanted: Platform | None, image: Image) -> None:
    """Keep an image's documents, and what its name led to.  Raises OSError."""
    images.save(
        store,
        image.digest,
        image.raw_manifest,
        image.raw_config,
        name=reference.name,
        reference=reference.text,
        indexes=(image.index_digest,) if image.index_digest else (),
        added=now(),
    )
    if reference.transport == references.DOCKER:
        roots: set[Digest] = {image.digest}
        if image.index_digest is not None:
            roots.add(image.index_digest)
        for root in roots:
            resolutions.remember(store, reference.name, root, wanted or platforms.host(), image.digest)


def now() -> str:
    """Return the time as RFC 3339, in UTC, with SOURCE_DATE_EPOCH's meaning where that is set."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH", "")
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(seconds) if seconds.isdigit() else None))
