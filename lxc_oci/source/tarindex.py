# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the members of an archive lie: a reader of tar headers that yields offsets and never data.

It reads the container of an oci-archive or docker-archive, so it knows names, sizes and links only.  Not
tarfile: that loops on a negative size (CVE-2025-8194) on hosts that we support.  Layers are read by
layer.tarstream, which knows everything else of the format.
"""

import posixpath
import sys
from collections.abc import Callable
from dataclasses import dataclass

from lxc_oci.errors import RefusedError
from lxc_oci.limits import Limits

_BLOCK = 512
_FILES = b"0\x007"
_LINKS = b"12"
_HEADER_ONLY = b"123456"
_SYMLINK_HOPS = 8
_MEMBER_BYTES = 300  # of memory, beside its name
# Two of these, and two readers could see two images; all else is verified by digest.
_DOCUMENTS = frozenset({"manifest.json", "index.json", "oci-layout"})


@dataclass(frozen=True)
class Member:
    """A file's bytes in the archive, or the normal name of the member that stands for it."""

    offset: int
    size: int
    target: str | None = None


def read_index(pread: Callable[[int, int], bytes], length: int, what: str, limits: Limits) -> dict[str, Member]:
    """Return the files and links of a tar by their normal names; the first of a name counts.

    `pread(size, offset)` gives bytes of the archive, which is `length` bytes long; `what` names it in errors.
    Raises RefusedError for everything that is not exactly a tar.
    """
    reader = _Headers(pread, length, what, limits)
    found: dict[str, Member] = {}
    names_left = limits.names_bytes
    for _ in range(limits.archive_members + 1):
        entry = reader.next()
        if entry is None:
            return found
        name, member = entry
        if member is None:
            continue
        if name in _DOCUMENTS and name in found:
            raise RefusedError(f"{what} has {name} twice")
        if name not in found:
            # What Python takes for a text: one letter outside of Latin-1 makes all others two or four bytes long.
            names_left -= sys.getsizeof(name) + sys.getsizeof(member.target) + _MEMBER_BYTES
            if names_left < 0:
                raise RefusedError(f"{what} has members whose names need more than {limits.names_bytes} bytes together")
            found[name] = member
    raise RefusedError(f"{what} has more members than the limit of {limits.archive_members}")


def resolve(index: dict[str, Member], name: str) -> Member | None:
    """Return the file that `name` leads to, or None.  Old docker-archives keep equal layers as links to one another."""
    for _ in range(_SYMLINK_HOPS):
        member = index.get(name)
        if member is None or member.target is None:
            return member
        name = member.target
    return None


def normal(name: str) -> str:
    """Return the name as the archive's root sees it: no leading slash, and no `..` above the root."""
    return posixpath.normpath("/" + name).lstrip("/")


class _Headers:
    """A position in the archive, and what extended headers say of the next member."""

    def __init__(self, pread: Callable[[int, int], bytes], length: int, what: str, limits: Limits) -> None:
        self._pread = pread
        self._length = length
        self._what = what
        self._limits = limits
        self._position = 0

    def next(self) -> tuple[str, Member | None] | None:
        """Return the next member, None in its place for what is neither file nor link; None at the end."""
        name: bytes | None = None
        link: bytes | None = None
        records: dict[bytes, bytes] = {}
        while True:
            header = self._header()
            if header is None:
                if name is not None or link is not None or records:
                    raise self._broken("ends after an extended header")
                return None
            kind = header[156:157]
            size = self._number(header[124:136])
            if kind in (b"x", b"g", b"L", b"K"):
                content = self._extension(size)
                if kind == b"x":
                    records = self._records(content)
                elif kind == b"L":
                    name = content.partition(b"\0")[0]
                elif kind == b"K":
                    link = content.partition(b"\0")[0]
                # A global header must not name, measure or redirect what follows.
                continue
            break
        if kind == b"S" or any(key.startswith(b"GNU.sparse.") for key in records):
            raise self._broken("has a sparse member")
        if b"size" in records:
            # PAX wins over the header, for this reader as for all others (CVE-2025-62518).
            size = self._decimal(records[b"size"])
        name = records.get(b"path", name if name is not None else _header_name(header))
        link = records.get(b"linkpath", link if link is not None else header[157:257].partition(b"\0")[0])
        offset = self._position
        if kind in _HEADER_ONLY and size:
            raise self._broken("has data behind a header that has none")
        if size > self._length - offset:
            raise self._broken("is truncated")
        self._position += -(-size // _BLOCK) * _BLOCK
        path = normal(self._text(name))
        if kind in _FILES:
            return path, Member(offset, size)
        if kind in _LINKS:
            target = self._text(link)
            base = posixpath.dirname(path) if kind == b"2" else ""
            return path, Member(0, 0, normal(posixpath.join(base, target)))
        return path, None

    def _header(self) -> bytes | None:
        block = self._pread(_BLOCK, self._position)
        if not block or block == bytes(_BLOCK):
            return None
        if len(block) < _BLOCK:
            raise self._broken("is truncated")
        self._position += _BLOCK
        stored = self._number(block[148:156])
        plain = block[:148] + b" " * 8 + block[156:]
        # Some old tars added up signed characters.
        if stored not in (sum(plain), sum(byte - 256 if byte > 127 else byte for byte in plain)):
            raise self._broken("has a header with a wrong checksum")
        return block

    def _extension(self, size: int) -> bytes:
        if size > self._limits.pax_bytes:
            raise self._broken(f"has an extended header of {size} bytes")
        content = self._pread(size, self._position)
        if len(content) < size:
            raise self._broken("is truncated")
        self._position += -(-size // _BLOCK) * _BLOCK
        return content

    def _records(self, content: bytes) -> dict[bytes, bytes]:
        records = {}
        position = 0
        while position < len(content):
            space = content.find(b" ", position, position + 20)
            if space < 0:
                raise self._broken("has a damaged extended header")
            end = position + self._decimal(content[position:space])
            key, equals, value = content[space + 1 : end - 1].partition(b"=")
            if end > len(content) or end <= space + 1 or content[end - 1 : end] != b"\n" or not equals or b"\0" in key:
                raise self._broken("has a damaged extended header")
            records[key] = value
            position = end
        return records

    def _number(self, field: bytes) -> int:
        """Return an octal or base-256 number of a header field."""
        if field[0] & 0x80:
            if field[0] != 0x80:
                raise self._broken("has a number that is negative or too large")
            return int.from_bytes(field[1:], "big")
        digits = field.strip(b" \0")
        if not digits:
            return 0
        if not digits.isdigit() or b"8" in digits or b"9" in digits:
            raise self._broken("has a damaged number in a header")
        return int(digits, 8)

    def _decimal(self, text: bytes) -> int:
        if not text.isdigit() or len(text) > 19:
            raise self._broken("has a damaged extended header")
        return int(text)

    def _text(self, name: bytes) -> str:
        if b"\0" in name or len(name) > self._limits.path_bytes:
            raise self._broken("has a member with an impossible name")
        return name.decode("utf-8", "surrogateescape")

    def _broken(self, fault: str) -> RefusedError:
        return RefusedError(f"{self._what} {fault}", "the file is damaged or is no archive of an image; copy it again")


def _header_name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name
