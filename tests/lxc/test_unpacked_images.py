# SPDX-License-Identifier: LGPL-2.1-or-later
"""squashfs and EROFS images unpacked: the tree is the one that the kernel and an overlay show."""

import hashlib
import json
import os
import stat
import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxc_oci.errors import OciError
from lxc_oci.kernel.root import Root
from lxc_oci.layer import erofs, squashfs
from lxc_oci.layer.unpack import Unpacker
from lxc_oci.limits import Limits
from lxc_oci.store import mountplan
from lxc_oci.store.mountplan import Lower, Plan
from tests.support import hooks, need
from tests.support.host import Host


@pytest.fixture
def trees(root_host: Host) -> list[Path]:
    """Three layers as directories, with everything that a file system has and an overlay means."""
    need.root()
    layers = [root_host.directory / f"layer{number}" for number in range(3)]
    low, middle, top = layers
    for path in ("etc/keep", "etc/gone", "etc/replaced", "opt/low", "opt/sub/low", "usr/share/doc/a"):
        (low / path).parent.mkdir(parents=True, exist_ok=True)
        (low / path).write_text(f"low {path}\n")
    (low / "large").write_bytes(os.urandom(300_000))
    os.link(low / "large", low / "linked")
    os.symlink("../etc/keep", low / "usr/link")
    os.symlink("/absolute/and/dangling", low / "dangling")
    os.mkfifo(low / "fifo")
    os.mknod(low / "null", 0o020666, os.makedev(1, 3))
    os.chown(low / "etc/keep", 1000, 1001)
    (low / "etc/keep").chmod(0o4755)
    os.setxattr(low / "etc/keep", "user.note", b"kept")
    os.setxattr(low / "usr/share", "user.note", b"of a directory")
    (low / "tmp").mkdir()
    (low / "tmp").chmod(0o1777)
    with open(low / "sparse", "wb") as file:
        file.truncate(5_000_000)
    for path in ("etc/replaced", "opt/up", "new/deep/er/file"):
        (middle / path).parent.mkdir(parents=True, exist_ok=True)
        (middle / path).write_text(f"middle {path}\n")
    os.mknod(middle / "etc/gone", 0o020000, os.makedev(0, 0))
    os.setxattr(middle / "opt", "trusted.overlay.opaque", b"y")
    (top / "new").mkdir(parents=True)
    os.mknod(top / "new/deep", 0o020000, os.makedev(0, 0))
    os.mknod(top / "usr", 0o020000, os.makedev(0, 0))
    for number, layer in enumerate(layers):
        for directory, names, files in os.walk(layer, topdown=False):
            for name in (*names, *files):
                os.utime(Path(directory) / name, (10**9 + number, 10**9 + number), follow_symlinks=False)
        os.utime(layer, (10**9 + number, 10**9 + number))
    return layers


def images(kind: str, layers: list[Path]) -> list[str]:
    made = []
    for layer in layers:
        path = layer.with_suffix(f".{kind}")
        command = {
            "squashfs": [need.program("mksquashfs"), layer, path, "-quiet", "-no-progress"],
            "erofs": [need.program("mkfs.erofs"), "-Eforce-inode-extended", path, layer],
        }[kind]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
        path.chmod(0o644)
        made.append(str(path))
    return made


def described(root: Path) -> dict[str, Any]:
    """Everything that two trees must have in common."""
    found: dict[str, Any] = {}
    for directory, names, files in os.walk(root):
        for name in [".", *names, *files] if directory == str(root) else [*names, *files]:
            path = Path(directory) / name
            status = path.lstat()
            kind = stat.S_IFMT(status.st_mode)
            what: list[Any] = [status.st_mode, status.st_uid, status.st_gid]
            if kind != stat.S_IFDIR:  # overlayfs shows an upper directory's
                what.append(int(status.st_mtime))
            if kind == stat.S_IFREG:
                what += [hashlib.sha256(path.read_bytes()).hexdigest(), status.st_nlink]
            elif kind == stat.S_IFLNK:
                what.append(os.readlink(path))
            elif kind in (stat.S_IFCHR, stat.S_IFBLK):
                what.append(status.st_rdev)
            what.append(attributes(path))
            found[os.path.relpath(path, root)] = what
    return found


def attributes(path: Path) -> dict[str, str]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:  # an object of a squashfs image that has no attribute at all
        return {}
    kept = sorted(name for name in names if not name.startswith("trusted."))
    return {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in kept}


def in_namespace(work: Any) -> Any:
    """Run `work` in a child with a mount namespace of its own and return its JSON-able result."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            from lxc_oci.rootfs import overlay

            overlay.private_namespace()
            with open(writing, "w") as file:
                file.write(json.dumps(work()))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading) as file:
        text = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    return json.loads(text)


def as_mounted(host: Host, kind: str, paths: list[str]) -> dict[str, Any]:
    stage = host.directory / "stage-mounted"
    (stage / "rootfs").mkdir(parents=True)
    mountplan.write(str(stage), Plan(tuple(Lower(kind, path) for path in paths), writable=False))

    def work() -> dict[str, Any]:
        hook = str(hooks.program(host.directory, "oci-py-mount"))
        with mountplan.attached(str(stage), Limits(), hook=hook) as target:
            return described(Path(target))

    found: dict[str, Any] = in_namespace(work)
    return found


def unpack(host: Host, kind: str, paths: list[str], warnings: list[str]) -> dict[str, Any]:
    target = host.directory / f"unpacked-{kind}"
    target.mkdir()
    hook = str(hooks.program(host.directory, "oci-py-mount"))
    with Root.at(str(target)) as root, Unpacker(root, Limits(), warnings.append, overlay_whiteouts=True) as unpacker:
        for number, path in enumerate(paths):
            if kind == "squashfs":
                squashfs.apply_layer(unpacker, path, f"layer {number}", Limits(), warnings.append)
                continue
            stage = host.directory / f"stage{number}"
            stage.mkdir()
            with mountplan.image_mounted(str(stage), Lower(kind, path), Limits(), hook=hook) as mounted:
                erofs.apply_layer(unpacker, mounted, path, f"layer {number}", Limits())
    return described(target)


@pytest.mark.parametrize("kind", ["squashfs", "erofs"])
def test_an_unpacked_image_is_what_an_overlay_shows(root_host: Host, trees: list[Path], kind: str) -> None:
    if kind == "squashfs":
        need.program("sqfs2tar")
    paths = images(kind, trees)
    found, warnings = in_namespace(lambda: (lambda said: [unpack(root_host, kind, paths, said), said])([]))
    expected = as_mounted(root_host, kind, paths)
    assert found == expected
    assert warnings == []
    assert sorted(name for name in found if name.startswith(("opt", "new", "usr"))) == ["new", "opt", "opt/up"]


@pytest.fixture(params=["squashfs", "erofs"])
def damaged(request: pytest.FixtureRequest, root_host: Host, trees: list[Path]) -> Iterator[tuple[str, str]]:
    """An image whose second half is missing."""
    path = Path(images(request.param, trees)[0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    yield request.param, str(path)


def test_a_damaged_image_is_refused(root_host: Host, damaged: tuple[str, str]) -> None:
    kind, path = damaged

    def work() -> str:
        try:
            unpack(root_host, kind, [path], [])
        except OciError as error:
            return f"{error.message} {Path('/proc/self/mountinfo').read_text().count(str(root_host.directory))}"
        return "unpacked"

    message = in_namespace(work)
    assert message.endswith(" 0") and kind in message


@pytest.mark.parametrize("limits", [Limits(entries=3), Limits(layer_bytes=100_000)])
@pytest.mark.parametrize("kind", ["squashfs", "erofs"])
def test_a_layer_stays_under_the_limits(root_host: Host, trees: list[Path], kind: str, limits: Limits) -> None:
    path = images(kind, trees)[0]
    target = root_host.directory / "target"
    target.mkdir()
    with (
        Root.at(str(target)) as root,
        Unpacker(root, limits, lambda message: None, overlay_whiteouts=True) as unpacker,
        pytest.raises(OciError, match=r"more than|limit"),
    ):
        if kind == "squashfs":
            squashfs.apply_layer(unpacker, path, "layer 0", limits, lambda message: None)
        else:
            # The walk itself needs no image below it.
            erofs.apply_layer(unpacker, str(trees[0]), path, "layer 0", limits)
