# SPDX-License-Identifier: LGPL-2.1-or-later
"""A tree as a tar layer: the upper directory of an overlay, its whiteouts turned into OCI's (image-spec layer.md), or
all of a root file system.

Sorted, without access times, with the ids that this process sees; so equal trees give equal layers.
"""

import os
import stat
from collections.abc import Callable, Collection

from lxc_oci.errors import RefusedError
from lxc_oci.kernel.root import Root
from lxc_oci.layer import attributes, tarwriter
from lxc_oci.layer.tarwriter import Facts, TarWriter

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_WHITEOUT, _OPAQUE = b".wh.", b".wh..wh..opq"
_KINDS = {
    stat.S_IFREG: tarwriter.FILE,
    stat.S_IFLNK: tarwriter.SYMLINK,
    stat.S_IFCHR: tarwriter.CHARACTER,
    stat.S_IFBLK: tarwriter.BLOCK_DEVICE,
    stat.S_IFDIR: tarwriter.DIRECTORY,
    stat.S_IFIFO: tarwriter.FIFO,
}


def write(
    root: Root,
    output: Callable[[bytes], object],
    *,
    upper: bool,
    without: Collection[bytes] = (),
    warn: Callable[[str], None],
    on_bytes: Callable[[int], None] = lambda count: None,
) -> None:
    """Write the tree below `root` as a tar to `output`; `upper` says that it is an overlay's upper directory.

    `without` are paths that are left out, with all below them.  Raises RefusedError for a file that a layer cannot
    carry: one that begins with `.wh.`, or whose content or place is that of a lower directory's file.
    """
    tar = TarWriter(output)
    links: dict[tuple[int, int], bytes] = {}
    _add(root, tar, b"", links, upper)
    # A directory comes before what it has: it is expanded when its turn comes, smallest name first.
    stack = _children(root, b"", without)
    while stack:
        path = stack.pop()
        status = _add(root, tar, path, links, upper, warn=warn, on_bytes=on_bytes)
        if status is not None and stat.S_ISDIR(status.st_mode):
            stack += _children(root, path, without)
    tar.end()


def _children(root: Root, path: bytes, without: Collection[bytes]) -> list[bytes]:
    """Return the paths in a directory, the last to be written first."""
    fd = root.open(path, _DIRECTORY)
    try:
        names = sorted((os.fsencode(name) for name in os.listdir(fd)), reverse=True)
    finally:
        os.close(fd)
    paths = [os.path.join(path, name) for name in names]
    return [one for one in paths if one not in without]


def _add(
    root: Root,
    tar: TarWriter,
    path: bytes,
    links: dict[tuple[int, int], bytes],
    upper: bool,
    *,
    warn: Callable[[str], None] = lambda message: None,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> os.stat_result | None:
    """Add one entry, and return what it is; None where nothing was added."""
    fd = root.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        xattrs = attributes.of(fd, status)
        target = os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(status.st_mode) else b""
    finally:
        os.close(fd)
    directory, _, base = path.rpartition(b"/")
    kind = stat.S_IFMT(status.st_mode)
    if upper and kind == stat.S_IFCHR and status.st_rdev == 0:
        tar.add(os.path.join(directory, _WHITEOUT + base), tarwriter.FILE, _facts(status))
        return None
    if base.startswith(_WHITEOUT):
        raise RefusedError(
            f"/{os.fsdecode(path)} is the name of a whiteout, which a layer cannot carry as a file",
            "rename or remove it in the container, then try again",
        )
    if kind not in _KINDS:
        warn(f"/{os.fsdecode(path)} is a socket, which a layer cannot carry")
        return None
    if upper and (feature := attributes.dependence(xattrs)):
        raise RefusedError(
            f"/{os.fsdecode(path)} was written with overlayfs's {feature}, which a layer cannot carry",
            "convert the container first: lxc-oci-py convert NAME --storage flat",
        )
    first = links.setdefault((status.st_dev, status.st_ino), path) if kind != stat.S_IFDIR else path
    carried = xattrs if kind in (stat.S_IFREG, stat.S_IFDIR) else {}
    kept = sorted((os.fsencode(key), value) for key, value in carried.items() if attributes.keeps(os.fsencode(key)))
    if any(b"=" in key for key, _ in kept):  # a PAX record's name ends there, and the rest would be the value
        warn(f"/{os.fsdecode(path)} has an extended attribute with = in its name, which a layer cannot carry")
        kept = [(key, value) for key, value in kept if b"=" not in key]
    name = (path or b".") + b"/" if kind == stat.S_IFDIR else path
    facts = Facts(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)
    if first != path:
        tar.add(name, tarwriter.HARDLINK, facts, target=first)
    elif kind == stat.S_IFREG:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME
        with open(_opened(root, path, flags), "rb") as content:
            tar.add(name, tarwriter.FILE, facts, size=status.st_size, xattrs=kept, content=content)
        on_bytes(status.st_size)
    else:
        device = (
            (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in (stat.S_IFCHR, stat.S_IFBLK) else (0, 0)
        )
        tar.add(name, _KINDS[kind], facts, target=target, device=device, xattrs=kept)
    if upper and attributes.opaque(xattrs):
        tar.add(os.path.join(path, _OPAQUE), tarwriter.FILE, _facts(status))
    return status


def _opened(root: Root, path: bytes, flags: int) -> int:
    try:
        return root.open(path, flags)
    except PermissionError:  # O_NOATIME is for the owner alone
        return root.open(path, flags & ~os.O_NOATIME)


def _facts(status: os.stat_result) -> Facts:
    """What a whiteout is: a time in whole seconds will do."""
    return Facts(mtime_ns=int(status.st_mtime) * 10**9)
