# SPDX-License-Identifier: LGPL-2.1-or-later
"""PuzzleFS images as a stream of entries, read without any program of PuzzleFS.

The first layer of such an image is the metadata, one Cap'n Proto message (puzzlefs-lib's
metadata.capnp; doc/metadata.md describes an older form) with a list of inodes per delta, the
highest first; every further layer is a chunk of file contents.  The releases and the
development version write the same format, number 3, and differ in the container of their
zstd frames only.  What makes files of the entries is unpack's.

Not used: the fs-verity digests, since every blob is read whole and its sha256 is checked.
Not in the format: times of modification (entries have 0), inline data, holes.
"""

from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from types import TracebackType
from typing import NamedTuple, Protocol

from lxc_oci.errors import RefusedError, UnsupportedError
from lxc_oci.image import digest as digests
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Manifest
from lxc_oci.layer import entry as kinds
from lxc_oci.layer import inflate
from lxc_oci.layer.capnp import Message, Struct, StructList
from lxc_oci.layer.entry import Data, Entry
from lxc_oci.limits import Limits

ROOTFS = "application/vnd.puzzlefs.image.rootfs.v1"
FORMAT = 3
ROOT_INODE = 1
MIB = 1024 * 1024
CHUNK_BYTES = 16 * MIB  # puzzlefs cuts chunks at 256 KiB; one is held in memory whole
SMALL = 1 << 16  # a file's data up to this size comes in one piece
_DECODED = 64  # bytes of chunks for a byte of files
CACHE_BYTES = 4 * CHUNK_BYTES  # small files share chunks, and the walk is in the order in which they were packed

_NAME_BYTES = 255  # NAME_MAX
_XATTR_NAME_BYTES = 255  # XATTR_NAME_MAX
_XATTR_BYTES = 65536  # XATTR_SIZE_MAX
_NO_OWNER = 0xFFFFFFFF  # chown(2) reads it as "leave alone"
_MAJOR, _MINOR = 0xFFF, 0xFFFFF  # what mknod(2) can carry

# The union of an inode, in the order of the schema.
_UNKNOWN, _FIFO, _CHARACTER, _DIRECTORY, _BLOCK, _FILE, _SYMLINK, _SOCKET, _WHITEOUT = range(9)
_TYPES = {
    _FIFO: kinds.FIFO,
    _CHARACTER: kinds.CHARACTER,
    _DIRECTORY: kinds.DIRECTORY,
    _BLOCK: kinds.BLOCK,
    _FILE: kinds.FILE,
    _SYMLINK: kinds.SYMLINK,
    _SOCKET: kinds.SOCKET,
}


class BlobReader(Protocol):
    """An open blob: a file, or source.Blob.  `read` returns b"" at the end and may return less than asked for."""

    def __enter__(self) -> "BlobReader": ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...
    def read(self, size: int, /) -> bytes: ...


OpenBlob = Callable[[Digest], BlobReader]


def entries(
    manifest: Manifest, open_blob: OpenBlob, limits: Limits, warn: Callable[[str], None]
) -> Iterator[tuple[Entry, Data]]:
    """Yield the entries of a PuzzleFS image, each with its data.

    The root comes first, named `.`; a directory comes before what is in it and a file before the hard links to it;
    all names of a directory come together, sorted, and then its directories in turn.  Names are as they are: a `.wh.`
    at the beginning means nothing.  `open_blob` opens a layer of `manifest` by its digest; it need not verify, and must
    not insist on the descriptor's size, which puzzlefs 0.2.0 gives wrongly for compressed chunks.

    Raises RefusedError for anything that does not fit together or is over a limit, UnsupportedError for another
    version of the format or a missing zstd decoder, and whatever `open_blob` raises.
    """
    descriptor = manifest.layers[0] if manifest.layers else None
    if descriptor is None or descriptor.media_type != ROOTFS:
        found = "there is no layer" if descriptor is None else f"the first layer is {descriptor.media_type!r:.100}"
        raise UnsupportedError(f"this is no PuzzleFS image of a known version: {found}, not {ROOTFS}")
    raw = _read(open_blob, descriptor.digest, limits.puzzlefs_bytes, "the PuzzleFS metadata")
    chunks = _Chunks(open_blob, frozenset(layer.digest for layer in manifest.layers[1:]), limits, warn)
    return _Walk(read_rootfs(raw, limits), chunks, limits).entries()


class _Delta(NamedTuple):
    """The inodes that one build recorded, and their numbers for the search."""

    numbers: "array[int]"
    inodes: StructList

    def find(self, number: int) -> Struct | None:
        place = bisect_left(self.numbers, number)
        return self.inodes[place] if place < len(self.numbers) and self.numbers[place] == number else None


class Rootfs:
    """The metadata of an image: inodes by number, upper deltas over lower ones."""

    def __init__(self, deltas: Iterable[_Delta]) -> None:
        self._deltas = tuple(deltas)

    def find(self, number: int) -> Struct | None:
        """Return the highest inode of that number, which may be a whiteout, or None."""
        return next(self.stack(number), None)

    def stack(self, number: int) -> Iterator[Struct]:
        """Yield the inodes of that number from the highest delta to the lowest."""
        for delta in self._deltas:
            inode = delta.find(number)
            if inode is not None:
                yield inode

    def names(self, number: int, path: bytes) -> dict[bytes, int]:
        """Return the names in directory `number`, whiteouts included, with their inode numbers."""
        names: dict[bytes, int] = {}
        for inode in self.stack(number):
            directory = inode.struct(0) if _kind(inode) == _DIRECTORY else None
            if directory is None:
                break
            here: dict[bytes, int] = {}
            for item in directory.structs(0):
                name = item.data(0)
                if not name or name in (b".", b"..") or b"/" in name or b"\0" in name or len(name) > _NAME_BYTES:
                    raise _refusal(path, f"has an entry with the impossible name {name!r:.100}")
                if name in here:
                    raise _refusal(path, f"has two entries named {name!r:.100}")
                here[name] = item.u64(0)
            names = here | names
            if not directory.flag(0):  # lookBelow: the list is complete without it
                break
        return names


def read_rootfs(raw: bytes, limits: Limits) -> Rootfs:
    """Return the metadata in `raw`, a verified blob.  Raises RefusedError and UnsupportedError."""
    message = Message(raw, "the PuzzleFS metadata")
    root = message.root()
    version = root.u64(0)
    if version != FORMAT:
        raise UnsupportedError(
            f"the image has version {version} of the PuzzleFS format, and only version {FORMAT} can be read",
            "build it again with puzzlefs 0.2.0 or later",
        )
    vectors = root.structs(0)
    if len(vectors) > limits.layers:
        raise RefusedError(f"the PuzzleFS image has {len(vectors)} deltas, more than the limit of {limits.layers}")
    return Rootfs([_delta(vector.structs(0), limits) for vector in vectors])


def _delta(inodes: StructList, limits: Limits) -> _Delta:
    if len(inodes) > limits.entries:
        raise RefusedError(f"the PuzzleFS metadata has {len(inodes)} inodes, more than the limit of {limits.entries}")
    numbers = array("Q", (inode.u64(0) for inode in inodes))
    for place in range(1, len(numbers)):
        if numbers[place - 1] > numbers[place]:
            raise RefusedError("the PuzzleFS metadata is damaged: its inodes are not sorted")
        if numbers[place - 1] == numbers[place] and not (_kind(inodes[place - 1]) == _kind(inodes[place]) == _WHITEOUT):
            # puzzlefs 0.2.0 writes this when a delta removes or separates hard links of its base, and then shows
            # one content under all names, or nothing; which name was meant to have what is not recorded.
            raise RefusedError(
                f"the PuzzleFS metadata describes inode {numbers[place]} twice in one delta",
                "puzzlefs does that when hard links change between base and delta; build the image without a base",
            )
    return _Delta(numbers, inodes)


def _kind(inode: Struct) -> int:
    return inode.u16(8)


def _refusal(path: bytes, why: str) -> RefusedError:
    return RefusedError(f"{path!r:.200} in the PuzzleFS image {why}", "the image was built wrongly or made to do harm")


class _Walk:
    """One pass over the tree; a directory has one name, which is what makes the pass end."""

    def __init__(self, rootfs: Rootfs, chunks: "_Chunks", limits: Limits) -> None:
        self._rootfs = rootfs
        self._chunks = chunks
        self._limits = limits
        # The first entry of each inode: its directory's path, one for all that are in there, and its name.
        self._first: dict[int, tuple[bytes, bytes]] = {}
        self._names_left = limits.names_bytes
        self._count = 0
        self._bytes = 0

    def entries(self) -> Iterator[tuple[Entry, Data]]:
        root = self._rootfs.find(ROOT_INODE)
        if root is None or _kind(root) != _DIRECTORY:
            raise RefusedError("the root of the PuzzleFS image is not a directory")
        yield self._entry(b"", b".", ROOT_INODE, root)
        waiting = [(b"", ROOT_INODE)]
        while waiting:
            path, number = waiting.pop()
            directories = []
            for name, child in sorted(self._rootfs.names(number, path or b".").items()):
                inode = self._rootfs.find(child)
                place = path + b"/" + name if path else name
                if inode is None:
                    raise _refusal(place, f"has inode {child}, which does not exist")
                if _kind(inode) == _WHITEOUT:
                    continue
                yield self._entry(path, name, child, inode)
                if _kind(inode) == _DIRECTORY:
                    directories.append((place, child))
            waiting.extend(reversed(directories))

    def _entry(self, parent: bytes, name: bytes, number: int, inode: Struct) -> tuple[Entry, Data]:
        limits = self._limits
        path = parent + b"/" + name if parent else name
        self._count += 1
        if self._count > limits.entries:
            raise RefusedError(f"the PuzzleFS image has more entries than the limit of {limits.entries}")
        if len(path) > limits.path_bytes or path.count(b"/") >= limits.path_depth:
            raise _refusal(path, f"is deeper than the limits ({limits.path_bytes} bytes, {limits.path_depth} levels)")
        kind = _kind(inode)
        if kind not in _TYPES:
            raise _refusal(path, f"is of unknown type {kind}")
        here = parent, name
        first = self._first.setdefault(number, here)
        if first is not here:
            link = b"/".join(part for part in first if part)
            if kind == _DIRECTORY:
                raise _refusal(path, f"is the same directory as {link!r:.200}")
            return Entry(name=path, type=kinds.HARDLINK, link=link), b""
        if kind == _DIRECTORY:
            self._names_left -= len(path)
            if self._names_left < 0:
                raise _refusal(path, f"makes the paths of directories more than {limits.names_bytes} bytes together")
        uid, gid = inode.u32(12), inode.u32(16)
        if _NO_OWNER in (uid, gid):
            raise _refusal(path, f"has the impossible owner {uid}:{gid}")
        additional = inode.struct(1)
        entry = Entry(
            name=path,
            type=_TYPES[kind],
            mode=inode.u16(10) & 0o7777,
            uid=uid,
            gid=gid,
            link=_target(path, additional) if kind == _SYMLINK else b"",
            device=_device(path, inode) if kind in (_CHARACTER, _BLOCK) else (0, 0),
            xattrs=self._xattrs(path, additional),
        )
        if kind != _FILE:
            return entry, b""
        size = sum(chunk.u64(0) for chunk in inode.structs(0))
        self._bytes += size
        if self._bytes > limits.layer_bytes:
            raise _refusal(path, f"makes the image larger than the limit of {limits.layer_bytes} bytes")
        pieces = self._chunks.data(path, inode)
        return entry._replace(size=size), b"".join(pieces) if size <= SMALL else _Content(pieces)

    def _xattrs(self, path: bytes, additional: Struct | None) -> tuple[tuple[bytes, bytes], ...]:
        if additional is None:
            return ()
        found: dict[bytes, bytes] = {}
        size = 0
        for item in additional.structs(0):
            name, value = item.data(0), item.data(1)
            if not name or b"\0" in name or len(name) > _XATTR_NAME_BYTES or len(value) > _XATTR_BYTES:
                raise _refusal(path, f"has the impossible extended attribute {name!r:.100}")
            if name in found:
                raise _refusal(path, f"has the extended attribute {name!r:.100} twice")
            size += len(name) + len(value)
            if size > self._limits.pax_bytes:
                raise _refusal(path, f"has more than {self._limits.pax_bytes} bytes of extended attributes")
            found[name] = value
        return tuple(found.items())


def _target(path: bytes, additional: Struct | None) -> bytes:
    target = additional.data(1) if additional is not None else b""
    if not target or b"\0" in target or len(target) >= 4096:  # PATH_MAX, NUL included
        raise _refusal(path, "is a symbolic link without a possible target")
    return target


def _device(path: bytes, inode: Struct) -> tuple[int, int]:
    numbers = inode.struct(0)
    major, minor = (numbers.u64(0), numbers.u64(8)) if numbers is not None else (0, 0)
    if major > _MAJOR or minor > _MINOR:
        raise _refusal(path, f"is a device with the impossible number {major}:{minor}")
    return major, minor


class _Content:
    """The data of one file as entry.Content."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def read(self, size: int, /) -> memoryview:
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        data, self._piece = self._piece[:size], self._piece[size:]
        return data


class _Chunks:
    """Contents of files, from blobs that are read whole, verified, and kept while room is left for them."""

    def __init__(
        self, open_blob: OpenBlob, known: frozenset[Digest], limits: Limits, warn: Callable[[str], None]
    ) -> None:
        self._open_blob = open_blob
        self._warn = warn
        self._known = known
        self._limits = limits
        self._cache: OrderedDict[tuple[Digest, bool], bytes] = OrderedDict()
        self._cached = 0
        self._fetched = 0  # bytes of blobs, decoded bytes, bytes of files
        self._decoded = 0
        self._written = 0

    def data(self, path: bytes, inode: Struct) -> Iterator[bytes]:
        """Yield the contents of a file, at most CHUNK_BYTES at a time."""
        for chunk in inode.structs(0):
            length = chunk.u64(0)
            if not length:
                continue
            reference = chunk.struct(0)
            sha256 = reference.data(0) if reference is not None else b""
            if reference is None or len(sha256) != 32:
                raise _refusal(path, "has a chunk without a sha256 digest")
            digest = Digest("sha256:" + sha256.hex())
            blob = self._blob(path, digest, reference.flag(64))
            offset = reference.u64(0)
            if offset + length > len(blob):
                raise _refusal(
                    path, f"needs bytes {offset} to {offset + length} of chunk {digest} of {len(blob)} bytes"
                )
            self._written += length
            if self._written > max(self._limits.ratio_floor_bytes, self._limits.layer_ratio * self._fetched):
                raise _refusal(path, f"makes the image more than {self._limits.layer_ratio} times its chunks' size")
            yield blob if length == len(blob) else blob[offset : offset + length]

    def _blob(self, path: bytes, digest: Digest, compressed: bool) -> bytes:
        key = digest, compressed
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        if digest not in self._known:
            # A digest alone gives no access to a blob that some other image brought.
            raise _refusal(path, f"needs chunk {digest}, which is not a layer of its manifest")
        blob = _read(self._open_blob, digest, CHUNK_BYTES, "a PuzzleFS chunk")
        self._fetched += len(blob)
        if compressed:
            blob = self._decompress(path, digest, blob)
        # A byte here and a byte there of more chunks than are kept would have each of them decoded again and again.
        if self._decoded > max(self._limits.ratio_floor_bytes, _DECODED * self._written):
            raise _refusal(path, f"makes more than {_DECODED} bytes of chunks be read for a byte of files")
        self._decoded += len(blob)
        if self._decoded > self._limits.layer_bytes:
            raise _refusal(path, f"makes more than {self._limits.layer_bytes} bytes of chunks be read")
        self._cache[key] = blob
        self._cached += len(blob)
        while self._cached > CACHE_BYTES:
            self._cached -= len(self._cache.popitem(last=False)[1])
        return blob

    def _decompress(self, path: bytes, digest: Digest, blob: bytes) -> bytes:
        """Decode the seekable form as what it is to a plain decoder: many small frames, and a skippable one."""
        decoded = bytearray()
        try:
            reader = inflate.decompress(BytesIO(blob), "zstd", self._limits, self._warn)
            while len(decoded) <= CHUNK_BYTES and (data := reader.read()):
                decoded += data
        except RefusedError as error:
            raise _refusal(path, f"has the damaged chunk {digest} ({error.message})") from error
        if len(decoded) > CHUNK_BYTES:
            raise _refusal(path, f"has chunk {digest}, which is larger than {CHUNK_BYTES} bytes")
        return bytes(decoded)


def _read(open_blob: OpenBlob, digest: Digest, limit: int, what: str) -> bytes:
    """Return the blob `digest` after checking that this is what it is."""
    parts = []
    left = limit + 1
    with open_blob(digest) as reader:
        while left and (part := reader.read(min(left, MIB))):
            parts.append(part)
            left -= len(part)
    if not left:
        raise RefusedError(f"{what} is larger than the limit of {limit} bytes")
    content = b"".join(parts)
    digests.check(content, digest, what)
    return content
