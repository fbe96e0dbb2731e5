# SPDX-License-Identifier: LGPL-2.1-or-later
"""`lxc-oci-py update`: the image that a container's URL has now, or another, below what the container wrote."""

import argparse
import sys

from lxc_oci import jsonio
from lxc_oci import limits as limit
from lxc_oci.log import Level, Log
from lxc_oci.progress import Progress
from lxc_oci.source.open import parse_url
from lxc_oci.update import Request, update
from lxc_oci.verbs import report, source_options, subject


def run(arguments: argparse.Namespace, log: Log) -> int:
    """Update, print what changes; return 0, also where nothing does."""
    directory = subject.directory(arguments)
    store = subject.store(arguments, directory)
    with store.stage() as stage, Progress(sys.stderr, quiet=log.level is Level.QUIET) as progress:
        request = Request(
            directory=directory,
            reference=parse_url(arguments.url) if arguments.url else None,
            source=source_options(arguments, stage.path),
            dry_run=arguments.dry_run,
            reset=arguments.reset,
            require_verity=arguments.require_verity,
        )
        changed = update(request, store, limit.load(), log, progress, lambda found: report.show(found, arguments.json))
    if not changed:
        log.info(f"{arguments.name} has this image already")
        if arguments.json:
            sys.stdout.buffer.write(jsonio.dump({"container": directory, "digest": None}))
    return 0
