# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether two trees are the same: names, types, modes, owners, times, hard links, devices, attributes and contents."""

import os
import stat
from collections.abc import Iterator

from lxc_oci.kernel.root import Root
from lxc_oci.layer import attributes

_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

_Inodes = dict[tuple[int, int], bytes]


def differences(one: Root, other: Root) -> Iterator[str]:
    """Yield a line for each difference; both are trees that nobody changes meanwhile.  Raises OSError."""
    links: tuple[_Inodes, _Inodes] = ({}, {})
    pending = [b"."]
    while pending:
        directory = pending.pop()
        yield from _compare(one, other, directory, links)
        left, right = set(names(one, directory)), set(names(other, directory))
        for name in sorted(left ^ right):
            yield f"{_shown(directory, name)}: only in one of them"
        for name in sorted(left & right):
            path = os.path.join(directory, name)
            kinds = {stat.S_IFMT(root.lstat(path).st_mode) for root in (one, other)}
            if len(kinds) > 1:
                yield f"{_shown(directory, name)}: not of the same type"
            elif kinds == {stat.S_IFDIR}:
                pending.append(path)
            else:
                yield from _compare(one, other, path, links)


def _compare(one: Root, other: Root, path: bytes, links: tuple[_Inodes, _Inodes]) -> Iterator[str]:
    """Compare two of the same type."""
    fds = [root.open(path, os.O_PATH | os.O_NOFOLLOW) for root in (one, other)]
    try:
        left, right = (os.fstat(fd) for fd in fds)
        shown = os.fsdecode(path)
        for name in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_rdev"):
            if getattr(left, name) != getattr(right, name):
                yield f"{shown}: {name[3:]} {getattr(left, name)} and {getattr(right, name)}"
        if _xattrs(fds[0], left) != _xattrs(fds[1], right):
            yield f"{shown}: not the same extended attributes"
        if stat.S_ISLNK(left.st_mode) and os.readlink(b"", dir_fd=fds[0]) != os.readlink(b"", dir_fd=fds[1]):
            yield f"{shown}: not the same target"
        if stat.S_ISREG(left.st_mode) and not same_content(one, other, path, left, right):
            yield f"{shown}: not the same content"
        if not stat.S_ISDIR(left.st_mode):
            firsts = {
                inodes.setdefault((status.st_dev, status.st_ino), path)
                for inodes, status in zip(links, (left, right), strict=True)
            }
            if len(firsts) > 1:
                yield f"{shown}: not a link to the same files"
    finally:
        for fd in fds:
            os.close(fd)


def _xattrs(fd: int, status: os.stat_result) -> dict[str, bytes]:
    """How an overlay keeps something is not what it shows."""
    return {key: value for key, value in attributes.of(fd, status).items() if not key.startswith(attributes.OVERLAY)}


def same_content(one: Root, other: Root, path: bytes, left: os.stat_result, right: os.stat_result) -> bool:
    """Tell whether two regular files, of which `left` and `right` are known, have the same bytes.  Raises OSError."""
    if (left.st_dev, left.st_ino) == (right.st_dev, right.st_ino):
        return True  # trees share files
    if left.st_size != right.st_size:
        return False
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(one.open(path, flags), "rb") as here, open(other.open(path, flags), "rb") as there:
        while True:
            data = here.read(_CHUNK)
            if data != there.read(_CHUNK):
                return False
            if not data:
                return True


def names(root: Root, path: bytes) -> list[bytes]:
    """Return the names in a directory, sorted.  Raises OSError."""
    fd = root.open(path, _DIRECTORY)
    try:
        return sorted(os.fsencode(name) for name in os.listdir(fd))
    finally:
        os.close(fd)


def _shown(directory: bytes, name: bytes) -> str:
    return os.fsdecode(os.path.join(directory, name))
