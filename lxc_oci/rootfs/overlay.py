# SPDX-License-Identifier: LGPL-2.1-or-later
"""The overlay mount that create itself makes, to look into a container's rootfs and write its own few files.

It is the mount that LXC makes at start (same lower, upper and work directory), in a mount namespace of this process
only; what LXC will use is proved to work by using it.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from lxc_oci.errors import NoSpaceError, UnsupportedError
from lxc_oci.kernel import syscalls, userns
from lxc_oci.kernel.root import covered, identity

_CLONE_NEWNS = 0x00020000


def private_namespace() -> None:
    """Enter a mount namespace whose mounts nobody else sees.  lxc-create gives one too, but a hand-started template
    must not mount on the host.  Raises UnsupportedError."""
    try:
        syscalls.unshare(_CLONE_NEWNS)
        syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_PRIVATE, b"")
    except OSError as error:
        raise UnsupportedError(f"cannot make a private mount namespace: {error.strerror}") from error


def copy_root_attributes(lower: str, upper: str) -> None:
    """Give the upper directory what the image says of `/`: overlayfs shows the upper's attributes."""
    status = os.stat(lower)
    os.chown(upper, status.st_uid, status.st_gid)
    os.chmod(upper, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(lower):
        os.setxattr(upper, name, os.getxattr(lower, name))
    os.utime(upper, ns=(status.st_mtime_ns, status.st_mtime_ns))


@contextmanager
def mounted(lower: str, upper: str, work: str, target: str) -> Iterator[None]:
    """Mount the overlay at `target` for the time of the context; nothing of it is run here, and no device opened.

    Raises as `mount` does.
    """
    before = identity(target)
    try:
        mount(lower, upper, work, target, syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
        yield
    finally:
        if covered(target, before):  # a signal may end us just when it is mounted
            syscalls.umount2(os.fsencode(target))


def mount(lower: str, upper: str, work: str, target: str, flags: int = 0) -> None:
    """Mount the overlay at `target`.  Raises UnsupportedError when the kernel refuses, NoSpaceError and OSError."""
    with ExitStack() as stack:
        names = [_option(path, stack) for path in (lower, upper, work)]
        # Nothing in a layer may redirect a look-up to another place of it, or take metadata for data.
        safe = "redirect_dir=nofollow,metacopy=off" if userns.current().initial else "userxattr"
        options = "lowerdir={},upperdir={},workdir={},index=off,".format(*names) + safe
        try:
            syscalls.mount(b"overlay", os.fsencode(target), b"overlay", flags, os.fsencode(options))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpaceError(
                    f"no space left for an overlay over {upper}",
                    "free space or inodes on the file system, then try again",
                ) from error
            raise UnsupportedError(
                f"overlayfs cannot be mounted over {upper}: {error.strerror}",
                "use --storage flat, or another lxcpath",
            ) from error


def _option(path: str, stack: ExitStack) -> str:
    """Return a name of `path` that mount options can carry, good until `stack` closes."""
    if not any(char in path for char in ",\\:"):
        return path
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return f"/proc/self/fd/{fd}"
