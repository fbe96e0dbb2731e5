# SPDX-License-Identifier: LGPL-2.1-or-later
"""The container that a verb is about, and the store that it was made from."""

import argparse
import os

from lxc_oci.container import provenance
from lxc_oci.errors import UsageError
from lxc_oci.store.home import Store
from lxc_oci.verbs import default_lxcpath, open_store


def directory(arguments: argparse.Namespace) -> str:
    """Return the directory of the container that NAME and -P name.  Raises UsageError."""
    if "/" in arguments.name or arguments.name in ("", ".", ".."):
        raise UsageError(f"{arguments.name!r:.100} is not the name of a container", "say where it is with -P")
    return os.path.join(os.path.abspath(arguments.lxcpath or default_lxcpath()), arguments.name)


def store(arguments: argparse.Namespace, container: str) -> Store:
    """Open the store that --store names, else the one that the container was made from."""
    facts = provenance.read(container)
    if not arguments.store and facts is not None and facts.store:
        arguments.store = facts.store
    return open_store(arguments, create=True)
