# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Cap'n Proto reader: what honest writers write is read, and nothing else gets past a bound."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxc_oci.errors import RefusedError
from lxc_oci.layer import capnp
from tests.support import puzzlefs_image as make
from tests.support.puzzlefs_image import Raw, S

# One of everything, as PuzzleFS nests it.
SAMPLE = S(
    struct.pack("<QIHxxQ", 2**64 - 1, 2**32 - 1, 2**16 - 1, 5),
    [
        S(make.words(7), [b"deep"]),
        [S(make.words(number), [b"x" * number]) for number in range(3)],
        b"nine byte",
        None,
        [],
        b"",
    ],
)


def read(raw: bytes) -> capnp.Struct:
    return capnp.Message(raw, "the message").root()


@pytest.mark.parametrize("far", ["", "single", "double"])
def test_reads_what_was_written(far: str) -> None:
    root = read(make.message(SAMPLE, far=far))
    assert (root.u64(0), root.u32(8), root.u16(12), root.u64(16)) == (2**64 - 1, 2**32 - 1, 2**16 - 1, 5)
    assert [root.flag(bit) for bit in (128, 129, 130, 131)] == [True, False, True, False]
    inner = root.struct(0)
    assert inner is not None
    assert inner.u64(0) == 7
    assert inner.data(0) == b"deep"
    assert [(item.u64(0), item.data(0)) for item in root.structs(1)] == [(0, b""), (1, b"x"), (2, b"xx")]
    assert root.data(2) == b"nine byte"
    assert root.struct(3) is None
    assert len(root.structs(4)) == 0
    assert root.data(5) == b""


def test_fields_of_newer_writers_default_to_zero_and_null() -> None:
    root = read(make.message(S(make.words(1), [])))
    assert (root.u64(8), root.u32(6), root.u16(8), root.flag(64)) == (0, 0, 0, False)
    assert (root.struct(0), len(root.structs(3)), root.data(1)) == (None, 0, b"")


def test_512_segments_are_read() -> None:
    read(make.table(make.words(make.struct_word(-1, 0, 0)), *[b""] * 511))


def test_null_data_and_lists_are_empty() -> None:
    root = read(make.message(S(b"", [None])))
    assert root.data(0) == b""
    assert len(root.structs(0)) == 0
    with pytest.raises(IndexError):
        root.structs(0)[0]


def test_far_pointer_to_a_null_landing_pad_is_null() -> None:
    root = read(make.table(make.words(make.struct_word(0, 0, 1), make.far_word(1, 0)), make.words(0)))
    assert root.struct(0) is None


def words(*values: int) -> bytes:
    return make.table(make.words(*values))


# Each is a whole message; what is asked of it is the same for all: the root's first pointer, as anything.
DAMAGED = {
    "empty": b"",
    "shorter than a table": b"\0" * 7,
    "a table that is cut off": struct.pack("<IIII", 9, 1, 1, 1),
    "2^32 segments": struct.pack("<II", 2**32 - 1, 0),
    "513 segments": make.table(make.words(make.struct_word(-1, 0, 0)), *[b""] * 512),
    "a segment that is cut off": struct.pack("<II", 0, 2) + bytes(8),
    "a segment of 2^32 words": struct.pack("<II", 0, 2**32 - 1) + bytes(64),
    "no words at all": make.table(b""),
    "a null root": words(0),
    "a list as the root": words(make.list_word(0, 2, 0)),
    "a capability as the root": words(3),
    "a root outside the segment": words(make.struct_word(0, 1, 0)),
    "a root before the segment": words(make.struct_word(-2, 1, 0)),
    "a root 2^29 words back": words(make.struct_word(-(2**29), 0, 1)),
    "pointers outside the segment": words(make.struct_word(0, 1, 2), 0),
    "a far pointer to segment 2^32": words(make.far_word(2**32 - 1, 0)),
    "a far pointer outside its segment": words(make.far_word(0, 2**29 - 1)),
    "a far pointer to itself": words(make.far_word(0, 0)),
    "a far pointer to a far pointer": make.table(make.words(make.far_word(1, 0)), make.words(make.far_word(0, 0))),
    "a double far pointer to itself": words(make.far_word(0, 0, double=True), 0),
    "a double far pointer to a struct pointer": words(make.far_word(0, 1, double=True), make.struct_word(0, 0, 0), 0),
    "a double far pointer without a tag": words(make.far_word(0, 1, double=True), make.far_word(0, 0)),
    "a double far pointer to a far tag": words(
        make.far_word(0, 1, double=True), make.far_word(0, 0), make.far_word(0, 0)
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_messages_are_refused(name: str) -> None:
    with pytest.raises(RefusedError, match=r"\Athe message is damaged: .+\Z"):
        read(DAMAGED[name])


@pytest.mark.parametrize(
    "word",
    [
        make.list_word(0, 2, 2**29 - 1),  # bytes
        make.list_word(0, 7, 2**29 - 1),  # structs, in words
        make.list_word(-3, 2, 8),
        make.list_word(-(2**29), 2, 8),
        make.list_word(2**29 - 1, 7, 1),
        make.list_word(0, 7, 0),  # without room for its tag
        make.struct_word(0, 2**16 - 1, 2**16 - 1),
        make.struct_word(1, 1, 1),
        3,
    ],
)
def test_pointers_outside_the_message_are_refused(word: int) -> None:
    raw = make.message(S(b"", [Raw(word)]))
    for follow in (capnp.Struct.struct, capnp.Struct.structs, capnp.Struct.data):
        with pytest.raises(RefusedError):
            follow(read(raw), 0)


@pytest.mark.parametrize(
    "tag",
    [
        make.struct_word(2**30 - 1, 2**16 - 1, 2**16 - 1),  # 2^60 bytes and more
        make.struct_word(2, 1, 1),
        make.list_word(1, 0, 0),
        make.far_word(0, 1),
    ],
)
def test_lists_longer_than_their_data_are_refused(tag: int) -> None:
    raw = words(make.struct_word(0, 0, 1), make.list_word(0, 7, 2), tag, 0, 0)
    with pytest.raises(RefusedError, match="longer than its data"):
        read(raw).structs(0)


def test_a_billion_elements_without_size_are_refused() -> None:
    raw = words(make.struct_word(0, 0, 1), make.list_word(0, 7, 0), make.struct_word(2**30 - 1, 0, 0))
    with pytest.raises(RefusedError, match="again and again"):
        read(raw).structs(0)


@pytest.mark.parametrize("follow", ["struct", "structs"])
def test_a_pointer_loop_ends(follow: str) -> None:
    if follow == "struct":
        here = read(words(make.struct_word(0, 0, 1), make.struct_word(-1, 0, 1)))
    else:  # a list whose one element points at that list
        here = read(
            words(
                make.struct_word(0, 0, 1), make.list_word(0, 7, 1), make.struct_word(1, 0, 1), make.list_word(-2, 7, 1)
            )
        )
    with pytest.raises(RefusedError, match=r"nested|again and again"):
        for _ in range(10_000):
            found = here.struct(0) if follow == "struct" else here.structs(0)[0]
            assert found is not None
            here = found


def test_depth_is_limited() -> None:
    value = S(b"", [])
    for _ in range(capnp.MAXIMUM_DEPTH):
        value = S(b"", [value])
    here: capnp.Struct | None = read(make.message(value))
    with pytest.raises(RefusedError, match="nested more than 64 deep"):
        while here is not None:
            here = here.struct(0)


def test_many_pointers_to_the_same_data_are_refused() -> None:
    count, size = 1000, 8000
    body = [make.list_word(count - number - 1, 2, size) for number in range(count)]
    raw = make.table(make.words(make.struct_word(0, 0, count), *body) + b"x" * size)
    root = read(raw)
    total = 0
    with pytest.raises(RefusedError, match="again and again"):
        for number in range(count):
            total += len(root.data(number))
    assert total <= capnp.TRAVERSAL_FACTOR * len(raw) + 64 * 8


def traverse(root: capnp.Struct) -> int:
    """Follow everything as everything, and count the steps."""
    waiting = [root]
    steps = 0
    while waiting:
        here = waiting.pop()
        steps += 1
        for index in range(6):
            for follow in (here.data, here.struct, here.structs):
                try:
                    found = follow(index)
                except RefusedError:
                    continue
                if isinstance(found, capnp.Struct):
                    waiting.append(found)
                elif isinstance(found, capnp.StructList):
                    waiting.extend(found)
    return steps


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.sampled_from([make.message(SAMPLE, far=far) for far in ("", "single", "double")]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 400),
)
def test_changed_bytes_never_escape(raw: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(raw)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        root = read(bytes(damaged[: len(damaged) - cut % 16]))
    except RefusedError:
        return
    assert traverse(root) < 100_000


@settings(max_examples=200, deadline=None, database=None)
@given(st.binary(max_size=256))
def test_random_bytes_never_escape(raw: bytes) -> None:
    for candidate in (raw, make.table(raw[: len(raw) // 8 * 8])):
        try:
            root = read(candidate)
        except RefusedError:
            continue
        assert traverse(root) < 100_000
