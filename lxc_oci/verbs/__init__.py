# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verbs of the command lxc-oci-py: one module each, imported when it is asked for.

A plain user's store belongs to the root of the user's own user namespace; a verb that opens it starts the
program again inside one, as LXC starts the template.
"""

import argparse
import importlib
import os

from lxc_oci.container import lxcpath
from lxc_oci.image import platform as platforms
from lxc_oci.kernel import userns
from lxc_oci.log import Log
from lxc_oci.options import read_password
from lxc_oci.source.open import SourceOptions
from lxc_oci.store import home
from lxc_oci.verbs import namespace

_MODULES = {"list": "listing"}
_AS_CALLER = ("logs",)  # LXC writes a user's log as that user, who is nobody in the namespace


def run(arguments: argparse.Namespace, log: Log) -> int:
    """Carry out the verb; return the exit status.  Raises OciError."""
    if os.geteuid() != 0 and arguments.verb not in _AS_CALLER:
        namespace.enter()
    verb = importlib.import_module(f"lxc_oci.verbs.{_MODULES.get(arguments.verb, arguments.verb)}")
    status: int = verb.run(arguments, log)
    return status


def open_store(arguments: argparse.Namespace, *, create: bool) -> home.Store:
    """Open the store that --store or the environment names, leftovers of killed runs cleared."""
    path = os.path.abspath(arguments.store) if arguments.store else home.default_path(os.environ)
    store = home.open_store(path, create=create, caller=namespace.caller())
    store.clear_leftovers()
    return store


def source_options(arguments: argparse.Namespace, temporary: str) -> SourceOptions:
    """Return what the command line says of how to reach an image.  Raises UsageError."""
    return SourceOptions(
        temporary=temporary,
        authfile=arguments.authfile,
        username=arguments.username,
        password=read_password(arguments),
        insecure=arguments.insecure,
        platform=platforms.parse(arguments.platform) if arguments.platform else None,
    )


def lxcpaths() -> set[str]:
    """Return where containers of whoever calls may be, even if none was ever made there by us."""
    found = {default_lxcpath()}
    return found | {lxcpath.SYSTEM_LXCPATH} if userns.current().initial else found


def default_lxcpath() -> str:
    """Return where LXC keeps the containers of whoever calls."""
    return lxcpath.default(os.environ, user=not userns.current().initial)
