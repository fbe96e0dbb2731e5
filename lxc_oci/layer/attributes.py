# SPDX-License-Identifier: LGPL-2.1-or-later
"""Extended attributes: which of an image's are kept, and putting them on files.

The others steer the host's kernel (security.selinux, security.ima, trusted.*) or overlayfs,
in which user.overlay.redirect makes one file show another's content.
"""

import errno
import os
import stat
from collections.abc import Callable

from lxc_oci.kernel import userns

Xattrs = tuple[tuple[bytes, bytes], ...]

ACL_ACCESS = b"system.posix_acl_access"
ACL_DEFAULT = b"system.posix_acl_default"
_KEPT = frozenset((b"security.capability", ACL_ACCESS, ACL_DEFAULT))
# What overlayfs itself means by a layer's attributes; in a layer that is an overlay's upper directory they count.
OVERLAY_OPAQUE = b"trusted.overlay.opaque"
# They tie a file to another one, of a layer that need not be the one below here (kernel: filesystems/overlayfs).
OVERLAY_REFUSED = frozenset(b"trusted.overlay." + word for word in (b"redirect", b"metacopy", b"origin", b"whiteout"))


# Whatever privilege an overlay was mounted with.
OVERLAY = ("trusted.overlay.", "user.overlay.")


def keeps(name: bytes) -> bool:
    """Return whether an image's attribute `name` is kept."""
    return (name.startswith(b"user.") and not name.startswith(b"user.overlay.")) or name in _KEPT


def read(fd: int) -> Xattrs:
    """Return the attributes of a file that an image can have, sorted; none where the file system has none."""
    try:
        names = sorted(name for name in map(os.fsencode, os.listxattr(fd)) if keeps(name))
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS):
            raise
        return ()
    return tuple((name, os.getxattr(fd, name)) for name in names)


def every(path: str) -> dict[str, bytes]:
    """Return all attributes of a file, overlayfs's too; none where the file system has none.  Raises OSError."""
    try:
        names = os.listxattr(path)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS):
            raise
        return {}
    return {name: os.getxattr(path, name) for name in names}


def of(fd: int, status: os.stat_result) -> dict[str, bytes]:
    """Return all attributes of what the O_PATH descriptor `fd` is, as `every` does; a symbolic link has none."""
    return {} if stat.S_ISLNK(status.st_mode) else every(f"/proc/self/fd/{fd}")


def opaque(xattrs: dict[str, bytes]) -> bool:
    """Tell whether a directory in the upper one of an overlay hides those below it."""
    return xattrs.get(f"{_counts()}opaque") == b"y"


def dependence(xattrs: dict[str, bytes]) -> str:
    """Return the feature of overlayfs by which a file of an upper directory shows what a lower one has, or ""."""
    return next((feature for feature in ("redirect", "metacopy") if _counts() + feature in xattrs), "")


def _counts() -> str:
    """Return what overlayfs's own attributes begin with in a mount that this process can make.

    The others are a file's like any: a container of root's may have set user.overlay.opaque itself.
    """
    return OVERLAY[0] if userns.current().initial else OVERLAY[1]


def inherits(fd: int) -> bool:
    """Return whether new files in the directory `fd` get an access control list from it."""
    try:
        os.getxattr(fd, ACL_DEFAULT)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.ENOSYS):
            raise
        return False
    return True


def apply(target: int | str, xattrs: Xattrs, warn: Callable[[str], None]) -> Xattrs:
    """Set the attributes that are kept and return those that the file system took; `warn` hears of the others.

    `target` is a descriptor, or a path whose last component is not followed.  Raises OSError where there is no room.
    """
    taken = []
    for name, value in xattrs:
        shown = os.fsdecode(name)
        if not keeps(name):
            warn(f"the image has extended attributes {shown!r}, which are left out")
            continue
        try:
            os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
                raise
            warn(f"extended attributes {shown!r} of the image cannot be set here: {error.strerror}")
            continue
        taken.append((name, value))
    return tuple(taken)


def clear(fd: int) -> None:
    """Remove from `fd` what an image can have set, or a parent's default ACL.  Raises OSError."""
    for name, _ in read(fd):
        os.removexattr(fd, name)
