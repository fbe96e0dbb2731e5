# SPDX-License-Identifier: LGPL-2.1-or-later
"""`lxc-oci-py verify`: read everything in the store and compare it with its digests and records."""

import argparse
import sys

from lxc_oci import jsonio
from lxc_oci.errors import RefusedError
from lxc_oci.log import Log, escape
from lxc_oci.progress import Counter
from lxc_oci.store import health
from lxc_oci.verbs import open_store

_SHOWN = 20  # problems of one part; a tree that was emptied has thousands


def run(arguments: argparse.Namespace, log: Log) -> int:
    """Print what is damaged and mark it; return 0 when nothing is, else RefusedError's status."""
    store = open_store(arguments, create=True)
    found: dict[str, list[str]] = {}
    with Counter(sys.stderr, "verifying", arguments.quiet) as counter, store.in_use():
        for part, problem in health.check(store, counter.step):
            found.setdefault(part, []).append(problem)
        for part in found:
            health.mark(store, part)
    if arguments.json:
        sys.stdout.buffer.write(jsonio.dump({"damaged": found}))
    else:
        for part, problems in found.items():
            for problem in problems[:_SHOWN]:
                print(f"{part}: {escape(problem)}")
            if len(problems) > _SHOWN:
                print(f"{part}: and {len(problems) - _SHOWN} more")
        if found:
            log.info("what is damaged is not used any more; the next pull or create replaces it")
    return RefusedError.status if found else 0
