# SPDX-License-Identifier: LGPL-2.1-or-later
"""The user-space check of verity data, against trees that the real veritysetup made."""

import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from lxc_oci.errors import RefusedError
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from lxc_oci.image.mediatype import LayerKind
from lxc_oci.layer import verity
from lxc_oci.layer.verity import Verity
from tests.support import hooks, need

BLOCK = 4096


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    return hooks.module("oci-py-mount")


def squashfs(blocks: int, fill: bytes = b"x") -> bytes:
    """The head of a squashfs image that says it has so many blocks less 100 bytes, and as many bytes."""
    length = blocks * BLOCK - 100
    return (b"hsqs" + bytes(36) + length.to_bytes(8, "little")).ljust(blocks * BLOCK, fill)


def formatted(path: Path, content: bytes, *options: str) -> Verity:
    """Write an image with verity data behind it."""
    path.write_bytes(content)
    command = [need.program("veritysetup"), "format", str(path), str(path), f"--hash-offset={len(content)}"]
    command += [f"--data-blocks={len(content) // BLOCK}", *options]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    root = next(line.split()[-1] for line in done.stdout.splitlines() if line.startswith("Root hash"))
    return Verity(root, len(content))


def check_both(hook: ModuleType, path: Path, data: Verity) -> None:
    """The package's check and the hook's own copy of it."""
    verity.check(str(path), data, "layer 0")
    hook.check_verity(str(path), data.root, data.offset)


def refused_by_both(hook: ModuleType, path: Path, data: Verity, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        verity.check(str(path), data, "layer 0")
    with pytest.raises(hook.Failure):
        hook.check_verity(str(path), data.root, data.offset)


# One block has no tree, 128 fill one node of it, 129 need a second level, 16,385 a third.
@pytest.mark.parametrize("blocks", [1, 2, 128, 129, 300])
@pytest.mark.parametrize("options", [(), ("--salt=-",), ("--hash=sha512",), ("--hash-block-size=1024",)])
def test_what_veritysetup_made_is_accepted(
    tmp_path: Path, hook: ModuleType, blocks: int, options: tuple[str, ...]
) -> None:
    path = tmp_path / "image"
    check_both(hook, path, formatted(path, squashfs(blocks), *options))


@pytest.mark.parametrize("position", [0, 5000, 300 * BLOCK - 1])
def test_a_changed_byte_of_the_image_is_found(tmp_path: Path, hook: ModuleType, position: int) -> None:
    path = tmp_path / "image"
    data = formatted(path, squashfs(300))
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    refused_by_both(hook, path, data, f"block {position // BLOCK} ")


def test_a_changed_byte_of_the_tree_is_found(tmp_path: Path, hook: ModuleType) -> None:
    path = tmp_path / "image"
    data = formatted(path, squashfs(300))
    content = bytearray(path.read_bytes())
    content[-BLOCK] ^= 1  # a leaf; what it vouches for is never asked
    path.write_bytes(content)
    refused_by_both(hook, path, data, "hash tree")


def test_another_root_hash_is_refused(tmp_path: Path, hook: ModuleType) -> None:
    path = tmp_path / "image"
    data = formatted(path, squashfs(3))
    refused_by_both(hook, path, Verity("0" * 64, data.offset), "root hash")


def test_a_tree_over_a_part_of_the_image_is_refused(tmp_path: Path, hook: ModuleType) -> None:
    # The rest could be changed by anybody.
    path = tmp_path / "image"
    data = formatted(path, squashfs(8), "--data-blocks=4")
    refused_by_both(hook, path, data, "cover the whole image")


def test_an_annotated_image_without_verity_data_is_refused(tmp_path: Path, hook: ModuleType) -> None:
    path = tmp_path / "image"
    path.write_bytes(squashfs(2))
    refused_by_both(hook, path, Verity("0" * 64, 2 * BLOCK), "no verity superblock")


def test_a_truncated_tree_is_refused(tmp_path: Path, hook: ModuleType) -> None:
    path = tmp_path / "image"
    data = formatted(path, squashfs(300))
    path.write_bytes(path.read_bytes()[: -2 * BLOCK])
    refused_by_both(hook, path, data, "hash tree")


@pytest.mark.parametrize(("offset", "value"), [(8, 2), (12, 0), (64, 3), (64, 1 << 31), (68, 0), (72, 1 << 60)])
def test_an_impossible_superblock_is_refused(tmp_path: Path, hook: ModuleType, offset: int, value: int) -> None:
    path = tmp_path / "image"
    data = formatted(path, squashfs(3))
    content = bytearray(path.read_bytes())
    width = 8 if offset == 72 else 4
    content[data.offset + offset : data.offset + offset + width] = value.to_bytes(width, "little")
    path.write_bytes(content)
    refused_by_both(hook, path, data, "verity data of layer 0 is wrong")


def descriptor(**annotations: str) -> Descriptor:
    digest = Digest("sha256:" + "0" * 64)
    return Descriptor("application/vnd.stacker.image.layer.squashfs", digest, 1, annotations)


@pytest.mark.parametrize("name", verity.ANNOTATIONS)
def test_both_annotations_are_known(name: str) -> None:
    assert verity.root_hash(descriptor(**{name: "ab" * 32}), "layer 0") == "ab" * 32


@pytest.mark.parametrize("value", ["x" * 64, "ab" * 31, "AB" * 32, "ab" * 32 + "\n", "--help"])
def test_an_annotation_that_is_no_hash_is_refused(value: str) -> None:
    with pytest.raises(RefusedError, match="not a hash"):
        verity.root_hash(descriptor(**{verity.ANNOTATIONS[0]: value}), "layer 0")


def test_without_annotation_there_is_nothing_to_check(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(squashfs(1))
    assert verity.of(descriptor(), str(path), LayerKind.SQUASHFS, "layer 0") is None


def test_the_data_start_behind_the_padded_image(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(squashfs(3) + bytes(BLOCK))
    assert verity.image_length(str(path), LayerKind.SQUASHFS) == 3 * BLOCK
    content = bytearray(5 * BLOCK)
    content[1024:1028] = b"\xe2\xe1\xf5\xe0"
    content[1036] = 12
    content[1060] = 4
    path.write_bytes(content)
    assert verity.image_length(str(path), LayerKind.EROFS) == 4 * BLOCK


@pytest.mark.parametrize("content", [b"", b"hsqs", squashfs(3)[: 2 * BLOCK], bytes(2 * BLOCK)])
@pytest.mark.parametrize("kind", [LayerKind.SQUASHFS, LayerKind.EROFS])
def test_what_is_no_whole_image_is_refused(tmp_path: Path, content: bytes, kind: LayerKind) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(RefusedError, match="not a whole"):
        verity.image_length(str(path), kind)
