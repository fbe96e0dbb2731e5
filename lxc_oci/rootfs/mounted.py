# SPDX-License-Identifier: LGPL-2.1-or-later
"""The forms that our pre-mount hook mounts at every start: EROFS indexes, the image's own file systems, helpers.

`rootfs` is an empty mount point; the lowers, an overlay and the container's own `upper` are put there by
hooks/oci-py-mount, here as at a start, so what create tried is what a start does.  A tree is the exception: create
makes the same one mount itself, without the time that two more interpreters take.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from lxc_oci.kernel import durable
from lxc_oci.kernel.root import Root
from lxc_oci.limits import Limits
from lxc_oci.rootfs import overlay
from lxc_oci.rootfs.choose import HOOK, Form
from lxc_oci.rootfs.forms import Prepared
from lxc_oci.store import helper as helpers
from lxc_oci.store import mountplan
from lxc_oci.store.mountplan import Plan

_UNPACK = "--no-kernel-mount or --storage flat has the image unpacked"
MARKER = ".oci-py-id"  # lies under the mount; LXC copies it along, and hooks/oci-py-clone finds the source by it


def prepare(form: Form, container: str, identity: str, plan: Plan, uses: tuple[str, ...], limits: Limits) -> Prepared:
    """Write the plan; the rootfs is mounted when `opened` is entered.  Raises OSError, UnsupportedError."""
    mountplan.write(container, plan)
    if plan.helper is None:  # atomfs shows the covered directory to the guest
        durable.replace_file(os.path.join(container, "rootfs", MARKER), f"{identity}\n".encode())

    def mount() -> AbstractContextManager[str]:
        if plan.helper is not None:
            return helpers.mounted(container, plan, limits, new=True)
        if form is Form.TREE:
            return _tree_mounted(container, plan.lowers[0].path)
        # The root directory of an index may be one that mkfs.erofs made up.
        return mountplan.attached(container, limits, new=form is not Form.INDEX, hint=_UNPACK)

    return Prepared(form, (("lxc.hook.pre-mount", HOOK),), uses, _opened(mount), plan.own)


def set_root(container: str, mode: int, uid: int, gid: int, mtime_ns: int) -> None:
    """Give the upper directory what the image says of `/`: overlayfs shows the upper's attributes.  Raises OSError."""
    upper = os.path.join(container, mountplan.UPPER)
    os.chown(upper, uid, gid)
    os.chmod(upper, mode)
    os.utime(upper, ns=(mtime_ns, mtime_ns))


@contextmanager
def _tree_mounted(container: str, lower: str) -> Iterator[str]:
    upper, work, target = (os.path.join(container, name) for name in (mountplan.UPPER, mountplan.WORK, "rootfs"))
    with overlay.mounted(lower, upper, work, target):
        yield target


def _opened(mount: Callable[[], AbstractContextManager[str]]) -> Callable[[], AbstractContextManager[Root]]:
    @contextmanager
    def opened() -> Iterator[Root]:
        with mount() as target, Root.at(os.fsencode(target)) as root:
            yield root

    return opened
