# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entry: one file system object as a layer describes it, whatever format the layer has.

Words only: reading them is tarstream's and puzzlefs's, making them is unpack's.
"""

from typing import NamedTuple, Protocol

FILE = "file"
DIRECTORY = "directory"
SYMLINK = "symlink"
HARDLINK = "hardlink"
CHARACTER = "character"
BLOCK = "block"
FIFO = "fifo"
SOCKET = "socket"


class Content(Protocol):
    """The data of a file too large to hold: pieces in order, empty at the end, never changed once they are given."""

    def read(self, size: int, /) -> bytes | memoryview: ...


# What comes with an entry: a small file's data, or a reader of it; regions only where the entry is sparse.
Data = bytes | memoryview | Content


class Entry(NamedTuple):
    """A NamedTuple, because a layer has tens of thousands and unpacking is measured."""

    name: bytes  # as in the layer, not cleaned: unpack resolves it inside the root
    type: str
    mode: int = 0o644  # permission bits, set-id and sticky: 0 to 0o7777
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0  # nanoseconds since the epoch, may be negative
    size: int = 0  # bytes of data that follow (logical size where `sparse` is set)
    link: bytes = b""  # target of a symbolic link, or name of the entry that a hard link joins
    device: tuple[int, int] = (0, 0)  # major, minor
    xattrs: tuple[tuple[bytes, bytes], ...] = ()  # names with their namespace
    sparse: tuple[tuple[int, int], ...] | None = None  # (offset, length) of the data regions, None: all of it
