# SPDX-License-Identifier: LGPL-2.1-or-later
"""Paths that an image or a user names inside the container: made plain, resolved, and created, through Root.

What LXC does with a path happens in its own process, in part before the container's root is its root, so what is
written for LXC has no symbolic link in it that the image could have chosen.
"""

import errno
import os
import stat

from lxc_oci.container.lxcconfig import encode
from lxc_oci.errors import RefusedError
from lxc_oci.kernel.root import Root

_LINKS = 40  # MAXSYMLINKS of the kernel
_PATH_BYTES = 4095  # PATH_MAX without its NUL
# LXC mounts these itself, and a link into /proc leads out of the container before its program runs.
_LXCS_OWN = (b"proc", b"sys", b"dev", b".oci-py")


class OwnedByLXC(RefusedError):
    """The path lies where LXC mounts its own."""


def plain(text: str, what: str) -> str:
    """Return `text` without needless slashes and dots.  Raises RefusedError unless it is an absolute path without
    `..` and control characters."""
    if not text.startswith("/") or ".." in text.split("/"):
        raise RefusedError(f"{what} {text!r:.200} is not an absolute path without '..'")
    if any(character < " " or character == "\x7f" for character in text):
        raise RefusedError(f"{what} {text!r:.200} has a control character")
    return "/" + "/".join(part for part in text.split("/") if part not in ("", "."))


def real(root: Root, path: str, what: str, *, mountable: bool = False) -> str:
    """Return `path` with every symbolic link followed inside the root; missing components stay as they are.

    Raises RefusedError for a loop, for a component below something that is no directory, for a place that is
    LXC's own (/proc, /sys, /dev), and with `mountable` for the root itself.
    """
    left = [part for part in encode(path).split(b"/") if part not in (b"", b".")][::-1]
    done: list[bytes] = []
    links = 0
    missing = False
    while left:
        part = left.pop()
        if part == b"..":
            if done:
                done.pop()
            missing = False
            continue
        name = b"/".join([*done, part])
        if len(name) > _PATH_BYTES:  # a configuration has room for a million components, and each costs a look
            raise RefusedError(f"{what} {path!r:.200} is longer than the {_PATH_BYTES} bytes of a path")
        status = None if missing else _lstat(root, name, what)
        if status is None:
            missing = True
        elif stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _LINKS:
                raise RefusedError(f"{what} {path!r:.200} is a loop of symbolic links in the image")
            target = read_link(root, name)
            if target.startswith(b"/"):
                done = []
            left += [piece for piece in target.split(b"/") if piece not in (b"", b".")][::-1]
            continue
        elif left and not stat.S_ISDIR(status.st_mode):
            raise RefusedError(f"{what} {path!r:.200} goes through something that is no directory in the image")
        done.append(part)
    if done[:1] and done[0] in _LXCS_OWN:
        raise OwnedByLXC(f"{what} {path!r:.200} lies in /{os.fsdecode(done[0])}, which is not the image's to use")
    if mountable and not done:
        raise RefusedError(f"{what} {path!r:.200} is the container's root")
    return "/" + b"/".join(done).decode("utf-8", "surrogateescape")


def only_roots_to_change(root: Root, path: str) -> bool:
    """Tell whether nobody but the container's root can rename a component of the real path `path`."""
    place = b""
    for part in encode(path).split(b"/")[1:]:
        try:
            status = root.lstat(place or b"/")
        except FileNotFoundError:
            return True  # create makes what is missing, and it is root's
        if status.st_uid != 0 or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
            return False
        place += b"/" + part
    return True


def read_link(root: Root, name: bytes) -> bytes:
    """Return the target of the symbolic link `name`.  Raises OSError."""
    fd = root.open(name, os.O_PATH | os.O_NOFOLLOW)
    try:
        return os.readlink(b"", dir_fd=fd)
    finally:
        os.close(fd)


def make_directory(root: Root, path: str) -> None:
    """Create the directory `path` and its missing parents, 0755 and root's.  Raises RefusedError where it cannot be."""
    try:
        os.close(root.make_directories(encode(path)))
    except (NotADirectoryError, FileNotFoundError) as error:
        raise RefusedError(f"the image has something at {path!r:.200} that is no directory") from error


def _lstat(root: Root, name: bytes, what: str) -> os.stat_result | None:
    try:
        return root.lstat(name)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EINVAL):
            raise RefusedError(f"{what} {os.fsdecode(name)!r:.200}: {error.strerror}") from error
        raise
