# SPDX-License-Identifier: LGPL-2.1-or-later
"""`lxc-oci-py prune`: remove from the store what no container uses."""

import argparse
import sys

from lxc_oci import jsonio
from lxc_oci.log import Log
from lxc_oci.progress import Counter, size
from lxc_oci.store import prune
from lxc_oci.verbs import lxcpaths, open_store


def run(arguments: argparse.Namespace, log: Log) -> int:
    """Say what goes, remove it unless --dry-run; return 0."""
    store = open_store(arguments, create=True)
    with Counter(sys.stderr, "looking at containers", arguments.quiet) as counter, store.alone():
        plan = prune.plan(store, lxcpaths(), counter.step)
        if arguments.dry_run:
            removed = [item for item in plan.candidates if arguments.force or not item.recent]
        else:
            removed = prune.carry_out(store, plan, force=arguments.force, on_step=counter.step)
    kept = [item for item in plan.candidates if item.recent and not arguments.force]
    freed = sum(item.size for item in removed)
    if arguments.json:
        document = {
            "removed": [{"name": item.part, "bytes": item.size} for item in removed],
            "recent": [{"name": item.part, "bytes": item.size} for item in kept],
            "bytes": freed,
            "dryRun": arguments.dry_run,
        }
        sys.stdout.buffer.write(jsonio.dump(document))
        return 0
    for item in removed:
        print(f"{'would remove' if arguments.dry_run else 'removed'} {item.part} ({size(item.size)})")
    for item in kept:
        log.info(f"kept {item.part} ({size(item.size)}): used during the last day; --force removes it too")
    print(f"{size(freed)} {'would be' if arguments.dry_run else ''} freed".replace("  ", " "))
    return 0
