# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where LXC keeps containers when nobody says -P: lxc.conf(5), the key lxc.lxcpath.

lxc-config(1) would tell, but not in a user namespace, where LXC takes the user for root.
"""

import os
from collections.abc import Mapping

from lxc_oci.container import lxcconfig

SYSTEM_LXCPATH = "/var/lib/lxc"
_SYSTEM_CONFIG = "/etc/lxc/lxc.conf"


def default(environment: Mapping[str, str], *, user: bool) -> str:
    """Return the lxcpath of the system, or that of the user whose HOME the environment has."""
    home = environment.get("HOME", "")
    path, fallback = _SYSTEM_CONFIG, SYSTEM_LXCPATH
    if user:
        path, fallback = os.path.join(home, ".config/lxc/lxc.conf"), os.path.join(home, ".local/share/lxc")
    try:
        return lxcconfig.last(lxcconfig.read(path), "lxc.lxcpath") or fallback
    except OSError:
        return fallback
