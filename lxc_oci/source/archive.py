# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files of an image that is kept in one tar file, and `oci-archive:`, which is a layout in such a file.

An index of the members is read once, then blobs are read where they lie: nothing is unpacked.  A compressed
archive has no such places, its manifest is mostly at its end, and layers are fetched by several threads;
so it is decompressed once into a nameless file in the store, which vanishes with the process.
"""

import os
import threading

from lxc_oci.errors import AccessError, UnavailableError
from lxc_oci.image.reference import Reference
from lxc_oci.limits import Limits
from lxc_oci.source import tarindex
from lxc_oci.source.files import FileReader, open_regular
from lxc_oci.source.layout import LayoutSource
from lxc_oci.source.source import RawReader
from lxc_oci.source.tarindex import Member
from lxc_oci.source.unwrap import compression_of, unwrap


class ArchiveFiles:
    """The members of the archive `path`, opened at the first need."""

    def __init__(self, path: str, temporary: str, limits: Limits) -> None:
        self._path = path
        self._temporary = temporary
        self._limits = limits
        self._lock = threading.Lock()
        self._fd = -1
        self._members: dict[str, Member] | None = None

    def open(self, name: str, what: str, offset: int = 0) -> RawReader:
        """See Files."""
        member = tarindex.resolve(self._index(), name)
        if member is None:
            raise AccessError(f"{what} is missing: {self._path} has no member {name}")
        offset = min(offset, member.size)
        return FileReader(os.dup(self._fd), what, member.offset + offset, member.size - offset)

    def size(self, name: str) -> int | None:
        """See Files."""
        member = tarindex.resolve(self._index(), name)
        return None if member is None else member.size

    def member(self, name: str) -> Member | None:
        """Return where the bytes of `name` lie: names that are links to one another have the same."""
        return tarindex.resolve(self._index(), name)

    def close(self) -> None:
        """See Files."""
        with self._lock:
            fd, self._fd = self._fd, -1
            self._members = None
        if fd >= 0:
            os.close(fd)

    def _index(self) -> dict[str, Member]:
        with self._lock:
            if self._members is None:
                fd = self._open()
                try:
                    self._members = self._read(fd)
                except BaseException:
                    os.close(fd)
                    raise
                self._fd = fd
            return self._members

    def _open(self) -> int:
        """Return a descriptor of the uncompressed archive."""
        fd = open_regular(self._path, "the archive")
        try:
            compression = compression_of(os.pread(fd, 6, 0))
            if not compression:
                return os.dup(fd)
            return unwrap(fd, compression, self._temporary, self._path, self._limits)
        except OSError as error:
            raise UnavailableError(f"cannot read {self._path}: {error.strerror}") from error
        finally:
            os.close(fd)

    def _read(self, fd: int) -> dict[str, Member]:
        try:
            return tarindex.read_index(
                lambda size, offset: os.pread(fd, size, offset), os.fstat(fd).st_size, self._path, self._limits
            )
        except OSError as error:
            raise UnavailableError(f"cannot read {self._path}: {error.strerror}") from error


def open_oci_archive(reference: Reference, temporary: str, limits: Limits) -> LayoutSource:
    """Return the source of an `oci-archive:` reference; `temporary` is where a compressed one is decompressed."""
    return LayoutSource(reference, ArchiveFiles(reference.path, temporary, limits))
