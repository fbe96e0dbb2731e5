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


def prepare(rootfs: str, fill: Callable[[Root], None]) -> Prepared:
    """Fill `rootfs` (created when --dir names one that is missing) by `fill`.

    What `fill` made is removed when it fails; a rootfs that is not empty is refused by UsageError, since a
    half-replaced file system is worse than none.
    """
    os.makedirs(rootfs, 0o755, exist_ok=True)
    _check_empty(rootfs)
    before = os.umask(0)
    try:
        with Root.at(rootfs) as root:
            try:
                fill(root)
            except BaseException:
                _empty(root)
                raise
    finally:
        os.umask(before)

    @contextmanager
    def opened() -> Iterator[Root]:
        with Root.at(rootfs) as root:
            yield root

    return Prepared(Form.FLAT, (), (), opened)


def _check_empty(rootfs: str) -> None:
    # A file system of its own (loop, lvm) brings lost+found.
    names = [name for name in os.listdir(rootfs) if name != "lost+found"]
    if names:
        raise UsageError(f"the directory {rootfs} is not empty", "empty it, or give --dir another one")


def _empty(root: Root) -> None:
    for name in os.listdir(root.fd):
        if name != "lost+found":
            remove_tree(root.fd, os.fsencode(name))
