# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes PuzzleFS images and Cap'n Proto messages byte by byte, right ones and wrong ones.

A message is written from plain Python values: `S` a struct, a list of `S` a list of structs,
bytes a Data field, None a null pointer, `Raw` any word at all in a pointer's place.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

import zstandard

from lxc_oci.image.digest import Digest, sha256
from lxc_oci.image.manifest import Descriptor, Manifest
from lxc_oci.layer import puzzlefs

EMPTY = Descriptor("application/vnd.oci.empty.v1+json", sha256(b"{}"), 2)
CHUNK = "application/vnd.puzzlefs.image.filedata.v1"

Value = Union["S", list["S"], bytes, "Raw", None]


@dataclass
class S:
    """A struct: its data section (a multiple of 8 bytes) and what its pointers lead to."""

    data: bytes = b""
    pointers: Sequence[Value] = ()


@dataclass
class Raw:
    """A word written as it is where a pointer should be."""

    word: int


def pointer(kind: int, offset: int, upper: int) -> int:
    """A struct (0) or list (1) pointer."""
    return kind | (offset & 0x3FFFFFFF) << 2 | upper << 32


def struct_word(offset: int, data_words: int, pointers: int) -> int:
    return pointer(0, offset, data_words | pointers << 16)


def list_word(offset: int, element: int, count: int) -> int:
    return pointer(1, offset, element | count << 3)


def far_word(segment: int, pad: int, double: bool = False) -> int:
    return 2 | double << 2 | pad << 3 | segment << 32


def table(*segments: bytes) -> bytes:
    """The segments as one message."""
    sizes = struct.pack(f"<{1 + len(segments)}I", len(segments) - 1, *(len(part) // 8 for part in segments))
    return sizes + bytes(-len(sizes) % 8) + b"".join(segments)


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def message(root: S, *, far: str = "") -> bytes:
    """Write a message: in one segment, or every object in a segment of its own, reached by `far="single"` or
    `far="double"` far pointers."""
    segments = [bytearray(8)]

    def allocate(count: int) -> tuple[int, int]:
        """Return (segment, word) of room for an object; a single far pointer's landing pad comes first."""
        if not far:
            at = len(segments[0]) // 8
            segments[0].extend(bytes(8 * count))
            return 0, at
        segments.append(bytearray(8 * count + (8 if far == "single" else 0)))
        return len(segments) - 1, 1 if far == "single" else 0

    def put(segment: int, at: int, word: int) -> None:
        struct.pack_into("<Q", segments[segment], 8 * at, word)

    def link(segment: int, at: int, target: tuple[int, int], word: Callable[[int], int]) -> None:
        there, start = target
        if not far:
            put(segment, at, word(start - at - 1))
        elif far == "single":
            put(there, 0, word(start - 1))
            put(segment, at, far_word(there, 0))
        else:
            segments.append(bytearray(16))
            pad = len(segments) - 1
            put(pad, 0, far_word(there, start))
            put(pad, 1, word(0))
            put(segment, at, far_word(pad, 0, double=True))

    waiting: list[tuple[int, int, Value]] = [(0, 0, root)]
    while waiting:
        segment, at, value = waiting.pop()
        if isinstance(value, Raw):
            put(segment, at, value.word)
        elif isinstance(value, bytes):
            size = len(value)
            there, start = target = allocate(-(-size // 8))
            segments[there][8 * start : 8 * start + size] = value
            link(segment, at, target, lambda offset, size=size: list_word(offset, 2, size))  # type: ignore[misc]
        elif isinstance(value, S):
            data, count = len(value.data) // 8, len(value.pointers)
            there, start = target = allocate(data + count)
            segments[there][8 * start : 8 * (start + data)] = value.data
            waiting += [(there, start + data + index, item) for index, item in enumerate(value.pointers)]
            link(segment, at, target, lambda offset, d=data, c=count: struct_word(offset, d, c))  # type: ignore[misc]
        elif isinstance(value, list):
            data = max((len(item.data) // 8 for item in value), default=0)
            count = max((len(item.pointers) for item in value), default=0)
            total = len(value) * (data + count)
            there, start = target = allocate(1 + total)
            put(there, start, struct_word(len(value), data, count))
            for number, item in enumerate(value):
                place = start + 1 + number * (data + count)
                segments[there][8 * place : 8 * place + len(item.data)] = item.data
                waiting += [(there, place + data + index, child) for index, child in enumerate(item.pointers)]
            link(segment, at, target, lambda offset, total=total: list_word(offset, 7, total))  # type: ignore[misc]
    return table(*(bytes(part) for part in segments))


# The schema of PuzzleFS, from here on.

KINDS = ("unknown", "fifo", "character", "directory", "block", "file", "symlink", "socket", "whiteout")


def inode(
    number: int,
    kind: str | int,
    content: Value = None,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    target: bytes | None = None,
    xattrs: dict[bytes, bytes] | list[tuple[bytes, bytes]] | None = None,
) -> S:
    """One inode; `content` is what `directory`, `chunks` or `device` made."""
    tag = KINDS.index(kind) if isinstance(kind, str) else kind
    pairs = list(xattrs.items()) if isinstance(xattrs, dict) else xattrs or []
    more = None
    if target is not None or pairs:
        more = S(b"", [[S(b"", [name, value]) for name, value in pairs], target])
    return S(struct.pack("<QHHIIxxxx", number, tag, mode, uid, gid), [content, more])


def directory(names: dict[bytes, int] | list[tuple[bytes, int]], *, look_below: bool = False) -> S:
    pairs = list(names.items()) if isinstance(names, dict) else names
    return S(words(look_below), [[S(words(number), [name]) for name, number in pairs]])


def device(major: int, minor: int) -> S:
    return S(words(major, minor))


def rootfs(deltas: list[list[S]], *, version: int = 3) -> S:
    """The root of the metadata; `deltas` from the highest to the lowest, inodes sorted by number."""
    return S(words(version), [[S(b"", [inodes]) for inodes in deltas], []])


def seekable(content: bytes, frame: int = 4096) -> bytes:
    """zstd's seekable format as PuzzleFS uses it: frames of 4 KiB, and the seek table in a skippable frame."""
    compressor = zstandard.ZstdCompressor(level=3)
    parts = [content[at : at + frame] for at in range(0, len(content), frame)]
    frames = [compressor.compress(part) for part in parts]
    entries = b"".join(struct.pack("<II", len(done), len(part)) for done, part in zip(frames, parts, strict=True))
    seek_table = entries + struct.pack("<IBI", len(frames), 0, 0x8F92EAB1)
    return b"".join(frames) + struct.pack("<II", 0x184D2A5E, len(seek_table)) + seek_table


@dataclass
class Image:
    """An image in the making: metadata and the blobs it needs."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)

    def chunk(self, content: bytes, length: int | None = None, *, offset: int = 0, compressed: bool = False) -> S:
        """Store a blob and return a reference to part of it, by default to all."""
        blob = seekable(content) if compressed else content
        digest = sha256(blob)
        self.blobs[digest] = blob
        return reference(digest, len(content) - offset if length is None else length, offset, compressed)

    def manifest(self, metadata: bytes, *, media_type: str = puzzlefs.ROOTFS) -> Manifest:
        """Return the manifest of this image with these bytes as its first layer."""
        digest = sha256(metadata)
        self.blobs[digest] = metadata
        first = Descriptor(media_type, digest, len(metadata))
        others = [Descriptor(CHUNK, Digest(name), len(blob)) for name, blob in self.blobs.items() if name != digest]
        return Manifest("application/vnd.oci.image.manifest.v1+json", EMPTY, (first, *others))

    def open(self, digest: Digest) -> puzzlefs.BlobReader:
        """What the reader takes as `open_blob`."""
        from io import BytesIO

        self.opened.append(digest)
        return BytesIO(self.blobs[digest])

    def write_layout(self, path: Path, metadata: bytes, tag: str) -> None:
        """Write an OCI layout with this image under `tag`, as puzzlefs build does."""
        manifest = self.manifest(metadata)
        blobs = path / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        document = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": manifest.media_type,
                "config": {"mediaType": EMPTY.media_type, "digest": EMPTY.digest, "size": 2},
                "layers": [
                    {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
                    for layer in manifest.layers
                ],
            }
        ).encode()
        for blob in (*self.blobs.values(), document, b"{}"):
            (blobs / hashlib.sha256(blob).hexdigest()).write_bytes(blob)
        entry = {
            "mediaType": manifest.media_type,
            "digest": sha256(document),
            "size": len(document),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def reference(digest: str | bytes, length: int, offset: int = 0, compressed: bool = False) -> S:
    """A piece of a file: `length` bytes from `offset` of the decoded blob."""
    raw = bytes.fromhex(digest.removeprefix("sha256:")) if isinstance(digest, str) else digest
    return S(words(length), [S(words(offset, compressed), [raw])])
