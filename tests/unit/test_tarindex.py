# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.source.tarindex"""

import tarfile

import pytest

from lxc_oci.errors import RefusedError
from lxc_oci.limits import Limits
from lxc_oci.source import tarindex
from tests.support import image


def index(content: bytes, limits: Limits | None = None) -> dict[str, tarindex.Member]:
    return tarindex.read_index(lambda size, at: content[at : at + size], len(content), "it", limits or Limits())


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_index_of_what_tar_programs_write(form: int) -> None:
    long = "/".join(["directory" * 8] * (2 if form == tarfile.USTAR_FORMAT else 40)) + "/file"
    content = image.tar(
        image.directory("./d"),
        image.file("./d/a", b"A" * 1000),
        image.file("/abs", b"B"),
        image.file("d/../../up", b"C"),
        image.file(long, b"D"),
        image.symlink("d/link", "../abs"),
        image.hardlink("d/hard", "d/a"),
        image.fifo("fifo"),
        image.character("null", 1, 3),
        image.file("empty"),
        form=form,
    )
    found = index(content)
    assert sorted(found) == sorted(["d/a", "abs", "up", long, "d/link", "d/hard", "empty"])
    for name, expected in (
        ("d/a", b"A" * 1000),
        ("abs", b"B"),
        ("up", b"C"),
        (long, b"D"),
        ("d/link", b"B"),
        ("empty", b""),
    ):
        member = tarindex.resolve(found, name)
        assert member is not None
        assert content[member.offset : member.offset + member.size] == expected
    assert tarindex.resolve(found, "d/hard") == found["d/a"]


def test_links_that_lead_nowhere() -> None:
    found = index(image.tar(image.symlink("a", "b"), image.symlink("b", "a"), image.symlink("c", "../../etc/passwd")))
    assert [tarindex.resolve(found, name) for name in ("a", "c", "nope")] == [None, None, None]


def test_the_first_of_a_name_counts_but_two_manifests_are_refused() -> None:
    content = image.tar(image.file("a", "1"), image.file("a", "22"))
    assert index(content)["a"].size == 1
    for name in ("manifest.json", "./index.json", "/oci-layout"):
        with pytest.raises(RefusedError, match="twice"):
            index(image.tar(image.file(name, "1"), image.file(name, "1")))


def test_the_size_in_a_pax_header_wins() -> None:
    inner = image.tar(image.file("manifest.json", "[]"))
    pax = image.pax_block(image.pax_record(b"size", b"%d" % len(inner)))
    found = index(pax + image.raw_header(b"outer", size=0) + image.padded(inner) + image.END)
    assert {name: member.size for name, member in found.items()} == {"outer": len(inner)}


def test_a_global_header_names_nothing() -> None:
    records = image.pax_record(b"path", b"evil") + image.pax_record(b"size", b"99999")
    found = index(image.pax_block(records, b"g") + image.tar(image.file("a", "1")))
    assert {name: member.size for name, member in found.items()} == {"a": 1}


_FILE = image.raw_header(b"a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x" * 511, "truncated"),
        (b"x" * 512, "checksum|number"),
        (image.raw_header(b"a", checksum=b"000000\0 "), "checksum"),
        (image.raw_header(b"a", size=10), "truncated"),
        (image.raw_header(b"a", size=b"\x80" + b"\xff" * 11), "truncated"),
        (image.raw_header(b"a", size=b"\xff" * 12), "negative"),
        (image.raw_header(b"a", size=b"00000000009\0"), "damaged number"),
        (image.raw_header(b"a", size=b"-0000000001\0"), "damaged number"),
        (image.raw_header(b"a", size=b"0x\0"), "damaged number"),
        (image.raw_header(b"a", typeflag=b"2", size=512, linkname=b"b") + b"\0" * 512, "data behind a header"),
        (image.raw_header(b"a", typeflag=b"5", size=512) + b"\0" * 512, "data behind a header"),
        (image.raw_header(b"a", typeflag=b"S"), "sparse"),
        (image.pax_block(image.pax_record(b"GNU.sparse.major", b"1")) + _FILE, "sparse"),
        (image.pax_block(b"9 path=a"), "damaged extended"),
        (image.pax_block(b"9 path=ab\n") + _FILE, "damaged extended"),
        (image.pax_block(b"0 path=a\n") + _FILE, "damaged extended"),
        (image.pax_block(b"path=a\n") + _FILE, "damaged extended"),
        (image.pax_block(b"6 path\n") + _FILE, "damaged extended"),
        (image.pax_block(b"99 path=a\n") + _FILE, "damaged extended"),
        (image.pax_block(b"9" * 30 + b" path=a\n") + _FILE, "damaged extended"),
        (image.pax_block(image.pax_record(b"size", b"-1")) + _FILE, "damaged extended"),
        (image.pax_block(image.pax_record(b"size", b"1" * 30)) + _FILE, "damaged extended"),
        (image.pax_block(image.pax_record(b"path", b"a\0b")) + _FILE, "impossible name"),
        (image.pax_block(image.pax_record(b"path", b"a" * 5000)) + _FILE, "impossible name"),
        (image.pax_block(image.pax_record(b"path", b"a")), "ends after an extended header"),
        (image.raw_header(b"x", typeflag=b"L", size=1 << 30), "extended header of 1073741824 bytes"),
        (image.raw_header(b"x", typeflag=b"L", size=100), "truncated"),
        (image.tar(*(image.file(str(number)) for number in range(11))), "more members than the limit of 10"),
    ],
)
def test_a_damaged_tar(content: bytes, message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        index(content, Limits(archive_members=10))


def test_an_empty_pax_header_is_none() -> None:
    assert list(index(image.pax_block(b"") + _FILE + image.END)) == ["a"]
