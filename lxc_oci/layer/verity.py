# SPDX-License-Identifier: LGPL-2.1-or-later
"""dm-verity data of squashfs and EROFS layers: where they lie, and the full check in user space.

The hash tree is what `veritysetup format` appends; the root hash stands in an annotation of the layer.  The
kernel's check at each read is set up by hooks/oci-py-mount, which has its own copy of `check`.
"""

import hashlib
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from lxc_oci.errors import RefusedError
from lxc_oci.image.manifest import Descriptor
from lxc_oci.image.mediatype import LayerKind

# atomfs pkg/verity: the second is its name until 2025, for EROFS layers too.
ANNOTATIONS = (
    "io.stackeroci.stacker.atomfs_verity_root_hash",
    "io.stackeroci.stacker.squashfs_verity_root_hash",
)
_ROOT_HASH = re.compile(r"(?:[0-9a-f]{64}|[0-9a-f]{128})\Z")
_MAGIC = b"verity\0\0"
_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s")
_ALIGNMENT = 4096  # atomfs pads the image to this before it appends the tree
_BLOCK_SIZES = frozenset(1 << shift for shift in range(9, 17))
_ALGORITHMS = frozenset({"sha256", "sha512"})


@dataclass(frozen=True)
class Verity:
    """A root hash, in hexadecimal, and the offset in bytes of the verity superblock in the image file."""

    root: str
    offset: int


def root_hash(descriptor: Descriptor, what: str) -> str | None:
    """Return the root hash that a layer is annotated with, or None.  Raises RefusedError when it is not one."""
    for annotation in ANNOTATIONS:
        found = descriptor.annotations.get(annotation)
        if found:
            if not _ROOT_HASH.match(found):
                raise RefusedError(f"{what} has the verity root hash {found!r:.150}, which is not a hash")
            return found
    return None


def image_length(path: str, kind: LayerKind) -> int:
    """Return the bytes of the file system itself, padded: where verity data would start.

    Raises RefusedError when `path` is not an image of that kind, or shorter than it says.
    """
    with open(path, "rb") as file:
        head = file.read(1280)
        size = os.fstat(file.fileno()).st_size
    length = 0
    if kind is LayerKind.SQUASHFS and len(head) >= 96 and head[:4] == b"hsqs":
        length = int.from_bytes(head[40:48], "little")
    elif kind is LayerKind.EROFS and len(head) == 1280 and head[1024:1028] == b"\xe2\xe1\xf5\xe0":
        length = int.from_bytes(head[1060:1064], "little") << (head[1036] & 63)
    if length == 0 or length > size:
        raise RefusedError(f"{os.path.basename(path)} is not a whole {kind.value} image")
    return min(-(-length // _ALIGNMENT) * _ALIGNMENT, max(size, length))


def of(descriptor: Descriptor, path: str, kind: LayerKind, what: str) -> Verity | None:
    """Return the verity data of a layer whose blob is the file `path`, or None when it has no annotation.

    Raises RefusedError.
    """
    root = root_hash(descriptor, what)
    return Verity(root, image_length(path, kind)) if root is not None else None


def check(path: str, verity: Verity, what: str, on_bytes: Callable[[int], None] = lambda count: None) -> None:
    """Hash the whole image and compare it with its tree and root hash.

    `on_bytes` gets the number of bytes of each piece.  Raises RefusedError naming what differs, OSError.
    """

    def refuse(why: str) -> NoReturn:
        raise RefusedError(
            f"the verity data of {what} is wrong: {why}",
            "the image was not made for this root hash, or was changed; do not use it",
        )

    with open(path, "rb") as file:
        file.seek(verity.offset)
        head = file.read(512)
        if len(head) < 512 or head[:8] != _MAGIC:
            refuse("there is no verity superblock behind the image")
        fields = _SUPERBLOCK.unpack(head[: _SUPERBLOCK.size])
        _, version, kind, _, name, data_size, hash_size, blocks, salt_size, salt = fields
        algorithm = name.rstrip(b"\0").decode("ascii", "replace")
        if (version, kind) != (1, 1) or algorithm not in _ALGORITHMS or salt_size > 256:
            refuse("it has a format that is not known")
        if data_size not in _BLOCK_SIZES or hash_size not in _BLOCK_SIZES:
            refuse("it has an impossible block size")
        size = os.fstat(file.fileno()).st_size
        # Less would leave a part of the image that nothing vouches for.
        if blocks * data_size < verity.offset or blocks * data_size > size:
            refuse("it does not cover the whole image")
        salted = hashlib.new(algorithm, salt[:salt_size])
        if len(verity.root) != 2 * salted.digest_size:
            refuse(f"the root hash is not a {algorithm} hash")
        _check_tree(file, verity, salted, blocks, data_size, hash_size, on_bytes, refuse)


def _check_tree(
    file: BinaryIO,
    verity: Verity,
    salted: "hashlib._Hash",
    blocks: int,
    data_size: int,
    hash_size: int,
    on_bytes: Callable[[int], None],
    refuse: Callable[[str], NoReturn],
) -> None:
    """Go down from the root hash: each level vouches for the next, the last for the image's own blocks."""
    width = 1 << (salted.digest_size - 1).bit_length()
    counts = [blocks]
    while counts[-1] > 1:
        counts.append(-(-counts[-1] // (hash_size // width)))
    position = -(-(verity.offset + 512) // hash_size) * hash_size
    expected = [bytes.fromhex(verity.root)]
    for level in range(len(counts) - 1, 0, -1):  # the top level lies first in the file
        file.seek(position)
        position += counts[level] * hash_size
        found = []
        for wanted in expected:
            node = file.read(hash_size)
            if _digest(salted, node) != wanted:
                refuse("the hash tree does not match the root hash")
            found += [node[at : at + salted.digest_size] for at in range(0, len(node), width)]
        expected = found[: counts[level - 1]]
    file.seek(0)
    for number, wanted in enumerate(expected):
        block = file.read(data_size)
        if _digest(salted, block) != wanted:
            refuse(f"block {number} of the image does not match the hash tree")
        on_bytes(len(block))


def _digest(salted: "hashlib._Hash", block: bytes) -> bytes:
    hasher = salted.copy()
    hasher.update(block)
    return hasher.digest()
