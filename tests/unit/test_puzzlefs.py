# SPDX-License-Identifier: LGPL-2.1-or-later
"""The PuzzleFS reader on images made byte by byte; the real puzzlefs is in tests/peers."""

import hashlib
import re
import sys
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lxc_oci.errors import OciError, RefusedError, UnsupportedError
from lxc_oci.image.digest import Digest
from lxc_oci.layer import puzzlefs
from lxc_oci.layer.entry import Data, Entry
from lxc_oci.limits import Limits
from tests.support.puzzlefs_image import (
    Image,
    Raw,
    S,
    device,
    directory,
    inode,
    list_word,
    message,
    reference,
    rootfs,
    seekable,
    words,
)

LIMITS = Limits()


def read(image: Image, root: S | bytes, limits: Limits = LIMITS, *, far: str = "") -> Iterator[tuple[Entry, bytes]]:
    raw = root if isinstance(root, bytes) else message(root, far=far)
    for entry, data in puzzlefs.entries(image.manifest(raw), image.open, limits, pytest.fail):
        yield entry, whole(data)


def whole(data: Data) -> bytes:
    return bytes(data) if isinstance(data, (bytes, memoryview)) else b"".join(iter(lambda: data.read(1000), b""))


def tree(image: Image, *deltas: list[S], limits: Limits = LIMITS) -> dict[bytes, tuple[Entry, bytes]]:
    return {entry.name: (entry, data) for entry, data in read(image, rootfs(list(deltas)), limits)}


def refused(image: Image, *deltas: list[S], match: str, limits: Limits = LIMITS) -> None:
    with pytest.raises(RefusedError, match=match) as caught:
        tree(image, *deltas, limits=limits)
    assert "\n" not in caught.value.message


def one_of_each(image: Image) -> list[S]:
    """A delta with every type of inode, and data in whole chunks, shared ones and pieces."""
    shared = image.chunk(b"hello" + b"world" * 1000, 5)
    packed = b"0123456789" * 2000
    return [
        inode(1, "directory", directory({b"etc": 2, b"dev": 3, b"run": 4, b"empty": 14}), mode=0o755),
        inode(2, "directory", directory({b"hello": 5, b"again": 5, b"link": 6, b"big": 7}), mode=0o1777, uid=8, gid=9),
        inode(3, "directory", directory({b"null": 8, b"loop0": 9}), mode=0o700),
        inode(4, "directory", directory({b"fifo": 10, b"socket": 11, b"a\xff\n": 12}), mode=0o755),
        inode(5, "file", [shared], mode=0o4755, uid=1000, gid=2**32 - 2, xattrs={b"user.a": b"b", b"user.e": b""}),
        inode(6, "symlink", mode=0o777, target=b"../etc/hello"),
        inode(
            7,
            "file",
            [
                image.chunk(packed, 15000, offset=5000, compressed=True),
                reference(b"\0" * 32, 0),  # nothing of a chunk that is not there
                image.chunk(packed, 10, compressed=True),
                image.chunk(b"end"),
            ],
        ),
        inode(8, "character", device(1, 3), mode=0o666),
        inode(9, "block", device(7, 0xFFFFF), mode=0o660, gid=6),
        inode(10, "fifo"),
        inode(11, "socket"),
        inode(12, "file", []),
        inode(14, "directory", directory({})),
    ]


@pytest.mark.parametrize("far", ["", "single", "double"])
def test_every_type_in_order(far: str) -> None:
    image = Image()
    found = list(read(image, rootfs([one_of_each(image)]), far=far))
    big = b"0123456789" * 1500 + b"0123456789" + b"end"
    attributes = ((b"user.a", b"b"), (b"user.e", b""))
    assert found == [
        (Entry(b".", "directory", 0o755), b""),
        (Entry(b"dev", "directory", 0o700), b""),
        (Entry(b"empty", "directory", 0o644), b""),
        (Entry(b"etc", "directory", 0o1777, 8, 9), b""),
        (Entry(b"run", "directory", 0o755), b""),
        (Entry(b"dev/loop0", "block", 0o660, gid=6, device=(7, 0xFFFFF)), b""),
        (Entry(b"dev/null", "character", 0o666, device=(1, 3)), b""),
        (Entry(b"etc/again", "file", 0o4755, 1000, 2**32 - 2, size=5, xattrs=attributes), b"hello"),
        (Entry(b"etc/big", "file", size=len(big)), big),
        (Entry(b"etc/hello", "hardlink", link=b"etc/again"), b""),
        (Entry(b"etc/link", "symlink", 0o777, link=b"../etc/hello"), b""),
        (Entry(b"run/a\xff\n", "file"), b""),
        (Entry(b"run/fifo", "fifo"), b""),
        (Entry(b"run/socket", "socket"), b""),
    ]


def test_large_data_may_be_left_unread_or_read_late() -> None:
    image = Image()
    content = [hashlib.shake_128(bytes([number])).digest(40_000) for number in range(3)]
    one, two, three = (image.chunk(part) for part in content)
    delta = [inode(1, "directory", directory({b"a": 2, b"b": 3})), inode(2, "file", [one, two])]
    delta.append(inode(3, "file", [two, three]))
    raw = message(rootfs([delta]))
    found = {entry.name: data for entry, data in puzzlefs.entries(image.manifest(raw), image.open, LIMITS, pytest.fail)}
    assert len(image.opened) == 1  # the metadata
    assert whole(found[b"b"]) == content[1] + content[2]
    assert len(image.opened) == 3


def test_a_chunk_is_read_once_for_all_files_in_it() -> None:
    image = Image()
    image.chunk(b"abc" * 100)
    names = {b"%03d" % number: number + 2 for number in range(100)}
    files = [inode(number + 2, "file", [image.chunk(b"abc" * 100, 3, offset=3 * number)]) for number in range(100)]
    found = tree(image, [inode(1, "directory", directory(names)), *files])
    assert {data for name, (_, data) in found.items() if name != b"."} == {b"abc"}
    assert len(image.opened) == 2


def test_the_cache_is_bounded_and_keeps_what_was_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puzzlefs, "CACHE_BYTES", 120)
    image = Image()
    order = [1, 2, 1, 3, 1, 2]
    pieces = [image.chunk(bytes([number]) * 60) for number in order]
    found = tree(image, file_of(pieces))
    assert found[b"f"][1] == b"".join(bytes([number]) * 60 for number in order)
    opened = [image.blobs[digest][0] for digest in image.opened[1:]]
    assert opened == [1, 2, 3, 2]


# Deltas


def test_upper_inodes_hide_lower_ones() -> None:
    image = Image()
    lower = [
        inode(1, "directory", directory({b"kept": 2, b"changed": 3, b"gone": 4, b"became": 5})),
        inode(2, "file", [image.chunk(b"kept")]),
        inode(3, "file", [image.chunk(b"old")], mode=0o600),
        inode(4, "file", [image.chunk(b"gone")]),
        inode(5, "directory", directory({b"child": 6})),
        inode(6, "file", []),
    ]
    upper = [
        inode(1, "directory", directory({b"kept": 2, b"changed": 3, b"gone": 4, b"became": 5, b"new": 7}), uid=5),
        inode(3, "file", [image.chunk(b"new")], mode=0o640),
        inode(4, "whiteout"),
        inode(5, "symlink", target=b"kept"),
        inode(7, "file", [image.chunk(b"7")]),
    ]
    found = tree(image, upper, lower)
    assert {name: data for name, (_, data) in found.items()} == {
        b".": b"",
        b"became": b"",
        b"changed": b"new",
        b"kept": b"kept",
        b"new": b"7",
    }
    assert found[b"."][0].uid == 5
    assert found[b"changed"][0].mode == 0o640
    assert found[b"became"][0].type == "symlink"


def test_a_complete_directory_hides_the_one_below_and_look_below_joins_them() -> None:
    image = Image()
    lowest = [inode(1, "directory", directory({b"a": 2, b"b": 3, b"c": 4})), *(inode(n, "fifo") for n in (2, 3, 4))]
    middle = [inode(1, "directory", directory({b"a": 5, b"d": 6}, look_below=True)), inode(5, "file"), inode(6, "fifo")]
    upper = [inode(1, "directory", directory({b"b": 7, b"e": 8}, look_below=True)), inode(7, "whiteout")]
    upper.append(inode(8, "fifo"))
    found = tree(image, upper, middle, lowest)
    assert {name: entry.type for name, (entry, _) in found.items()} == {
        b".": "directory",
        b"a": "file",
        b"c": "fifo",
        b"d": "fifo",
        b"e": "fifo",
    }
    assert set(tree(image, upper)) == {b".", b"e"}  # nothing is below
    complete = [inode(1, "directory", directory({b"e": 8})), inode(8, "fifo")]
    assert set(tree(image, complete, middle, lowest)) == {b".", b"e"}


def test_look_below_ends_at_what_is_no_directory() -> None:
    image = Image()
    lowest = [inode(2, "directory", directory({b"x": 3})), inode(3, "fifo")]
    middle = [inode(2, "file")]
    upper = [inode(1, "directory", directory({b"d": 2})), inode(2, "directory", directory({}, look_below=True))]
    assert set(tree(image, upper, middle, lowest)) == {b".", b"d"}


def test_a_whiteout_written_twice_is_one() -> None:
    image = Image()
    upper = [inode(1, "directory", directory({b"a": 2, b"b": 2})), inode(2, "whiteout"), inode(2, "whiteout")]
    assert set(tree(image, upper, [inode(2, "fifo")])) == {b"."}


# What is refused


@pytest.mark.parametrize("first", ["whiteout", "file"])
def test_an_inode_described_twice_is_refused(first: str) -> None:
    image = Image()
    refused(
        image,
        [inode(1, "directory", directory({b"a": 2, b"b": 2})), inode(2, first), inode(2, "file")],
        match="describes inode 2 twice in one delta",
    )


def test_unsorted_inodes_are_refused() -> None:
    refused(Image(), [inode(2, "fifo"), inode(1, "directory", directory({}))], match="not sorted")


@pytest.mark.parametrize("deltas", [[], [[]], [[inode(2, "fifo")]], [[inode(1, "file")]], [[inode(1, "whiteout")]]])
def test_a_root_that_is_no_directory_is_refused(deltas: list[list[S]]) -> None:
    refused(Image(), *deltas, match="root .* is not a directory")


@pytest.mark.parametrize("name", [b"", b".", b"..", b"/", b"a/b", b"../x", b"a\0b", b"n" * 256])
def test_impossible_names_are_refused(name: bytes) -> None:
    refused(Image(), [inode(1, "directory", directory({name: 2})), inode(2, "fifo")], match="impossible name")


def test_two_entries_of_one_name_are_refused() -> None:
    both = directory([(b"a", 2), (b"a", 3)])
    refused(Image(), [inode(1, "directory", both), inode(2, "fifo"), inode(3, "file")], match="two entries named b'a'")


def test_a_missing_inode_is_refused() -> None:
    refused(Image(), [inode(1, "directory", directory({b"a": 2**64 - 1}))], match="inode 18446744073709551615, which")


@pytest.mark.parametrize("kind", [0, 9, 65535])
def test_unknown_types_are_refused(kind: int) -> None:
    refused(Image(), [inode(1, "directory", directory({b"a": 2})), inode(2, kind)], match="unknown type")


@pytest.mark.parametrize("names", [{b"loop": 1}, {b"a": 2, b"b": 2}])
def test_a_directory_with_two_names_is_refused(names: dict[bytes, int]) -> None:
    delta = [inode(1, "directory", directory(names)), inode(2, "directory", directory({}))]
    refused(Image(), delta, match="the same directory as")


@pytest.mark.parametrize(("uid", "gid"), [(2**32 - 1, 0), (0, 2**32 - 1)])
def test_the_owner_that_means_none_is_refused(uid: int, gid: int) -> None:
    refused(Image(), [inode(1, "directory", directory({}), uid=uid, gid=gid)], match="impossible owner")


@pytest.mark.parametrize("target", [None, b"", b"a\0b", b"t" * 4096])
def test_impossible_link_targets_are_refused(target: bytes | None) -> None:
    delta = [inode(1, "directory", directory({b"l": 2})), inode(2, "symlink", target=target)]
    refused(Image(), delta, match="without a possible target")


@pytest.mark.parametrize(("major", "minor"), [(4096, 0), (0, 2**20), (2**64 - 1, 2**64 - 1)])
def test_impossible_device_numbers_are_refused(major: int, minor: int) -> None:
    delta = [inode(1, "directory", directory({b"d": 2})), inode(2, "character", device(major, minor))]
    refused(Image(), delta, match="impossible number")


@pytest.mark.parametrize(
    ("xattrs", "match"),
    [
        ([(b"", b"")], "impossible"),
        ([(b"user.a\0b", b"")], "impossible"),
        ([(b"user." + b"a" * 251, b"")], "impossible"),
        ([(b"user.a", b"v" * 65537)], "impossible"),
        ([(b"user.a", b""), (b"user.a", b"")], "twice"),
        ([(b"user.%d" % number, b"v" * 65536) for number in range(17)], "more than 1048576 bytes"),
    ],
)
def test_impossible_extended_attributes_are_refused(xattrs: list[tuple[bytes, bytes]], match: str) -> None:
    refused(Image(), [inode(1, "directory", directory({}), xattrs=xattrs)], match=match)


def file_of(chunks: list[S]) -> list[S]:
    return [inode(1, "directory", directory({b"f": 2})), inode(2, "file", chunks)]


def test_a_chunk_with_another_digest_is_refused() -> None:
    image = Image()
    delta = file_of([image.chunk(b"right")])
    image.blobs[next(iter(image.blobs))] = b"wrong"
    with pytest.raises(RefusedError, match="a PuzzleFS chunk has digest sha256:"):
        list(read(image, rootfs([delta])))


def test_metadata_with_another_digest_are_refused() -> None:
    image = Image()
    manifest = image.manifest(message(rootfs([file_of([])])))
    image.blobs[manifest.layers[0].digest] += b"\0"
    with pytest.raises(RefusedError, match="the PuzzleFS metadata has digest sha256:"):
        puzzlefs.entries(manifest, image.open, LIMITS, pytest.fail)


def test_a_chunk_that_is_no_layer_of_the_manifest_is_not_opened() -> None:
    image = Image()
    secret = hashlib.sha256(b"another image's").digest()
    refused(image, file_of([reference(secret, 5)]), match="is not a layer of its manifest")
    assert len(image.opened) == 1


@pytest.mark.parametrize("sha256", [b"", b"\0" * 31, b"\0" * 33])
def test_a_chunk_without_a_digest_is_refused(sha256: bytes) -> None:
    refused(Image(), file_of([reference(sha256, 5)]), match="without a sha256 digest")
    refused(Image(), file_of([S(words(5), [None])]), match="without a sha256 digest")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("length", "offset"), [(6, 0), (1, 5), (5, 1), (1, 2**64 - 1)])
def test_pieces_beyond_their_chunk_are_refused(length: int, offset: int, compressed: bool) -> None:
    image = Image()
    refused(image, file_of([image.chunk(b"12345", length, offset=offset, compressed=compressed)]), match="of 5 bytes")


def test_a_length_of_2_to_the_60_is_refused() -> None:
    image = Image()
    refused(image, file_of([image.chunk(b"12345", 2**60)]), match="larger than the limit")


@pytest.mark.parametrize("cut", [1, 30, 60, 500, -1])
def test_truncated_zstd_is_refused(cut: int) -> None:
    image = Image()
    content = hashlib.shake_128(b"seed").digest(9000)
    blob = seekable(content)[:-cut] if cut > 0 else b""
    digest = Digest("sha256:" + hashlib.sha256(blob).hexdigest())
    image.blobs[digest] = blob
    delta = file_of([reference(digest, len(content), 0, True)])
    if 0 < cut <= 30:  # only the seek table, which nothing here needs
        assert tree(image, delta)[b"f"][1] == content
    else:
        refused(image, delta, match="needs bytes 0 to 9000 of chunk")


def test_what_is_no_zstd_is_refused() -> None:
    image = Image()
    image.chunk(b"no zstd at all")
    digest = next(iter(image.blobs))
    refused(image, file_of([reference(digest, 5, 0, True)]), match="damaged chunk")


def test_zstd_with_a_large_window_is_refused() -> None:
    image = Image()
    parameters = zstandard.ZstdCompressionParameters(window_log=21)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    blob = stream.compress(b"x" * 100) + stream.flush()
    digest = Digest("sha256:" + hashlib.sha256(blob).hexdigest())
    image.blobs[digest] = blob
    delta = file_of([reference(digest, 100, 0, True)])
    assert tree(image, delta, limits=Limits(zstd_window_log=21))[b"f"][1] == b"x" * 100
    refused(image, delta, match="damaged chunk .*memory", limits=Limits(zstd_window_log=20))


def test_a_large_chunk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puzzlefs, "CHUNK_BYTES", 1000)
    image = Image()
    assert tree(image, file_of([image.chunk(bytes(1000), compressed=True)]))[b"f"][1] == bytes(1000)
    refused(image, file_of([image.chunk(bytes(1001), 1, compressed=True)]), match="larger than 1000 bytes")
    refused(image, file_of([image.chunk(bytes(1001), 1)]), match="larger than the limit of 1000 bytes")


def test_without_a_zstd_decoder_only_plain_chunks_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image()
    plain, compressed = file_of([image.chunk(b"plain")]), file_of([image.chunk(b"zstd", compressed=True)])
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    assert tree(image, plain)[b"f"][1] == b"plain"
    with pytest.raises(UnsupportedError) as caught:
        tree(image, compressed)
    assert "python3-zstandard" in caught.value.hint


@pytest.mark.parametrize("version", [0, 1, 2, 4, 2**64 - 1])
def test_other_versions_are_unsupported(version: int) -> None:
    with pytest.raises(UnsupportedError, match=f"has version {version} of the PuzzleFS format"):
        list(read(Image(), rootfs([], version=version)))


@pytest.mark.parametrize("media_type", ["application/vnd.puzzlefs.image.rootfs.v2", "text/plain"])
def test_other_media_types_are_unsupported(media_type: str) -> None:
    image = Image()
    manifest = image.manifest(message(rootfs([])), media_type=media_type)
    with pytest.raises(UnsupportedError, match=re.escape(media_type)):
        puzzlefs.entries(manifest, image.open, LIMITS, pytest.fail)
    with pytest.raises(UnsupportedError, match="there is no layer"):
        puzzlefs.entries(manifest._replace(layers=()), image.open, LIMITS, pytest.fail)


# Limits


def nest(depth: int, name: bytes = b"d") -> list[S]:
    return [inode(number, "directory", directory({name: number + 1})) for number in range(1, depth + 1)] + [
        inode(depth + 1, "directory", directory({}))
    ]


def test_limits_are_kept() -> None:
    image = Image()
    many = [inode(1, "directory", directory({b"%d" % number: 2 for number in range(10)})), inode(2, "fifo")]
    assert len(tree(image, many, limits=Limits(entries=11))) == 11
    refused(image, many, match="more entries than the limit of 10", limits=Limits(entries=10))
    refused(image, nest(2), match="has 3 inodes, more than the limit of 2", limits=Limits(entries=2))
    refused(image, *[nest(1)] * 3, match="has 3 deltas, more than the limit of 2", limits=Limits(layers=2))
    assert len(tree(image, nest(5), limits=Limits(path_depth=5))) == 6
    refused(image, nest(6), match="is deeper than the limits", limits=Limits(path_depth=5))
    refused(image, nest(20, b"n" * 255), match="is deeper than the limits")
    refused(image, nest(1), match="metadata is larger than the limit of 100", limits=Limits(puzzlefs_bytes=100))


def test_sizes_are_limited_before_data_is_read() -> None:
    image = Image()
    piece = image.chunk(b"12345")
    assert tree(image, file_of([piece] * 2), limits=Limits(layer_bytes=10))[b"f"][1] == b"12345" * 2
    refused(image, file_of([piece] * 3), match="larger than the limit of 10 bytes", limits=Limits(layer_bytes=10))
    assert len(image.opened) == 3


def test_one_chunk_again_and_again_is_refused() -> None:
    image = Image()
    delta = file_of([image.chunk(bytes(100))] * 50)
    assert len(tree(image, delta, limits=Limits(ratio_floor_bytes=1, layer_ratio=50))[b"f"][1]) == 5000
    refused(image, delta, match="more than 49 times", limits=Limits(ratio_floor_bytes=1, layer_ratio=49))


def test_decoding_much_for_little_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puzzlefs, "CACHE_BYTES", 0)
    image = Image()
    delta = file_of([image.chunk(bytes(100), 1)] * 20)
    refused(image, delta, match="more than 1000 bytes of chunks", limits=Limits(layer_bytes=1000))


def test_a_loop_of_pointers_ends() -> None:
    """Every list of the metadata is the list of deltas itself."""
    raw = message(S(words(3), [Raw(list_word(-2, 7, 1)), None]))
    with pytest.raises(OciError):
        list(read(Image(), raw))
    refused(Image(), [S(words(1), [Raw(list_word(-1, 7, 2**29 - 1))])], match="root|damaged")


@settings(max_examples=150, deadline=None, database=None)
@given(
    st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 255)), min_size=1, max_size=8),
    st.sampled_from(["", "single", "double"]),
)
def test_damaged_metadata_never_escape(changes: list[tuple[int, int]], far: str) -> None:
    image = Image()
    raw = bytearray(message(rootfs([one_of_each(image), nest(3)]), far=far))
    for place, value in changes:
        raw[place % len(raw)] = value
    try:
        for entry, data in read(image, bytes(raw)):
            assert len(data) == entry.size
            assert b".." not in entry.name.split(b"/")
    except OciError as error:
        assert "\n" not in error.message


@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_damaged_chunks_never_escape(place: int, value: int) -> None:
    image = Image()
    blob = bytearray(seekable(b"0123456789" * 1000))
    blob[place % len(blob)] = value
    digest = Digest("sha256:" + hashlib.sha256(blob).hexdigest())
    image.blobs[digest] = bytes(blob)
    try:
        assert len(tree(image, file_of([reference(digest, 10_000, 0, True)]))[b"f"][1]) == 10_000
    except RefusedError as error:
        assert "\n" not in error.message
