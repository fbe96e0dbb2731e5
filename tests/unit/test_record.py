# SPDX-License-Identifier: LGPL-2.1-or-later
import io
import os
from pathlib import Path

import pytest

from lxc_oci.errors import OciError
from lxc_oci.kernel.root import Root, remove_tree
from lxc_oci.layer import record
from lxc_oci.layer.record import RecordWriter
from tests.support import need
from tests.support.tarmaker import Tree, archive, directory, fifo, file, hardlink, symlink, unpack

FIRST = archive(
    directory(b"./", mtime=1),
    directory(b"d", mtime=2),
    file(b"d/f", b"content", xattrs={b"user.a": b"b"}),
    file(b"d/g", b"other"),
    hardlink(b"h", b"d/f"),
    symlink(b"l", b"d/f"),
    fifo(b"p"),
    directory(b"gone/below"),
    file(b"gone/file"),
)
SECOND = archive(file(b".wh.gone"), file(b"d/new", b"new"), directory(b"d", mtime=3, mode=0o700), file(b"l", b"a file"))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return unpack(tmp_path, FIRST, SECOND)


def test_a_record_agrees_with_its_tree(tree: Tree) -> None:
    assert tree.differences() == []
    assert tree.names() == {"d", "d/f", "d/g", "d/new", "h", "l", "p"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda path: (path / "d/g").write_bytes(b"OTHER"), "d/g: has other content"),
        (lambda path: (path / "d/g").write_bytes(b"longer than before"), "d/g: size is 18, not 5"),
        (lambda path: (path / "d/g").chmod(0o600), "d/g: mode is 0600, not 0644"),
        (lambda path: (path / "d").chmod(0o755), "d: mode is 0755, not 0700"),
        (lambda path: os.utime(path / "d", (5, 5)), "d: mtime is 5000000000, not 3000000000"),
        (lambda path: os.utime(path, (5, 5)), ".: mtime is 5000000000, not 1000000000"),
        (lambda path: (path / "d/g").unlink(), "d/g: is missing"),
        (lambda path: (path / "extra").touch(), "extra: is not of the image"),
        (lambda path: (path / "gone").mkdir(), "gone: is not of the image"),
        (lambda path: os.setxattr(path / "d/g", "user.x", b"y"), "d/g: has other extended attributes"),
        (lambda path: os.removexattr(path / "d/f", "user.a"), "h: has other extended attributes"),
        (lambda path: ((path / "p").unlink(), (path / "p").touch()), "p: is a file, not a FIFO"),
        (lambda path: ((path / "h").unlink(), (path / "h").write_bytes(b"content")), "d/f: is no hard link any more"),
    ],
)
def test_every_difference_is_named(tree: Tree, change: object, line: str) -> None:
    times = {path: path.stat().st_mtime_ns for path in (tree.path, tree.path / "d")}
    change(tree.path)  # type: ignore[operator]
    for path, time in times.items():
        if "mtime" not in line:
            os.utime(path, ns=(time, time))
    found = tree.differences()
    assert line in found
    assert len(found) <= 3  # a changed file has another time as well


def test_links_are_compared_by_their_target(tmp_path: Path) -> None:
    tree = unpack(tmp_path, archive(symlink(b"l", b"one")))
    (tree.path / "l").unlink()
    (tree.path / "l").symlink_to("two")
    assert "l: leads elsewhere" in tree.differences()


def test_owners_and_devices_are_compared(tmp_path: Path) -> None:
    need.root()
    from tests.support.tarmaker import character

    tree = unpack(tmp_path, archive(character(b"c", 1, 3), file(b"f")))
    os.chown(tree.path / "f", 7, 8)
    time = os.lstat(tree.path / "c").st_mtime_ns
    (tree.path / "c").unlink()
    os.mknod(tree.path / "c", 0o20644, os.makedev(1, 5))
    os.utime(tree.path / "c", ns=(time, time))
    wanted = f"c: device is {os.makedev(1, 5)}, not {os.makedev(1, 3)}"
    assert {wanted, "f: uid is 7, not 0", "f: gid is 8, not 0"} <= set(tree.differences())


def test_the_tree_of_fewer_layers_can_be_asked_for(tree: Tree) -> None:
    with open(tree.record, "rb") as opened:
        assert set(record.replay(opened, 1).children) == {b"d", b"h", b"l", b"p", b"gone"}
        root = record.replay(opened, 2)
        assert set(root.children) == {b"d", b"h", b"l", b"p"}
        assert root.children[b"h"] is root.children[b"d"].children[b"f"]
        assert [root.children[name].layer for name in (b"h", b"l", b"d")] == [0, 1, 1]
        with pytest.raises(OciError, match="as many layers"):
            record.replay(opened, 3)
        one = io.BytesIO()
        record.copy_layers(opened, 1, one)
        assert set(record.replay(one).children) == {b"d", b"h", b"l", b"p", b"gone"}
        with pytest.raises(OciError, match="as many layers"):
            record.copy_layers(opened, 3, io.BytesIO())


def test_the_writer_counts(tmp_path: Path) -> None:
    with open(tmp_path / "record", "wb") as opened:
        writer = RecordWriter(opened)
        writer.add(record.DIRECTORY, b"", b"", 0o755, 0, 0, 0, 0)
        writer.add(record.FILE, b"", b"f", 0o644, 0, 0, 0, 17, bytes(32))
        writer.link(b"", b"h", b"f")
        writer.end_layer()
        assert (writer.entries, writer.size) == (3, 17)


def test_a_damaged_record_is_an_error(tree: Tree) -> None:
    good = tree.record.read_bytes()
    whole = record.replay(io.BytesIO(good))
    for cut in range(len(good)):
        # An end that is one of a layer is the record of fewer layers.
        try:
            shorter = record.replay(io.BytesIO(good[:cut]))
        except OciError:
            continue
        assert len(shorter.children) > len(whole.children)
    for place in range(0, len(good), 3):
        bad = bytearray(good)
        bad[place] ^= 0xFF
        try:
            record.replay(io.BytesIO(bad))
        except OciError as error:
            assert "damaged" in error.message


def test_an_empty_tree_has_a_record(tmp_path: Path) -> None:
    tree = unpack(tmp_path, archive())
    assert tree.names() == set()
    (tree.path / "x").touch()
    assert "x: is not of the image" in tree.differences()


def test_trees_deeper_than_recursion_goes(tmp_path: Path) -> None:
    unpack(tmp_path, archive(file(b"/".join([b"d"] * 1010), b"x")))  # and compares with the record
    with Root.at(str(tmp_path)) as above:
        remove_tree(above.fd, b"rootfs")  # pytest could not
