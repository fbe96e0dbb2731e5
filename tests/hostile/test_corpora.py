# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tar archives that Go's and CPython's own test suites keep, through our reader, with the verdicts of those suites.

Where ours is another, DIFFERENT says why.  What is read is compared with what those suites expect: names and the
checksums of contents as Go's reader_test.go has them, for CPython's archive what its tarfile says.  Debian:
golang-1.19-src or newer (golang-src), libpython3.11-testsuite or the one of the Python that is there.
"""

import ast
import bz2
import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lxc_oci.errors import RefusedError
from lxc_oci.layer import entry as kinds
from lxc_oci.layer.tarstream import TarReader
from lxc_oci.limits import Limits
from tests.support import need
from tests.support.image import END
from tests.support.tarmaker import unpack

GO = sorted(Path("/usr/share").glob("go-*/src/archive/tar/testdata"))
PYTHON = sorted(Path("/usr/lib").glob("python3.*/test/testtar.tar")) + sorted(
    Path("/usr/lib").glob("python3.*/test/archivetestdata/testtar.tar")
)
_VECTOR = re.compile(r'file:\s*"testdata/([^"]+)"')
_NAME = re.compile(r'\bName:\s*((?:"(?:[^"\\]|\\.)*"(?:\s*\+\s*)?)+|strings\.Repeat\("([^"]*)", ([0-9]+)\))')
_SUMS = re.compile(r"chksums:\s*\[\]string\{(.*?)\}", re.DOTALL)
_ERROR = re.compile(r"\berr:\s+(\w+)")
_LARGE = 1 << 26  # contents that are compared

# Archive → (what we say, why).  All are stricter than the suite's own program.
DIFFERENT = {
    "gnu-incremental.tar": ("unknown type", "GNU's incremental dumps (D) are no layers; containerd fails on them too"),
    "gnu-multi-hdrs.tar": ("two extended headers", "readers differ in which of them counts"),
    "pax-multi-hdrs.tar": ("two extended headers", "readers differ in which of them counts"),
    "hdr-only.tar": ("has data", "a directory with a size: readers differ in what follows (CVE-2016-5418)"),
    "pax-path-hdr.tar": ("after an extended header", "the header describes no entry"),
    "writer-big.tar": ("middle of a file", "only Go's writer uses it: 16 GiB without their data"),
    "writer-big-long.tar": ("middle of a file", "only Go's writer uses it: 16 GiB without their data"),
}
# Members that CPython's reader lets pass, or reads as what they are not.
PYTHON_STRICTER = {
    "gnu/regtype-gnu-uid",  # 4294967295 is (uid_t)-1, which chown takes for "leave it"
    "misc/dirtype-old-v7",  # V7's file with a slash at the end of its name, a directory for some readers
    "misc/regtype-suntar",  # Solaris's type X
    "ustar/dirtype-with-size",  # readers differ in what follows
}


@dataclass(frozen=True)
class Vector:
    """What Go's reader is expected to make of an archive."""

    names: tuple[bytes, ...]
    sums: tuple[str, ...]
    error: str


def vectors(text: str) -> dict[str, Vector]:
    """Parse TestReader's table."""
    table = text.partition("func TestReader(")[2].partition("\nfunc ")[0]
    starts = list(_VECTOR.finditer(table))
    found = {}
    for number, start in enumerate(starts):
        part = table[start.end() : starts[number + 1].start() if number + 1 < len(starts) else len(table)]
        part = part.partition("\n\tfor _, ")[0]
        names = tuple(_go_string(match) for match in _NAME.finditer(part) if match[1] != '""')
        sums = _SUMS.search(part)
        error = _ERROR.search(part)
        found[start[1]] = Vector(
            names, tuple(re.findall(r'"([0-9a-f]{32})"', sums[1])) if sums else (), error[1] if error else ""
        )
    return found


def _go_string(match: re.Match[str]) -> bytes:
    if match[2] is not None:
        return match[2].encode() * int(match[3])
    literals = re.findall(r'"(?:[^"\\]|\\.)*"', match[1])
    # Go's \x80 is a byte: so are all characters here.
    return b"".join(ast.literal_eval(text.encode().decode("latin-1")).encode("latin-1") for text in literals)


def archives(directory: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(directory.iterdir()):
        if path.name.endswith(".tar"):
            yield path.name, path.read_bytes()
        elif path.name.endswith(".tar.bz2"):
            yield path.name, bz2.decompress(path.read_bytes())


def read(content: bytes) -> list[tuple[bytes, str, int, str]]:
    """Name, type, size and MD5 of the contents of each entry, those of huge files left out."""
    found = []
    for item, data in TarReader(io.BytesIO(content), Limits(layer_bytes=1 << 40), lambda message: None):
        whole = bytes(data) if isinstance(data, (bytes, memoryview)) else b"".join(map(bytes, iter(data.read, b"")))
        sum_ = ""
        if item.size <= _LARGE:
            expanded = bytearray(item.size)
            position = 0
            for offset, length in ((0, item.size),) if item.sparse is None else item.sparse:
                expanded[offset : offset + length] = whole[position : position + length]
                position += length
            sum_ = hashlib.md5(expanded).hexdigest()
        found.append((item.name, item.type, item.size, sum_))
    return found


def test_go_archives_have_go_s_verdicts(tried: Callable[[int], None]) -> None:
    if not GO:
        need.missing("the sources of Go are not installed (Debian: golang-1.19-src, golang-src)")
    expected = vectors((GO[-1].parent / "reader_test.go").read_text())
    assert len(expected) >= 25
    seen = dict(archives(GO[-1]))
    assert len(seen) >= 38
    wrong = []
    compared = 0
    for name, content in seen.items():
        tried(1)
        vector = expected.get(name)
        try:
            found = read(content)
        except RefusedError as error:
            different = DIFFERENT.get(name)
            if not (vector and vector.error) and not (different and different[0] in error.message):
                wrong.append(f"{name}: refused: {error.message}")
            continue
        if name in DIFFERENT or (vector and vector.error):
            wrong.append(f"{name}: read, but {DIFFERENT.get(name) or vector}")
        elif vector is not None:
            compared += 1
            # A global header is an entry for Go.
            names = [one for one in vector.names if one in {item[0] for item in found} or "global" not in name]
            if [item[0] for item in found] != names:
                wrong.append(f"{name}: {[item[0] for item in found]} instead of {names}")
            elif vector.sums and [item[3] for item in found if item[3]] != list(vector.sums):
                wrong.append(f"{name}: other contents")
    assert not wrong, "\n".join(wrong)
    assert compared >= 15


def test_go_archives_stay_inside_when_they_are_unpacked(tmp_path: Path, tried: Callable[[int], None]) -> None:
    """`unpack` compares the tree with its record and looks after the canary beside the root."""
    if not GO:
        need.missing("the sources of Go are not installed (Debian: golang-1.19-src, golang-src)")
    unpacked = 0
    for name, content in archives(GO[-1]):
        tried(1)
        place = tmp_path / name
        place.mkdir()
        try:
            unpack(place, content, limits=Limits(layer_bytes=1 << 26))
        except RefusedError:
            continue
        unpacked += 1
    assert unpacked >= 15


def test_python_s_archive_has_python_s_members(tried: Callable[[int], None]) -> None:
    """Member by member, each cut out as an archive of its own: one that we refuse does not hide the others."""
    if not PYTHON:
        need.missing("CPython's tests are not installed (Debian: libpython3.11-testsuite, libpython3.13-testsuite)")
    raw = PYTHON[-1].read_bytes()
    kinds_of = {
        tarfile.DIRTYPE: kinds.DIRECTORY,
        tarfile.SYMTYPE: kinds.SYMLINK,
        tarfile.LNKTYPE: kinds.HARDLINK,
        tarfile.CHRTYPE: kinds.CHARACTER,
        tarfile.BLKTYPE: kinds.BLOCK,
        tarfile.FIFOTYPE: kinds.FIFO,
    }
    refused = set()
    equal = 0
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:", encoding="utf-8", errors="surrogateescape") as python:
        members = python.getmembers()
        ends = [member.offset for member in members[1:]] + [len(raw)]
        for member, end in zip(members, ends, strict=True):
            tried(1)
            try:
                found = read(raw[member.offset : end] + (END if end < len(raw) else b""))
            except RefusedError as error:
                refused.add(f"{member.name}: {error.message.rpartition(': ')[2]}")
                continue
            (name, kind, size, sum_) = found[0]
            assert len(found) == 1, member.name
            assert name.rstrip(b"/").decode("utf-8", "surrogateescape") == member.name
            assert kind == kinds_of.get(member.type, kinds.FILE), member.name
            if kind == kinds.FILE:
                assert size == member.size, member.name
                content = python.extractfile(member)
                assert content is not None and sum_ == hashlib.md5(content.read()).hexdigest(), member.name
            equal += 1
    assert equal >= 30
    assert {line.partition(":")[0] for line in refused} == PYTHON_STRICTER, refused


def test_python_s_recursion_is_refused() -> None:
    """CVE-2019-20907: an extended record of length 0, which was read for ever."""
    found = [path.parent / "recursion.tar" for path in PYTHON if (path.parent / "recursion.tar").exists()]
    if not found:
        need.missing("CPython's tests are not installed (Debian: libpython3.11-testsuite, libpython3.13-testsuite)")
    with pytest.raises(RefusedError):
        read(found[-1].read_bytes())
