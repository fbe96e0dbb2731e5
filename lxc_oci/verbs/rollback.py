# SPDX-License-Identifier: LGPL-2.1-or-later
"""`lxc-oci-py rollback`: the image that a container had before its last update."""

import argparse

from lxc_oci import limits as limit
from lxc_oci.log import Log
from lxc_oci.update import rollback
from lxc_oci.verbs import report, subject


def run(arguments: argparse.Namespace, log: Log) -> int:
    """Go back, print what changes; return 0."""
    directory = subject.directory(arguments)
    store = subject.store(arguments, directory)
    rollback(directory, store, limit.load(), log, lambda found: report.show(found, arguments.json))
    return 0
