# SPDX-License-Identifier: LGPL-2.1-or-later
import gzip
import os
from pathlib import Path

import pytest

from lxc_oci.errors import NoSpaceError, RefusedError
from lxc_oci.layer.save import SavedLayer, save_tar_layer
from lxc_oci.limits import Limits
from tests.support.tarmaker import (
    archive,
    character,
    directory,
    entry,
    fifo,
    file,
    hardlink,
    symlink,
    tar_layer,
)
from tests.unit.test_tarstream import sparse_forms


def save(directory: Path, content: bytes, compression: str = "", raw: bytes | None = None) -> SavedLayer:
    fd = os.open(directory / "layer.tar", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        return save_tar_layer(tar_layer(content, compression, raw), fd, Limits(), pytest.fail)
    finally:
        os.close(fd)


def test_an_archive_is_saved_as_it_is(tmp_path: Path) -> None:
    content = archive(
        directory(b"./", mode=0o711),
        directory(b"./etc/"),
        file(b"./etc/passwd", b"x" * 200_000, xattrs={b"user.a": b"b"}),
        hardlink(b"./etc/same", b"./etc/passwd"),
        symlink(b"./lib", b"usr/lib"),
        character(b"./null", 1, 3),
        fifo(b"./fifo"),
        directory(b"./opaque"),
        file(b"./opaque/.wh..wh..opq"),
        file(b"./opaque/.wh.other"),
        directory(b"./etc"),
    ) + bytes(5000)
    saved = save(tmp_path, content, "gzip", gzip.compress(content))
    assert saved.dependence == "" and saved.self_contained
    assert (saved.size, saved.entries) == (len(content), 11)
    assert saved.root is not None and saved.root.mode == 0o711
    assert (tmp_path / "layer.tar").read_bytes() == content


def test_a_root_without_entry_is_told(tmp_path: Path) -> None:
    saved = save(tmp_path, archive(file(b"x")))
    assert saved.self_contained and saved.root is None


@pytest.mark.parametrize(
    "parts",
    [
        [file(b"etc/x")],
        [file(b"etc/x"), directory(b"etc")],
        [symlink(b"etc", b"usr/etc"), file(b"etc/x")],
        [file(b"f"), file(b"f/x")],
        [hardlink(b"x", b"other-layer")],
        [directory(b"d"), hardlink(b"x", b"d")],
        [hardlink(b"x", b"y"), file(b"y")],
        [character(b"x", 0, 0)],
        [file(b"x", xattrs={b"trusted.overlay.opaque": b"y"})],
        [directory(b"x", xattrs={b"user.overlay.redirect": b"y"})],
        [file(b"x", xattrs={b"security.selinux": b"y"})],
        [symlink(b"x", b"y", xattrs={b"user.a": b"y"})],
        [file(b"x"), file(b"x")],
        [file(b"x"), symlink(b"x", b"y")],
        [directory(b"x"), file(b"x")],
        [file(b"x"), file(b"y"), hardlink(b"x", b"y")],
        [file(b"x"), file(b".wh.x")],
        [file(b".wh.x"), file(b"x")],
        [file(b"x"), hardlink(b".wh.y", b"x")],
        [directory(b".wh.x")],
        [file(b".wh.x", b"data")],
        [file(b".wh..wh..opq")],
        [file(b".wh..wh.aufs")],
        [directory(b".wh..wh.plnk"), file(b".wh..wh.plnk/1")],
        [file(b"../x")],
        [file(b"/x")],
        [directory(b"d"), file(b"d//x")],
        [directory(b"d"), file(b"d/./x")],
        [sparse_forms()["1.0"]],
        [sparse_forms()["old"]],
    ],
)
def test_what_depends_on_other_layers_is_told(tmp_path: Path, parts: list[bytes]) -> None:
    saved = save(tmp_path, archive(*parts))
    assert saved.dependence and not saved.self_contained
    assert (tmp_path / "layer.tar").stat().st_size == saved.size == len(archive(*parts))


@pytest.mark.parametrize(
    "parts",
    [
        [file(b".wh..")],
        [file(b".")],
        [symlink(b"x", b"")],
        [entry(b"x", b"Z")],
        [file(b"x" * 5000)],
    ],
)
def test_what_cannot_be_unpacked_is_refused(tmp_path: Path, parts: list[bytes]) -> None:
    with pytest.raises(RefusedError):
        save(tmp_path, archive(*parts))


def test_a_wrong_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="DiffID"):
        save(tmp_path, archive(file(b"x")), raw=archive(file(b"y")))


def test_a_full_disk_is_told() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(NoSpaceError, match="save a layer"):
            save_tar_layer(tar_layer(archive(file(b"x"))), fd, Limits(), pytest.fail)
    finally:
        os.close(fd)
