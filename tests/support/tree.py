# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two trees compared completely: paths, types, modes, owners, times, hard links, devices, attributes, contents."""

import hashlib
import os
import stat
from collections.abc import Container
from pathlib import Path
from typing import Any

Facts = dict[str, Any]


def facts(root: Path | str, *, without: Container[str] = ()) -> dict[str, Facts]:
    """What a tree has, by path; `without` names facts to leave out (`mtime`, …)."""
    root = os.fspath(root)
    found: dict[str, Facts] = {}
    inodes: dict[tuple[int, int], list[str]] = {}
    pending = ["."]
    while pending:
        name = pending.pop()
        path = os.path.join(root, name)
        status = os.lstat(path)
        kind = stat.S_IFMT(status.st_mode)
        known: Facts = {
            "type": oct(kind),
            "mode": oct(stat.S_IMODE(status.st_mode)),
            "owner": (status.st_uid, status.st_gid),
            "mtime": status.st_mtime_ns,
            "xattrs": {key: os.getxattr(path, key, follow_symlinks=False) for key in _xattr_names(path)},
        }
        if kind == stat.S_IFREG:
            with open(path, "rb") as file:
                known["content"] = (status.st_size, hashlib.file_digest(file, "sha256").hexdigest())
        elif kind == stat.S_IFLNK:
            known["target"] = os.readlink(path)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            known["device"] = (os.major(status.st_rdev), os.minor(status.st_rdev))
        elif kind == stat.S_IFDIR:
            pending += [os.path.join(name, entry) for entry in os.listdir(path)]
        if kind != stat.S_IFDIR:
            inodes.setdefault((status.st_dev, status.st_ino), []).append(name)
        found[name] = {key: value for key, value in known.items() if key not in without}
    for names in inodes.values():
        for name in names:
            found[name]["links"] = sorted(names)
    return found


def _xattr_names(path: str) -> list[str]:
    # What a host's security module adds to every file is not the image's.
    return [name for name in os.listxattr(path, follow_symlinks=False) if name != "security.selinux"]


def differences(one: Path | str, other: Path | str, *, without: Container[str] = ()) -> list[str]:
    """Every difference between two trees, as lines; none when they are equal."""
    left, right = facts(one, without=without), facts(other, without=without)
    lines = [f"{name}: only in {one}" for name in sorted(left.keys() - right.keys())]
    lines += [f"{name}: only in {other}" for name in sorted(right.keys() - left.keys())]
    for name in sorted(left.keys() & right.keys()):
        for key in sorted(left[name].keys() | right[name].keys()):
            values = left[name].get(key), right[name].get(key)
            if values[0] != values[1]:
                lines.append(f"{name}: {key} {values[0]!r} and {values[1]!r}")
    return lines
