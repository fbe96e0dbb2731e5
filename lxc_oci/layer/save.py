# SPDX-License-Identifier: LGPL-2.1-or-later
"""A layer's tar archive kept as it is, for an EROFS index over it, and whether that index can stand alone.

An index describes one layer without knowing those below.  What depends on them, or what
mkfs.erofs reads in another way than our reader, makes a layer that is not self-contained; an
image with such a layer is unpacked.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from lxc_oci.errors import RefusedError
from lxc_oci.kernel.durable import write_all
from lxc_oci.layer import attributes, whiteout
from lxc_oci.layer import entry as kinds
from lxc_oci.layer.directories import NAME_BYTES
from lxc_oci.layer.entry import Entry
from lxc_oci.layer.inflate import Reader
from lxc_oci.layer.objects import failure, shown
from lxc_oci.layer.pipeline import Stream, TarLayer, cause
from lxc_oci.layer.tarstream import TarReader
from lxc_oci.limits import Limits


@dataclass(frozen=True)
class SavedLayer:
    """What is known of a saved archive."""

    size: int  # bytes
    entries: int
    dependence: str  # why it is not self-contained, empty if it is
    root: Entry | None  # the entry of the root directory, whose metadata an index without one would make up

    @property
    def self_contained(self) -> bool:
        """Whether an index of this layer is right whatever lies below."""
        return not self.dependence


def save_tar_layer(layer: TarLayer, fd: int, limits: Limits, warn: Callable[[str], None]) -> SavedLayer:
    """Write the uncompressed bytes of `layer` to `fd`, verified by digest and DiffID, and judge them.

    Raises RefusedError for what apply_image would refuse of an archive, and NoSpaceError.  Nothing is flushed to disk.
    """
    judge = _Judge(limits)
    with Stream(layer, limits, warn) as stream:
        copy = _Copy(stream, fd)
        try:
            for entry, _ in TarReader(copy, limits, warn):
                judge.add(entry)
        except RefusedError as error:
            raise cause(stream, error) from None
    return SavedLayer(copy.size, judge.entries, judge.dependence, judge.root)


class _Copy:
    """A reader that writes all that goes through it to a file."""

    def __init__(self, reader: Reader, fd: int) -> None:
        self._reader = reader
        self._fd = fd
        self.size = 0

    def read(self, size: int, /) -> bytes:
        data = self._reader.read(size)
        try:
            write_all(self._fd, data)
        except OSError as error:
            raise failure("cannot save a layer", error) from error
        self.size += len(data)
        return data


class _Judge:
    """Looks at the entries of a layer in their order."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._seen: dict[bytes, str] = {b"": kinds.DIRECTORY}  # type of each path
        self._hidden: set[bytes] = set()
        self._names_left = limits.names_bytes
        self.entries = 0
        self.dependence = ""
        self.root: Entry | None = None

    def add(self, entry: Entry) -> None:
        """Note the first reason for which the layer is not self-contained."""
        self.entries += 1
        name = entry.name.rstrip(b"/")
        if name.startswith(b"./"):
            name = name[2:]
        if name in (b"", b"."):
            if entry.type != kinds.DIRECTORY:
                raise RefusedError(f"a layer would replace the root directory by a {entry.type}")
            self.root = entry
            name = b""
        if not self.dependence:
            self.dependence = self._look(entry, name)
            self._names_left -= len(name) + NAME_BYTES
            if self._names_left < 0:
                self.dependence = f"its names need more than {self._limits.names_bytes} bytes"

    def _look(self, entry: Entry, name: bytes) -> str:
        """Return why an index with this entry would differ from the tree, or the empty string."""
        where = shown(entry.name)
        if any(component in (b"", b".", b"..") for component in name.split(b"/")) and name:
            return f"{where} is not a plain path"
        if len(name) > self._limits.path_bytes or name.count(b"/") >= self._limits.path_depth:
            raise RefusedError(f"a name in a layer has more than {self._limits.path_bytes} bytes or is too deep")
        parent, _, base = name.rpartition(b"/")
        if self._seen.get(parent) != kinds.DIRECTORY:
            return f"the directory of {where} is not an entry of the layer before it"
        for key, _ in entry.xattrs:
            if not attributes.keeps(key) or entry.type not in (kinds.FILE, kinds.DIRECTORY):
                return f"{where} has the extended attribute {os.fsdecode(key)!r}"
        if entry.sparse is not None:
            return f"{where} is sparse"
        if entry.type == kinds.CHARACTER and entry.device == (0, 0):
            return f"{where} is a device with the number 0:0"
        if b"/.wh." in b"/" + name:
            return self._look_whiteout(entry, name, parent, base)
        if name in self._hidden:
            return f"{where} comes after its own whiteout"
        if entry.type == kinds.HARDLINK:
            return self._look_link(entry, name, where)
        known = self._seen.get(name)
        if known is not None and (known, entry.type) != (kinds.DIRECTORY, kinds.DIRECTORY):
            return f"{where} is there twice"
        if entry.type == kinds.SYMLINK and not entry.link:
            raise RefusedError(f"{where} in a layer is a symbolic link to nothing")
        self._seen[name] = entry.type
        return ""

    def _look_link(self, entry: Entry, name: bytes, where: str) -> str:
        target = entry.link[2:] if entry.link.startswith(b"./") else entry.link
        if self._seen.get(target) in (None, kinds.DIRECTORY):
            return f"{where} is a hard link to a file of another layer"
        if name in self._seen:
            return f"{where} is there twice"
        self._seen[name] = self._seen[target]
        return ""

    def _look_whiteout(self, entry: Entry, name: bytes, parent: bytes, base: bytes) -> str:
        where = shown(entry.name)
        if not base.startswith(whiteout.PREFIX) or entry.type != kinds.FILE or entry.size:
            return f"{where} is an unusual whiteout"
        if base == whiteout.OPAQUE:
            return "" if parent else "it hides all layers below"
        if base.startswith(whiteout.META):
            return f"{where} is a file of AUFS itself"
        hidden = whiteout.target(base)
        path = parent + b"/" + hidden if parent else hidden
        if path in self._seen:
            return f"{where} comes after the file of that name"
        self._hidden.add(path)
        return ""
