# SPDX-License-Identifier: LGPL-2.1-or-later
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from lxc_oci.errors import RefusedError
from lxc_oci.layer import entry as kinds
from lxc_oci.layer.entry import Entry
from lxc_oci.layer.tarstream import SMALL, TarReader
from lxc_oci.limits import Limits
from tests.support import image
from tests.support.tarmaker import (
    GNU_MAGIC,
    archive,
    base256,
    character,
    directory,
    entry,
    fifo,
    file,
    gnu_long,
    hardlink,
    octal,
    read,
    symlink,
)


def one(content: bytes) -> Entry:
    (found, _), *rest = read(content)
    assert not rest
    return found


def test_every_type_and_field() -> None:
    made = archive(
        file(b"f", b"data", mode=0o4755, uid=1, gid=2, mtime=3),
        directory(b"d/", mode=0o1777),
        symlink(b"s", b"target"),
        hardlink(b"h", b"f"),
        character(b"c", 1, 3),
        entry(b"b", b"4", device=(259, 70000)),
        fifo(b"p"),
        entry(b"contiguous", b"7", b"7"),
        entry(b"v7", b"\0", b"v7", magic=b""),
    )
    found = {item.name: item for item, _ in read(made)}
    assert found[b"f"] == Entry(b"f", kinds.FILE, 0o4755, 1, 2, 3_000_000_000, 4)
    assert (found[b"d/"].type, found[b"d/"].mode) == (kinds.DIRECTORY, 0o1777)
    assert (found[b"s"].type, found[b"s"].link) == (kinds.SYMLINK, b"target")
    assert (found[b"h"].type, found[b"h"].link) == (kinds.HARDLINK, b"f")
    assert (found[b"c"].type, found[b"c"].device) == (kinds.CHARACTER, (1, 3))
    assert (found[b"b"].type, found[b"b"].device) == (kinds.BLOCK, (259, 70000))
    assert found[b"p"].type == kinds.FIFO
    assert found[b"contiguous"].type == found[b"v7"].type == kinds.FILE
    assert {item.name: data for item, data in read(made)}[b"f"] == b"data"


@pytest.mark.parametrize("size", [1, 511, 512, 513, 5000, 1 << 20])
def test_any_pieces_give_the_same_entries(size: int) -> None:
    contents = [b"", b"x", b"y" * 512, b"z" * 513, b"s" * SMALL, b"l" * (SMALL + 1), b"big" * 200_000]
    made = archive(*(file(b"%d" % number, content) for number, content in enumerate(contents)), fifo(b"p" * 150))

    class Pieces:
        def __init__(self) -> None:
            self._file = io.BytesIO(
                made if size > 1 else archive(*(file(b"%d" % i, c) for i, c in enumerate(contents[:4])))
            )

        def read(self, most: int, /) -> bytes:
            return self._file.read(min(size, most))

    found = []
    for _, data in TarReader(Pieces(), Limits(), pytest.fail):
        found.append(data if isinstance(data, bytes) else b"".join(iter(lambda data=data: bytes(data.read(999)), b"")))  # type: ignore[misc]
    assert found == ([*contents, b""] if size > 1 else contents[:4])


def test_data_that_is_not_read_is_skipped() -> None:
    made = archive(file(b"1", b"a" * (SMALL + 5)), file(b"2", b"b" * 3_000_000), file(b"3", b"end"))
    names = []
    for item, data in TarReader(io.BytesIO(made), Limits(), pytest.fail):
        names.append(item.name)
        if item.name == b"1":
            assert not isinstance(data, (bytes, memoryview))
            assert len(data.read(10)) == 10
    assert names == [b"1", b"2", b"3"]


def test_prefixes_and_long_names() -> None:
    assert one(archive(entry(b"name", prefix=b"some/prefix"))).name == b"some/prefix/name"
    assert one(archive(entry(b"n" * 100, prefix=b"p" * 155))).name == b"p" * 155 + b"/" + b"n" * 100
    # Another magic has other things there: GNU the time of access, V7 nothing, star two times at its end.
    for times in (b"12345670123\0", b"00000000000 00000000000\0", base256(-1, 12) + base256(1 << 40, 12)):
        assert one(archive(entry(b"name", prefix=times, magic=GNU_MAGIC))).name == b"name"
    # Go before 1.8 wrote a prefix into GNU's format.
    assert one(archive(entry(b"name", prefix=b"go/wrote/this", magic=GNU_MAGIC))).name == b"go/wrote/this/name"
    assert one(archive(entry(b"name", prefix=b"12345", magic=b""))).name == b"name"
    star = entry(b"name", prefix=b"p" * 131 + b"00000000000 " * 2, pad=b"\0" * 8 + b"tar\0")
    assert one(archive(star)).name == b"p" * 131 + b"/name"
    long = b"long/" + b"x" * 300
    assert one(archive(gnu_long(long), file(b"short"))).name == long
    found = one(archive(gnu_long(long, b"K"), gnu_long(b"n" * 200), symlink(b"short", b"short")))
    assert (found.name, found.link) == (b"n" * 200, long)
    assert one(archive(file(long))).name == long


def test_an_extended_header_counts_for_one_entry() -> None:
    records = {b"uid": b"70000", b"gid": b"80000", b"mtime": b"1.000000001", b"path": b"long", b"comment": b"x"}
    first, second = (item for item, _ in read(archive(file(b"a", pax=records), file(b"b", uid=1, gid=1, mtime=1))))
    assert (first.name, first.uid, first.gid, first.mtime_ns) == (b"long", 70000, 80000, 1_000_000_001)
    assert (second.name, second.uid, second.gid, second.mtime_ns) == (b"b", 1, 1, 1_000_000_000)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"0", 0),
        (b"1.5", 1_500_000_000),
        (b"1.", 1_000_000_000),
        (b"-1", -1_000_000_000),
        (b"-0.25", -250_000_000),
        (b"1.1234567899", 1_123_456_789),
        (b"-1.000000001", -1_000_000_001),
    ],
)
def test_times_of_extended_headers(text: bytes, nanoseconds: int) -> None:
    assert one(archive(file(b"x", pax={b"mtime": text}))).mtime_ns == nanoseconds


def test_sizes_of_extended_headers_may_have_zeros_before_them() -> None:
    assert one(archive(file(b"x", b"12345", pax={b"size": b"0" * 30 + b"5"}))).size == 5


def test_numbers_in_base_256_and_with_spaces() -> None:
    found = one(
        archive(entry(b"x", uid=base256(3_000_000, 8), gid=b"   17 \0\0", mtime=base256(-5, 12), size=b"          0 "))
    )
    assert (found.uid, found.gid, found.mtime_ns, found.size) == (3_000_000, 0o17, -5_000_000_000, 0)
    assert one(archive(entry(b"x", uid=b"", mode=b"644 "))).uid == 0


def test_checksums_of_signed_bytes_are_taken() -> None:
    good = file("ä".encode(), b"x")
    head = good[:512]
    signed = sum(byte - 256 if byte > 127 else byte for byte in head[:148] + b" " * 8 + head[156:])
    assert read(archive(head[:148] + b"%06o\0 " % signed + head[156:] + good[512:]))
    with pytest.raises(RefusedError, match="checksum"):
        read(archive(head[:148] + b"%06o\0 " % (signed + 1) + head[156:] + good[512:]))
    with pytest.raises(RefusedError, match="checksum"):
        read(archive(head[:148] + b"        " + head[156:] + good[512:]))


# --- sparse files -----------------------------------------------------------------------------------------------------

REGIONS = ((4096, 5), (8192, 512))
DATA = b"hello" + b"w" * 512
LOGICAL = 10_000


def expand(item: Entry, data: bytes) -> bytes:
    assert item.sparse is not None
    content = bytearray(item.size)
    for offset, length in item.sparse:
        content[offset : offset + length], data = data[:length], data[length:]
    assert not data
    return bytes(content)


def sparse_forms() -> dict[str, bytes]:
    """The same sparse file in each of GNU's formats."""
    pairs = [number for region in REGIONS for number in region]
    common = [(b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.size", b"%d" % LOGICAL)]
    repeated = [
        (b"GNU.sparse." + word, b"%d" % number)
        for number, word in zip(pairs, [b"offset", b"numbytes"] * 2, strict=True)
    ]
    version = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
    named = [(b"GNU.sparse.name", b"sparse"), (b"GNU.sparse.realsize", b"%d" % LOGICAL)]
    text = b"2\n" + b"".join(b"%d\n" % number for number in pairs)
    mine = {"uid": octal(os.getuid(), 8), "gid": octal(os.getgid(), 8)}
    old = image.raw_header(b"sparse", typeflag=b"S", size=len(DATA), magic=GNU_MAGIC, **mine)
    fields = b"".join(octal(number, 12) for number in pairs) + bytes(48)
    return {
        "0.0": entry(b"sparse", data=DATA, pax=common + repeated),
        "0.1": entry(
            b"GNUSparseFile.1/sparse",
            data=DATA,
            pax=[*common, (b"GNU.sparse.map", b",".join(b"%d" % number for number in pairs)), named[0]],
        ),
        "1.0": entry(b"GNUSparseFile.1/sparse", data=image.padded(text) + DATA, pax=version + named),
        "old": checksummed(old[:386] + fields + b"\0" + octal(LOGICAL, 12) + old[495:]) + image.padded(DATA),
    }


def checksummed(header: bytes) -> bytes:
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    return header[:148] + b"%06o\0 " % total + header[156:]


@pytest.mark.parametrize("form", ["0.0", "0.1", "1.0", "old"])
def test_sparse_files_in_every_format(form: str) -> None:
    (item, data), (after, _) = read(archive(sparse_forms()[form], file(b"after")))
    assert (item.name, item.type, item.size, item.sparse) == (b"sparse", kinds.FILE, LOGICAL, REGIONS)
    wanted = bytearray(LOGICAL)
    wanted[4096:4101], wanted[8192:8704] = b"hello", b"w" * 512
    assert expand(item, data) == wanted
    assert after.name == b"after"


@pytest.mark.parametrize(
    "form", ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"]
)
def test_sparse_files_as_gnu_tar_writes_them(tmp_path: Path, form: str) -> None:
    content = bytearray(20_000_000)
    for number in range(60):  # more than fit into one header
        content[number * 300_000 : number * 300_000 + 10] = b"0123456789"
    with open(tmp_path / "sparse", "wb") as target:
        for number in range(60):
            target.seek(number * 300_000)
            target.write(b"0123456789")
        target.truncate(len(content))
    options = [form] if form.startswith("--format") else ["--format=pax", form]
    made = subprocess.run(
        ["tar", "-cSf", "-", *options, "sparse"], cwd=tmp_path, capture_output=True, check=True
    ).stdout
    ((item, data),) = read(made)
    assert item.name == b"sparse"
    assert expand(item, data) == content


@pytest.mark.parametrize(
    "pax",
    [
        [(b"GNU.sparse.map", b"0,1"), (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.size", b"9")],
        [(b"GNU.sparse.map", b"0,1,0,1"), (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.size", b"9")],
        [(b"GNU.sparse.map", b"5,1,0,1"), (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.size", b"9")],
        [(b"GNU.sparse.map", b"9,1"), (b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.size", b"9")],
        [(b"GNU.sparse.map", b"0,2"), (b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.size", b"9")],
        [(b"GNU.sparse.map", b"0,x"), (b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.size", b"9")],
        [(b"GNU.sparse.map", b"0,1"), (b"GNU.sparse.numblocks", b"1")],
        [(b"GNU.sparse.map", b"0"), (b"GNU.sparse.size", b"9"), (b"GNU.sparse.numblocks", b"1")],
        [(b"GNU.sparse.numbytes", b"1"), (b"GNU.sparse.offset", b"0")],
        [(b"GNU.sparse.offset", b"1"), (b"GNU.sparse.offset", b"0")],
        [(b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9")],
        [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9")],
    ],
)
def test_wrong_sparse_maps_are_refused(pax: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(RefusedError, match="damaged"):
        read(archive(entry(b"x", data=b"d", pax=pax)))


def test_a_sparse_type_that_is_not_gnus_is_refused() -> None:
    with pytest.raises(RefusedError, match="GNU"):
        read(archive(entry(b"x", b"S")))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_pythons_tarfile_writes(form: int) -> None:
    items = [
        image.directory("etc"),
        image.file("etc/" + "n" * 60 + "/" + "m" * 90, b"long"),
        image.symlink("l", "t" * 90),
        image.file("ö", b"x", uid=2_000_000, mtime=1.0),
    ]
    found = read(image.tar(*items, form=form))
    assert [item.name.decode().rstrip("/") for item, _ in found] == [item.header["name"] for item in items]
    assert found[-1][0].uid == 2_000_000
