# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whiteouts of tar layers: what a name that begins with `.wh.` stands for (image-spec layer.md, "Whiteouts").

Decided by the name alone, whatever type the entry has: images are known that ship
whiteouts as hard links.  A whiteout hides what layers below have; what its own layer
put there stays, wherever in it the whiteout stands.
"""

import os

from lxc_oci.errors import RefusedError
from lxc_oci.layer.directories import Directories, Directory
from lxc_oci.layer.record import RecordWriter

PREFIX = b".wh."
OPAQUE = b".wh..wh..opq"
META = b".wh..wh."  # AUFS's own files: .wh..wh.plnk, .wh..wh.aufs


def target(base: bytes) -> bytes:
    """Return the name that the whiteout `base` hides.  Raises RefusedError where that is no name in a directory.

    `.wh.`, `.wh..` and `.wh...` would take away the directory itself, or the one above (CVE-2021-29136's family).
    """
    name = base[len(PREFIX) :]
    if name in (b"", b".", b".."):
        raise RefusedError(f"a layer has the whiteout {base.decode()!r}, which names no file")
    return name


def check_directory(components: list[bytes]) -> None:
    """Raise RefusedError for a directory in whose path a whiteout would have to be taken literally."""
    for component in components:
        if component.startswith(PREFIX):
            raise RefusedError("a layer has files below a whiteout", "the image was built wrongly")


def is_meta(components: list[bytes]) -> bool:
    """Return whether a path leads into AUFS's own files."""
    return any(component.startswith(META) for component in components)


def hide(directories: Directories, parent: Directory, base: bytes, record: RecordWriter | None) -> None:
    """Remove the `base` of lower layers from `parent`.  Raises OSError."""
    if base not in parent.upper:
        _remove(directories, parent, base, record)
        return
    directory = directories.get(parent, base)
    if directory is not None:
        hide_all(directories, directory, record)


def hide_all(directories: Directories, directory: Directory, record: RecordWriter | None) -> None:
    """Remove all that is of lower layers from `directory` and from what this layer has below it.  Raises OSError.

    Once is enough: lower layers get nothing new, and a layer may ask for it as often as it has files.
    """
    pending = [directory]
    while pending:
        directory = pending.pop()
        if directory.opaque:
            continue
        directory.opaque = True
        for name in os.listdir(directories.fd(directory)):
            base = os.fsencode(name)
            if base not in directory.upper:
                _remove(directories, directory, base, record)
            elif (below := directories.get(directory, base)) is not None:
                pending.append(below)


def _remove(directories: Directories, parent: Directory, base: bytes, record: RecordWriter | None) -> None:
    here = directories.fd(parent)
    try:
        os.stat(base, dir_fd=here, follow_symlinks=False)
    except FileNotFoundError:
        return
    directories.forget(parent, base)
    directories.remove(parent, base)
    if record is not None:
        record.removed(parent.path, base)
