# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of the host that steer a pull: where they are, for whom, and how they are read.

Inside the user namespace of lxc-create the environment is still the calling user's, so these are the user's files.
"""

import os
import pwd
from collections.abc import Mapping

from lxc_oci.errors import UsageError

_MAXIMUM = 4 << 20


def home(environment: Mapping[str, str]) -> str:
    """Return the user's home directory, `/` when there is none."""
    found = environment.get("HOME", "")
    if os.path.isabs(found):
        return found
    try:
        return pwd.getpwuid(os.getuid()).pw_dir or "/"
    except KeyError:
        return "/"


def policies(environment: Mapping[str, str], system: str = "/etc/containers") -> tuple[str, str]:
    """Return the paths of the user's and of the system's policy.json; the first that exists counts."""
    return f"{home(environment)}/.config/containers/policy.json", f"{system}/policy.json"


def config_home(environment: Mapping[str, str]) -> str:
    """Return $XDG_CONFIG_HOME or its default."""
    found = environment.get("XDG_CONFIG_HOME", "")
    return found if os.path.isabs(found) else os.path.join(home(environment), ".config")


def read(path: str) -> bytes:
    """Return what `path` holds.  Raises OSError, and UsageError for a file that cannot be a configuration."""
    # A FIFO must not hang us.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        content = file.read(_MAXIMUM + 1)
    if content is None or len(content) > _MAXIMUM:
        raise UsageError(f"{path} is too large for a configuration file")
    return content
