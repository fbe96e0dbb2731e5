# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tar archives made byte by byte, malformed ones included, and their unpacking for a test.

    made = archive(directory(b"etc"), file(b"etc/motd", b"hello\\n", mode=0o600), symlink(b"bin", b"usr/bin"))
    tree = unpack(tmp_path, made, second_layer)
    assert (tree.path / "etc/motd").read_bytes() == b"hello\\n"

Owners are those of the process unless an entry says otherwise, so that no test needs root for it.
"""

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lxc_oci.image.digest import Digest
from lxc_oci.kernel.root import Root
from lxc_oci.layer import record
from lxc_oci.layer.entry import Data, Entry
from lxc_oci.layer.pipeline import TarLayer, apply_image
from lxc_oci.layer.tarstream import TarReader
from lxc_oci.layer.unpack import Unpacker
from lxc_oci.limits import Limits
from tests.support.image import END, padded, pax_block, pax_record, raw_header

GNU_MAGIC = b"ustar  \0"
TIME = 1_600_000_000

Pax = Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]


def octal(value: int | bytes, width: int) -> bytes:
    """A number as tar fields have it, octal digits and a NUL; bytes are taken as they are."""
    if isinstance(value, bytes):
        return value
    return b"%0*o\0" % (width - 1, value)


def base256(value: int, width: int) -> bytes:
    """A number in GNU's base 256."""
    if value < 0:
        return value.to_bytes(width, "big", signed=True)
    return b"\x80" + value.to_bytes(width - 1, "big")


def entry(
    name: bytes,
    typeflag: bytes = b"0",
    data: bytes = b"",
    *,
    mode: int | bytes = 0o644,
    uid: int | bytes | None = None,
    gid: int | bytes | None = None,
    mtime: int | bytes = TIME,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    pax: Pax = (),
    xattrs: Mapping[bytes, bytes] | None = None,
    size: int | bytes | None = None,
    **raw: bytes,
) -> bytes:
    """One entry with its extended header and its data; `raw` replaces header fields, `size` lies about the data."""
    records = list(pax.items() if isinstance(pax, Mapping) else pax)
    records += [(b"SCHILY.xattr." + key, value) for key, value in (xattrs or {}).items()]
    if len(name) > 100 and not any(key == b"path" for key, _ in records):
        records.append((b"path", name))
    if len(link) > 100 and not any(key == b"linkpath" for key, _ in records):
        records.append((b"linkpath", link))
    fields = {
        "mode": octal(mode, 8),
        "uid": octal(os.getuid() if uid is None else uid, 8),
        "gid": octal(os.getgid() if gid is None else gid, 8),
        "mtime": octal(mtime, 12) if isinstance(mtime, bytes) or mtime >= 0 else base256(mtime, 12),
        "linkname": link[:100],
        "devmajor": octal(device[0], 8),
        "devminor": octal(device[1], 8),
        **raw,
    }
    extended = pax_block(b"".join(pax_record(key, value) for key, value in records)) if records else b""
    head = raw_header(name[:100], typeflag=typeflag, size=len(data) if size is None else size, **fields)
    return extended + head + padded(data)


def file(name: bytes, data: bytes = b"", **fields: object) -> bytes:
    """A regular file."""
    return entry(name, b"0", data, **fields)  # type: ignore[arg-type]


def directory(name: bytes, **fields: object) -> bytes:
    """A directory, mode 0755."""
    return entry(name, b"5", **{"mode": 0o755, **fields})  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes, **fields: object) -> bytes:
    """A symbolic link."""
    return entry(name, b"2", link=target, **{"mode": 0o777, **fields})  # type: ignore[arg-type]


def hardlink(name: bytes, target: bytes, **fields: object) -> bytes:
    """A hard link."""
    return entry(name, b"1", link=target, **fields)  # type: ignore[arg-type]


def character(name: bytes, major: int, minor: int, **fields: object) -> bytes:
    """A character device."""
    return entry(name, b"3", device=(major, minor), **fields)  # type: ignore[arg-type]


def block(name: bytes, major: int, minor: int, **fields: object) -> bytes:
    """A block device."""
    return entry(name, b"4", device=(major, minor), **fields)  # type: ignore[arg-type]


def fifo(name: bytes, **fields: object) -> bytes:
    """A FIFO."""
    return entry(name, b"6", **fields)  # type: ignore[arg-type]


def gnu_long(name: bytes, typeflag: bytes = b"L") -> bytes:
    """GNU's header for a long name (L) or a long link (K) of the entry that follows."""
    data = name + b"\0"
    head = raw_header(b"././@LongLink", typeflag=typeflag, size=len(data), magic=GNU_MAGIC)
    return head + padded(data)


def archive(*parts: bytes) -> bytes:
    """A whole archive."""
    return b"".join(parts) + END


@dataclass
class Tree:
    """What unpacking made: the root, the warnings, the record, and a canary file beside the root."""

    path: Path
    record: Path
    canary: Path
    warnings: list[str] = field(default_factory=list)

    def names(self) -> set[str]:
        """All paths below the root."""
        return {
            os.path.relpath(os.path.join(directory, name), self.path)
            for directory, directories, files in os.walk(self.path)
            for name in directories + files
        }

    def mode(self, name: str) -> int:
        """Permission bits of `name`, a last link not followed."""
        return stat.S_IMODE(os.lstat(self.path / name).st_mode)

    def differences(self) -> list[str]:
        """What the record says is wrong with the tree."""
        with Root.at(str(self.path)) as root, open(self.record, "rb") as file:
            return list(record.verify(root, file))


def tar_layer(content: bytes, compression: str = "", raw: bytes | None = None) -> TarLayer:
    """A layer for apply_image; `raw` is its compressed form."""
    digest = Digest("sha256:" + hashlib.sha256(content).hexdigest())
    return TarLayer(lambda: io.BytesIO(content if raw is None else raw), compression, digest)


def prepare(directory: Path) -> Tree:
    """An empty root below `directory`, with a canary beside it."""
    tree = Tree(directory / "rootfs", directory / "record", directory / "canary")
    tree.path.mkdir()
    tree.canary.write_text("untouched")
    tree.canary.chmod(0o400)
    return tree


def unpack(directory: Path, *layers: bytes, limits: Limits | None = None, tree: Tree | None = None) -> Tree:
    """Apply archives on top of each other; the record must agree with the tree, and the canary live."""
    tree = tree or prepare(directory)
    limits = limits or Limits()
    layers_of_image = [tar_layer(content) for content in layers]
    try:
        with (
            Root.at(str(tree.path)) as root,
            open(tree.record, "ab") as file,
            Unpacker(root, limits, tree.warnings.append, record=record.RecordWriter(file)) as unpacker,
        ):
            apply_image(unpacker, layers_of_image, limits, tree.warnings.append)
    finally:
        outside(tree)
    assert tree.differences() == []
    return tree


def outside(tree: Tree) -> None:
    """Fail when anything but the root and the record changed beside the root."""
    assert sorted(path.name for path in tree.path.parent.iterdir()) == ["canary", "record", "rootfs"]
    assert tree.canary.read_text() == "untouched"
    assert stat.S_IMODE(tree.canary.stat().st_mode) == 0o400
    assert tree.canary.stat().st_nlink == 1


def apply_entries(
    directory: Path, *entries: tuple[Entry, Data], overlay: bool = False, tree: Tree | None = None
) -> Tree:
    """Apply entries as one layer, as readers of other formats do."""
    tree = tree or prepare(directory)
    with Root.at(str(tree.path)) as root, open(tree.record, "ab") as file:
        writer = record.RecordWriter(file)
        with Unpacker(root, Limits(), tree.warnings.append, record=writer, overlay_whiteouts=overlay) as unpacker:
            unpacker.begin_layer()
            for item, data in entries:
                unpacker.add(item, data)
            unpacker.end_layer()
    assert tree.differences() == []
    return tree


def read(
    content: bytes, limits: Limits | None = None, warn: Callable[[str], None] = print
) -> list[tuple[Entry, bytes]]:
    """Entries and data of an archive as our reader sees them."""
    found = []
    for item, data in TarReader(io.BytesIO(content), limits or Limits(), warn):
        if not isinstance(data, (bytes, memoryview)):
            data = b"".join(iter(lambda data=data: bytes(data.read(1 << 20)), b""))  # type: ignore[misc]
        found.append((item, bytes(data)))
    return found
