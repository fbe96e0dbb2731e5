# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which LXC will run the container: the few differences between versions that its configuration must know."""

import os
import re
import sys

from lxc_oci.errors import UnsupportedError
from lxc_oci.kernel import run

# meson.build: liblxc's file name carries this number, which changes with every major version.
_LIBRARY = re.compile(r"liblxc\.so\.1\.([0-9]+)\.[0-9]+\Z")
_MAJOR_OF_LIBRARY = {6: 4, 7: 5, 8: 6, 9: 7}
_LOCAL = ("/usr/local/sbin/lxc-start", "/usr/local/bin/lxc-start", "/usr/sbin/lxc-start")  # before it in PATH
_VERSION = re.compile(rb"([0-9]+)\.[0-9]+")


def major() -> int:
    """Return the major version of the LXC in the system's PATH.

    The distribution's own is told by the name of its library, without starting a program.
    Raises UnsupportedError when there is none.
    """
    if os.access("/usr/bin/lxc-start", os.X_OK) and not any(os.path.exists(path) for path in _LOCAL):
        multiarch = getattr(sys.implementation, "_multiarch", "")
        try:
            match = _LIBRARY.search(os.readlink(f"/usr/lib/{multiarch}/liblxc.so.1"))
        except OSError:
            match = None
        if match and int(match[1]) in _MAJOR_OF_LIBRARY:
            return _MAJOR_OF_LIBRARY[int(match[1])]
    program = run.require("lxc-start", "lxc")
    answer = run.run([program, "--version"], timeout=10)
    version = _VERSION.match(answer.output)
    if not version:
        raise UnsupportedError(f"{program} --version does not tell its version", "is LXC installed completely?")
    return int(version[1])
