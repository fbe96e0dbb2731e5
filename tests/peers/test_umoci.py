# SPDX-License-Identifier: LGPL-2.1-or-later
"""umoci's unpacked tree is the oracle for ours: paths, types, modes, owners, times, links, attributes, contents."""

import functools
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from lxc_oci.image import mediatype
from lxc_oci.image.digest import Digest
from lxc_oci.kernel.root import Root
from lxc_oci.layer.pipeline import TarLayer, apply_image
from lxc_oci.layer.unpack import Unpacker
from lxc_oci.limits import Limits
from tests.support import image, need, tarmaker, tree

pytestmark = pytest.mark.root


def _umoci(directory: Path, layout: Path) -> Path:
    """Unpack `layout:made` by umoci and return the rootfs."""
    bundle = directory / "bundle"
    command = [need.program("umoci"), "unpack", "--image", f"{layout}:made", str(bundle)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return bundle / "rootfs"


def _ours(directory: Path, *layers: image.Layer) -> Path:
    """Unpack the layers by our own code, with the umask that a store uses, and return the rootfs."""
    rootfs = directory / "ours"
    rootfs.mkdir()
    limits = Limits()
    parts = []
    for layer in layers:
        file = directory / hashlib.sha256(layer.blob).hexdigest()
        file.write_bytes(layer.blob)
        opener = functools.partial(open, file, "rb")
        parts.append(TarLayer(opener, mediatype.tar_compression(layer.media_type), Digest(layer.diff_id)))
    before = os.umask(0)
    try:
        with Root.at(str(rootfs)) as root, Unpacker(root, limits, print) as unpacker:
            apply_image(unpacker, parts, limits, print)
    finally:
        os.umask(before)
    return rootfs


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory on a real file system: tmpfs has no user attributes before Linux 6.6."""
    need.root()
    return tmp_path


def test_made_image_with_every_entry_type_is_as_by_umoci(work: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service, version 2
    acl = bytes.fromhex("0200000001000600ffffffff020004002a00000004000400ffffffff10000400ffffffff20000400ffffffff")
    base = tarmaker.archive(
        tarmaker.directory(b"./", mode=0o755),
        tarmaker.directory(b"etc/", mode=0o755),
        tarmaker.file(b"etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
        tarmaker.file(b"etc/shadow", b"root:*\n", mode=0o640, gid=42),
        tarmaker.directory(b"tmp/", mode=0o1777),
        tarmaker.directory(b"var/mail/", mode=0o2775, gid=8, mtime=1_500_000_000),
        tarmaker.file(b"var/mail/root", b"mail", uid=0, gid=0),
        tarmaker.directory(b"var/mail/sub", uid=0, gid=0),
        tarmaker.file(b"usr/bin/su", b"\x7fELF" * 100, mode=0o4755),
        tarmaker.file(b"usr/bin/wall", b"\x7fELF" * 100, mode=0o2755, gid=5),
        tarmaker.file(b"usr/bin/ping", b"\x7fELF" * 100, mode=0o755, xattrs={b"security.capability": capability}),
        tarmaker.file(b"usr/share/acl", b"acl", xattrs={b"system.posix_acl_access": acl, b"user.note": b"a\0b"}),
        tarmaker.hardlink(b"usr/bin/su2", b"usr/bin/su", mode=0o4755),
        tarmaker.symlink(b"bin", b"usr/bin"),
        tarmaker.symlink(b"absolute", b"/usr/bin"),
        tarmaker.symlink(b"dangling", b"../../nowhere", uid=7, gid=8),
        tarmaker.hardlink(b"dangling2", b"dangling"),
        tarmaker.file(b"bin/through-a-link", b"in usr/bin"),
        tarmaker.directory(b"dev"),
        tarmaker.character(b"dev/null", 1, 3, mode=0o666),
        tarmaker.block(b"dev/vda", 254, 0, mode=0o660, gid=6),
        tarmaker.fifo(b"run/fifo", mode=0o600),
        tarmaker.file(b"empty"),
        tarmaker.file(b"big", os.urandom(3_000_001)),
        tarmaker.file(b"old", b"x", mtime=-1_000_000),
        tarmaker.file(b"fraction", b"x", pax={b"mtime": b"1234567890.123456789"}),
        tarmaker.file("näme".encode(), b"utf-8"),
        tarmaker.file(b"deep/" + b"d" * 90 + b"/" + b"f" * 200, b"a long name"),
        tarmaker.gnu_long(b"gnu/" + b"g" * 150),
        tarmaker.file(b"g" * 100, b"a long name of GNU's"),
        tarmaker.file(b"owner", b"x", uid=99999, gid=88888),
        tarmaker.directory(b"gone/inside/deeper"),
        tarmaker.file(b"gone/inside/file", b"x"),
        tarmaker.directory(b"opaque/kept"),
        tarmaker.file(b"opaque/hidden", b"x"),
        tarmaker.file(b"becomes-directory", b"x"),
        tarmaker.directory(b"becomes-file/with"),
        tarmaker.file(b"becomes-file/content", b"x"),
        tarmaker.file(b"linked", b"shared"),
        tarmaker.hardlink(b"linked2", b"linked"),
    )  # fmt: skip
    second = tarmaker.archive(
        tarmaker.file(b".wh.gone"),
        tarmaker.directory(b"opaque", mode=0o700),
        tarmaker.file(b"opaque/.wh..wh..opq"),
        tarmaker.file(b"opaque/new", b"new"),
        tarmaker.file(b"etc/.wh.shadow"),
        tarmaker.directory(b"becomes-directory"),
        tarmaker.file(b"becomes-directory/inside", b"x"),
        tarmaker.file(b"becomes-file", b"now a file"),
        tarmaker.file(b"linked", b"no longer shared"),
        tarmaker.hardlink(b"across-layers", b"big"),
        tarmaker.file(b"tmp/in-lower", b"tmp keeps its mode and time"),
        tarmaker.file(b"bin/second", b"through a lower link"),
        tarmaker.symlink(b"etc/passwd", b"/dev/null"),
    )
    layers = [image.layer(base), image.layer(second)]
    layout = work / "layout"
    image.write_layout(layout, {"made": image.Image(layers)})
    theirs, ours = _umoci(work, layout), _ours(work, *layers)
    assert ours.stat().st_mtime == tarmaker.TIME
    # Directories that no entry describes, and the root, have the time of unpacking there, and a fixed one here.
    implied = [".", "var", "usr", "usr/bin", "usr/share", "run", "deep", "deep/" + "d" * 90, "gnu", "gone"]
    for name in implied:
        for rootfs in (theirs, ours):
            if (rootfs / name).is_dir():
                os.utime(rootfs / name, (0, 0))
    assert tree.differences(theirs, ours) == []


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a small Debian, as mmdebstrap makes it for container images."""
    need.root()
    path = tmp_path_factory.mktemp("debian") / "debian.tar"
    command = [need.program("mmdebstrap"), "--quiet", "--variant=minbase", "bookworm", str(path)]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
    made = subprocess.run(command, check=False, capture_output=True, env=environment, timeout=600)
    if made.returncode:
        need.missing(f"mmdebstrap failed: {made.stderr.decode()[-300:]}")
    return path


def test_debian_is_as_by_umoci(work: Path, debian: Path) -> None:
    layer = image.layer(debian.read_bytes(), compression="")
    layout = work / "layout"
    image.write_layout(layout, {"made": image.Image([layer])})
    theirs, ours = _umoci(work, layout), _ours(work, layer)
    assert len(tree.facts(ours)) > 5000
    os.utime(theirs, ns=(0, ours.stat().st_mtime_ns))
    assert tree.differences(theirs, ours) == []
