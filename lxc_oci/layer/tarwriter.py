# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tar archives written so that equal trees give equal bytes: ustar headers, with PAX records for what they cannot
carry.  Which entries there are is the caller's business.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from lxc_oci.errors import RefusedError

BLOCK = 512
FILE, HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (b"%d" % kind for kind in range(7))

_NANOSECONDS = 10**9
_OCTAL_7, _OCTAL_11 = 8**7 - 1, 8**11 - 1
_XATTR = b"SCHILY.xattr."


class Reader(Protocol):
    """Where a file's content comes from."""

    def read(self, size: int, /) -> bytes: ...


class Facts(NamedTuple):
    """What every entry has; the time in nanoseconds since the epoch."""

    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0


class TarWriter:
    """An archive that goes out through `write`, piece by piece; `end` must be called."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def add(
        self,
        name: bytes,
        kind: bytes,
        facts: Facts,
        *,
        size: int = 0,
        target: bytes = b"",
        device: tuple[int, int] = (0, 0),
        xattrs: Iterable[tuple[bytes, bytes]] = (),
        content: Reader | None = None,
    ) -> None:
        """Add one entry; `content` must give exactly `size` bytes.  Raises RefusedError when it does not."""
        seconds, fraction = divmod(facts.mtime_ns, _NANOSECONDS)
        records: list[tuple[bytes, bytes]] = []
        if fraction or not 0 <= seconds <= _OCTAL_11:
            text = b"%d.%09d" % (seconds, fraction) if fraction else b"%d" % seconds
            records.append((b"mtime", text if seconds >= 0 or not fraction else _negative(facts.mtime_ns)))
        if len(name) > 100:
            records.append((b"path", name))
        if len(target) > 100:
            records.append((b"linkpath", target))
        for key, number, limit in (
            (b"uid", facts.uid, _OCTAL_7),
            (b"gid", facts.gid, _OCTAL_7),
            (b"size", size, _OCTAL_11),
        ):
            if number > limit:
                records.append((key, b"%d" % number))
        records += [(_XATTR + key, value) for key, value in xattrs]
        if records:
            body = b"".join(_record(key, value) for key, value in records)
            self._put(_header(b"PaxHeaders/" + name[-80:], b"x", size=len(body)))
            self._put(body + _padding(len(body)))
        self._put(
            _header(
                name[:100],
                kind,
                mode=facts.mode,
                uid=min(facts.uid, _OCTAL_7),
                gid=min(facts.gid, _OCTAL_7),
                size=min(size, _OCTAL_11),
                mtime=min(max(seconds, 0), _OCTAL_11),
                target=target[:100],
                device=device,
            )
        )
        left = size
        while left:
            data = content.read(min(left, 1 << 20)) if content is not None else b""
            if not data:
                raise RefusedError(f"{name!r:.200} became shorter while it was read", "is the container running?")
            self._put(data)
            left -= len(data)
        self._put(_padding(size))

    def end(self) -> None:
        """Write the end of the archive."""
        self._put(bytes(2 * BLOCK))

    def _put(self, data: bytes) -> None:
        if data:
            self._write(data)


def _header(
    name: bytes,
    kind: bytes,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    target: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    fields = (
        name.ljust(100, b"\0"),
        b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime),
        b" " * 8,
        kind,
        target.ljust(100, b"\0"),
        b"ustar\x0000",
        bytes(64),
        b"%07o\0%07o\0" % device,
        bytes(167),
    )
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _record(key: bytes, value: bytes) -> bytes:
    """Return one PAX record; its length counts itself."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


def _negative(mtime_ns: int) -> bytes:
    whole, fraction = divmod(-mtime_ns, _NANOSECONDS)
    return b"-%d.%09d" % (whole, fraction)


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)
