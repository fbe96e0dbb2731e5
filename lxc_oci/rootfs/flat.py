# SPDX-License-Identifier: LGPL-2.1-or-later
"""The form `flat`: the image's files themselves, in the rootfs that LXC made.

Always for LXC's other backing stores, for --dir, and where no overlay can be used.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lxc_oci.errors import UsageError
from lxc_oci.kernel.root import Root, remove_tree
from lxc_oci.rootfs.choose import Form
from lxc_oci.rootfs.forms import Prepared

_LOST_AND_FOUND = "lost+found"  # a file system of its own (loop, lvm) brings it


def prepare(rootfs: str, fill: Callable[[Root], None]) -> Prepared:
    """Fill `rootfs` (created when --dir names one that is missing) by `fill`.

    A rootfs that is not empty is refused by UsageError, since a half-replaced file system is worse than none.  What
    `fill` made is the caller's to remove when it, or anything after it, fails.
    """
    os.makedirs(rootfs, 0o755, exist_ok=True)
    if not is_empty(rootfs):
        raise UsageError(f"the directory {rootfs} is not empty", "empty it, or give --dir another one")
    before = os.umask(0)
    try:
        with Root.at(rootfs) as root:
            fill(root)
    finally:
        os.umask(before)

    @contextmanager
    def opened() -> Iterator[Root]:
        with Root.at(rootfs) as root:
            yield root

    return Prepared(Form.FLAT, (), (), opened)


def is_empty(rootfs: str) -> bool:
    """Tell whether nothing is in `rootfs`, which need not exist."""
    try:
        return all(name == _LOST_AND_FOUND for name in os.listdir(rootfs))
    except FileNotFoundError:
        return True


def empty(rootfs: str) -> None:
    """Remove what a create put into `rootfs`.  Raises OSError."""
    try:
        root = Root.at(rootfs)
    except FileNotFoundError:
        return
    with root:
        for name in os.listdir(root.fd):
            if name != _LOST_AND_FOUND:
                remove_tree(root.fd, os.fsencode(name))
