# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parts of a tar header: numbers, extended records and sparse maps.

What two readers could take differently is refused: an archive that shows a scanner other
files than it gives a container is an attack (CVE-2025-62518).  Pure functions on bytes.
"""

import re
from zlib import adler32

from lxc_oci.errors import RefusedError

BLOCK = 512

_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*\Z").match
_DECIMAL = re.compile(rb"[0-9]{1,100}\Z").match
_TIME = re.compile(rb"(-?)([0-9]{1,20})(?:\.([0-9]*))?\Z").match

MAXIMUM_ID = 2**32 - 2  # the last is (uid_t)-1, which chown takes for "leave it"
# From ext4's first to the last whose nanoseconds are 64 bits; the kernel would clamp to each file system's own range,
# and trees of one image would differ.
_EARLIEST, _LATEST = -(2**31), 9_223_372_035

Regions = tuple[tuple[int, int], ...]


def damaged(why: str) -> RefusedError:
    """Return the error for an archive that breaks the format."""
    return RefusedError(f"a layer's tar archive is damaged: {why}", "the image was built wrongly or made to do harm")


def number(field: bytes, what: str) -> int:
    """Return the number in a header field: octal, or GNU's base 256 where the first bit is set."""
    first = field[0]
    if first & 0x80:
        if first not in (0x80, 0xFF):  # other readers take the low bits for a part of the number, or do not
            raise damaged(f"{what} is not a number")
        return int.from_bytes(field[1:], "big") if first == 0x80 else int.from_bytes(field, "big", signed=True)
    match = _OCTAL(field)
    if not match:
        raise damaged(f"{what} is not a number")
    return int(match[1] or b"0", 8)


def size(field: bytes) -> int:
    """Return the number of bytes in a size field."""
    return _positive(number(field, "a size"), "a size")


def _positive(value: int, what: str) -> int:
    if not 0 <= value < 2**63:
        raise damaged(f"{what} is out of range: {value}")
    return value


def owner(field: bytes) -> int:
    """Return the user or group id in a header field."""
    return checked_id(number(field, "an owner"))


def checked_id(value: int) -> int:
    """Return `value` if it is a uid or gid."""
    if not 0 <= value <= MAXIMUM_ID:
        raise damaged(f"an owner is out of range: {value}")
    return value


def time(field: bytes) -> int:
    """Return the time in a header field, in nanoseconds."""
    return clamped(number(field, "a time")) * 1_000_000_000


def clamped(seconds: int) -> int:
    """Return `seconds` moved into the years 1901 to 2262."""
    return min(max(seconds, _EARLIEST), _LATEST)


def clamped_ns(nanoseconds: int) -> int:
    """Return `nanoseconds` moved into the same years."""
    return min(max(nanoseconds, _EARLIEST * 1_000_000_000), _LATEST * 1_000_000_000)


def checksum_matches(header: bytes) -> bool:
    """Return whether the header's checksum is right, as unsigned bytes or, as some historic programs, signed ones."""
    match = _OCTAL(header[148:156])
    if not match or not match[1]:
        return False
    stored = int(match[1], 8)
    # adler32's low half is 1 + the sum of the bytes modulo 65521, which 256 bytes cannot reach.
    total = (adler32(header[:256]) & 0xFFFF) + (adler32(header[256:]) & 0xFFFF) - 2
    total += 8 * 32 - sum(header[148:156])
    if stored == total:
        return True
    return stored == total - 256 * sum(byte > 127 for byte in header[:148] + header[156:])


def text(field: bytes) -> bytes:
    """Return the bytes of a name field, which a NUL ends."""
    return field.partition(b"\0")[0]


def pax_records(block: bytes) -> list[tuple[bytes, bytes]]:
    """Return the records of a PAX extended header in their order (POSIX pax, "pax Extended Header")."""
    records = []
    position, end = 0, len(block)
    while position < end:
        space = block.find(b" ", position, position + 21)
        digits = block[position:space]
        if space < 0 or not digits.isdigit():
            raise damaged("an extended record has no length")
        stop = position + int(digits)
        # A length that reaches back into itself would be an endless loop (CVE-2019-20907).
        if stop <= space + 2 or stop > end or block[stop - 1] != 0x0A:
            raise damaged("an extended record has a wrong length")
        key, equals, value = block[space + 1 : stop - 1].partition(b"=")
        if not equals or not key:
            raise damaged("an extended record has no name or no value")
        if b"\0" in key or (b"\0" in value and key in (b"path", b"linkpath", b"GNU.sparse.name")):
            raise damaged("an extended record has a NUL in its name")
        records.append((key, value))
        position = stop
    return records


def pax_number(value: bytes, what: str) -> int:
    """Return a decimal number that is not negative."""
    if not _DECIMAL(value):
        raise damaged(f"{what} is not a number")
    return _positive(int(value), what)


def pax_time(value: bytes) -> int:
    """Return a decimal time in seconds with a fraction, in nanoseconds; finer digits are cut off."""
    match = _TIME(value)
    if not match:
        raise damaged("a time is not a number")
    nanoseconds = int(((match[3] or b"") + b"000000000")[:9])
    seconds = int(match[2])
    if match[1]:
        seconds, nanoseconds = (-seconds, 0) if not nanoseconds else (-seconds - 1, 1_000_000_000 - nanoseconds)
    if seconds != clamped(seconds):
        nanoseconds = 0
    return clamped(seconds) * 1_000_000_000 + nanoseconds


def old_sparse_fields(block: bytes, count: int) -> list[int]:
    """Return offset, length, offset … of GNU's old format: `count` pairs of 12 bytes, up to the first empty one."""
    values = []
    for position in range(0, count * 24, 24):
        if not block[position + 12]:
            break
        values.append(size(block[position : position + 12]))
        values.append(size(block[position + 12 : position + 24]))
    return values


def decimal_list(value: bytes, separator: bytes) -> list[int]:
    """Return the numbers of a sparse map written as text."""
    return [pax_number(item, "a sparse map's number") for item in value.split(separator)] if value else []


def regions(values: list[int], logical: int, stored: int) -> Regions:
    """Return the data regions of a sparse file: in order, without overlap, inside it, as long as its data."""
    if len(values) % 2:
        raise damaged("a sparse map has an odd number of values")
    found = []
    end = 0
    for offset, length in zip(values[::2], values[1::2], strict=True):
        if offset < end or offset + length > logical:
            raise damaged("a sparse map's regions overlap or leave the file")
        end = offset + length
        if length:
            found.append((offset, length))
    if sum(length for _, length in found) != stored:
        raise damaged("a sparse map does not fit the data")
    return tuple(found)


def full_name(header: bytes) -> bytes:
    """Return the name in a header, with ustar's prefix before it where there is one."""
    name = text(header[:100])
    magic = header[257:263]
    if magic == b"ustar\x00":
        # star keeps two times in the last bytes of the field.
        prefix = text(header[345 : 476 if header[508:512] == b"tar\0" else 500])
    elif magic == b"ustar " and header[345] and not (_is_number(header[345:357]) and _is_number(header[357:369])):
        # GNU has two times there.  Docker's that were built by Go before 1.8 wrote a prefix all the same.
        prefix = text(header[345:500])
    else:
        return name
    return prefix + b"/" + name if prefix else name


def _is_number(field: bytes) -> bool:
    return field[0] in (0, 0x80, 0xFF) or _OCTAL(field) is not None
