# SPDX-License-Identifier: LGPL-2.1-or-later
"""`lxc-oci-py commit`: a container's image and what the container wrote, as a new image."""

import argparse
import sys
from typing import Any

from lxc_oci import limits as limit
from lxc_oci.commit import Request, commit
from lxc_oci.container import overrides, provenance
from lxc_oci.image import config as configs
from lxc_oci.image import reference as references
from lxc_oci.log import Level, Log
from lxc_oci.progress import Progress
from lxc_oci.verbs import namespace, source_options, subject


def run(arguments: argparse.Namespace, log: Log) -> int:
    """Write the image, print its digest; return 0."""
    directory = subject.directory(arguments)
    store = subject.store(arguments, directory)
    with store.stage() as stage, Progress(sys.stderr, quiet=log.level is Level.QUIET) as progress:
        request = Request(
            directory,
            references.parse(arguments.destination),
            source_options(arguments, stage.path),
            _running(arguments, directory),
            namespace.caller(),
        )
        digest = commit(request, store, limit.load(), log, progress)
    print(digest)
    return 0


def _running(arguments: argparse.Namespace, directory: str) -> dict[str, Any]:
    """Return the members of the configuration that options replace.  Raises UsageError."""
    found: dict[str, Any] = {}
    if arguments.entrypoint is not None:
        found |= {"Entrypoint": list(overrides.words(arguments.entrypoint, "--entrypoint")), "Cmd": None}
    if arguments.cmd is not None:
        found["Cmd"] = list(overrides.words(arguments.cmd, "--cmd"))
    if arguments.user:
        found["User"] = arguments.user
    if arguments.workdir:
        found["WorkingDir"] = arguments.workdir
    new = overrides.environment((), arguments.env)
    if new and provenance.read(directory) is not None:
        raw = provenance.documents(directory)[1]
        old = configs.parse(raw).env if raw != b"{}" else ()
        names = {name for name, _ in new}
        kept = [entry for entry in old if entry.partition("=")[0] not in names]
        found["Env"] = [*kept, *(f"{name}={value}" for name, value in new)]
    return found
