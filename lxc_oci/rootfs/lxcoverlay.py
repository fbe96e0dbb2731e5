# SPDX-License-Identifier: LGPL-2.1-or-later
"""The form `overlay`: LXC's own overlay store over an unpacked tree.  No hook of ours has a part in its start.

LXC mounts it on its own rootfs mount point, which AppArmor allows for every lxcpath and for users too.  LXC knows
it at lxc-copy -s, -e and lxc-snapshot, but can neither copy it in full nor rename it (storage/overlay.c,
ovl_clonepaths), which is why our hook over the same tree is taken where it may mount.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lxc_oci.kernel import userns
from lxc_oci.kernel.root import Root
from lxc_oci.rootfs import overlay
from lxc_oci.rootfs.choose import Form
from lxc_oci.rootfs.forms import Prepared

_DELTA = "overlay/delta"  # where LXC's own `-B overlay` has it
_WORK = "overlay/work"  # the name that LXC derives from the upper directory (storage/overlay.c)


def prepare(container: str, lower: str, part: str) -> Prepared:
    """Make the container's own part over the tree `lower` (`part` below the store).  Raises OSError."""
    delta = os.path.join(container, _DELTA)
    os.mkdir(os.path.join(container, "overlay"), 0o755)
    os.mkdir(delta, 0o755)
    overlay.copy_root_attributes(lower, delta)
    lines = [("lxc.rootfs.path", f"overlay:{lower}:{delta}")]
    if not userns.current().initial:
        lines.append(("lxc.rootfs.options", "userxattr"))

    @contextmanager
    def opened() -> Iterator[Root]:
        work = os.path.join(container, _WORK)
        os.makedirs(work, 0o755, exist_ok=True)
        target = os.path.join(container, "rootfs")
        with overlay.mounted(lower, delta, work, target), Root.at(target) as root:
            yield root

    return Prepared(Form.OVERLAY, tuple(lines), (part,), opened, ("overlay",))
