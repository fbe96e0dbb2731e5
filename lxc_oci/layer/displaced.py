# SPDX-License-Identifier: LGPL-2.1-or-later
"""What layers removed or replaced, kept beside the tree, so that the tree of fewer layers can be made again.

Moving costs less than removing, and what is here is small: podman and docker keep it too, in their lower layers.
Nothing here is ever changed; layer.rebuild finds what it needs by content.
"""

import hashlib
import os
import stat
from dataclasses import dataclass

from lxc_oci.kernel.root import Root

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Displaced:
    """A directory that takes things out of a tree on the same file system."""

    def __init__(self, fd: int) -> None:
        """Keep things in the empty directory open as `fd`, which stays the caller's."""
        self._fd = fd
        self._count = 0

    def take(self, parent_fd: int, base: bytes) -> None:
        """Move `base` out of `parent_fd`.  Raises OSError."""
        os.rename(base, b"%d" % self._count, src_dir_fd=parent_fd, dst_dir_fd=self._fd)
        self._count += 1


@dataclass(frozen=True)
class Kept:
    """One displaced file or symbolic link."""

    path: bytes  # below the directory of displaced things
    status: os.stat_result


def contents(root: Root) -> dict[bytes, list[Kept]]:
    """Return what lies below `root`, a directory of displaced things, by the sha256 of content or link target.

    Reads all of it.  Raises OSError.
    """
    found: dict[bytes, list[Kept]] = {}
    pending = [b""]
    while pending:
        path = pending.pop()
        fd = root.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            for name in os.listdir(fd):
                base = os.fsencode(name)
                status = os.stat(base, dir_fd=fd, follow_symlinks=False)
                whole = path + b"/" + base if path else base
                if stat.S_ISDIR(status.st_mode):
                    pending.append(whole)
                elif stat.S_ISREG(status.st_mode):
                    with open(os.open(base, _FILE, dir_fd=fd), "rb") as file:
                        digest = hashlib.file_digest(file, "sha256").digest()
                    found.setdefault(digest, []).append(Kept(whole, status))
                elif stat.S_ISLNK(status.st_mode):
                    digest = hashlib.sha256(os.readlink(base, dir_fd=fd)).digest()
                    found.setdefault(digest, []).append(Kept(whole, status))
        finally:
            os.close(fd)
    return found
