# SPDX-License-Identifier: LGPL-2.1-or-later
"""layer.difflayer and layer.tarwriter: read back by tarfile and GNU tar."""

import io
import os
import subprocess
import tarfile
from collections.abc import Collection
from pathlib import Path

import pytest

from lxc_oci.errors import RefusedError
from lxc_oci.kernel.root import Root
from lxc_oci.layer import difflayer, tarwriter
from lxc_oci.layer.tarwriter import Facts, TarWriter
from tests.support import need


def written(path: Path, *, upper: bool = True, without: Collection[bytes] = ()) -> bytes:
    output = io.BytesIO()
    with Root.at(str(path)) as root:
        difflayer.write(root, output.write, upper=upper, without=without, warn=lambda message: None)
    return output.getvalue()


def members(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive), errors="surrogateescape") as opened:
        found = list(opened)
    assert len({member.name for member in found}) == len(found)
    return {member.name: member for member in found}


def test_a_tree_is_written_in_order_and_alike(tmp_path: Path) -> None:
    for name in ("b/c", "a", "b-c", "Z"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(name.encode() * 1000)
    first = written(tmp_path)
    os.utime(tmp_path / "a/file", ns=(10**18, (tmp_path / "a/file").stat().st_mtime_ns))
    (tmp_path / "a/file").read_bytes()
    assert written(tmp_path) == first
    names = ["Z", "Z/file", "a", "a/file", "b", "b/c", "b/c/file", "b-c", "b-c/file"]
    assert list(members(first)) == [".", *names]
    assert subprocess.run(["tar", "-df", "-", "-C", tmp_path], input=first, capture_output=True).returncode == 0


def test_an_attribute_that_a_layer_cannot_carry_is_told(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    os.setxattr(tmp_path / "one", "user.a=b", b"v")
    os.setxattr(tmp_path / "one", "user.note", b"kept")
    told: list[str] = []
    output = io.BytesIO()
    with Root.at(str(tmp_path)) as root:
        difflayer.write(root, output.write, upper=True, warn=told.append)
    assert len(told) == 1 and "/one has an extended attribute with = in its name" in told[0]
    assert {"SCHILY.xattr.user.note": "kept"}.items() <= members(output.getvalue())["one"].pax_headers.items()
    assert not any("user.a" in key for key in members(output.getvalue())["one"].pax_headers)


def test_everything_that_a_file_has(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 1025)
    (tmp_path / "one").chmod(0o640)
    os.link(tmp_path / "one", tmp_path / "two")
    (tmp_path / "link").symlink_to("/else/where")
    os.mkfifo(tmp_path / "pipe", 0o600)
    long = "d" * 90 + "/" + "f" * 120
    (tmp_path / long).parent.mkdir()
    (tmp_path / long).write_text("long")
    (tmp_path / os.fsdecode(b"latin-\xe9")).touch()
    os.setxattr(tmp_path / "one", "user.note", b"a\0b\n")
    os.utime(tmp_path / "one", ns=(0, 1_234_567_890_123_456_789))
    os.utime(tmp_path / "pipe", ns=(0, -1_500_000_000))
    found = members(written(tmp_path))
    one = found["one"]
    assert (one.size, one.mode, one.uid) == (1025, 0o640, os.geteuid())
    assert one.pax_headers["mtime"] == "1234567890.123456789"
    assert one.pax_headers["SCHILY.xattr.user.note"] == "a\0b\n"
    assert found["two"].islnk() and found["two"].linkname == "one"
    assert found["link"].linkname == "/else/where" and found["pipe"].isfifo()
    assert found["pipe"].pax_headers["mtime"] == "-1.500000000"
    assert found[long].size == 4
    assert os.fsdecode(b"latin-\xe9") in found


def test_whiteouts(tmp_path: Path) -> None:
    need.root()
    (tmp_path / "d").mkdir()
    (tmp_path / "d/new").touch()
    os.setxattr(tmp_path / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(tmp_path / "d/new", "trusted.overlay.origin", b"x")
    os.mknod(tmp_path / "gone", 0o020000, os.makedev(0, 0))
    os.mknod(tmp_path / "null", 0o020666, os.makedev(1, 3))
    found = members(written(tmp_path))
    assert list(found) == [".", "d", "d/.wh..wh..opq", "d/new", ".wh.gone", "null"]
    assert all(found[name].isreg() and found[name].size == 0 for name in ("d/.wh..wh..opq", ".wh.gone"))
    assert found["null"].ischr() and (found["null"].devmajor, found["null"].devminor) == (1, 3)
    assert not any("overlay" in key for member in found.values() for key in member.pax_headers)
    whole = members(written(tmp_path, upper=False))
    assert whole["gone"].ischr() and "d/.wh..wh..opq" not in whole


def test_what_a_container_says_itself_of_overlayfs_does_not_count(tmp_path: Path) -> None:
    need.root()
    (tmp_path / "d").mkdir()
    for word in ("opaque", "redirect"):
        os.setxattr(tmp_path / "d", f"user.overlay.{word}", b"y")
    found = members(written(tmp_path))
    assert list(found) == [".", "d"] and not found["d"].pax_headers.keys() & {"SCHILY.xattr.user.overlay.opaque"}


@pytest.mark.parametrize("feature", ["redirect", "metacopy"])
def test_what_is_not_all_in_the_upper_directory_is_refused(tmp_path: Path, feature: str) -> None:
    need.root()
    (tmp_path / "x").touch()
    os.setxattr(tmp_path / "x", f"trusted.overlay.{feature}", b"/y")
    with pytest.raises(RefusedError, match=feature):
        written(tmp_path)


def test_a_file_cannot_be_called_like_a_whiteout(tmp_path: Path) -> None:
    (tmp_path / ".wh.x").touch()
    with pytest.raises(RefusedError, match=r"\.wh\.x"):
        written(tmp_path)


def test_what_is_left_out(tmp_path: Path) -> None:
    for name in ("etc/hosts", "etc/other", ".oci-py/init"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(members(written(tmp_path, without={b"etc/hosts", b".oci-py"}))) == [".", "etc", "etc/other"]


def test_a_socket_is_warned_of(tmp_path: Path) -> None:
    import socket

    warnings: list[str] = []
    output = io.BytesIO()
    with socket.socket(socket.AF_UNIX) as made, Root.at(str(tmp_path)) as root:
        fd = os.open(tmp_path, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{fd}/s")
        difflayer.write(root, output.write, upper=True, warn=warnings.append)
        os.close(fd)
    assert list(members(output.getvalue())) == ["."] and "/s" in warnings[0]


def test_large_numbers_have_records() -> None:
    output = io.BytesIO()
    tar = TarWriter(output.write)
    tar.add(b"x", tarwriter.FILE, Facts(0o644, 3_000_000_000, 2**21, 2**40 * 10**9))
    tar.end()
    found = members(output.getvalue())["x"]
    assert (found.uid, found.gid, found.mtime) == (3_000_000_000, 2**21, 2**40)


def test_a_file_that_shrinks_is_noticed() -> None:
    tar = TarWriter(lambda data: None)
    with pytest.raises(RefusedError, match="shorter"):
        tar.add(b"x", tarwriter.FILE, Facts(), size=5, content=io.BytesIO(b"abc"))
