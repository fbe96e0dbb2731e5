# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our list of an archive's members against those of GNU tar, bsdtar and Python's tarfile: agree, or refuse.

What two readers take for different archives lets one of them scan what the other does not unpack (U31, U33,
CVE-2025-62518).  We may refuse what another reads.  Where all agree that an archive is right but one reads it in
another way than we do, the archive is a finding.
"""

import io
import re
import subprocess
import tarfile
from collections.abc import Callable

import pytest

from lxc_oci.errors import OciError
from lxc_oci.layer import entry as kinds
from tests.hostile.fuzz.test_short import fixed
from tests.support import need
from tests.support.image import padded, pax_block, pax_record, raw_header
from tests.support.tarmaker import archive, base256, gnu_long
from tests.support.tarmaker import read as read_ours

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

EXAMPLES = 120
GNU = b"ustar  \0"
KINDS = {
    kinds.FILE: "-",
    kinds.DIRECTORY: "d",
    kinds.SYMLINK: "l",
    kinds.HARDLINK: "h",
    kinds.CHARACTER: "c",
    kinds.BLOCK: "b",
    kinds.FIFO: "p",
}
Member = tuple[str, str, int]

names = st.sampled_from(
    [b"a", b"b/", b"d/f", b"./x", b"n" * 100, b"p" * 99, b"long/" * 30 + b"x", b"e e", b"-f", b"@x", b"..d"]
)
sizes = st.sampled_from([0, 1, 511, 512, 513, 1024])
magics = st.sampled_from([b"ustar\x0000", GNU, b"\0" * 8, b"ustar\0  "])
types = st.sampled_from([b"0", b"0", b"0", b"\0", b"1", b"2", b"5", b"7"])


@st.composite
def members(draw: Callable[..., object]) -> bytes:
    """One member, its headers right in themselves but not always with each other."""
    flag: bytes = draw(types)  # type: ignore[assignment]
    name: bytes = draw(names)  # type: ignore[assignment]
    size: int = draw(sizes) if flag in b"07\0" else 0  # type: ignore[assignment]
    # What looks like a header where a reader that lost its place would look for one.
    inner = raw_header(b"smuggled", size=0)
    data = (inner * 3)[:size]
    parts = []
    extension = draw(st.sampled_from(["", "", "path", "size", "size", "gnu", "link", "comment", "global", "empty"]))
    stated: int | bytes = size
    if extension == "path":
        parts.append(pax_block(pax_record(b"path", b"pax/" + name[:50])))
    elif extension == "size" and flag in b"07":
        parts.append(pax_block(pax_record(b"size", b"%d" % size)))
        stated = draw(st.sampled_from([0, size, 512, 1024]))  # type: ignore[assignment]
    elif extension == "gnu":
        parts.append(gnu_long(b"gnu/" + name * 2))
    elif extension == "link" and flag in b"12":
        parts.append(pax_block(pax_record(b"linkpath", b"to/" + b"l" * 120)))
    elif extension == "comment":
        parts.append(pax_block(pax_record(b"comment", b"path=evil\n20 path=evil")))
    elif extension == "global":
        parts.append(pax_block(pax_record(b"comment", b"c"), b"g"))
    elif extension == "empty":
        parts.append(pax_block(b""))
    if isinstance(stated, int):
        form = draw(st.sampled_from([b"%011o\0", b"%011o ", b"%12o", b"base256"]))
        stated = base256(stated, 12) if form == b"base256" else form % stated  # type: ignore[operator]
    magic: bytes = draw(magics)  # type: ignore[assignment]
    # Elsewhere readers differ in whether there is a prefix at all: see the test below.
    prefix: bytes = draw(st.sampled_from([b"", b"pre/fix"])) if magic == b"ustar\x0000" else b""  # type: ignore[assignment]
    fields = {"linkname": b"target" if flag in b"12" else b"", "magic": magic, "prefix": prefix}
    parts.append(raw_header(name[:100], typeflag=flag, size=stated, **fields))  # type: ignore[arg-type]
    return b"".join(parts) + padded(data)


def ours(content: bytes) -> list[Member] | None:
    try:
        found = read_ours(content, warn=lambda message: None)
    except OciError:
        return None
    return [(shown(item.name), KINDS[item.type], item.size) for item, _ in found]


def shown(name: bytes) -> str:
    return name.decode().rstrip("/")


def python(content: bytes) -> list[Member] | None:
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:", encoding="utf-8") as found:
            return [(member.name.rstrip("/"), _python_kind(member), member.size) for member in found]
    except (tarfile.TarError, ValueError, OSError):
        return None


def _python_kind(member: tarfile.TarInfo) -> str:
    if member.isreg():
        return "-"
    letters = {tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l", tarfile.LNKTYPE: "h", tarfile.CHRTYPE: "c",
               tarfile.BLKTYPE: "b", tarfile.FIFOTYPE: "p"}  # fmt: skip
    return letters.get(member.type, "-")


_LINE = re.compile(
    r"(.)\S{9,10}\s+(?:\d+\s+)?\S+\s+(?:\S+\s+)?(\d+|\d+,\d+)\s+"
    r"(?:\d{4}-\d\d-\d\d \d\d:\d\d|\w{3} +\d+ +[\d:]+)\s(.*)\Z"
)


def listed(argv: list[str], content: bytes) -> list[Member] | None:
    done = subprocess.run(argv, input=content, capture_output=True, check=False)
    if done.returncode or done.stderr:
        return None
    found = []
    for line in done.stdout.decode().splitlines():
        match = _LINE.match(line)
        assert match, line
        name = re.split(r" -> | link to ", match[3])[0]
        kind = "h" if " link to " in match[3] else match[1].replace("C", "-")  # GNU's "contiguous" file
        found.append((name.rstrip("/"), kind, int(match[2].partition(",")[0])))
    return found


def comparable(members: list[Member]) -> list[Member]:
    """Sizes count for files only: what a link has there says nothing."""
    return [(name, kind, size if kind == "-" else 0) for name, kind, size in members]


def compare(content: bytes, gnu: str, bsd: str, damaged: bool = False) -> bool:
    """Fail when a reader that is content with the archive sees other members than we; tell whether we read it."""
    found = ours(content)
    if found is None:
        return False
    others = {
        "tarfile": python(content),
        "GNU tar": listed([gnu, "--utc", "--numeric-owner", "-tvf", "-"], content),
        "bsdtar": listed([bsd, "--numeric-owner", "-tvf", "-"], content),
    }
    for reader, seen in others.items():
        if seen is not None:
            # tarfile ends without an error at a header that it cannot read.
            wanted = found[: len(seen)] if reader == "tarfile" and damaged else found
            assert comparable(seen) == comparable(wanted), reader
    return True


def test_u31_all_readers_see_the_same_members(tried: Callable[[int], None]) -> None:
    gnu, bsd = need.program("tar"), need.program("bsdtar", "libarchive-tools")
    read = []

    @settings(max_examples=EXAMPLES, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck))
    @given(st.lists(members(), min_size=1, max_size=4))
    def attempt(parts: list[bytes]) -> None:
        read.append(compare(archive(*parts), gnu, bsd))

    attempt()
    assert sum(read) > EXAMPLES // 5, "nearly all were refused"
    tried(EXAMPLES)


letters = st.one_of(st.sampled_from(list(b"\0 /.0179axgLK5-")), st.integers(32, 126))
places = st.tuples(st.integers(0, 9), st.integers(0, 511), letters)


def test_u31_no_reader_sees_other_members_in_a_damaged_archive(tried: Callable[[int], None]) -> None:
    """Single bytes of headers changed, their checksums made right again."""
    gnu, bsd = need.program("tar"), need.program("bsdtar", "libarchive-tools")
    read = []

    @settings(max_examples=EXAMPLES, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck))
    @given(st.lists(members(), min_size=1, max_size=3), st.lists(places, min_size=1, max_size=2))
    def attempt(parts: list[bytes], changes: list[tuple[int, int, int]]) -> None:
        content = bytearray(archive(*parts))
        for block, offset, letter in changes:
            if not 148 <= offset < 156:  # the checksum
                content[(block * 512 + offset) % (len(content) - 1024)] = letter
        read.append(compare(fixed(bytes(content)), gnu, bsd, damaged=True))

    attempt()
    assert sum(read) > EXAMPLES // 10, "nearly all were refused"
    tried(EXAMPLES)


def test_u31_a_reader_that_loses_its_place_is_told() -> None:
    """The comparison itself: an archive that is smuggled into a file is seen when only one header is believed."""
    gnu, bsd = need.program("tar"), need.program("bsdtar", "libarchive-tools")
    inner = raw_header(b"smuggled", size=0)
    whole = archive(pax_block(pax_record(b"size", b"512")), raw_header(b"f", size=0), inner)
    assert ours(whole) == [("f", "-", 512)]
    assert compare(whole, gnu, bsd)
    for reader in (python, lambda content: listed([gnu, "--utc", "-tvf", "-"], content)):
        wrong = reader(archive(raw_header(b"f", size=0), inner))
        assert wrong is not None and [name for name, _, _ in wrong] == ["f", "smuggled"]


def test_u31_a_prefix_that_is_none_is_taken_as_by_go() -> None:
    """Where GNU's format has times Go before 1.8 wrote a prefix, and its reader takes it: images are Go's to define.

    GNU tar and bsdtar do not.  In V7's format, where only tarfile takes one, there is none.
    """
    assert ours(archive(raw_header(b"f", magic=GNU, prefix=b"pre/fix"))) == [("pre/fix/f", "-", 0)]
    assert ours(archive(raw_header(b"f", magic=bytes(8), prefix=b"pre/fix"))) == [("f", "-", 0)]
    assert ours(archive(raw_header(b"f", magic=GNU, prefix=b"12345670123\x0012345670123"))) == [("f", "-", 0)]
