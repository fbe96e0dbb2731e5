# SPDX-License-Identifier: LGPL-2.1-or-later
"""Attacks on the unpack path, each seen against another program; a test carries the id of its row in the threat model.

Beside every root lies a canary: `unpack` fails the test when anything outside of the root changed.
"""

import errno
import gzip
import io
import itertools
import os
import random
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxc_oci.errors import OciError, RefusedError
from lxc_oci.kernel.root import Root
from lxc_oci.layer import entry as kinds
from lxc_oci.layer import puzzlefs, squashfs
from lxc_oci.layer.entry import Entry
from lxc_oci.layer.inflate import decompress
from lxc_oci.layer.pipeline import apply_image
from lxc_oci.layer.unpack import Unpacker
from lxc_oci.limits import Limits
from tests.support import hooks, image, need, puzzlefs_image
from tests.support.tarmaker import (
    GNU_MAGIC,
    Tree,
    apply_entries,
    archive,
    base256,
    block,
    character,
    directory,
    entry,
    fifo,
    file,
    gnu_long,
    hardlink,
    octal,
    outside,
    prepare,
    read,
    symlink,
    tar_layer,
    unpack,
)

LIMITS = Limits()
HEADER_ONLY = (b"1", b"2", b"3", b"4", b"5", b"6")


def refused(where: Path, *layers: bytes, match: str = "", limits: Limits | None = None) -> Tree:
    """The layers must be refused; returns what was made until then."""
    where.mkdir(exist_ok=True)
    tree = prepare(where)
    with pytest.raises(RefusedError, match=match):
        unpack(where, *layers, tree=tree, limits=limits)
    return tree


def each(where: Path) -> Iterator[Path]:
    """A new directory for each case."""
    for number in itertools.count():
        path = where / str(number)
        path.mkdir()
        yield path


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"../pwned", b"../../pwned", b"a/../../pwned", b"./../pwned", b"a/b/../../../pwned"])
def test_u01_dots_in_a_name_stay_inside(tmp_path: Path, name: bytes) -> None:
    tree = unpack(tmp_path, archive(file(name, b"inside")))
    assert (tree.path / "pwned").read_bytes() == b"inside"


def test_u01_dots_alone_are_the_root(tmp_path: Path) -> None:
    refused(tmp_path, archive(file(b"..", b"x")), match="root directory")


@pytest.mark.parametrize("name", [b"/etc/x", b"//etc/x", b"////etc/x", b"/./etc//x"])
def test_u02_absolute_names_are_relative_to_the_root(tmp_path: Path, name: bytes) -> None:
    assert unpack(tmp_path, archive(file(name, b"x"))).names() == {"etc", "etc/x"}


def test_u03_a_name_that_leaves_and_comes_back_makes_nothing_outside(tmp_path: Path) -> None:
    tree = unpack(tmp_path, archive(file(b"../evil/../rootfs/x", b"x"), file(b"../evil/y", b"y")))
    assert tree.names() == {"rootfs", "rootfs/x", "evil", "evil/y"}


# --- links on the way -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", [b"/", b"..", b"../..", b"/../../..", b"../../../../../..", b"%s", b"/proc/self/cwd", b"/proc/1/root"]
)
def test_u04_a_file_through_a_link_stays_inside(tmp_path: Path, target: bytes) -> None:
    target = target.replace(b"%s", os.fsencode(tmp_path))
    made = archive(symlink(b"out", target), file(b"out/canary", b"changed"), file(b"out/sub/x", b"x"))
    tree = unpack(tmp_path, made)
    assert "canary" in {os.path.basename(name) for name in tree.names()}


def test_u04_links_to_links_stay_inside(tmp_path: Path) -> None:
    parts = [symlink(b"a", b"b/.."), symlink(b"b", b"c/../.."), symlink(b"c", b"/"), file(b"a/../canary", b"x")]
    assert "canary" in unpack(tmp_path, archive(*parts)).names()


def test_u05_a_link_of_a_lower_layer_stays_inside(tmp_path: Path) -> None:
    first = archive(symlink(b"etc", os.fsencode(tmp_path)), symlink(b"up", b"../.."))
    second = archive(file(b"etc/canary", b"changed"), file(b"up/canary", b"changed"))
    names = unpack(tmp_path, first, second).names()
    assert os.fsdecode(os.fsencode(tmp_path).lstrip(b"/")) + "/canary" in names
    assert "canary" in names


def test_u06_a_chain_of_links_is_refused_cleanly(tmp_path: Path) -> None:
    chain = [symlink(b"l%d" % number, b"l%d" % (number + 1)) for number in range(41)]
    refused(tmp_path / "long", archive(*chain, directory(b"l41"), file(b"l0/x")), match="loop")
    refused(tmp_path / "loop", archive(symlink(b"a", b"b"), symlink(b"b", b"a"), file(b"a/x")), match="loop")
    # CVE-2025-4517: a path that is longer than PATH_MAX only when its links are resolved.
    long = b"/".join([b"d" * 250] * 14)
    parts = [directory(long), symlink(b"short", long), symlink(long + b"/out", b"../" * 40 + b"../..")]
    made = archive(*parts, file(b"short/" + long + b"/x"), file(b"short/out/canary", b"x"))
    refused(tmp_path / "path", made, match="path of more than")


def test_u07_a_directory_that_becomes_a_link_and_back(tmp_path: Path) -> None:
    swap = [directory(b"foo"), file(b"foo/1"), symlink(b"foo", b"/"), file(b"foo/2")]
    tree = unpack(tmp_path, archive(*swap, directory(b"foo"), file(b"foo/3"), symlink(b"foo", b".."), file(b"foo/4")))
    assert tree.names() == {"foo", "2", "4"}
    # The same where the swapped directory is in the middle of a path, and across layers.
    nested = [directory(b"a/b"), file(b"a/b/1"), symlink(b"a", b"/c"), directory(b"c/b"), file(b"a/b/2")]
    (tmp_path / "two").mkdir()
    tree = unpack(tmp_path / "two", archive(*nested), archive(file(b"a/b/3"), directory(b"a"), file(b"a/b/4")))
    assert tree.names() == {"a", "a/b", "a/b/4", "c", "c/b", "c/b/2", "c/b/3"}


@pytest.mark.parametrize("name", [b".", b"/", b"./", b"", b"..", b"a/..", b"./."])
@pytest.mark.parametrize("typeflag", [b"0", b"1", b"2", b"3", b"6"])
def test_u08_nothing_replaces_the_root(tmp_path: Path, name: bytes, typeflag: bytes) -> None:
    tree = refused(tmp_path, archive(file(b"before"), entry(name, typeflag, link=b"before")))
    assert tree.names() == {"before"}


@pytest.mark.parametrize("name", [b".", b"/", b"./", b"", b".."])
def test_u08_a_directory_sets_the_metadata_of_the_root(tmp_path: Path, name: bytes) -> None:
    tree = unpack(tmp_path, archive(directory(name, mode=0o711, mtime=5), file(b"x")))
    assert (stat.S_IMODE(tree.path.stat().st_mode), tree.path.stat().st_mtime) == (0o711, 5)


# --- hard links -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", [b"../canary", b"/etc/hostname", b"../../../etc/passwd", b"/", b"link/canary", b"missing"]
)
def test_u09_a_hard_link_finds_nothing_outside(tmp_path: Path, target: bytes) -> None:
    made = archive(symlink(b"link", os.fsencode(tmp_path)), hardlink(b"x", target))
    assert refused(tmp_path, made, match="hard link").names() == {"link"}


def test_u10_a_file_over_a_hard_link_leaves_the_other_name_alone(tmp_path: Path) -> None:
    made = archive(file(b"y", b"of y"), hardlink(b"x", b"y"), file(b"x", b"of x"))
    tree = unpack(tmp_path, made)
    assert (tree.path / "y").read_bytes() == b"of y"
    assert (tree.path / "x").read_bytes() == b"of x"


def test_u11_a_hard_link_to_a_link_is_not_followed(tmp_path: Path) -> None:
    made = archive(
        symlink(b"link", os.fsencode(tmp_path / "canary")),
        hardlink(b"again", b"link", mode=0o777),
        file(b"again2"),
        hardlink(b"again2", b"link", mode=0o4777, mtime=1),
    )
    tree = unpack(tmp_path, made)
    assert all((tree.path / name).is_symlink() for name in ("again", "again2"))


@pytest.mark.parametrize("typeflag", HEADER_ONLY)
def test_u12_data_of_an_entry_that_has_none_is_refused(tmp_path: Path, typeflag: bytes) -> None:
    made = archive(file(b"f", b"of f"), entry(b"x", typeflag, b"0123456789", link=b"f", device=(1, 3)))
    tree = refused(tmp_path, made, match="has data")
    assert (tree.path / "f").read_bytes() == b"of f"


def test_u13_metadata_of_a_directory_does_not_follow_a_link_planted_later(tmp_path: Path) -> None:
    outside = os.fsencode(tmp_path / "canary")
    made = archive(
        directory(b"d", mode=0o777, mtime=1),
        symlink(b"d", os.fsencode(tmp_path)),
        symlink(b"e", os.fsencode(tmp_path)),
        directory(b"e", mode=0o777, mtime=1),
        directory(b"f/g", mode=0o777, mtime=1),
        symlink(b"f", outside),
    )
    before = tmp_path.stat()
    tree = unpack(tmp_path, made)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == stat.S_IMODE(before.st_mode)
    assert tmp_path.stat().st_mtime > 1
    assert (tree.path / "d").is_symlink()
    assert not (tree.path / "e").is_symlink()


# --- whiteouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b".wh.", b".wh..", b".wh...", b"etc/.wh.", b"etc/.wh..", b"etc/.wh..."])
def test_u14_a_whiteout_of_a_directory_itself_is_refused(tmp_path: Path, name: bytes) -> None:
    tree = refused(tmp_path, archive(file(b"etc/passwd")), archive(file(name)), match="whiteout")
    assert "etc/passwd" in tree.names()


def test_u15_a_whiteout_follows_links_inside_and_removes_a_link_itself(tmp_path: Path) -> None:
    lower = archive(
        directory(b"etc"),
        file(b"etc/passwd"),
        symlink(b"local", b"/etc"),
        symlink(b"link", b"/etc"),
        symlink(b"out", os.fsencode(tmp_path)),
    )
    upper = archive(file(b"local/.wh.passwd"), file(b".wh.link"), file(b"out/.wh.canary"))
    tree = unpack(tmp_path, lower, upper)
    names = tree.names()
    assert {"etc", "local", "out"} <= names
    assert not {"etc/passwd", "link"} & names


def test_u16_removal_follows_no_link(tmp_path: Path) -> None:
    lower = archive(
        *(symlink(b"d/%d" % number, target) for number, target in enumerate((b"/", b"../..", os.fsencode(tmp_path)))),
        directory(b"d/e/f"),
        symlink(b"d/e/f/up", b"/"),
        file(b"d/e/f/locked"),
        directory(b"d/e", mode=0),
        file(b"stays"),
    )
    assert unpack(tmp_path, lower, archive(file(b".wh.d"))).names() == {"stays"}


def test_u16_removal_crosses_no_mount(tmp_path: Path) -> None:
    need.root()
    for name in ("tree/below/mounted", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "elsewhere/precious").write_text("x")
    code = (
        "import os, sys; from lxc_oci.kernel.root import remove_tree\n"
        "try: remove_tree(os.open('.', os.O_RDONLY), b'tree')\n"
        "except OSError as error: sys.exit(error.strerror)"
    )
    # A bind mount of the same file system has the same device number.
    script = f'mount --bind elsewhere tree/below/mounted && exec {sys.executable} -c "$0"'
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "elsewhere/precious").exists()


def test_u17_an_opaque_root_keeps_its_own_layer_in_any_order(tmp_path: Path) -> None:
    lower = archive(file(b"old"), file(b"both/old"), directory(b"gone/deep"))
    upper = archive(file(b"a"), file(b"both/new"), file(b".wh..wh..opq"), file(b"b"))
    assert unpack(tmp_path, lower, upper).names() == {"a", "b", "both", "both/new"}


@pytest.mark.parametrize("lower", [(), (archive(),)], ids=["first layer", "over an empty one"])
def test_u17_u18_u21_whiteouts_over_nothing_spare_their_own_layer(tmp_path: Path, lower: tuple[bytes, ...]) -> None:
    where = each(tmp_path)
    made = archive(file(b"a"), file(b"d/x"), file(b".wh..wh..opq"), file(b"b"))
    assert unpack(next(where), *lower, made).names() == {"a", "b", "d", "d/x"}
    made = archive(directory(b"d"), file(b"d/x"), file(b"d/.wh..wh..opq"), file(b"d/e/y"), file(b"d/.wh..wh..opq"))
    assert unpack(next(where), *lower, made).names() == {"d", "d/x", "d/e", "d/e/y"}
    made = archive(file(b"f"), file(b".wh.f"), file(b".wh.g"), file(b"g"), file(b".wh.none"), file(b"i/.wh.none"))
    assert unpack(next(where), *lower, made).names() == {"f", "g", "i"}
    made = archive(file(b"d/x"), file(b".wh.d"), file(b"d/y"), symlink(b"l", b"d"), file(b".wh.l"), file(b"l/.wh.x"))
    assert unpack(next(where), *lower, made).names() == {"d", "d/x", "d/y", "l"}
    # The layer above hides what this one left.
    assert unpack(next(where), *lower, made, archive(file(b".wh.d"))).names() == {"l"}


def test_u17_u23_overlay_whiteouts_over_nothing_spare_their_own_layer(tmp_path: Path) -> None:
    me = {"uid": os.getuid(), "gid": os.getgid()}
    entries = [
        (Entry(b"d/x", kinds.FILE, 0o644, **me), b""),
        (Entry(b"d", kinds.DIRECTORY, 0o755, xattrs=((b"trusted.overlay.opaque", b"y"),), **me), b""),
        (Entry(b"f", kinds.FILE, 0o644, **me), b""),
        (Entry(b"f", kinds.CHARACTER, 0o644, **me), b""),
    ]
    assert apply_entries(tmp_path, *entries, overlay=True).names() == {"d", "d/x", "f"}  # type: ignore[arg-type]


def test_u18_a_whiteout_spares_its_own_layer_in_any_order(tmp_path: Path) -> None:
    lower = archive(file(b"one", b"old"), file(b"two", b"old"), file(b"three"))
    upper = archive(file(b"one", b"new"), file(b".wh.one"), file(b".wh.two"), file(b"two", b"new"), file(b".wh.three"))
    tree = unpack(tmp_path, lower, upper)
    assert tree.names() == {"one", "two"}
    assert (tree.path / "one").read_bytes() == (tree.path / "two").read_bytes() == b"new"


@pytest.mark.parametrize("typeflag", [b"0", *HEADER_ONLY])
def test_u19_a_whiteout_is_one_whatever_its_type(tmp_path: Path, typeflag: bytes) -> None:
    data = b"not empty" if typeflag == b"0" else b""
    lower = archive(file(b"d/x", b"x"), file(b"d/y"))
    upper = archive(entry(b"d/.wh.x", typeflag, data, link=b"d/y", device=(8, 0)))
    assert unpack(tmp_path, lower, upper).names() == {"d", "d/y"}


def test_u20_files_of_aufs_are_ignored_and_whiteouts_in_a_path_refused(tmp_path: Path) -> None:
    lower = archive(file(b"etc/passwd"), file(b"x"))
    meta = archive(file(b".wh..wh.x"), directory(b".wh..wh.plnk"), file(b".wh..wh.plnk/1.2"), file(b".wh..wh.aufs"))
    tree = unpack(tmp_path, lower, meta)
    assert tree.names() == {"etc", "etc/passwd", "x"}
    assert len(tree.warnings) == 1
    tree = refused(tmp_path / "component", lower, archive(file(b".wh.etc/file")), match="below a whiteout")
    assert "etc/passwd" in tree.names()


def test_u21_a_whiteout_and_entries_below_it_make_an_opaque_directory(tmp_path: Path) -> None:
    lower = archive(file(b"d/old"), file(b"d/sub/old"), file(b"e/old"), file(b"e/sub/old"))
    upper = archive(
        file(b".wh.d"), file(b"d/new"), file(b"d/sub/new"), file(b"e/new"), file(b"e/sub/new"), file(b".wh.e")
    )
    wanted = {"d", "d/new", "d/sub", "d/sub/new", "e", "e/new", "e/sub", "e/sub/new"}
    assert unpack(tmp_path, lower, upper).names() == wanted


def test_u22_a_whiteout_in_an_opaque_directory_leaves_no_phantom(tmp_path: Path) -> None:
    lower = archive(file(b"d/a"), file(b"d/b"))
    upper = archive(file(b"d/.wh..wh..opq"), file(b"d/.wh.a"), file(b"d/.wh.never"), file(b"d/c"))
    assert sorted(os.listdir(unpack(tmp_path, lower, upper).path / "d")) == ["c"]


def test_u23_an_overlay_whiteout_in_a_tar_hides_nothing(tmp_path: Path) -> None:
    lower = archive(file(b"bin/sh", b"shell"))
    upper = archive(character(b"bin/sh", 0, 0), character(b"bin/other", 0, 0), hardlink(b"bin/third", b"bin/other"))
    tree = unpack(tmp_path, lower, upper)
    assert (tree.path / "bin/sh").read_bytes() == b"shell"
    assert tree.names() == {"bin", "bin/sh"}
    assert len(tree.warnings) == 1 and "0:0" in tree.warnings[0]


# --- attributes -------------------------------------------------------------------------------------------------------


def attributes(path: Path) -> set[str]:
    return set(os.listxattr(path))


@pytest.mark.parametrize("space", [b"trusted.overlay.", b"user.overlay."])
def test_u24_overlay_attributes_of_a_tar_reach_no_file(tmp_path: Path, space: bytes) -> None:
    words = (b"opaque", b"redirect", b"metacopy", b"whiteout", b"origin", b"upper", b"overlay.opaque")
    parts = [file(b"f/" + word, b"x", xattrs={space + word: b"y"}) for word in words]
    parts += [directory(b"d/" + word, xattrs={space + word: b"y"}) for word in words]
    tree = unpack(tmp_path, archive(*parts))
    for name in tree.names():
        assert not attributes(tree.path / name), name
    assert len(tree.warnings) == len(words)


def test_u25_other_spellings_of_attributes_are_ignored(tmp_path: Path) -> None:
    records = {
        b"LIBARCHIVE.xattr.user.a": b"eA",
        b"LIBARCHIVE.xattr.trusted.overlay.opaque": b"eQ",
        b"RHT.security.selinux": b"system_u:object_r:etc_t:s0",
        b"SCHILY.acl.access": b"user::rwx",
        b"SCHILY.xattr.trusted%2Eoverlay.opaque": b"y",
        b"SCHILY.xattr": b"y",
    }
    tree = unpack(tmp_path, archive(file(b"f", pax=records)))
    assert not attributes(tree.path / "f")


def test_u26_only_listed_attributes_are_kept(tmp_path: Path) -> None:
    dropped = (
        b"security.selinux",
        b"security.ima",
        b"security.evm",
        b"security.apparmor",
        b"system.nfs4_acl",
        b"trusted.x",
    )
    tree = unpack(tmp_path, archive(file(b"f", xattrs={**dict.fromkeys(dropped, b"x"), b"user.kept": b"value"})))
    assert attributes(tree.path / "f") == {"user.kept"}
    assert os.getxattr(tree.path / "f", "user.kept") == b"value"
    assert len(tree.warnings) == len(dropped)
    # A default list of a directory is inherited by no file that came without one.
    if os.geteuid() == 0:
        acl = struct.pack(
            "<IHHIHHIHHIHHIHHI", 2, 1, 7, 0xFFFFFFFF, 2, 7, 4242, 4, 5, 0xFFFFFFFF, 16, 7, 0xFFFFFFFF, 32, 5, 0xFFFFFFFF
        )
        (tmp_path / "acl").mkdir()
        lists = {b"system.posix_acl_default": acl}
        parts = [directory(b"d", xattrs=lists), file(b"d/f", mode=0o600), directory(b"d/e"), file(b"d/e/f", mode=0o640)]
        tree = unpack(tmp_path / "acl", archive(*parts), archive(file(b"d/later", mode=0o604)))
        assert attributes(tree.path / "d") == {"system.posix_acl_default"}
        for name, mode in (("d/f", 0o600), ("d/e", 0o755), ("d/e/f", 0o640), ("d/later", 0o604)):
            assert (attributes(tree.path / name), tree.mode(name)) == (set(), mode), name


def test_u27_attributes_with_nul_or_without_end_are_refused(tmp_path: Path) -> None:
    where = each(tmp_path)
    refused(next(where), archive(file(b"f", pax={b"SCHILY.xattr.user.a\0b": b"x"})), match="NUL")
    many = {b"SCHILY.xattr.user.%d" % number: b"x" for number in range(100_000)}
    refused(next(where), archive(file(b"f", pax=many)), match="limit")
    huge = {b"SCHILY.xattr.user.huge": b"x" * (2 << 20)}
    refused(next(where), archive(file(b"f", pax=huge)), match="limit")
    # Values are bytes: capabilities contain NUL.
    tree = unpack(next(where), archive(file(b"f", xattrs={b"user.binary": b"a\0b=\n\xff"})))
    assert os.getxattr(tree.path / "f", "user.binary") == b"a\0b=\n\xff"
    with pytest.raises(OciError, match="f"):  # more than a file system or the kernel holds
        unpack(next(where), archive(file(b"f", xattrs={b"user.large": b"x" * 100_000})))


# --- devices and set-id -----------------------------------------------------------------------------------------------


def test_u28_devices_are_data_that_is_never_opened(tmp_path: Path) -> None:
    need.root()
    parts = [block(b"disk", 8, 0, mode=0o666), character(b"zero", 1, 5, mode=0o4666), character(b"absent", 199, 7)]
    tree = unpack(tmp_path, archive(*parts), archive(block(b"disk", 8, 0, mode=0o600, mtime=7)))
    status = os.lstat(tree.path / "disk")
    assert stat.S_ISBLK(status.st_mode) and status.st_rdev == os.makedev(8, 0)
    assert (tree.mode("disk"), status.st_mtime) == (0o600, 7)
    assert tree.mode("zero") == 0o4666
    # No driver has this number: opening the node would be ENXIO.
    os.mknod(tree.path / "unknown", 0o20666, os.makedev(4095, 1))
    with Root.at(str(tree.path)) as root, pytest.raises(RefusedError, match="not a regular file"):
        root.read(b"unknown", 1000)


def test_u28_a_copy_opens_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clone hook reads etc/hostname and etc/hosts of a container."""
    need.root()
    opened = []
    real = os.open

    def watched(path: str, flags: int, *rest: int, dir_fd: int | None = None) -> int:
        opened.append(flags)
        return real(path, flags, *rest, dir_fd=dir_fd)

    os.mknod(tmp_path / "hosts", 0o20666, os.makedev(1, 5))
    (tmp_path / "hostname").write_text("one")
    with Root.at(str(tmp_path)) as root:
        hook = hooks.module("oci-py-clone")
        monkeypatch.setattr(os, "open", watched)
        assert hook.content(root.fd, "hosts") == b""
        assert len(opened) == 1 and opened[0] & os.O_PATH
        assert hook.content(root.fd, "hostname") == b"one"


def test_u28_devices_are_left_out_where_the_kernel_forbids_them(tmp_path: Path) -> None:
    need.program("unshare")
    root = {"uid": 0, "gid": 0}
    devices = [character(b"null", 1, 3, **root), block(b"disk", 8, 0, **root)]
    others = [fifo(b"fifo", **root), hardlink(b"other", b"null", **root), file(b"f", **root)]
    (tmp_path / "layer.tar").write_bytes(archive(*devices, *others))
    os.chmod(tmp_path, 0o755)
    script = """
import sys; from pathlib import Path; from tests.support.tarmaker import unpack
tree = unpack(Path("new"), Path("layer.tar").read_bytes())
print(sorted(tree.names()), len(tree.warnings), tree.warnings[0])
"""
    (tmp_path / "new").mkdir()
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        check=False,
    )
    if b"unshare failed" in done.stderr:
        need.missing("user namespaces are not allowed")
    assert done.stdout.startswith(b"['f', 'fifo'] 1 device nodes"), (done.stdout, done.stderr)


def test_u29_a_fifo_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    tree = unpack(tmp_path, archive(*(fifo(name) for name in (b"etc/passwd", b"etc/group", b"etc/hosts"))))
    with Root.at(str(tree.path)) as root:
        for name in (b"etc/passwd", b"etc/group", b"etc/hosts"):
            with pytest.raises(RefusedError, match="not a regular file"):
                root.read(name, 1000)
    # Nor while a later layer replaces it or changes what is around it.
    assert "etc/passwd" in unpack(tmp_path, archive(file(b"etc/passwd", b"x")), tree=tree).names()


def test_u30_set_id_bits_are_the_last_thing_that_a_file_gets(tmp_path: Path) -> None:
    need.root()
    need.program("setpriv")
    private = tmp_path / "store"
    private.mkdir(mode=0o700)
    tree = unpack(
        private,
        archive(directory(b"./"), file(b"su", b"x" * 100_000, mode=0o4755), file(b"wall", b"x", mode=0o2755, gid=5)),
    )
    assert (tree.mode("su"), tree.mode("wall")) == (0o4755, 0o2755)
    # Capabilities and set-id bits survive the change of owner, because they come after it.
    assert os.lstat(tree.path / "wall").st_gid == 5
    os.chmod(tmp_path, 0o755)
    reach = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", "stat", str(tree.path / "su")]
    assert subprocess.run(reach, capture_output=True, check=False).returncode != 0


# --- the format -------------------------------------------------------------------------------------------------------


def names(content: bytes) -> list[str]:
    return [item.name.decode() for item, _ in read(content)]


def test_u31_the_extended_size_counts_for_data_and_for_what_is_skipped() -> None:
    hidden = file(b"hidden", b"x")
    nested = hidden + bytes(512 - len(hidden) % 512 if len(hidden) % 512 else 0)
    with_pax = entry(b"outer", data=nested, size=0, pax={b"size": b"%d" % len(nested)})
    assert names(archive(with_pax, file(b"after"))) == ["outer", "after"]
    reverse = entry(b"outer", size=len(nested), pax={b"size": b"0"})
    content = archive(reverse, nested, file(b"after"))
    assert names(content) == ["outer", "hidden", "after"]
    for made in (archive(with_pax, file(b"after")), content):
        gnu = subprocess.run(["tar", "-tf", "-"], input=made, capture_output=True, check=True).stdout.decode().split()
        assert gnu == names(made)
        with tarfile.open(fileobj=io.BytesIO(made)) as other:
            assert other.getnames() == names(made)


@pytest.mark.parametrize(
    "size",
    [
        base256(-1, 12),
        base256(-512, 12),
        base256(2**63, 12),
        base256(2**80, 12),
        b"\x81" + bytes(11),
        b"\xfe" + b"\xff" * 11,
        b"-0000000001\0",
        b"+0000000001\0",
        b"0000000000x\0",
        b"00000000_10\0",
        b"0x000000010\0",
        b"0000000 010\0",
        b"\0" * 4 + b"12345678",
    ],
)
def test_u32_a_size_that_is_none_is_refused(tmp_path: Path, size: bytes) -> None:
    if size.startswith(b"\0"):
        size = b"00000010\x0099\0"
    refused(tmp_path, archive(entry(b"x", size=size), bytes(512)))


@pytest.mark.parametrize(
    "size", [b"-1", b"+1", b"1e3", b" 1", b"0x1", b"99999999999999999999", b"9223372036854775808", b"1_0"]
)
def test_u32_an_extended_size_that_is_none_is_refused(tmp_path: Path, size: bytes) -> None:
    refused(tmp_path, archive(entry(b"x", pax={b"size": size}), bytes(512)))


@pytest.mark.parametrize(
    "records",
    [
        b"0 path=x\n",
        b"1 path=x\n",
        b"9 path=x\n" + b"8 path=y\n",
        b"12 path=x\n",
        b"99 path=x\n",
        b"path=x\n",
        b"9path=x\n\n",
        b" 9 path=x\n",
        b"-9 path=x\n",
        b"+10 path=x\n",
        b"9 path=xy",
        b"9 pathx\n\n",
        b"6 =xy\n",
        b"9 path=x\n\0",
        b"11 path=a\0b\n",
        b"000000000000000000000000009 path=x\n",
        b"8 uid=\n9 u",
        b"12 uid=-100\n",
        b"12 mtime=1x\n",
    ],
)
def test_u33_a_broken_extended_record_is_refused(tmp_path: Path, records: bytes) -> None:
    refused(tmp_path, archive(image.pax_block(records), file(b"x")), match="damaged")


def test_u33_an_empty_extended_header_is_fine(tmp_path: Path) -> None:
    # quay.io/curl/curl:8.4.0 has one.
    empty = [image.pax_block(b""), file(b"x"), image.pax_block(b"8 path=\n"), file(b"y")]
    assert unpack(tmp_path, archive(*empty)).names() == {"x", "y"}


def test_u33_an_extended_header_without_entry_or_a_second_one_is_refused(tmp_path: Path) -> None:
    where = each(tmp_path)
    record = image.pax_record(b"path", b"y")
    refused(next(where), archive(image.pax_block(record)), match="ends after")
    refused(next(where), archive(image.pax_block(record), image.pax_block(record), file(b"x")), match="two extended")
    refused(next(where), archive(image.pax_block(record), gnu_long(b"z"), file(b"x")), match="both")
    for kind in (b"L", b"K"):
        refused(next(where), archive(gnu_long(b"y", kind), gnu_long(b"z", kind), file(b"x")), match="two extended")


@pytest.mark.parametrize("typeflag", [b"x", b"g", b"L", b"K"])
def test_u34_extension_headers_are_limited(tmp_path: Path, typeflag: bytes) -> None:
    # Nothing of that size is sent: it must be refused before it is read.
    for size in (2 << 20, 1 << 40):
        where = tmp_path / str(size)
        refused(where, image.raw_header(b"x", typeflag=typeflag, size=base256(size, 12)), match="limit")


def test_u34_sparse_maps_are_limited(tmp_path: Path) -> None:
    where = each(tmp_path)
    sparse = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"10"}
    endless = b"9" * 18 + b"\n" + b"0\n" * (600 << 10)
    refused(next(where), archive(entry(b"x", data=endless, pax=sparse)), match="limit")
    more = octal(0, 12) + octal(0, 12)
    chain = image.raw_header(b"x", typeflag=b"S", magic=GNU_MAGIC)
    chain = with_old_map(chain, [(0, 0)] * 4, 10, more=True) + (more * 21 + b"\1" + bytes(7)) * 3000
    refused(next(where), chain, match="limit")
    counts = {b"GNU.sparse.size": b"1", b"GNU.sparse.numblocks": b"%d" % 10**9, b"GNU.sparse.map": b"0,1"}
    refused(next(where), archive(entry(b"x", data=b"1", pax=counts)), match="as many regions")


def with_old_map(header: bytes, regions: list[tuple[int, int]], logical: int, more: bool = False) -> bytes:
    """A header of type S with GNU's old map in it."""
    fields = b"".join(octal(offset, 12) + octal(length, 12) for offset, length in regions).ljust(96, b"\0")
    header = header[:386] + fields + bytes([more]) + octal(logical, 12) + header[495:]
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    return header[:148] + b"%06o\0 " % total + header[156:]


def test_u35_a_global_header_changes_no_entry(tmp_path: Path) -> None:
    records = {
        b"path": b"evil",
        b"size": b"0",
        b"linkpath": b"/etc/shadow",
        b"uid": b"7",
        b"SCHILY.xattr.user.a": b"x",
        b"comment": b"fine",
    }
    content = image.pax_block(b"".join(image.pax_record(key, value) for key, value in records.items()), b"g")
    tree = unpack(tmp_path, archive(content, file(b"x", b"data"), symlink(b"l", b"x")))
    assert tree.names() == {"x", "l"}
    assert (tree.path / "x").read_bytes() == b"data"
    assert not attributes(tree.path / "x")
    assert len(tree.warnings) == 1


@pytest.mark.parametrize("typeflag", [b"0", b"\0", b"7"])
def test_u36_a_file_does_not_become_a_directory_by_its_name(tmp_path: Path, typeflag: bytes) -> None:
    where = each(tmp_path)
    refused(next(where), archive(entry(b"x/", typeflag)), match="slash")
    refused(next(where), archive(gnu_long(b"long/"), entry(b"x", typeflag, magic=GNU_MAGIC)), match="slash")
    refused(next(where), archive(entry(b"x", typeflag, b"data", pax={b"path": b"long/"})), match="slash")
    assert unpack(next(where), archive(gnu_long(b"long"), entry(b"x/", typeflag, b"data"))).names() == {"long"}


def test_u37_damage_between_entries_is_refused(tmp_path: Path) -> None:
    where = each(tmp_path)
    good = file(b"x", b"data")
    refused(next(where), archive(good[:10] + b"y" + good[11:]), match="checksum")
    refused(next(where), archive(good, b"garbage" * 73 + b"!", good), match="checksum")
    refused(next(where), archive(good, bytes(512), good), match="block of zeros")
    for cut in (100, 512, 700, 1023):
        refused(next(where), archive(file(b"x", b"d" * 600))[: 512 + cut], match="ends in the middle")
    refused(next(where), good[:300], match="ends in the middle of a header")
    # No end, or half of one, is what some programs write.
    assert names(good) == names(good + bytes(512)) == ["x"]


def test_u38_what_comes_after_the_end_is_hashed_and_ignored(tmp_path: Path) -> None:
    where = each(tmp_path)
    one, two = archive(file(b"one")), archive(file(b"two"))
    tree = unpack(next(where), one + two)
    assert tree.names() == {"one"}
    assert len(tree.warnings) == 1
    assert unpack(next(where), one + bytes(9000)).warnings == []
    # All members of a gzip file are one archive, in whatever way they cut it.
    whole = archive(file(b"one", b"1" * 1000), file(b"two", b"2" * 1000))
    for cut in (0, 1, 600, 1536, len(whole)):
        raw = gzip.compress(whole[:cut]) + gzip.compress(b"") + gzip.compress(whole[cut:])
        assert read_inflated(raw, "gzip") == (whole, [])
    assert read_inflated(gzip.compress(one) + bytes(100), "gzip") == (one, [])
    data, warnings = read_inflated(gzip.compress(one) + b"random junk", "gzip")
    assert (data, len(warnings)) == (one, 1)
    with pytest.raises(RefusedError):  # it begins like another member
        read_inflated(gzip.compress(one) + b"\x1f\x8b\x08 but is none", "gzip")


def read_inflated(raw: bytes, compression: str, limits: Limits = LIMITS) -> tuple[bytes, list[str]]:
    warnings: list[str] = []
    source = io.BytesIO(raw)
    reader = decompress(source, compression, limits, warnings.append)
    data = b"".join(iter(lambda: reader.read(1 << 20), b""))
    assert source.read() == b""  # so that a digest over it is complete
    return data, warnings


def test_u38_frames_of_zstd_are_one_archive() -> None:
    zstandard = pytest.importorskip("zstandard") if not os.environ.get("CI") else __import__("zstandard")
    whole = archive(file(b"one", b"1" * 1000), file(b"two", b"2" * 1000))
    compress = zstandard.ZstdCompressor().compress
    skippable = struct.pack("<II", 0x184D2A50, 5) + b"hello"
    raw = skippable + compress(whole[:700]) + skippable + compress(whole[700:]) + skippable
    assert read_inflated(raw, "zstd") == (whole, [])
    with pytest.raises(RefusedError):
        read_inflated(compress(whole) + b"junk that is no frame", "zstd")


def test_u39_bombs_are_refused_while_they_are_read() -> None:
    small = LIMITS._replace(ratio_floor_bytes=1 << 20, layer_ratio=100)
    compressor = zlib.compressobj(9, wbits=31)
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(64)) + compressor.flush()
    with pytest.raises(RefusedError, match="bomb"):
        read_inflated(bomb, "gzip", small)
    with pytest.raises(RefusedError, match="uncompressed"):
        read_inflated(bomb, "gzip", LIMITS._replace(layer_bytes=10 << 20))
    assert len(read_inflated(bomb, "gzip")[0]) == 64 << 20  # under the floor


def test_u39_zstd_windows_are_limited() -> None:
    zstandard = pytest.importorskip("zstandard") if not os.environ.get("CI") else __import__("zstandard")
    # A frame header that asks for a window of 2 GiB (RFC 8878, section 3.1.1.1.2), then one empty block.
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]) + b"\x01\x00\x00"
    with pytest.raises(RefusedError, match="zstd"):
        read_inflated(frame, "zstd")
    assert zstandard


def test_u39_sparse_files_count_with_their_logical_size(tmp_path: Path) -> None:
    sparse = {
        b"GNU.sparse.major": b"0",
        b"GNU.sparse.minor": b"1",
        b"GNU.sparse.size": b"%d" % (1 << 60),
        b"GNU.sparse.numblocks": b"1",
        b"GNU.sparse.map": b"0,1",
    }
    refused(tmp_path / "pax", archive(entry(b"x", data=b"1", pax=sparse)), match="sparse")
    header = image.raw_header(b"x", typeflag=b"S", size=1, magic=GNU_MAGIC)
    header = with_old_map(header, [(0, 1)], 3 << 30)
    two = archive(header + image.padded(b"1"), header + image.padded(b"1"))
    assert len(read(two)) == 2
    with pytest.raises(RefusedError, match="sparse"):
        read(two, LIMITS._replace(layer_bytes=5 << 30))


# --- layers on layers -------------------------------------------------------------------------------------------------


def test_u40_an_implied_directory_keeps_what_lies_below(tmp_path: Path) -> None:
    lower = archive(directory(b"usr/lib"), symlink(b"lib", b"usr/lib"), directory(b"tmp", mode=0o1777, mtime=9))
    tree = unpack(tmp_path, lower, archive(file(b"lib/x", b"x"), file(b"tmp/y", b"y")))
    assert (tree.path / "lib").is_symlink()
    assert (tree.path / "usr/lib/x").read_bytes() == b"x"
    assert (tree.mode("tmp"), (tree.path / "tmp").stat().st_mtime) == (0o1777, 9)


def test_u41_a_hard_link_joins_a_file_of_a_lower_layer(tmp_path: Path) -> None:
    tree = unpack(
        tmp_path, archive(file(b"a/low", b"content", mode=0o600)), archive(hardlink(b"b/high", b"a/low", mode=0))
    )
    assert os.path.samefile(tree.path / "a/low", tree.path / "b/high")
    assert tree.mode("a/low") == 0o600
    refused(tmp_path / "no", archive(file(b"a/low")), archive(file(b"a/.wh.low"), hardlink(b"x", b"a/low")))


def test_u42_the_last_entry_of_a_name_wins_and_a_layer_may_come_twice(tmp_path: Path) -> None:
    layer = archive(
        file(b"x", b"first"), symlink(b"y", b"x"), file(b"x", b"second"), file(b"y", b"third"), fifo(b"z"), file(b"z")
    )
    tree = unpack(tmp_path, layer, layer)
    assert [(tree.path / name).read_bytes() for name in "xyz"] == [b"second", b"third", b""]


def test_u43_a_file_with_something_below_it_becomes_a_directory(tmp_path: Path) -> None:
    made = archive(file(b"f"), file(b"f/x", b"x"), fifo(b"p"), file(b"p/q/r", b"r"))
    assert unpack(tmp_path, made).names() == {"f", "f/x", "p", "p/q", "p/q/r"}


def test_u44_names_are_bytes(tmp_path: Path) -> None:
    strange = [
        b"\xff\xfe",
        "é".encode(),
        "e\u0301".encode(),
        b"Case",
        b"case",
        b"new\nline",
        b"\x1b[31mred",
        b" ",
        b"\x7f",
        b"back\\slash",
    ]
    tree = unpack(tmp_path, archive(*(file(b"d/" + name, name) for name in strange)))
    assert sorted(os.listdir(os.fsencode(tree.path / "d"))) == sorted(strange)
    # GNU tar sees the same names.
    made = archive(*(file(b"d/" + name, name) for name in strange))
    listed = subprocess.run(
        ["tar", "-tf", "-", "--quoting-style=literal", "--show-transformed-names"],
        input=made,
        capture_output=True,
        check=True,
    ).stdout
    assert listed == b"".join(b"d/" + name + b"\n" for name in strange)
    refused(tmp_path / "nul", archive(file(b"x", pax={b"path": b"a\0b"})), match="NUL")
    refused(tmp_path / "link", archive(symlink(b"x", b"y", pax={b"linkpath": b"a\0b"})), match="NUL")
    with pytest.raises(RefusedError) as caught:
        unpack(
            tmp_path / "nul",
            archive(file(b"\x1b[31m" + b"x" * 300)),
            tree=Tree(tmp_path / "nul/rootfs", tmp_path / "nul/record", tmp_path / "nul/canary"),
        )
    assert "\x1b" not in caught.value.message


def test_u45_depth_length_and_number_are_limited(tmp_path: Path) -> None:
    where = each(tmp_path)
    refused(next(where), archive(file(b"x/" * 1100 + b"y")), match="components")
    refused(next(where), archive(file(b"x/" * 100_000 + b"y")), match="bytes")
    refused(next(where), archive(file(b"x" * 256)), match=os.strerror(errno.ENAMETOOLONG))
    refused(next(where), archive(directory(b"x" * 256 + b"/y")), match=os.strerror(errno.ENAMETOOLONG))
    refused(next(where), archive(symlink(b"x", b"y/" * 3000)), match="bytes")
    few = LIMITS._replace(entries=10)
    refused(next(where), archive(*(file(b"%d" % number) for number in range(11))), match="entries", limits=few)
    # Deep, but legal: created, whited out, and not by recursion.
    deep = b"/".join([b"d"] * 1000)
    tree = unpack(next(where), archive(file(deep + b"/f", b"x")), archive(file(b".wh.d")))
    assert tree.names() == set()


def test_u46_a_shared_inode_is_never_changed(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    lower = archive(file(b"a", b"shared", mode=0o640), file(b"b", b"shared too"), file(b"c", b"third"))
    shared = unpack(first, lower).path
    second.mkdir()
    for name in ("a", "b", "c"):
        os.link(shared / name, second / name)

    def facts() -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        for name in ("a", "b", "c"):
            status = os.lstat(shared / name)
            content = (shared / name).read_bytes()
            found.append((status.st_mode, status.st_uid, status.st_mtime_ns, content, attributes(shared / name)))
        return found

    before = facts()
    upper = archive(
        file(b"a", b"changed", mode=0o777, mtime=3, xattrs={b"user.x": b"y"}),
        hardlink(b"d", b"b", mode=0o4777, mtime=3, xattrs={b"user.x": b"y"}),
        hardlink(b"e", b"c", mode=0o777),
        file(b"e", b"replaced"),
        file(b".wh.b"),
        symlink(b"c", b"a"),
    )
    with Root.at(str(second)) as root, Unpacker(root, LIMITS, print) as unpacker:
        apply_image(unpacker, [tar_layer(upper)], LIMITS, print)
    assert facts() == before
    assert (second / "d").read_bytes() == b"shared too"
    assert sorted(os.listdir(second)) == ["a", "c", "d", "e"]


def test_u47_no_program_of_the_image_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = prepare(tmp_path)
    trap = b"#!/bin/sh\ntouch " + os.fsencode(tmp_path / "trapped") + b"\n"
    programs = (b"zstd", b"gzip", b"igzip", b"tar", b"mksquashfs", b"python3")
    monkeypatch.setenv("PATH", f"{tree.path}/usr/bin:{os.environ['PATH']}")
    unpack(tmp_path, archive(*(file(b"usr/bin/" + name, trap, mode=0o755) for name in programs)), tree=tree)
    content = archive(file(b"later", b"x"))
    with Root.at(str(tree.path)) as root, Unpacker(root, LIMITS, print) as unpacker:
        for compression in ("gzip", "zstd"):
            raw = image.compress(content, compression) if compression == "gzip" else zstd(content)
            apply_image(unpacker, [tar_layer(content, compression, raw)], LIMITS, print)
    assert not (tmp_path / "trapped").exists()


def zstd(content: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard") if not os.environ.get("CI") else __import__("zstandard")
    compressed: bytes = zstandard.ZstdCompressor().compress(content)
    return compressed


def test_u48_names_like_options_are_names(tmp_path: Path) -> None:
    strange = [b"-e", b"--reload=x", b"@file", b"*", b"?", b"$(touch pwned)", b";touch pwned", b"-"]
    tree = unpack(tmp_path, archive(*(file(name, name) for name in strange)), archive(file(b".wh.*"), file(b".wh.-e")))
    assert tree.names() == {os.fsdecode(name) for name in strange} - {"*", "-e"}


# --- mounts of layers -------------------------------------------------------------------------------------------------

_MOUNT = """
import os, sys; from pathlib import Path
from lxc_oci.limits import Limits; from lxc_oci.rootfs import overlay; from lxc_oci.store import mountplan
place, hook = Path(sys.argv[1]), sys.argv[2]
overlay.private_namespace()
def show(target):
    print(next(line for line in open("/proc/self/mountinfo") if target in line), end="")
    print(sorted(os.listdir(target)))
lower = mountplan.Lower(mountplan.SQUASHFS, str(place / "layer.squashfs"))
(place / "one").mkdir()
with mountplan.image_mounted(str(place / "one"), lower, Limits(), hook=hook) as target:
    show(target)
(place / "two/rootfs").mkdir(parents=True)
mountplan.write(str(place / "two"), mountplan.Plan((lower, lower)))
with mountplan.attached(str(place / "two"), Limits(), hook=hook) as target:
    show(target)
"""


def test_u24_u28_u30_layers_are_mounted_without_devices_and_set_id_bits(tmp_path: Path) -> None:
    """Nobody meets them there; a container sees them through its overlay, which nothing in a layer leads elsewhere."""
    need.root()
    tree = unpack(tmp_path, archive(file(b"suid", b"x", mode=0o4755), block(b"disk", 8, 0), file(b"redirected", b"x")))
    command = [need.program("mksquashfs", "squashfs-tools"), str(tree.path), str(tmp_path / "layer.squashfs")]
    subprocess.run([*command, "-quiet", "-no-progress"], check=True, capture_output=True)
    checkout = Path(__file__).parents[2]
    done = subprocess.run(
        ["/usr/bin/python3", "-c", _MOUNT, str(tmp_path), str(checkout / "hooks/oci-py-mount")],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    layer, layer_names, container, container_names = done.stdout.splitlines()
    assert layer_names == container_names == "['disk', 'redirected', 'suid']"
    assert {"ro", "nosuid", "nodev"} <= set(layer.split(" - ")[0].split()[5].split(","))
    options = set(container.split(" - ")[1].split()[2].split(","))
    assert "redirect_dir=nofollow" in options
    assert not {"index=on", "metacopy=on", "nfs_export=on", "redirect_dir=on"} & options  # what is off is not listed


# --- other formats ----------------------------------------------------------------------------------------------------


def test_u49_a_damaged_puzzlefs_is_a_clean_error() -> None:
    made = puzzlefs_image
    inodes = [made.inode(1, "directory", made.directory({b"d": 2})), made.inode(2, "directory", made.directory({}))]
    good = made.message(made.rootfs([inodes]))
    assert [item.name for item, _ in puzzle(good)] == [b".", b"d"]
    chance = random.Random(49)
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        try:
            puzzle(bytes(bad[: chance.randrange(len(bad))] if chance.random() < 0.3 else bad))
        except OciError:
            pass


def test_u49_a_damaged_squashfs_is_a_clean_error(tmp_path: Path) -> None:
    need.program("sqfs2tar", "squashfs-tools-ng")
    (tmp_path / "tree/d").mkdir(parents=True)
    for number in range(20):
        (tmp_path / f"tree/d/{number}").write_bytes(b"%d" % number * 500)
    good = tmp_path / "good"
    command = [need.program("mksquashfs", "squashfs-tools"), str(tmp_path / "tree"), str(good)]
    subprocess.run([*command, "-quiet", "-no-progress"], check=True, capture_output=True)
    content, bad = good.read_bytes(), tmp_path / "bad"
    chance = random.Random(49)
    os.chmod(tmp_path, 0o755)
    limits = LIMITS._replace(helper_timeout=10, helper_memory_bytes=1 << 30)
    refusals = 0
    for where in itertools.islice(each(tmp_path), 40):
        raw = bytearray(content)
        for _ in range(chance.randrange(1, 4)):
            raw[chance.randrange(96 if chance.random() < 0.3 else len(raw))] = chance.randrange(256)
        bad.write_bytes(raw[: chance.randrange(len(raw))] if chance.random() < 0.3 else raw)
        tree = prepare(where)
        tree.record.touch()
        try:
            with Root.at(str(tree.path)) as root, Unpacker(root, LIMITS, print, overlay_whiteouts=True) as unpacker:
                squashfs.apply_layer(unpacker, str(bad), "layer 1", limits, lambda message: None)
        except OciError as error:
            refusals += 1
            assert error.message.isprintable()
        outside(tree)
    assert refusals


def test_u52_a_helper_ends_with_its_reader(tmp_path: Path) -> None:
    """What is refused half way leaves no sqfs2tar that waits for somebody to read."""
    need.program("sqfs2tar", "squashfs-tools-ng")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/large").write_bytes(bytes(8 << 20))
    command = [need.program("mksquashfs", "squashfs-tools"), str(tmp_path / "tree"), str(tmp_path / "image")]
    subprocess.run([*command, "-quiet", "-no-progress"], check=True, capture_output=True)
    os.chmod(tmp_path, 0o755)
    tree = prepare(tmp_path / "tree")
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = children.read_text()
    with Root.at(str(tree.path)) as root, Unpacker(root, LIMITS, print, overlay_whiteouts=True) as unpacker:
        for limits in (LIMITS._replace(layer_bytes=1 << 20), LIMITS._replace(entries=1)):
            with pytest.raises(RefusedError, match=r"limit|entries"):
                squashfs.apply_layer(unpacker, str(tmp_path / "image"), "layer 1", limits, lambda message: None)
            assert children.read_text() == before


def puzzle(metadata: bytes) -> list[tuple[Entry, object]]:
    made = puzzlefs_image.Image()
    manifest = made.manifest(metadata)
    return list(puzzlefs.entries(manifest, made.open, LIMITS, print))


def test_u50_links_of_another_format_are_not_followed_outside(tmp_path: Path) -> None:
    # CVE-2021-41072: a directory and a link of one name.
    me = {"uid": os.getuid(), "gid": os.getgid()}
    entries = [
        (Entry(b"d", kinds.SYMLINK, link=os.fsencode(tmp_path), **me), b""),
        (Entry(b"d/canary", kinds.FILE, size=7, **me), b"changed"),
        (Entry(b"../canary", kinds.FILE, size=7, **me), b"changed"),
        (Entry(b"d", kinds.DIRECTORY, mode=0o777, **me), b""),
        (Entry(b"d/canary", kinds.FILE, size=7, **me), b"changed"),
    ]
    tree = apply_entries(tmp_path, *entries, overlay=True)  # type: ignore[arg-type]
    outside(tree)
    assert not (tree.path / "d").is_symlink()


def test_u51_what_is_legal_is_not_refused(tmp_path: Path) -> None:
    made = archive(
        file(b"usr/bin/perl5.36", b"perl"),
        hardlink(b"usr/bin/perl", b"/usr/bin/perl5.36"),
        symlink(b"dangling", b"/nowhere/at/all"),
        symlink(b"up", b"../../../etc"),
        symlink(b"sbin", b"/usr/bin"),
        file(b"sbin/through", b"x"),
        hardlink(b"sbin/again", b"sbin/through"),
        symlink(b"made/by", b"/not/there/yet"),
        file(b"made/by/x", b"x"),
    )
    tree = unpack(tmp_path, made)
    assert os.path.samefile(tree.path / "usr/bin/perl", tree.path / "usr/bin/perl5.36")
    assert os.path.samefile(tree.path / "usr/bin/again", tree.path / "usr/bin/through")
    assert os.readlink(tree.path / "dangling") == "/nowhere/at/all"
    assert os.readlink(tree.path / "up") == "../../../etc"
    assert (tree.path / "not/there/yet/x").read_bytes() == b"x"


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_u52_junk_ends_with_an_error_and_no_thread(tmp_path: Path, compression: str) -> None:
    chance = random.Random(52)
    heads = {"": b"", "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\3", "zstd": b"\x28\xb5\x2f\xfd\x04\x00"}
    before = threading.active_count()
    tree = prepare(tmp_path)
    for size in (0, 1, 511, 512, 5000, 300_000):
        raw = heads[compression] + chance.randbytes(size)
        if not raw:
            continue
        with Root.at(str(tree.path)) as root, Unpacker(root, LIMITS, print) as unpacker, pytest.raises(RefusedError):
            apply_image(unpacker, [tar_layer(b"x", compression, raw), tar_layer(b"")], LIMITS, print)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon:
            thread.join(30)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"pax": {b"uid": b"4294967295"}},
        {"pax": {b"gid": b"4294967296"}},
        {"pax": {b"uid": b"-1"}},
        {"raw": {"uid": base256(-1, 8)}},
        {"raw": {"gid": base256(2**32, 8)}},
        {"raw": {"mode": b"zzzzzzz\0"}},
        {"typeflag": b"3", "raw": {"devmajor": base256(2**32, 8)}},
        {"typeflag": b"4", "raw": {"devminor": base256(1 << 20, 8)}},
        {"typeflag": b"3", "raw": {"devmajor": base256(-1, 8)}},
        {"typeflag": b"Z"},
    ],
)
def test_u53_numbers_out_of_range_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    raw = changes.pop("raw", {})
    refused(tmp_path, archive(entry(b"x", **changes, **raw)), match="damaged")  # type: ignore[arg-type]


def test_u53_times_are_clamped_and_modes_cut(tmp_path: Path) -> None:
    made = archive(
        file(b"late", mtime=0, pax={b"mtime": b"99999999999999"}),
        file(b"early", mtime=0, pax={b"mtime": b"-99999999999999.5"}),
        file(b"base256", mtime=base256(2**70, 12)),
        file(b"bits", mode=0o1100644),
        file(b"half", mtime=0, pax={b"mtime": b"-1.5"}),
    )
    tree = unpack(tmp_path, made)
    assert (tree.path / "late").stat().st_mtime > 2**33
    assert (tree.path / "early").stat().st_mtime == -(2**31)
    assert tree.mode("bits") == 0o644
    assert (tree.path / "half").stat().st_mtime_ns == -1_500_000_000


def test_every_row_has_a_test() -> None:
    rows = {name[5:8] for name in globals() if name.startswith("test_u")}
    assert rows == {f"u{number:02}" for number in range(1, 54)}
