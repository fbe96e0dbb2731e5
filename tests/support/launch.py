# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starts the program under test: the checkout's here, the installed package's where that is what is tested.

LXC_OCI_PY_INSTALLED=1 says that the package is installed (in the box of tests/vm).
"""

import atexit
import os
import shutil
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
INSTALLED = os.environ.get("LXC_OCI_PY_INSTALLED") == "1"


def doors(directory: Path) -> tuple[str, str]:
    """Return the template (as `lxc-create -t` takes it) and the command.

    For the checkout both are written to `directory`, which the user who runs them must be able to read; they differ
    from the installed ones in where they find the modules.
    """
    if INSTALLED:
        return "oci-py", "/usr/bin/lxc-oci-py"
    paths = [str(modules()), *(path for path in sys.path if path.endswith("-packages"))]
    written = []
    for name, function in (("lxc-oci-py-template", "template"), ("lxc-oci-py", "command")):
        path = directory / name
        path.write_text(
            "#!/usr/bin/python3 -ISXutf8\n"
            "import sys\n"
            f"sys.path[:0] = {paths!r}\n"
            "sys.dont_write_bytecode = True\n"
            f"from lxc_oci.__main__ import {function}\n"
            f"sys.exit({function}())\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        written.append(str(path))
    return written[0], written[1]


@cache
def modules() -> Path:
    """Where the checkout's modules can be read by every user: in a copy, where the checkout is closed, as in /root."""
    package = CHECKOUT / "lxc_oci"
    if all(path.stat().st_mode & stat.S_IXOTH for path in (package, *package.parents)):
        return CHECKOUT
    place = Path(tempfile.mkdtemp(prefix="oci-py-modules-", dir="/var/tmp"))
    atexit.register(shutil.rmtree, place)
    place.chmod(0o755)
    shutil.copytree(package, place / "lxc_oci", ignore=shutil.ignore_patterns("__pycache__"))
    return place
