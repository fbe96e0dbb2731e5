# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each form of a rootfs hands to create: lines for LXC, what it uses of the store, and a way to look inside."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

from lxc_oci.kernel.root import Root
from lxc_oci.rootfs.choose import Form


class Prepared(NamedTuple):
    """A rootfs that is ready but for the container's own few files."""

    form: Form
    lines: tuple[tuple[str, str], ...]  # configuration of LXC that makes it the container's rootfs
    uses: tuple[str, ...]  # names below the store
    opened: Callable[[], AbstractContextManager[Root]]  # the rootfs as the container will see it
    made: tuple[str, ...] = ()  # names in the container's directory that a failure takes away
