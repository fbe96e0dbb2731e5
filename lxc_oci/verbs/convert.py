# SPDX-License-Identifier: LGPL-2.1-or-later
"""`lxc-oci-py convert`: a flat container that shares its image from now on, or the other way round."""

import argparse
import sys

from lxc_oci import limits as limit
from lxc_oci.convert import Request, convert
from lxc_oci.log import Level, Log
from lxc_oci.progress import Progress
from lxc_oci.verbs import source_options, subject


def run(arguments: argparse.Namespace, log: Log) -> int:
    """Convert; return 0."""
    directory = subject.directory(arguments)
    store = subject.store(arguments, directory)
    with store.stage() as stage, Progress(sys.stderr, quiet=log.level is Level.QUIET) as progress:
        request = Request(directory, arguments.storage == "layered", source_options(arguments, stage.path))
        convert(request, store, limit.load(), log, progress)
    return 0
