# SPDX-License-Identifier: LGPL-2.1-or-later
"""The user namespace in which a plain user's verbs run: the one that lxc-create would make for the template.

The same ids inside, because a tree of the store belongs to one id map; and the user's own id beside them,
because the store lies in the user's home directory.
"""

import os
import pwd
import sys
from collections.abc import Sequence
from typing import NoReturn

from lxc_oci.container import idmap, lxcconfig
from lxc_oci.container.idmap import ContainerMap, Range
from lxc_oci.errors import UnsupportedError
from lxc_oci.kernel import run as programs

_ENTERED = "LXC_OCI_PY_NAMESPACE"  # UID:GID, what the user's own ids are in there


def caller() -> tuple[int, int] | None:
    """Return the ids that the user has in the namespace that `enter` made, None outside of one."""
    uid, colon, gid = os.environ.get(_ENTERED, "").partition(":")
    return (int(uid), int(gid)) if colon and uid.isdigit() and gid.isdigit() else None


def enter() -> NoReturn:
    """Start the program again, as root of a namespace with the user's subordinate ids.  Raises UnsupportedError."""
    if caller() is not None:
        raise UnsupportedError("lxc-usernsexec did not make this process root of a user namespace")
    program = programs.find("lxc-usernsexec")
    if program is None or programs.find("newuidmap") is None:
        raise UnsupportedError("a user's store needs a user namespace", "apt install lxc uidmap")
    ids = _ids()
    uid, gid = unmapped(ids.uids), unmapped(ids.gids)
    maps = [f"u:{part.first}:{part.host}:{part.count}" for part in (*ids.uids, Range(uid, os.getuid(), 1))]
    maps += [f"g:{part.first}:{part.host}:{part.count}" for part in (*ids.gids, Range(gid, os.getgid(), 1))]
    words = [word for text in maps for word in ("-m", text)]
    environment = {**os.environ, _ENTERED: f"{uid}:{gid}"}
    os.execve(program, [program, *words, "--", os.path.abspath(sys.argv[0]), *sys.argv[1:]], environment)


def unmapped(ranges: Sequence[Range]) -> int:
    """Return the first id inside that no range has: LXC gives it to its caller (conf.c, find_unmapped_nsid)."""
    number = 0
    for part in sorted(ranges, key=lambda part: part.first):
        if part.first <= number < part.first + part.count:
            number = part.first + part.count
    return number


def _ids() -> ContainerMap:
    """Return the map of the containers that the user makes, from the same places as LXC takes it."""
    for path in (os.path.expanduser("~/.config/lxc/default.conf"), "/etc/lxc/default.conf"):
        try:
            found = idmap.from_config(lxcconfig.read(path))
        except OSError:
            continue
        if found is not None:
            return found
    return ContainerMap(_subordinate("/etc/subuid"), _subordinate("/etc/subgid"))


def _subordinate(path: str) -> tuple[Range, ...]:
    """Return the user's range in subuid(5) or subgid(5)."""
    names = {str(os.getuid())}
    try:
        names.add(pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:
        pass
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                name, *numbers = line.strip().split(":")
                if name in names and len(numbers) == 2 and all(number.isdigit() for number in numbers):
                    return (Range(0, int(numbers[0]), int(numbers[1])),)
    except FileNotFoundError:
        pass
    raise UnsupportedError(f"this user has no subordinate ids in {path}", "ask root for: usermod --add-subuids …")
