# SPDX-License-Identifier: LGPL-2.1-or-later
"""`lxc-oci-py pull`: bring an image into the store, in the form that the next create uses."""

import argparse
import os
import sys

from lxc_oci import jsonio
from lxc_oci import limits as limit
from lxc_oci.acquire import acquired
from lxc_oci.log import Level, Log
from lxc_oci.progress import Events, Progress
from lxc_oci.rootfs.choose import choose, gather
from lxc_oci.rootfs.prepare import store_image
from lxc_oci.source.open import parse_url
from lxc_oci.store import inventory
from lxc_oci.verbs import default_lxcpath, open_store, source_options


def run(arguments: argparse.Namespace, log: Log) -> int:
    """Pull, print the digest, or JSON; return 0."""
    limits = limit.load()
    reference = parse_url(arguments.url)
    store = open_store(arguments, create=True)
    progress: Progress = Events(sys.stdout) if arguments.json else Progress(sys.stderr, quiet=log.level is Level.QUIET)
    # The place of a container that nobody makes: the form depends on where its like would be.
    container = os.path.join(default_lxcpath(), "any")
    with (
        store.in_use(),
        store.stage() as stage,
        progress,
        acquired(reference, source_options(arguments, stage.path), store, limits, log.warn) as found,
    ):
        facts = gather("", container, os.path.join(container, "rootfs"), store.path)
        choice = choose("auto", found.image.kind, facts, helper=None, kernel_mount=True)
        log.detail(f"storage: {choice.form.value}: {choice.reason}")
        form, parts = store_image(choice.form, found, store, limits, log, progress)
    if not arguments.json:
        print(found.image.digest)
        return 0
    sizes = [inventory.sizes(store, part) for part in parts]
    event = {
        "event": "pulled",
        "reference": reference.text,
        "digest": found.image.digest,
        "indexDigest": found.image.index_digest,
        "platform": str(found.image.config.platform),
        "storage": form.value,
        "bytes": sum(total for total, _ in sizes),
    }
    print(jsonio.compact(event).decode())
    return 0
