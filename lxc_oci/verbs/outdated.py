# SPDX-License-Identifier: LGPL-2.1-or-later
"""`lxc-oci-py outdated`: which containers' tags have moved."""

import argparse
import os
import sys
import tempfile

from lxc_oci import jsonio
from lxc_oci import limits as limit
from lxc_oci.errors import OciError, UnavailableError
from lxc_oci.log import Log, escape
from lxc_oci.outdated import Finding, State, find
from lxc_oci.store import containers, home
from lxc_oci.verbs import lxcpaths, namespace, source_options


def run(arguments: argparse.Namespace, log: Log) -> int:
    """Print a table, or JSON; return 0 when every URL was asked, else UnavailableError's status."""
    with tempfile.TemporaryDirectory(prefix="lxc-oci-py-", dir="/var/tmp") as temporary:
        options = source_options(arguments, temporary)
        found = find(_lxcpaths(arguments), options, limit.load(), log.warn)
    if arguments.json:
        sys.stdout.buffer.write(jsonio.dump([_document(one) for one in found]))
    else:
        _print(found)
    for one in found:
        if one.state is State.UNREACHABLE:
            log.warn(f"{one.directory}: {one.error}")
    return UnavailableError.status if any(one.state is State.UNREACHABLE for one in found) else 0


def _lxcpaths(arguments: argparse.Namespace) -> set[str]:
    """Return the lxcpath that was named, else the usual ones and those that the store knows."""
    if arguments.lxcpath:
        return {os.path.abspath(arguments.lxcpath)}
    known = lxcpaths()
    path = os.path.abspath(arguments.store) if arguments.store else home.default_path(os.environ)
    try:
        store = home.open_store(path, create=False, caller=namespace.caller())
    except OciError:
        return known  # nothing was ever made with it
    return known | {reference.lxcpath for reference in containers.every(store)}


def _print(found: list[Finding]) -> None:
    table = [("CONTAINER", "STATE", "DIGEST", "AVAILABLE", "IMAGE")]
    for one in found:
        current = one.facts.index_digest or one.facts.digest
        available = one.available.hex[:12] if one.available and one.state is State.OUTDATED else ""
        table.append((escape(one.directory), one.state.value, current.hex[:12], available, escape(one.facts.reference)))
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _document(one: Finding) -> dict[str, object]:
    return {
        "container": one.directory,
        "reference": one.facts.reference,
        "digest": one.facts.digest,
        "indexDigest": one.facts.index_digest,
        "state": one.state.value,
        "available": one.available,
        "error": one.error,
    }
