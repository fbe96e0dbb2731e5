# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unpacker: entries of layers, one after the other, become one tree below a Root.

Layers are applied on top of each other, so implied directories, whiteouts and hard links
to files of lower layers are right by construction.  Where entries come from is not known
here, nor is any path outside the root.
"""

import os
import stat
from collections.abc import Callable
from types import TracebackType
from typing import Self

from lxc_oci.errors import RefusedError
from lxc_oci.kernel.root import Root
from lxc_oci.layer import attributes, whiteout
from lxc_oci.layer import entry as kinds
from lxc_oci.layer import record as records
from lxc_oci.layer.directories import NAME_BYTES, Directories, Directory
from lxc_oci.layer.displaced import Displaced
from lxc_oci.layer.entry import Data, Entry
from lxc_oci.layer.objects import Objects, failure, shown
from lxc_oci.layer.record import RecordWriter
from lxc_oci.limits import Limits

_WARNINGS = 1000  # that are remembered: names of attributes are the image's, and there can be billions


class Unpacker:
    """Applies layers to the tree below a root.  A context manager, for descriptors and a thread.

    Fast when the caller has set the umask to 0, so that files are born with their mode; right in any case.
    Nothing is flushed to disk: that is for who publishes the tree (syncfs).
    """

    def __init__(
        self,
        root: Root,
        limits: Limits,
        warn: Callable[[str], None],
        *,
        record: RecordWriter | None = None,
        overlay_whiteouts: bool = False,
        displaced: Displaced | None = None,
    ) -> None:
        """Unpack into `root`, which stays the caller's; `warn` gets each message once.

        What a layer removes or replaces goes to `displaced`, if that is given.

        With `overlay_whiteouts`, 0:0 devices and trusted.overlay.opaque are whiteouts, as in the upper directory
        of an overlay; else names that begin with `.wh.` are.
        """
        self._root = root
        self._warn_once = warn
        self._warned: set[str] = set()
        self._record = record
        self._overlay = overlay_whiteouts
        self._directories = Directories(root.fd, limits, displaced)
        self._names = self._directories.names
        self._objects = Objects(self._directories, self._warn, record, overlay_whiteouts)
        self._create = self._objects.create
        self._implied_time = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._objects.hashing.close()
        self._directories.close()

    def begin_layer(self) -> None:
        """Start a layer on top of what is in the root.  Raises OciError."""
        try:
            umask = os.umask(0)
            os.umask(umask)
            self._directories.start(exact=umask == 0)
            self._objects.skipped.clear()
            with os.scandir(self._root.fd) as names:
                self._objects.over_lower = next(names, None) is not None
            if self._record is not None:
                status = os.fstat(self._root.fd)
                mode = stat.S_IMODE(status.st_mode)
                times = status.st_mtime_ns
                self._record.add(records.DIRECTORY, b"", b"", mode, status.st_uid, status.st_gid, times, 0)
                if xattrs := attributes.read(self._root.fd):
                    self._record.xattrs(xattrs)
        except OSError as error:
            raise failure("cannot unpack a layer", error) from error

    def end_layer(self) -> None:
        """Finish a layer: directories get their times.  Raises OciError."""
        try:
            self._directories.restore_times()
            self._directories.close()
            if self._record is not None:
                self._record.end_layer()
        except OSError as error:
            raise failure("cannot unpack a layer", error) from error

    def add(self, entry: Entry, data: Data = b"") -> None:
        """Apply one entry; `data` is the content of a file, of its regions only where the entry is sparse.

        Raises RefusedError for an entry that means no file inside the root, or an owner outside of the id map,
        NoSpaceError, and OciError for any other failure of the file system, naming the file.
        """
        name = entry[0]
        directory, _, base = name.rpartition(b"/")
        parent = self._names.get(directory)
        try:
            if parent is None or not base or base[0] == 46:  # a dot
                place = self._place(entry)
                if place is None:
                    return
                parent, base = place
            self._create[entry[1]](parent, base, entry, data)
        except OSError as error:
            raise failure(f"cannot unpack {shown(name)}", error) from error

    # Names

    def _place(self, entry: Entry) -> tuple[Directory, bytes] | None:
        """Return where `entry` belongs, or None where nothing is left to do: the root, whiteouts."""
        name = entry.name
        components = self._directories.components(name)
        self._implied_time = entry.mtime_ns
        if not components:
            # Only a directory can be the root, and its type never changes (CVE-2021-29136).
            if entry.type != kinds.DIRECTORY:
                raise RefusedError(f"a layer would replace the root directory by a {entry.type}")
            self._objects.set_directory(self._directories.root, entry)
            return None
        base = components.pop()
        if not self._overlay and b"/.wh." in b"/" + name:
            if whiteout.is_meta(components) or (base.startswith(whiteout.META) and base != whiteout.OPAQUE):
                self._warn("a layer has files of AUFS itself (.wh..wh.*), which are ignored")
                return None
            whiteout.check_directory(components)
            if base.startswith(whiteout.PREFIX):
                hidden = None if base == whiteout.OPAQUE else whiteout.target(base)
                parent = self._directories.resolve(components, self._imply)
                if not self._objects.over_lower:
                    return None
                self._directories.keep_upper(parent)
                if hidden is None:
                    whiteout.hide_all(self._directories, parent, self._record)
                else:
                    whiteout.hide(self._directories, parent, hidden, self._record)
                return None
        parent = self._directories.resolve(components, self._imply)
        directory, _, last = name.rpartition(b"/")
        if last == base and directory not in self._names:
            self._directories.hold(len(directory) + NAME_BYTES)
            self._names[directory] = parent
        return parent, base

    def _imply(self, parent: Directory, base: bytes) -> None:
        self._objects.imply(parent, base, self._implied_time)

    def _warn(self, message: str) -> None:
        if message not in self._warned and len(self._warned) < _WARNINGS:
            self._warned.add(message)
            self._warn_once(message)
