# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small images that would cost much time, memory or disk: what they ask for is bounded before it is spent.

The rows of the threat model name the great bombs (U34, U39, U45, P05, C16); here are the quiet ones: work that grows
with the square of what the image says, or is multiplied by something else that it says.
"""

import hashlib
import io
import json
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxc_oci import jsonio
from lxc_oci.container import command, environment, paths, users
from lxc_oci.container.overrides import Overrides
from lxc_oci.errors import RefusedError
from lxc_oci.image import reference
from lxc_oci.kernel.root import Root
from lxc_oci.layer import erofs, puzzlefs
from lxc_oci.limits import Limits
from lxc_oci.log import Level, Log
from lxc_oci.source import dockerarchive, tarindex
from tests.hostile.conftest import Peak
from tests.support import image as images
from tests.support import puzzlefs_image
from tests.support.guestbox import Box, image_config, make_rootfs
from tests.support.tarmaker import archive, character, directory, entry, file, read, symlink, unpack

SECONDS = 10.0  # of processor time, which a busy machine does not stretch


@contextmanager
def quick() -> Iterator[None]:
    """Fail when the body takes more of the processor than any hostile case may."""
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    (tmp_path / "rootfs").mkdir()
    with Root.at(str(tmp_path / "rootfs")) as made:
        yield made


@pytest.mark.parametrize(
    "path",
    ["/a" * 2_000_000, "/" + "a/../" * 500_000, "/./" * 1_000_000 + "a" * 5000],
    ids=["deep", "up and down", "dots"],
)
def test_c14_a_path_of_a_million_components(root: Root, path: str) -> None:
    with quick(), pytest.raises(RefusedError, match=r"longer than|without '\.\.'"):
        paths.real(root, paths.plain(path, "the image's WorkingDir"), "the image's WorkingDir")


def test_c14_links_that_multiply_the_components(root: Root) -> None:
    for number in range(40):
        os.symlink(f"l{number + 1}" + "/a" * 2000, f"l{number}", dir_fd=root.fd)
    with quick(), pytest.raises(RefusedError, match="longer than"):
        paths.real(root, "/l0", "the image's WorkingDir")


@pytest.mark.parametrize("program", ["x" * 256, "x" * 100_000, "/x" * 2048, "a/" * 50_000 + "systemd"], ids=len)
def test_c16_a_program_with_a_name_that_no_file_has(program: str) -> None:
    """Each of 60,000 directories of PATH would be joined with it."""
    with quick(), pytest.raises(RefusedError, match="that no file has"):
        command.combine(image_config(entrypoint=(program,)), Overrides(), Limits())


def test_c16_a_long_path_variable_costs_little(tmp_path: Path) -> None:
    box = Box(tmp_path / "lxc")
    make_rootfs(box.rootfs)
    with quick():
        box.make(image_config(entrypoint=("x" * 255,), env=("PATH=" + ":".join(["/a"] * 43_000),)))
    wrapper = box.directory / "oci-py/guest/init"
    assert not wrapper.exists() or wrapper.stat().st_size < 32 << 20


def test_c15_long_directories_are_not_followed() -> None:
    judge = environment.HostPaths((), initial_namespace=True)
    with quick():
        assert not any(judge.safe(f"/usr/{number}" + "/a" * 60_000) for number in range(8))


@pytest.mark.parametrize(
    "content",
    [b"ab\n" * 3_400_000, b"ab:" * 3_400_000, b"u:x:0:0:" + b"," * 10_000_000],
    ids=["lines", "fields", "members"],
)
def test_c10_ten_mebibytes_of_separators(root: Root, content: bytes, peak: Peak) -> None:
    os.mkdir("etc", dir_fd=root.fd)
    for name in ("passwd", "group"):
        root.replace_file(b"etc/" + name.encode(), content)
    peak.start()
    with quick():
        try:
            users.identify("u", root, None, Limits())
        except RefusedError:
            pass
    assert peak.mebibytes() < 100


def test_c13_volumes_have_a_limit(tmp_path: Path) -> None:
    box = Box(tmp_path / "lxc")
    make_rootfs(box.rootfs)
    with pytest.raises(RefusedError, match="101 volumes, more than the limit of 100"):
        box.make(image_config(entrypoint=("/bin/sh",), volumes=tuple("/a" * count for count in range(1, 102))))
    assert not (box.directory / "oci-py").exists() and not (box.rootfs / "a").exists()


def test_u34_a_sparse_map_is_read_once() -> None:
    numbers = b"500000\n" + b"0\n" * 500_000
    numbers = numbers.ljust(-(-len(numbers) // 512) * 512, b"\0")
    records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"0")]
    hostile = archive(file(b"f", numbers, pax=records))
    with quick():
        for _ in range(20):
            with pytest.raises(RefusedError, match="sparse map"):
                read(hostile)


def test_u27_warnings_about_attributes_have_an_end(tmp_path: Path, peak: Peak) -> None:
    parts = [file(b"f%d" % number, xattrs={b"trusted.%d.%d" % (number, one): b"" for one in range(20_000)})
             for number in range(10)]  # fmt: skip
    peak.start()
    tree = unpack(tmp_path, archive(*parts))
    assert 0 < len(tree.warnings) <= 1000
    assert peak.mebibytes() < 150


def test_c19_warnings_and_messages_have_an_end() -> None:
    stream = io.StringIO()
    log = Log(Level.NORMAL, stream)
    for number in range(10_000):
        log.warn(f"warning {number}")
    log.error(RefusedError("x" * 4_000_000, "y\n" * 1_000_000))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 101 + 2
    assert lines[100] == "lxc-oci-py: warning: further warnings are left out"
    assert all(len(line) < 20_000 for line in lines)


@pytest.mark.parametrize("text", ["\x7f", "\x9b31m", "\u202e", "\u2028", "\U000e0001", "é\x85日本"], ids=ascii)
def test_c19_json_for_a_terminal_has_nothing_that_it_obeys(text: str) -> None:
    for write in (jsonio.dump, jsonio.compact):
        raw = write({text: [text]})
        assert raw.decode().replace("\n", "").isprintable()
        assert jsonio.parse(raw, "it") == {text: [text]}
    assert "é日本".encode() in jsonio.compact("é日本")


def test_u45_paths_of_directories_are_counted(tmp_path: Path) -> None:
    deep = b"/".join([b"d" * 200] * 5)
    parts = [directory(deep + b"/%d" % number) for number in range(100)]
    with pytest.raises(RefusedError, match="need more than 50000 bytes together"):
        unpack(tmp_path, archive(*parts), limits=Limits(names_bytes=50_000))


HOLDING = {
    "spellings": [directory(b"d"), *(file(b"d" + b"/." * number + b"/f") for number in range(100))],
    "devices": [character(b"d%040d" % number, 0, 0) for number in range(500)],
    "directories": [directory(b"%d" % number) for number in range(100)],
}


@pytest.mark.parametrize("parts", HOLDING.values(), ids=HOLDING.keys())
def test_u45_names_that_are_held_are_counted(tmp_path: Path, parts: list[bytes]) -> None:
    with pytest.raises(RefusedError, match="need more than 15000 bytes together"):
        unpack(tmp_path, archive(*parts), limits=Limits(names_bytes=15_000))


def test_u45_names_over_a_lower_layer_are_counted(tmp_path: Path) -> None:
    parts = [file(b"%0100d" % number) for number in range(100)]
    limits = Limits(names_bytes=15_000)
    unpack(tmp_path, archive(*parts), limits=limits)
    (tmp_path / "two").mkdir()
    with pytest.raises(RefusedError, match="need more than 15000 bytes together"):
        unpack(tmp_path / "two", archive(file(b"x")), archive(*parts), limits=limits)


def test_u45_long_names_of_devices_that_are_left_out(tmp_path: Path, peak: Peak) -> None:
    """A short name in the layer is a long path by a link."""
    deep = b"/".join([b"x" * 200] * 18)
    parts = [directory(deep), symlink(b"l", deep), *(character(b"l/%d" % number, 0, 0) for number in range(90_000))]
    made = archive(*parts)
    peak.start()
    with quick(), pytest.raises(RefusedError, match="names of a layer"):
        unpack(tmp_path, made)
    assert peak.mebibytes() < 256


def test_p05_names_of_an_archive_are_counted(peak: Peak) -> None:
    """100,000 members may be there, and one letter makes a name of 4,000 a text of 16,000 bytes."""
    name = "\N{CAT}".encode() + b"/x" * 1990
    members = [entry(b"x", pax={b"path": name + b"%d" % number}) for number in range(16_000)]
    content = archive(*members)
    peak.start()
    with quick(), pytest.raises(RefusedError, match="names need more than"):
        tarindex.read_index(lambda size, offset: content[offset : offset + size], len(content), "it", Limits())
    assert peak.mebibytes() < 256


def test_p05_escapes_in_a_document_are_not_remembered(peak: Peak) -> None:
    raw = b'{"x":"' + b"\\n" * (2 << 20) + b'"}'
    peak.start()
    assert len(jsonio.parse(raw, "it")["x"]) == 2 << 20
    assert peak.mebibytes() < 64


def test_u17_an_opaque_whiteout_for_each_file(tmp_path: Path) -> None:
    parts = [part for number in range(6000) for part in (file(b"d/%d" % number), file(b"d/.wh..wh..opq"))]
    with quick():
        tree = unpack(tmp_path, archive(file(b"d/low")), archive(*parts))
    assert len(tree.names()) == 6001


def test_u06_links_with_many_components(tmp_path: Path) -> None:
    """38 of them, each of 4 KiB, would be walked for every entry that goes through them."""
    links = [symlink(b"l%d" % number, b"a/../" * 815 + b"l%d" % (number + 1)) for number in range(38)]
    made = archive(directory(b"a"), *links, directory(b"l38"), *(file(b"l0/%d" % number) for number in range(3000)))
    with quick(), pytest.raises(RefusedError, match="1024 components by links"):
        unpack(tmp_path, made)


def test_u39_holes_are_counted_against_the_data_of_sparse_files(tmp_path: Path) -> None:
    records = {b"GNU.sparse.major": b"0", b"GNU.sparse.minor": b"1", b"GNU.sparse.numblocks": b"1"}
    records |= {b"GNU.sparse.map": b"0,512", b"GNU.sparse.size": b"%d" % (9 << 30)}
    with quick(), pytest.raises(RefusedError, match="more than 1000 times their data"):
        unpack(tmp_path, archive(entry(b"x", data=bytes(512), pax=records)))
    fine = records | {b"GNU.sparse.size": b"%d" % (1 << 30)}
    assert read(archive(entry(b"x", data=bytes(512), pax=fine)))[0][0].size == 1 << 30


def test_u34_large_extended_headers_are_counted() -> None:
    records = {b"c%d" % number: b"" for number in range(90_000)}  # slower to read than anything else in an archive
    parts = [entry(b"f%d" % number, pax=records) for number in range(20)]
    with quick(), pytest.raises(RefusedError, match="too many extended headers"):
        read(archive(*parts))
    assert (
        len(read(archive(*(entry(b"f%d" % number, pax={b"comment": b"x" * 900}) for number in range(30_000)))))
        == 30_000
    )


def test_p05_a_compressed_member_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many layers it is, and by however many names."""
    hashed = []
    real = hashlib.sha256
    monkeypatch.setattr(dockerarchive.hashlib, "sha256", lambda *data: hashed.append(1) or real(*data))
    made = images.layer(images.file("a"), compression="gzip")
    names = [f"l{number}" for number in range(100)]
    config = images.Image([made] * 200, {}).configuration
    saved = [{"Config": "c", "Layers": ["layer"] * 100 + names, "RepoTags": None}]
    members = [
        images.file("c", config),
        images.file("layer", made.blob),
        *(images.symlink(name, "layer") for name in names),
    ]
    (tmp_path / "a.tar").write_bytes(images.tar(*members, images.file("manifest.json", json.dumps(saved))))
    found = dockerarchive.DockerArchiveSource(
        reference.parse(f"docker-archive:{tmp_path}/a.tar"), str(tmp_path), Limits()
    )
    try:
        assert len(json.loads(found.root(Limits())[1])["layers"]) == 200
    finally:
        found.close()
    assert len(hashed) < 10, "the member, and the documents"


def test_u49_chunks_of_puzzlefs_that_take_turns() -> None:
    """Five chunks are one more than are kept, and each byte of a file would have one of them decoded again."""
    made = puzzlefs_image.Image()
    pieces = [made.chunk(bytes([number]) * puzzlefs.CHUNK_BYTES, 1, compressed=True) for number in range(5)] * 200
    inodes = [
        puzzlefs_image.inode(1, "directory", puzzlefs_image.directory({b"f": 2})),
        puzzlefs_image.inode(2, "file", pieces),
    ]
    manifest = made.manifest(puzzlefs_image.message(puzzlefs_image.rootfs([inodes])))
    with quick(), pytest.raises(RefusedError, match="bytes of chunks be read"):
        list(puzzlefs.entries(manifest, made.open, Limits(), print))


def test_u49_directories_of_erofs_that_share_their_data(tmp_path: Path) -> None:
    """Each inode of an EROFS image may claim the same 64 MiB, and each claim would be read and parsed."""
    block, count = 4096, 64
    inodes = bytearray(block)
    entries = b""
    names = b"".join(b"%02d" % number for number in range(count))
    for number in range(count):
        entries += struct.pack("<QHBB", 1 + number, 12 * count + 2 * number, 2, 0)
    data = (entries + names).ljust(block, b"\0")
    claimed = block * 200
    for number in range(count + 1):
        size = block if number == 0 else claimed
        inode = struct.pack("<HHHHIIIIIII", 0, 0, 0o40755, 2, size, 0, 2 if number == 0 else 3, 0, 0, 0, 0)
        inodes[32 * number : 32 * number + len(inode)] = inode
    superblock = struct.pack(
        "<II IBBH QQI III 16s16s IHHHBBI Q".replace(" ", ""), 0xE0F5E1E2, 0, 0, 12, 0, 0, 0, 0, 0, 0, 1, 0, b"", b"",
        0, 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip
    head = bytes(1024) + superblock
    image = tmp_path / "image"
    image.write_bytes(head.ljust(block, b"\0") + bytes(inodes) + data + bytes(12) * (claimed // 12 + 1))
    with quick(), pytest.raises(RefusedError, match="damaged"):
        list(erofs.opaque_directories(str(image), Limits()))
