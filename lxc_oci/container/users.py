# SPDX-License-Identifier: LGPL-2.1-or-later
"""`user[:group]` → numbers, by the files inside the image and by nothing else.

Files are read through Root only, and fields are compared as bytes: no pattern, no libc name service.  What is
unknown is an error; nothing falls back to uid 0 (conversion.md of the image specification).
"""

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import NamedTuple

from lxc_oci.container.idmap import ContainerMap, Range, inside
from lxc_oci.errors import RefusedError
from lxc_oci.kernel.root import Root
from lxc_oci.limits import Limits

# A larger number turns negative in a C int; containerd took 4294967296 for root (CVE-2024-40635).
MAXIMUM_ID = 2147483647
_GROUPS = 1024  # no real user is in more; a hostile /etc/group could name 65,536
_HINT = "choose another with --user"


class Identity(NamedTuple):
    """Who the container's program runs as; `home` is the directory of the image's passwd, or `/`."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


class _User(NamedTuple):
    name: bytes
    uid: int
    gid: int
    home: bytes


def identify(text: str, root: Root, idmap: ContainerMap | None, limits: Limits) -> Identity:
    """Return the identity that `user[:group]` means in the image below `root`; empty text is user 0.

    `idmap` is the container's, None without one.  Raises RefusedError for what is malformed, unknown, out of range
    or outside the map.
    """
    user, colon, group = text.partition(":")
    if (colon and (not user or not group)) or ":" in group:
        raise RefusedError(f"the user {text!r:.100} is not USER or USER:GROUP", _HINT)
    entry = _find_user(user or "0", root, limits)
    if group:
        gid = _find_group(group, root, limits)
        groups: tuple[int, ...] = ()
    else:
        gid = entry.gid
        groups = _groups_of(entry, root, limits)
    if idmap is not None:
        _check_mapped("user", entry.uid, idmap.uids)
        for number in (gid, *groups):
            _check_mapped("group", number, idmap.gids)
    home = entry.home.decode("utf-8", "surrogateescape")
    return Identity(entry.uid, gid, groups, home if home.startswith("/") else "/")


def _find_user(text: str, root: Root, limits: Limits) -> _User:
    number = _number(text, "user")
    name = text.encode("utf-8", "surrogateescape")
    for fields in _entries(root, b"/etc/passwd", limits):
        if len(fields) < 4:
            continue
        if (fields[0] != name) if number is None else (_plain(fields[2]) != number):
            continue
        uid, gid = _plain(fields[2]), _plain(fields[3])
        if uid is None or gid is None:
            raise RefusedError(f"the image's /etc/passwd has no usable ids for user {text!r:.100}", _HINT)
        return _User(fields[0], uid, gid, fields[5] if len(fields) > 5 else b"")
    if number is None:
        raise RefusedError(f"the image has no user {text!r:.100} in its /etc/passwd", _HINT)
    return _User(b"", number, 0, b"")


def _find_group(text: str, root: Root, limits: Limits) -> int:
    number = _number(text, "group")
    if number is not None:
        return number
    name = text.encode("utf-8", "surrogateescape")
    for fields in _entries(root, b"/etc/group", limits):
        if len(fields) >= 3 and fields[0] == name:
            gid = _plain(fields[2])
            if gid is None:
                raise RefusedError(f"the image's /etc/group has no usable id for group {text!r:.100}", _HINT)
            return gid
    raise RefusedError(f"the image has no group {text!r:.100} in its /etc/group", _HINT)


def _groups_of(user: _User, root: Root, limits: Limits) -> tuple[int, ...]:
    """Return the groups that name the user as a member, its own left out, each once, sorted."""
    if not user.name or b"," in user.name:
        return ()
    member = b"," + user.name + b","
    found = set()
    for fields in _entries(root, b"/etc/group", limits):
        if len(fields) >= 4 and member in b"," + fields[3] + b",":
            gid = _plain(fields[2])
            if gid is not None and gid != user.gid:
                found.add(gid)
    if len(found) > _GROUPS:
        raise RefusedError(f"the image puts its user into {len(found)} groups, more than the limit of {_GROUPS}", _HINT)
    return tuple(sorted(found))


def _entries(root: Root, name: bytes, limits: Limits) -> Iterator[list[bytes]]:
    try:
        content = root.read(name, limits.user_database_bytes)
    except OSError:  # missing, below a file, a loop of links: an image need not have it
        return
    for line in BytesIO(content):  # one at a time, and no more fields than passwd(5) has: ten MiB can be all separators
        line = line.removesuffix(b"\n")
        if line and not line.startswith(b"#"):
            yield line.split(b":", 7)


def _number(text: str, what: str) -> int | None:
    """Return the number that `text` is, or None for a name.  Only digits are a number, and they are never a name."""
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > 10 or int(text) > MAXIMUM_ID:
        raise RefusedError(f"the {what} id {text:.50} is larger than {MAXIMUM_ID}", _HINT)
    return int(text)


def _plain(field: bytes) -> int | None:
    """Return the id in a field of a user database, or None when it is none."""
    if not field.isdigit() or len(field) > 10 or int(field) > MAXIMUM_ID:
        return None
    return int(field)


def _check_mapped(what: str, number: int, ranges: Sequence[Range]) -> None:
    if not inside(number, ranges):
        raise RefusedError(
            f"the image's {what} id {number} lies outside the container's id map",
            f"map it with lxc.idmap, or {_HINT}",
        )
