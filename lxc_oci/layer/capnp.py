# SPDX-License-Identifier: LGPL-2.1-or-later
"""A reader of Cap'n Proto messages that trusts nothing in them.

It follows pointers where a caller who knows the schema asks for it, checks every bound and
counts what it was led through, so that loops and pointers to shared data cost nothing.
Packed streams, capabilities and lists of anything but structs and bytes are beyond it:
PuzzleFS, its only user, writes none.  The encoding: capnproto.org/encoding.html.
"""

import struct
from collections.abc import Iterator

from lxc_oci.errors import RefusedError

WORD = 8
MAXIMUM_SEGMENTS = 512  # as the reference implementation
MAXIMUM_DEPTH = 64  # pointers from the root, as the reference implementation
# What a message may lead a reader through, in its own size: honest ones have each object once, and we read some twice.
TRAVERSAL_FACTOR = 4

_STRUCT, _LIST, _FAR = 0, 1, 2
_BYTES, _COMPOSITE = 2, 7  # element sizes of a list pointer
_SIGNED_OFFSET = 1 << 29  # offsets are 30 bits, two's complement

_u16 = struct.Struct("<H").unpack_from
_u32 = struct.Struct("<I").unpack_from
_u64 = struct.Struct("<Q").unpack_from


class Message:
    """One message: its segments, and how much of it may still be traversed."""

    def __init__(self, raw: bytes, what: str) -> None:
        """Parse the segment table of `raw`; `what` names the message in errors.  Raises RefusedError."""
        self.raw = raw
        self._what = what
        self._segments = self._table()
        self._words_left = TRAVERSAL_FACTOR * (len(raw) // WORD) + 64

    def refuse(self, why: str) -> RefusedError:
        """Return the error for a message that breaks a rule."""
        return RefusedError(f"{self._what} is damaged: {why}", "the image was built wrongly or made to do harm")

    def _table(self) -> list[tuple[int, int]]:
        """Return (first byte, words) of each segment."""
        if len(self.raw) < WORD:
            raise self.refuse("it is shorter than a segment table")
        count = _u32(self.raw, 0)[0] + 1
        if count > MAXIMUM_SEGMENTS:
            raise self.refuse(f"it has {count} segments, more than {MAXIMUM_SEGMENTS}")
        start = (4 + 4 * count + WORD - 1) // WORD * WORD
        segments = []
        for number in range(count):
            words: int = _u32(self.raw, 4 + 4 * number)[0]
            if words * WORD > len(self.raw) - start:  # negative where the table itself is cut off: never read past it
                raise self.refuse(f"segment {number} is cut off")
            segments.append((start, words))
            start += words * WORD
        return segments

    def root(self) -> "Struct":
        """Return the root struct.  Raises RefusedError when there is none."""
        found = self.follow_struct(0, 0, 0)
        if found is None:
            raise self.refuse("it has no root")
        return found

    def charge(self, words: int) -> None:
        """Count `words` as traversed.  Raises RefusedError for a message whose pointers share or overlap too much."""
        self._words_left -= words
        if self._words_left < 0:
            raise self.refuse("its pointers lead over the same data again and again")

    def _word(self, segment: int, at: int) -> int:
        start, words = self._segments[segment]
        if at >= words:
            raise self.refuse("a pointer lies outside its segment")
        value: int = _u64(self.raw, start + at * WORD)[0]
        return value

    def _resolve(self, segment: int, at: int) -> tuple[int, int, int] | None:
        """Return the pointer at word `at` as (pointer word, segment and first word of its target), None for null."""
        word = self._word(segment, at)
        if word & 3 == _FAR:
            pad_segment, pad, double = self._far(word)
            word = self._word(pad_segment, pad)
            if double:
                # The landing pad is a far pointer to the content, then a tag that describes it.
                if word & 7 != _FAR:
                    raise self.refuse("a double far pointer has no far pointer in its landing pad")
                segment, start, _ = self._far(word)
                return self._word(pad_segment, pad + 1), segment, start
            if word & 3 == _FAR:
                raise self.refuse("a far pointer leads to another far pointer")
            segment, at = pad_segment, pad
        if word == 0:
            return None
        offset = (word & 0xFFFFFFFF) >> 2
        if offset >= _SIGNED_OFFSET:
            offset -= 2 * _SIGNED_OFFSET
        return word, segment, at + 1 + offset

    def _far(self, word: int) -> tuple[int, int, bool]:
        segment = word >> 32
        if segment >= len(self._segments):
            raise self.refuse(f"a far pointer names segment {segment} of {len(self._segments)}")
        return segment, (word >> 3) & 0x1FFFFFFF, bool(word & 4)

    def _content(self, segment: int, start: int, words: int) -> int:
        """Return the byte position of `words` words of content after checking that they exist."""
        first, size = self._segments[segment]
        if start < 0 or start + words > size:
            raise self.refuse("a pointer leads outside its segment")
        self.charge(words)
        return first + start * WORD

    def _descend(self, depth: int) -> int:
        if depth >= MAXIMUM_DEPTH:
            raise self.refuse(f"its pointers are nested more than {MAXIMUM_DEPTH} deep")
        return depth + 1

    def follow_struct(self, segment: int, at: int, depth: int) -> "Struct | None":
        """Return the struct that the pointer at word `at` leads to, None for a null pointer."""
        depth = self._descend(depth)
        found = self._resolve(segment, at)
        if found is None:
            return None
        word, segment, start = found
        if word & 3 != _STRUCT:
            raise self.refuse("a pointer to a struct is of another kind")
        data, pointers = (word >> 32) & 0xFFFF, word >> 48
        position = self._content(segment, start, data + pointers)
        return Struct(self, segment, position, data * WORD, start + data, pointers, depth)

    def follow_list(self, segment: int, at: int, depth: int) -> "StructList":
        """Return the list of structs that the pointer at word `at` leads to; null is the empty list."""
        depth = self._descend(depth)
        found = self._resolve(segment, at)
        if found is None:
            return StructList(self, 0, 0, 0, 0, 0, 0, depth)
        word, segment, start = found
        if word & 3 != _LIST or (word >> 32) & 7 != _COMPOSITE:
            raise self.refuse("a pointer to a list of structs is of another kind")
        words = word >> 35
        position = self._content(segment, start, words + 1)
        tag: int = _u64(self.raw, position)[0]
        count = (tag & 0xFFFFFFFF) >> 2
        data, pointers = (tag >> 32) & 0xFFFF, tag >> 48
        if tag & 3 != _STRUCT or count * (data + pointers) > words:
            raise self.refuse("a list of structs is longer than its data")
        if not data + pointers:
            # Elements without size cost the writer nothing: a word each, or 2^30 of them would be a bomb.
            self.charge(count)
        return StructList(self, count, segment, position + WORD, start + 1, data, pointers, depth)

    def follow_data(self, segment: int, at: int, depth: int) -> bytes:
        """Return the bytes that the pointer at word `at` leads to; null is empty."""
        self._descend(depth)
        found = self._resolve(segment, at)
        if found is None:
            return b""
        word, segment, start = found
        if word & 3 != _LIST or (word >> 32) & 7 != _BYTES:
            raise self.refuse("a pointer to bytes is of another kind")
        size = word >> 35
        position = self._content(segment, start, (size + WORD - 1) // WORD)
        return self.raw[position : position + size]


class Struct:
    """A struct: fields by their place in the schema's layout (`capnp compile -ocapnp` prints it).

    A field beyond the struct's end has its default, zero or null: older writers know fewer fields.
    """

    __slots__ = ("_data", "_data_bytes", "_depth", "_message", "_pointer_count", "_pointers", "_segment")

    def __init__(
        self, message: Message, segment: int, data: int, data_bytes: int, pointers: int, pointer_count: int, depth: int
    ) -> None:
        self._message = message
        self._segment = segment
        self._data = data  # byte position in the message
        self._data_bytes = data_bytes
        self._pointers = pointers  # word position in the segment
        self._pointer_count = pointer_count
        self._depth = depth

    def u64(self, offset: int) -> int:
        """Return the UInt64 at byte `offset` of the data section."""
        return int(_u64(self._message.raw, self._data + offset)[0]) if offset + 8 <= self._data_bytes else 0

    def u32(self, offset: int) -> int:
        """Return the UInt32 at byte `offset` of the data section."""
        return int(_u32(self._message.raw, self._data + offset)[0]) if offset + 4 <= self._data_bytes else 0

    def u16(self, offset: int) -> int:
        """Return the UInt16 at byte `offset` of the data section."""
        return int(_u16(self._message.raw, self._data + offset)[0]) if offset + 2 <= self._data_bytes else 0

    def flag(self, bit: int) -> bool:
        """Return the Bool at `bit` of the data section."""
        byte = bit // 8
        return byte < self._data_bytes and bool(self._message.raw[self._data + byte] >> bit % 8 & 1)

    def struct(self, index: int) -> "Struct | None":
        """Return the struct in pointer field `index`, or None.  Raises RefusedError."""
        if index >= self._pointer_count:
            return None
        return self._message.follow_struct(self._segment, self._pointers + index, self._depth)

    def structs(self, index: int) -> "StructList":
        """Return the list of structs in pointer field `index`.  Raises RefusedError."""
        if index >= self._pointer_count:
            return StructList(self._message, 0, 0, 0, 0, 0, 0, self._depth)
        return self._message.follow_list(self._segment, self._pointers + index, self._depth)

    def data(self, index: int) -> bytes:
        """Return the bytes in pointer field `index`.  Raises RefusedError."""
        if index >= self._pointer_count:
            return b""
        return self._message.follow_data(self._segment, self._pointers + index, self._depth)


class StructList:
    """A list of structs, made one by one as they are asked for."""

    __slots__ = ("_count", "_data_words", "_depth", "_message", "_pointer_count", "_position", "_segment", "_start")

    def __init__(
        self,
        message: Message,
        count: int,
        segment: int,
        position: int,
        start: int,
        data_words: int,
        pointer_count: int,
        depth: int,
    ) -> None:
        self._message = message
        self._count = count
        self._segment = segment
        self._position = position  # of the first element: bytes in the message
        self._start = start  # and words in the segment
        self._data_words = data_words
        self._pointer_count = pointer_count
        self._depth = depth

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Struct:
        if not 0 <= index < self._count:
            raise IndexError(index)
        step = index * (self._data_words + self._pointer_count)
        return Struct(
            self._message,
            self._segment,
            self._position + step * WORD,
            self._data_words * WORD,
            self._start + step + self._data_words,
            self._pointer_count,
            self._depth,
        )

    def __iter__(self) -> Iterator[Struct]:
        return (self[index] for index in range(self._count))
