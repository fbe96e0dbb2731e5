# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starts the program under test: the checkout's here, the installed package's where that is what is tested.

LXC_OCI_PY_INSTALLED=1 says that the package is installed (in the box of tests/vm).
"""

import os
import stat
import sys
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
    paths = [str(CHECKOUT), *(path for path in sys.path if path.endswith("-packages"))]
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
