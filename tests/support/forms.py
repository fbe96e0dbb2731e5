# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a container's root file system shows, in whatever form it is kept."""

import json
import os
import traceback
from collections.abc import Iterable
from pathlib import Path

from lxc_oci.limits import Limits
from lxc_oci.rootfs import overlay
from lxc_oci.store import mountplan
from tests.support import tree

# What create itself writes into a root file system, and the times of the directories that it is written to.
GUEST = ("etc", "etc/hostname", "etc/hosts", "etc/resolv.conf", ".oci-py", ".oci-py/init", "dev", "dev/shm")


def shown(container: Path, *, without: Iterable[str] = GUEST) -> dict[str, tree.Facts]:
    """The facts of every file that the container in that directory would see, but for the names `without`."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            overlay.private_namespace()
            with os.fdopen(writing, "w") as answer:
                json.dump(_facts(container), answer, default=lambda value: value.decode("latin-1"))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    assert os.waitpid(pid, 0)[1] == 0
    found: dict[str, tree.Facts] = json.loads(text)
    for name in without:
        found.pop(f"./{name}", None)
    found["."].pop("mtime")
    return found


def _facts(container: Path) -> dict[str, tree.Facts]:
    if mountplan.load(str(container)) is None:
        return tree.facts(container / "rootfs")
    with mountplan.attached(str(container), Limits()) as target:
        return tree.facts(target)


def differences(one: dict[str, tree.Facts], other: dict[str, tree.Facts]) -> list[str]:
    """Every difference between two answers of `shown`."""
    lines = [f"{name}: only in one of them" for name in sorted(one.keys() ^ other.keys())]
    for name in sorted(one.keys() & other.keys()):
        for key in sorted(one[name].keys() | other[name].keys()):
            values = one[name].get(key), other[name].get(key)
            if values[0] != values[1]:
                lines.append(f"{name}: {key} {values[0]!r} and {values[1]!r}")
    return lines
