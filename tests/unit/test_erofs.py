# SPDX-License-Identifier: LGPL-2.1-or-later
"""The reader of EROFS metadata: directories of real images, and images that were damaged."""

import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from lxc_oci.errors import RefusedError
from lxc_oci.kernel.root import Root
from lxc_oci.layer import erofs
from lxc_oci.layer.record import RecordWriter
from lxc_oci.layer.unpack import Unpacker
from lxc_oci.limits import Limits
from tests.support import need

OPAQUE = "trusted.overlay.opaque"


def image(path: Path, opaque: Sequence[str], *options: str, directories: int = 3, files: int = 0) -> Path:
    """A real image; `opaque` names directories of it."""
    need.root()  # trusted attributes
    tree = path / "tree"
    for number in range(directories):
        (tree / f"d{number}/below").mkdir(parents=True)
    for number in range(files):
        (tree / "d0" / f"a-file-with-a-long-name-{number:08}").touch()
    for name in opaque:
        os.setxattr(tree / name, OPAQUE, b"y")
    os.setxattr(tree / "d1", "user.note", b"n" * 100)
    os.setxattr(tree / "d1/below", OPAQUE, b"x")  # only y means opaque
    os.setxattr(tree / "d1/below", "user.overlay.opaque", b"y")
    made = path / "image"
    subprocess.run([need.program("mkfs.erofs"), *options, made, tree], check=True, capture_output=True)
    return made


# -x: how many files must have an attribute for it to be shared; -E: whether directories' tails lie in the inode.
@pytest.mark.parametrize("options", [("-x1",), ("-x0",), ("-x-1",), ("-Eforce-inode-extended",), ("-zlz4hc",)])
def test_opaque_directories_are_found(tmp_path: Path, options: tuple[str, ...]) -> None:
    names = [".", "d0", "d2/below"] if options != ("-x-1",) else []
    made = image(tmp_path, [".", "d0", "d2/below"], *options)
    assert sorted(erofs.opaque_directories(str(made), Limits())) == sorted(os.fsencode(name) for name in names)


def test_large_directories_are_read(tmp_path: Path) -> None:
    made = image(tmp_path, [f"d{number}" for number in range(700)], directories=700, files=3000)
    assert len(list(erofs.opaque_directories(str(made), Limits()))) == 700


def test_an_image_without_attributes_has_none(tmp_path: Path) -> None:
    (tmp_path / "tree/a").mkdir(parents=True)
    made = tmp_path / "image"
    subprocess.run([need.program("mkfs.erofs"), made, tmp_path / "tree"], check=True, capture_output=True)
    assert list(erofs.opaque_directories(str(made), Limits())) == []


def test_u53_times_are_clamped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inode has 64 bits of seconds; a record has 64 of nanoseconds."""
    monkeypatch.setattr(erofs, "opaque_directories", lambda image, limits: iter(()))
    mounted = Path("/dev/shm") / f"oci-py-test-{os.getpid()}"  # tmpfs has such times, ext4 has not
    mounted.mkdir()
    try:
        (mounted / "late").write_text("x")
        os.utime(mounted / "late", (0, 2**34))
        (tmp_path / "rootfs").mkdir()
        with (
            Root.at(str(tmp_path / "rootfs")) as root,
            (tmp_path / "record").open("wb") as file,
            Unpacker(root, Limits(), print, record=RecordWriter(file), overlay_whiteouts=True) as unpacker,
        ):
            erofs.apply_layer(unpacker, str(mounted), "image", "layer 1", Limits())
    finally:
        (mounted / "late").unlink()
        mounted.rmdir()
    assert (tmp_path / "rootfs/late").stat().st_mtime > 2**33


@pytest.mark.parametrize("content", [b"", bytes(1024), bytes(8192), b"hsqs" + bytes(8192)])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(RefusedError):
        list(erofs.opaque_directories(str(path), Limits()))


def test_a_directory_that_holds_itself_ends(tmp_path: Path) -> None:
    made = image(tmp_path, [])
    content = bytearray(made.read_bytes())
    root = int.from_bytes(content[1038:1040], "little")
    base = int.from_bytes(content[1064:1068], "little") * 4096 + root * 32
    start = content.index(b"...d0d1d2", base) - 5 * 12  # the names of the root follow its five entries
    for entry in range(5):
        content[start + 12 * entry : start + 12 * entry + 8] = root.to_bytes(8, "little")
    made.write_bytes(content)
    assert list(erofs.opaque_directories(str(made), Limits())) == []


def test_damaged_metadata_are_refused_or_read(tmp_path: Path) -> None:
    """No damage leads to anything but an answer or a refusal, soon."""
    made = image(tmp_path, [".", "d0"], "-x1")
    whole = made.read_bytes()
    chance = random.Random(7)
    for _ in range(1500):
        content = bytearray(whole)
        for _ in range(chance.randrange(1, 5)):
            content[chance.randrange(1024, len(content))] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
        if chance.random() < 0.1:
            del content[chance.randrange(len(content)) :]
        made.write_bytes(content)
        try:
            list(erofs.opaque_directories(str(made), Limits(entries=100)))
        except RefusedError:
            pass
