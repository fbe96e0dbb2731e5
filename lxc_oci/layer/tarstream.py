# SPDX-License-Identifier: LGPL-2.1-or-later
"""A reader of tar archives: ustar, PAX, GNU long names and every sparse form, from a stream, as bytes.

It yields entries and their data and decides nothing about files.  It is strict: what
two readers could take for different archives is refused, and reading goes
on to the end of the stream, so that a digest over it covers all of it.
"""

from collections.abc import Callable, Iterator
from zlib import adler32

from lxc_oci.errors import RefusedError
from lxc_oci.layer import entry as kinds
from lxc_oci.layer import tarfields as fields
from lxc_oci.layer.entry import Content, Data, Entry
from lxc_oci.layer.inflate import CHUNK, Reader
from lxc_oci.layer.tarfields import BLOCK, Regions, damaged
from lxc_oci.limits import Limits

SMALL = 1 << 16  # a file's data up to this size comes in one piece

_ZERO = bytes(BLOCK)
_GNU = b"ustar "
_HEADER_BYTES = 1024  # an extended header up to this size may come with every entry
_LARGE_HEADERS = 16  # times pax_bytes, for all others of a layer
_ENDS = frozenset(b"\0 ")

_KINDS = {
    ord("0"): kinds.FILE,
    0: kinds.FILE,  # V7; by its type alone, whatever its name ends in (CVE-2025-13462)
    ord("7"): kinds.FILE,  # "contiguous"
    ord("1"): kinds.HARDLINK,
    ord("2"): kinds.SYMLINK,
    ord("3"): kinds.CHARACTER,
    ord("4"): kinds.BLOCK,
    ord("5"): kinds.DIRECTORY,
    ord("6"): kinds.FIFO,
    ord("S"): kinds.FILE,
}
_LINKS = (kinds.HARDLINK, kinds.SYMLINK)
_DEVICES = (kinds.CHARACTER, kinds.BLOCK)
_EXTENSIONS = frozenset(b"xgLK")
_SPARSE = ord("S")
_XATTR = b"SCHILY.xattr."
# What a global header must not change for all later entries.
_GLOBAL = (b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime")

_new = tuple.__new__


class _Extended:
    """What the headers before an entry's own said about it."""

    def __init__(self) -> None:
        self.long_name: bytes | None = None  # GNU L
        self.long_link: bytes | None = None  # GNU K
        self.pax: dict[bytes, bytes] | None = None
        self.sparse_values: list[int] = []  # GNU.sparse.offset and numbytes, which repeat


class TarReader:
    """The entries of one archive; iterated once."""

    def __init__(self, reader: Reader, limits: Limits, warn: Callable[[str], None]) -> None:
        self._reader = reader
        self._limits = limits
        self._warn = warn
        self._buffer = b""
        self._position = 0
        self._logical = self._stored = 0  # bytes of sparse files, with and without their holes
        self._headers_left = limits.pax_bytes * _LARGE_HEADERS
        self._extended: _Extended | None = None

    def __iter__(self) -> Iterator[tuple[Entry, Data]]:
        """Yield each entry with its data, which is valid until the next is asked for.

        Raises RefusedError.  After the last entry the stream has been read to its end.
        """
        limits = self._limits
        entries_left = limits.entries
        ids: dict[bytes, tuple[int, int, int]] = {}  # few combinations of mode, uid and gid occur
        file = kinds.FILE
        buffer, position, end = b"", 0, 0
        while True:
            if position + BLOCK <= end:
                header = buffer[position : position + BLOCK]
                position += BLOCK
            else:
                self._buffer, self._position = buffer, position
                header = self._block()
                buffer, position, end = self._buffer, self._position, len(self._buffer)
                if not header:
                    break
            # As fields.checksum_matches, for the form that all current programs write.
            raw = header[148:154]
            try:
                sound = (
                    raw.isdigit()
                    and header[154] == 0
                    and header[155] == 32
                    and int(raw, 8)
                    == (adler32(header[:256]) & 0xFFFF) + (adler32(header[256:]) & 0xFFFF) + 222 - sum(raw)
                )
            except ValueError:  # an 8 or a 9, here and below
                sound = False
            if not sound and not fields.checksum_matches(header):
                if header != _ZERO:
                    raise damaged("a header's checksum is wrong")
                self._buffer, self._position = buffer, position
                self._finish()
                break
            raw = header[124:135]
            try:
                size = int(raw, 8) if raw.isdigit() and header[135] in _ENDS else fields.size(header[124:136])
            except ValueError:
                raise damaged("a size is not a number") from None
            flag = header[156]
            if flag in _EXTENSIONS:
                self._buffer, self._position = buffer, position
                self._extend(flag, size)
                buffer, position, end = self._buffer, self._position, len(self._buffer)
                continue
            entries_left -= 1
            if entries_left < 0:
                raise RefusedError(
                    f"a layer has more than {limits.entries} entries", "raise entries in /etc/lxc-oci-py/limits.conf"
                )
            raw = header[100:124]
            owner = ids.get(raw)
            if owner is None:
                if len(ids) > 4096:
                    ids.clear()
                owner = ids[raw] = _owner(raw)
            mode, uid, gid = owner
            raw = header[136:147]
            try:
                mtime = (
                    int(raw, 8) * 1_000_000_000
                    if raw.isdigit() and header[147] in _ENDS and raw < b"40000000000"
                    else fields.time(header[136:148])
                )
            except ValueError:
                raise damaged("a time is not a number") from None
            stored = size
            if flag == 48 and self._extended is None:
                if header[345]:
                    name = fields.full_name(header)
                else:
                    cut = header.find(0, 0, 100)
                    name = header[:cut] if cut >= 0 else header[:100]
                if name[-1:] == b"/":
                    raise damaged("a file's name ends in a slash")
                entry = _new(Entry, (name, file, mode, uid, gid, mtime, size, b"", (0, 0), (), None))
            else:
                self._buffer, self._position = buffer, position
                entry, stored = self._entry(header, mode, uid, gid, mtime, size)
                buffer, position, end = self._buffer, self._position, len(self._buffer)
            if not stored:
                yield entry, b""
                continue
            stop = position + stored
            if stored <= SMALL:
                padded = position + (stored + 511 & ~511)
                if padded <= end:
                    data = buffer[position:stop]
                    position = padded
                else:
                    self._buffer, self._position = buffer, position
                    data = self._take(stored + 511 & ~511)[:stored]
                    buffer, position, end = self._buffer, self._position, len(self._buffer)
                yield entry, data
                continue
            self._buffer, self._position = buffer, position
            content = _StreamContent(self, stored)
            yield entry, content
            content.skip()
            buffer, position, end = self._buffer, self._position, len(self._buffer)
        if self._extended is not None:
            raise damaged("it ends after an extended header")

    # Reading

    def piece(self, most: int) -> memoryview:
        """Return the next 1 to `most` bytes without copying them."""
        left = len(self._buffer) - self._position
        if not left:
            self._buffer = self._reader.read(CHUNK)
            self._position = 0
            left = len(self._buffer)
            if not left:
                raise damaged("it ends in the middle of a file")
        start = self._position
        self._position = start + min(left, most)
        return memoryview(self._buffer)[start : self._position]

    def _take(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        parts = []
        while size:
            part = self.piece(size)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _block(self) -> bytes:
        """Return the next block, b"" where the stream ends before it."""
        header = self._buffer[self._position : self._position + BLOCK]
        self._position += len(header)
        while len(header) < BLOCK:
            self._buffer = self._reader.read(CHUNK)
            self._position = BLOCK - len(header)
            if not self._buffer:
                self._position = 0
                if header:
                    raise damaged("it ends in the middle of a header")
                return b""
            header += self._buffer[: self._position]
        self._position = min(self._position, len(self._buffer))
        return header

    def _finish(self) -> None:
        """Read the second block of zeros, and what follows, to the end of the stream."""
        block = self._block()
        if block.strip(b"\0"):
            # Some readers stop at one block of zeros, others skip it.
            raise damaged("it goes on after a block of zeros")
        rest = bool(self._buffer[self._position :].strip(b"\0"))
        self._buffer, self._position = b"", 0
        while data := self._reader.read(CHUNK):
            rest = rest or bool(data.strip(b"\0"))
        if rest:
            self._warn("a layer has bytes after the end of its tar archive, which are ignored")

    # Headers

    def _extend(self, flag: int, size: int) -> None:
        """Take in a header that describes the next entry, or all of them."""
        if size > self._limits.pax_bytes:
            raise RefusedError(
                f"an extended header in a layer has {size} bytes, more than the limit of {self._limits.pax_bytes}"
            )
        self._count(size - _HEADER_BYTES)
        block = self._take(size + 511 & ~511)[:size]
        if flag == ord("g"):
            if any(key in _GLOBAL or key.startswith(_XATTR) for key, _ in fields.pax_records(block)):
                self._warn("a layer's tar archive has a global header with names, sizes or owners, which is ignored")
            return
        extended = self._extended = self._extended or _Extended()
        known = {ord("L"): extended.long_name, ord("K"): extended.long_link, ord("x"): extended.pax}[flag]
        if known is not None:  # some readers take the first, some the last, some both
            raise damaged("an entry has two extended headers of one kind")
        if flag == ord("L"):
            extended.long_name = fields.text(block)
        elif flag == ord("K"):
            extended.long_link = fields.text(block)
        else:
            pax = extended.pax = dict[bytes, bytes]()
            for key, value in fields.pax_records(block):
                pax[key] = value
                if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                    if (key == b"GNU.sparse.offset") != (len(extended.sparse_values) % 2 == 0):
                        raise damaged("a sparse map is out of order")
                    extended.sparse_values.append(fields.pax_number(value, "a sparse map's number"))

    def _entry(self, header: bytes, mode: int, uid: int, gid: int, mtime: int, size: int) -> tuple[Entry, int]:
        """Return an entry that is not a plain file with a short name, and how many bytes of data follow."""
        flag = header[156]
        kind = _KINDS.get(flag)
        if kind is None:
            raise damaged(f"an entry has the unknown type {flag:#x}")
        extended, self._extended = self._extended or _Extended(), None
        pax = extended.pax or {}
        name = self._long(fields.full_name(header), extended.long_name, pax.get(b"path"))
        link = b""
        if kind in _LINKS:
            link = self._long(fields.text(header[157:257]), extended.long_link, pax.get(b"linkpath"))
        xattrs: tuple[tuple[bytes, bytes], ...] = ()
        if pax:
            # The extended size counts for the data and for what is skipped (CVE-2025-62518).
            if value := pax.get(b"size"):
                size = fields.pax_number(value, "a size")
            if value := pax.get(b"uid"):
                uid = fields.checked_id(fields.pax_number(value, "an owner"))
            if value := pax.get(b"gid"):
                gid = fields.checked_id(fields.pax_number(value, "an owner"))
            if value := pax.get(b"mtime"):
                mtime = fields.pax_time(value)
            xattrs = tuple(
                (key[len(_XATTR) :], value) for key, value in pax.items() if key.startswith(_XATTR) and key != _XATTR
            )
        logical, sparse = size, None
        if flag == _SPARSE:
            logical, sparse = self._old_sparse(header, size)
        elif kind is kinds.FILE and any(key.startswith(b"GNU.sparse.") for key in pax):
            name, logical, sparse, size = self._pax_sparse(extended, pax, name, size)
        if sparse is not None:
            self._logical += logical
            self._stored += size
            # Holes cost no space, but time: they are hashed as zeros.
            if self._logical > max(self._limits.layer_bytes // 8, self._limits.layer_ratio * self._stored):
                raise RefusedError(
                    f"the sparse files of a layer are more than {self._limits.layer_ratio} times their data",
                    "if that is right, raise layer_ratio in /etc/lxc-oci-py/limits.conf",
                )
            if self._logical > self._limits.layer_bytes:
                raise RefusedError(
                    f"the sparse files of a layer have more than {self._limits.layer_bytes} bytes",
                    "if that is right, raise layer_bytes in /etc/lxc-oci-py/limits.conf",
                )
        if kind is not kinds.FILE and size:
            # Data after a link: some readers skip it, some write it (CVE-2016-5418), some read it as headers.
            raise damaged(f"an entry of type {kind} has data")
        if kind is kinds.FILE and name.endswith(b"/"):
            raise damaged("a file's name ends in a slash")
        device = (0, 0)
        if kind in _DEVICES:
            device = (fields.number(header[329:337], "a device"), fields.number(header[337:345], "a device"))
            if not (0 <= device[0] < 1 << 12 and 0 <= device[1] < 1 << 20):
                raise damaged(f"a device number is out of range: {device[0]}:{device[1]}")
        return Entry(name, kind, mode, uid, gid, mtime, logical, link, device, xattrs, sparse), size

    def _long(self, short: bytes, gnu: bytes | None, pax: bytes | None) -> bytes:
        """Return the name that counts."""
        if gnu is not None and pax:
            raise damaged("an entry has both a GNU and a PAX name")  # each wins in some reader
        name = pax or (short if gnu is None else gnu)
        if len(name) > self._limits.path_bytes:
            raise RefusedError(f"a name in a layer has {len(name)} bytes, more than {self._limits.path_bytes}")
        return name

    def _old_sparse(self, header: bytes, stored: int) -> tuple[int, Regions]:
        """Return the logical size and the regions of an entry of type S; its map goes on in blocks of its own."""
        if header[257:263] != _GNU:
            raise damaged("a sparse entry is not in GNU's format")
        values = fields.old_sparse_fields(header[386:482], 4)
        more = header[482]
        read = 0
        while more:
            block = self._take(BLOCK)
            read += BLOCK
            self._check_map(read)
            values += fields.old_sparse_fields(block, 21)
            more = block[504]
        logical = fields.size(header[483:495])
        return logical, fields.regions(values, logical, stored)

    def _pax_sparse(
        self, extended: _Extended, pax: dict[bytes, bytes], name: bytes, stored: int
    ) -> tuple[bytes, int, Regions, int]:
        """Return name, logical size, regions and size of the data of GNU's sparse formats 0.0, 0.1 and 1.0."""
        version = pax.get(b"GNU.sparse.major", b"0"), pax.get(b"GNU.sparse.minor", b"0")
        name = self._long(name, None, pax.get(b"GNU.sparse.name"))
        if version == (b"1", b"0"):
            logical = fields.pax_number(pax.get(b"GNU.sparse.realsize", b""), "a sparse size")
            values, used = self._sparse_map(stored)
            return name, logical, fields.regions(values, logical, stored - used), stored - used
        if version not in ((b"0", b"0"), (b"0", b"1")):
            raise damaged("an entry has an unknown sparse format")
        logical = fields.pax_number(pax.get(b"GNU.sparse.size", b""), "a sparse size")
        if b"GNU.sparse.map" in pax:
            values = fields.decimal_list(pax[b"GNU.sparse.map"], b",")
        else:
            values = extended.sparse_values
        if len(values) != 2 * fields.pax_number(pax.get(b"GNU.sparse.numblocks", b""), "a sparse map's length"):
            raise damaged("a sparse map has not as many regions as it says")
        return name, logical, fields.regions(values, logical, stored), stored

    def _sparse_map(self, stored: int) -> tuple[list[int], int]:
        """Return the numbers before the data of a file in sparse format 1.0, and how many bytes they took."""
        text = bytearray()
        wanted = None
        used = lines = 0
        while wanted is None or lines < wanted:
            if used + BLOCK > stored:
                raise damaged("a sparse map is longer than its entry")
            block = self._take(BLOCK)
            text += block
            lines += block.count(b"\n")
            used += BLOCK
            self._check_map(used)
            if wanted is None and lines:
                wanted = 1 + 2 * fields.pax_number(bytes(text.partition(b"\n")[0]), "a sparse map's length")
        return [fields.pax_number(item, "a sparse map's number") for item in bytes(text).split(b"\n")[1:wanted]], used

    def _count(self, size: int) -> None:
        """Count bytes of extended headers and sparse maps, whose parts are many and small: they are slow to read."""
        self._headers_left -= max(size, 0)
        if self._headers_left < 0:
            raise RefusedError(
                f"a layer has too many extended headers of more than {_HEADER_BYTES} bytes",
                "if that is right, raise pax_bytes in /etc/lxc-oci-py/limits.conf",
            )

    def _check_map(self, read: int) -> None:
        if read > self._limits.pax_bytes:
            raise RefusedError(f"a sparse map in a layer has more bytes than the limit of {self._limits.pax_bytes}")
        self._count(BLOCK)


class _StreamContent(Content):
    """The data of one file, as far as it has not been read."""

    def __init__(self, stream: TarReader, size: int) -> None:
        self._stream = stream
        self._left = size
        self._padding = -size % BLOCK

    def read(self, size: int = CHUNK, /) -> memoryview:
        """Return up to `size` bytes, empty at the end.  Raises RefusedError where the archive ends before."""
        if not self._left or not size:
            return memoryview(b"")
        data = self._stream.piece(min(size, self._left))
        self._left -= len(data)
        return data

    def skip(self) -> None:
        """Read to the end of the last block."""
        while self.read():
            pass
        while self._padding:
            self._padding -= len(self._stream.piece(self._padding))


def _owner(raw: bytes) -> tuple[int, int, int]:
    """Return mode, uid and gid of header bytes 100 to 123."""
    mode = fields.number(raw[:8], "a mode")
    return mode & 0o7777, fields.owner(raw[8:16]), fields.owner(raw[16:24])
