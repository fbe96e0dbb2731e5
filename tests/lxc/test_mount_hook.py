# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hooks under real LXC: every kind of lower layer, every verb, and nothing left behind when something fails."""

import base64
import hashlib
import json
import os
import resource
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support import hooks, launch, need
from tests.support import image as images
from tests.support.host import Host

# --- images ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(layouts: Path) -> dict[str, Path]:
    """A lower and an upper layer as files: squashfs, EROFS, each with verity data too, and a directory.

    The upper one hides `etc/base` by a whiteout and what is in `opt` by an opaque directory.
    """
    need.root()
    made: dict[str, Path] = {"tree": layouts / "tree"}
    upper = layouts / "upper"
    made["tree"].mkdir()
    made["tree"].chmod(0o755)
    extract = ["tar", "-C", str(made["tree"]), "-xp", "--numeric-owner"]
    subprocess.run(extract, input=images.busybox_rootfs().plain, check=True)
    for path, content in (("etc/base", "base\n"), ("opt/low", "low\n")):
        (made["tree"] / path).parent.mkdir(exist_ok=True)
        (made["tree"] / path).write_text(content)
    for path, content in (("etc/two", "two\n"), ("opt/up", "up\n")):
        (upper / path).parent.mkdir(parents=True, exist_ok=True)
        (upper / path).write_text(content)
    os.mknod(upper / "etc/base", 0o020000, os.makedev(0, 0))
    os.setxattr(upper / "opt", "trusted.overlay.opaque", b"y")
    for number, source in ((1, made["tree"]), (2, upper)):
        for kind, command in (
            ("squashfs", [need.program("mksquashfs"), source, layouts / f"squashfs{number}", "-quiet", "-no-progress"]),
            ("erofs", [need.program("mkfs.erofs"), layouts / f"erofs{number}", source]),
        ):
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
            made[f"{kind}{number}"] = layouts / f"{kind}{number}"
    return made


def verified(path: Path, directory: Path) -> dict[str, Any]:
    """A copy of an image with verity data behind it, as a lower."""
    target = directory / f"{path.name}-verity"
    content = path.read_bytes()
    content += bytes(-len(content) % 4096)
    target.write_bytes(content)
    command = [need.program("veritysetup"), "format", target, target, f"--hash-offset={len(content)}"]
    command.append(f"--data-blocks={len(content) // 4096}")
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    root = next(line.split()[-1] for line in done.stdout.splitlines() if line.startswith("Root hash"))
    kind = "squashfs" if "squashfs" in path.name else "erofs"
    return {"kind": kind, "path": str(target), "verity": {"root": root, "offset": len(content)}}


def lowers(built: dict[str, Path], kind: str, host: Host) -> list[dict[str, Any]]:
    """The lowers of a plan for one kind of test."""
    if kind == "tree":
        return [{"kind": "tree", "path": str(built["tree"])}]
    base, _, how = kind.partition("-")
    paths = [built[f"{base}{number}"] for number in (1, 2)]
    if how == "verity":
        return [verified(path, host.directory) for path in paths]
    found: list[dict[str, Any]] = [{"kind": base, "path": str(path)} for path in paths]
    for lower in found if how == "fuse" else []:
        lower["driver"] = "fuse"
    return found


# What mkfs.erofs 1.8.6 makes of indexed_tar() with --tar=i --aufs -T0 -U clear; Debian 12 has none that can.
INDEX = (
    b"c-muN7zLwX6pU2x=;7A~Aes$`IT<t<*s-W#A;CNjFv$osi$0*6ME7Cy+kZzE1}`Z8KM*h?$!kDq8wMsg+ZM>yfwJv^Yy&9U3FvPl"
    b"DBB$<uBWG$T9TZTSd^ZcUr>U}el~`;j!X<zNcJ-!$^ZZV`#+4$2Xt(HS!z*EVx?YwQD%B(9s}GR21xER1hUPbY-0vy26HIe9Oyov"
    b"o01ZXQ%lP85%IO8kr5ncAfOJ!%qT9zAD1xqYa+Ry1;zdEk=)OSaDPE!VQFe5JiJtp+^-5`TSD3D5I2_=;EO~BMiee9T6zTe59THX"
    b"Xj(`1A2WgU4ARexq@Nv4Kl>2Q{{Y~%JMa"
)
INDEXED = "ccbbb66b2e7b0f13480704602e0b74a4f7efcf6ae0ddb97806f0d9123815080f"


def indexed_tar() -> bytes:
    """A layer as a tar file, with whiteouts as names and a file of many blocks."""
    return images.tar(
        images.directory("etc"),
        images.directory("opt"),
        images.file("etc/two", "two\n"),
        images.whiteout("etc/base"),
        images.opaque("opt"),
        images.file("opt/up", "up\n"),
        images.file("large", b"0123456789abcdef" * 4096),
    )


def test_an_indexed_tar_layer(root_host: Host, built: dict[str, Path]) -> None:
    tar, index = root_host.directory / "layer.tar", root_host.directory / "index.erofs"
    tar.write_bytes(indexed_tar())
    assert hashlib.sha256(tar.read_bytes()).hexdigest() == INDEXED
    index.write_bytes(zlib.decompress(base64.b85decode(INDEX)))
    found = [
        {"kind": "tree", "path": str(built["tree"])},
        {"kind": "erofs", "path": str(index), "devices": [str(tar)]},
    ]
    hooks.container(root_host, "one", hooks.layers(*found))
    root_host.start("one")
    assert root_host.attach("one", "/bin/ls", "/opt") == b"up\n"
    assert b"base" not in root_host.attach("one", "/bin/ls", "/etc")
    assert root_host.attach("one", "/bin/cat", "/large") == b"0123456789abcdef" * 4096
    root_host.attach("one", "/bin/sh", "-c", "echo mine > /etc/mine")
    root_host.stop("one", "-k")
    # Below LXC's own overlay too, where a file-backed mount would be one level of stacking too many.
    root_host.lxc("copy", "one", "-s", "-N", "two")
    check_copy(root_host, "two")
    nothing_left(root_host)


AS_ROOT = ["tree", "squashfs", "erofs", "squashfs-fuse", "squashfs-verity", "erofs-verity"]


def nothing_left(host: Host) -> None:
    """No mount, loop device or FUSE process of this host's is left.

    The kernel lets loop devices go, and FUSE processes end, a moment after their last mount.
    """
    end = time.monotonic() + 60
    while left := _left(str(host.directory)):
        assert time.monotonic() < end, left
        time.sleep(0.05)


def _left(directory: str) -> list[str]:
    left = [path for path in ("/proc/self/mountinfo", "/proc/1/mountinfo") if directory in Path(path).read_text()]
    for file in (*Path("/sys/block").glob("loop*/loop/backing_file"), *Path("/proc").glob("[0-9]*/cmdline")):
        try:
            content = file.read_bytes()
        except OSError:  # gone while we looked
            continue
        program = content.split(b"\0")[0]
        if directory.encode() in content and (file.name == "backing_file" or b"fuse" in program):
            left.append(f"{file}: {content!r}")
    return left


# --- every kind of layer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", AS_ROOT)
def test_a_container_runs_writes_and_starts_again(root_host: Host, built: dict[str, Path], kind: str) -> None:
    before = {name: path.read_bytes() for name, path in built.items() if path.is_file()}
    path = hooks.container(root_host, "one", hooks.layers(*lowers(built, kind, root_host)))
    root_host.start("one")
    if kind != "tree":
        assert root_host.attach("one", "/bin/ls", "/opt") == b"up\n"
        assert b"base" not in root_host.attach("one", "/bin/ls", "/etc")
    root_host.attach("one", "/bin/sh", "-c", "echo mine > /etc/mine")
    root_host.stop("one", "-k")
    assert (path / "upper/etc/mine").read_text() == "mine\n"
    root_host.start("one")
    assert root_host.attach("one", "/bin/cat", "/etc/mine") == b"mine\n"
    root_host.stop("one", "-k")
    nothing_left(root_host)
    assert {name: made.read_bytes() for name, made in built.items() if made.is_file()} == before


def test_an_unprivileged_container_runs_on_fuse(user_host: Host, built: dict[str, Path], fuse_for_users: None) -> None:
    need.program("squashfuse")
    plan = hooks.layers({"kind": "squashfs", "path": str(built["squashfs1"]), "driver": "fuse"}, userxattr=True)
    hooks.container(user_host, "one", plan)
    user_host.start("one")
    assert user_host.attach("one", "/bin/cat", "/etc/base", "/opt/low") == b"base\nlow\n"
    user_host.attach("one", "/bin/sh", "-c", "rm /opt/low; echo mine > /etc/mine")
    user_host.stop("one", "-k")
    user_host.start("one")
    assert user_host.attach("one", "/bin/ls", "/opt") == b""
    assert user_host.attach("one", "/bin/cat", "/etc/mine") == b"mine\n"
    user_host.stop("one", "-k")
    nothing_left(user_host)


def test_whiteouts_count_for_unprivileged_containers(
    user_host: Host, built: dict[str, Path], fuse_for_users: None
) -> None:
    need.program("squashfuse")
    found = [{"kind": "squashfs", "path": str(built[f"squashfs{number}"]), "driver": "fuse"} for number in (1, 2)]
    hooks.container(user_host, "one", hooks.layers(*found, userxattr=True))
    user_host.start("one")
    assert user_host.attach("one", "/bin/ls", "/etc/two") == b"/etc/two\n"
    assert b"base" not in user_host.attach("one", "/bin/ls", "/etc")
    # Whether an opaque directory counts depends on the version of squashfuse.
    user_host.stop("one", "-k")


def own_tree(host: Host, built: dict[str, Path]) -> dict[str, Any]:
    """The tree as a lower of this host's containers: a user's store belongs to the root of the user's containers."""
    if host.user is None:
        return {"kind": "tree", "path": str(built["tree"])}
    tree = host.directory / "tree"
    subprocess.run(["cp", "-a", built["tree"], tree], check=True)
    subprocess.run(["chown", "-hR", "{}:{}".format(*hooks.owner(host)), tree], check=True)
    return {"kind": "tree", "path": str(tree)}


def test_an_unprivileged_container_runs_on_a_tree(user_host: Host, built: dict[str, Path]) -> None:
    hooks.container(user_host, "one", hooks.layers(own_tree(user_host, built), userxattr=True))
    user_host.start("one")
    user_host.attach("one", "/bin/sh", "-c", "rm /opt/low; echo mine > /etc/mine")
    assert user_host.attach("one", "/bin/ls", "/opt") == b""
    user_host.stop("one", "-k")
    nothing_left(user_host)


def test_f17_an_image_with_500_layers_is_mounted(root_host: Host, built: dict[str, Path]) -> None:
    many = []
    for number in range(499):
        layer = root_host.directory / f"layer{number}" / "layers"
        layer.mkdir(parents=True)
        (layer / f"{number}").touch()
        many.append({"kind": "tree", "path": str(layer.parent)})
    hooks.container(root_host, "one", hooks.layers({"kind": "tree", "path": str(built["tree"])}, *many))
    root_host.start("one")
    assert len(root_host.attach("one", "/bin/ls", "/layers").split()) == 499
    root_host.stop("one", "-k")


@pytest.mark.parametrize("name", ["a b", "a,b", "a:b", "a\\b", "ü" * 100])
def test_no_name_of_a_path_matters(root_host: Host, built: dict[str, Path], name: str) -> None:
    # lxcpath, and so the upper directory, has such a name, and a layer has; LXC itself cannot have a comma or colon.
    module = hooks.module("oci-py-mount")
    directory = root_host.directory / name
    for part in ("upper", "work", "target", "layer/etc"):
        (directory / part).mkdir(parents=True)
    plan = hooks.layers(
        {"kind": "tree", "path": str(directory / "layer")}, {"kind": "erofs", "path": str(built["erofs2"])}
    )
    for old in (False, True):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                private_namespace()
                if old:
                    module.overlay = old_overlay(module)
                module.mount_plan(plan, str(directory), str(directory / "target"), False)
                (directory / "target/etc/mine").write_text("mine")
                assert sorted(os.listdir(directory / "target/etc")) == ["mine", "two"]
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert (directory / "upper/etc/mine").read_text() == "mine"
        (directory / "upper/etc/mine").unlink()
    nothing_left(root_host)


def old_overlay(module: ModuleType) -> Callable[..., int]:
    """What the hook's overlay() does before Linux 6.8, whatever kernel runs here."""

    def call(lowers: list[str], upper: tuple[str, str], userxattr: bool, staging: str) -> int:
        made: int = module.old_overlay(lowers, [("upperdir", upper[0]), ("workdir", upper[1])], True, staging)
        return made

    return call


def private_namespace() -> None:
    """Leave the mount namespace of the tests; only in a child."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x20000) == 0
    assert libc.mount(b"none", b"/", None, ctypes.c_ulong(16384 | (1 << 18)), None) == 0


# --- LXC's verbs -----------------------------------------------------------------------------------------------


EVERY_KIND = ["tree", "squashfs", "erofs", "squashfs-fuse", "user-tree", "user-squashfs-fuse"]


@pytest.fixture(params=["squashfs", "user-tree"])
def mounted(request: pytest.FixtureRequest, built: dict[str, Path]) -> Host:
    """A host with a container `one`, mounted by the hook, that has run and written."""
    kind = request.param.removeprefix("user-")
    host: Host = request.getfixturevalue("user_host" if "user-" in request.param else "root_host")
    if request.param.endswith("-fuse"):
        request.getfixturevalue("fuse_for_users")
    found = [own_tree(host, built)] if kind == "tree" else lowers(built, kind, host)
    # A user's overlay would not see that the upper layer's directory is opaque.
    found = found[:1] if host.user else found
    hooks.container(host, "one", hooks.layers(*found, userxattr=host.user is not None))
    write_mine(host)
    return host


@pytest.fixture(params=["root", "user"])
def overlaid(request: pytest.FixtureRequest, built: dict[str, Path]) -> Host:
    """A host with a container `one` over LXC's own overlay store, that has run and written."""
    host: Host = request.getfixturevalue(f"{request.param}_host")
    path = host.lxcpath / "one"
    delta = path / "overlay/delta"
    options = ["lxc.rootfs.options = userxattr"] if host.user else []
    tree = own_tree(host, built)["path"]
    hooks.container(host, "one", {}, rootfs=f"overlay:{tree}:{delta}", lines=options)
    delta.mkdir(parents=True)
    for one in (delta.parent, delta):
        os.chown(one, *hooks.owner(host))
    write_mine(host)
    return host


def write_mine(host: Host) -> None:
    host.start("one")
    host.attach("one", "/bin/sh", "-c", "echo mine > /etc/mine")
    host.stop("one", "-k")


def check_copy(host: Host, name: str, mine: bytes = b"mine\n", hostname: bool = True) -> None:
    """A copy starts, has its own writes, name and volume, and `one` does not notice."""
    before = (host.lxcpath / "one/volumes/data/who").read_bytes() if name != "one" else b""
    host.start(name)
    try:
        assert host.attach(name, "/bin/cat", "/etc/mine") == mine
        if hostname:
            assert host.attach(name, "/bin/cat", "/etc/hostname").strip() == name.encode()
            assert f"127.0.1.1\t{name} ".encode() in host.attach(name, "/bin/cat", "/etc/hosts")
        host.attach(name, "/bin/sh", "-c", f"echo {name} wrote > /data/who; echo {name} > /etc/copy")
    finally:
        host.stop(name, "-k")
    assert (host.lxcpath / name / "volumes/data/who").read_text() == f"{name} wrote\n"
    if name != "one":
        assert (host.lxcpath / "one/volumes/data/who").read_bytes() == before
        assert not (host.lxcpath / "one/upper/etc/copy").exists()
        lines = host.config(name).splitlines()
        assert not [line for line in lines if str(host.lxcpath / "one/") in line and "rootfs.path" not in line]
        ids = {(host.lxcpath / one / "oci-py/id").read_text() for one in ("one", name)}
        assert len(ids) == 2


def test_copy(mounted: Host) -> None:
    mounted.lxc("copy", "one", "-N", "two")
    check_copy(mounted, "two")
    check_copy(mounted, "one")
    mounted.destroy("one")
    mounted.start("two")
    assert mounted.attach("two", "/bin/cat", "/etc/mine") == b"mine\n"
    mounted.stop("two", "-k")
    nothing_left(mounted)


def test_rename(mounted: Host) -> None:
    mounted.lxc("copy", "one", "-R", "-N", "two")
    assert not (mounted.lxcpath / "one").exists()
    mounted.start("two")
    assert mounted.attach("two", "/bin/cat", "/etc/mine", "/etc/hostname", "/data/who") == b"mine\ntwo\none\n"
    mounted.stop("two", "-k")


@pytest.mark.parametrize("mounted", EVERY_KIND, indirect=True)  # one overlay more: kinds differ in what they take
def test_snapshot_clone_and_its_clone(mounted: Host) -> None:
    mounted.lxc("copy", "one", "-s", "-N", "two")
    check_copy(mounted, "two")
    mounted.lxc("copy", "two", "-s", "-N", "three")
    check_copy(mounted, "three", hostname=False)
    assert mounted.lxc("destroy", "one", check=False).returncode != 0  # LXC knows who depends on it
    for name in ("three", "two", "one"):
        mounted.destroy(name)
    nothing_left(mounted)


def test_a_snapshot_clone_does_not_see_later_writes_of_its_origin(mounted: Host) -> None:
    mounted.lxc("copy", "one", "-s", "-N", "two")
    mounted.start("one")
    mounted.attach("one", "/bin/sh", "-c", "echo later > /etc/mine")
    mounted.stop("one", "-k")
    check_copy(mounted, "two")


def test_ephemeral_copy_of_a_mounted_container(mounted: Host) -> None:
    check_ephemeral(mounted)


def test_ephemeral_copy_of_an_overlay_container(overlaid: Host) -> None:
    check_ephemeral(overlaid)


def check_ephemeral(host: Host) -> None:
    """An ephemeral copy has its own volume.

    lxc-copy -e starts it with the configuration that it read before the clone hook ran: only the fstab is read later.
    """
    host.lxc("copy", "one", "-e", "-N", "two")
    host.attach("two", "/bin/sh", "-c", "echo two > /data/who")
    assert host.attach("two", "/bin/cat", "/etc/mine", "/data/who") == b"mine\ntwo\n"
    host.lxc("stop", "two", "-k")
    host.lxc("wait", "two", "-s", "STOPPED", "-t", "60", check=False)
    gone(host.lxcpath / "two")
    assert (host.lxcpath / "one/volumes/data/who").read_text() == "one\n"


def gone(path: Path) -> None:
    """Wait for LXC's monitor to remove an ephemeral container."""
    for _ in range(600):
        if not path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} is still there")


def test_snapshot_and_restore_of_a_mounted_container(mounted: Host) -> None:
    check_restore(mounted)


def test_snapshot_and_restore_of_an_overlay_container(overlaid: Host) -> None:
    check_restore(overlaid)


def check_restore(host: Host) -> None:
    """A snapshot is restored in its place and under another name, volumes with it."""
    host.lxc("snapshot", "one")
    host.start("one")
    host.attach("one", "/bin/sh", "-c", "echo later > /etc/mine; echo later > /data/who")
    host.stop("one", "-k")
    host.lxc("snapshot", "one", "-r", "snap0")
    host.start("one")
    assert host.attach("one", "/bin/cat", "/etc/mine", "/data/who") == b"mine\none\n"
    host.stop("one", "-k")
    host.lxc("snapshot", "one", "-r", "snap0", "-N", "two")
    host.start("two")
    assert host.attach("two", "/bin/cat", "/etc/mine", "/data/who") == b"mine\none\n"
    host.stop("two", "-k")
    host.destroy("two")
    host.destroy("one", "-s")
    assert os.listdir(host.lxcpath) == [] or all(name.endswith(".log") for name in os.listdir(host.lxcpath))
    nothing_left(host)


def test_a_clone_over_the_store_depends_on_nobody(overlaid: Host) -> None:
    overlaid.lxc("copy", "one", "-s", "-N", "two")
    overlaid.destroy("one")
    overlaid.start("two")
    assert overlaid.attach("two", "/bin/cat", "/etc/mine", "/data/who") == b"mine\none\n"
    overlaid.stop("two", "-k")


def test_a_flat_copy_of_an_overlay_container(overlaid: Host) -> None:
    overlaid.lxc("copy", "one", "-N", "two", "-B", "dir")
    assert (overlaid.lxcpath / "two/rootfs/etc/mine").read_text() == "mine\n"
    check_copy(overlaid, "two", hostname=False)


def test_copy_to_another_lxcpath(mounted: Host) -> None:
    other = mounted.directory / "other"
    other.mkdir()
    os.chown(other, *hooks.user(mounted))
    mounted.lxc("copy", "one", "-p", other, "-N", "two")
    assert str(mounted.lxcpath) not in (other / "two/fstab").read_text()
    mounted.lxcpath, before = other, mounted.lxcpath
    try:
        mounted.start("two")
        assert mounted.attach("two", "/bin/cat", "/etc/mine", "/data/who") == b"mine\none\n"
        mounted.stop("two", "-k")
        mounted.destroy("two")
    finally:
        mounted.lxcpath = before


def test_a_mounted_rootfs_is_not_copied_into_another_backing_store(root_host: Host, built: dict[str, Path]) -> None:
    hooks.container(root_host, "one", hooks.layers(*lowers(built, "tree", root_host)))
    done = root_host.lxc("copy", "one", "-N", "two", "-B", "loop", "-L", "20M", check=False)
    assert done.returncode != 0
    assert not (root_host.lxcpath / "two").exists()
    assert (root_host.lxcpath / "one/upper").is_dir()


def test_a_copy_whose_origin_cannot_be_found_fails(root_host: Host, built: dict[str, Path]) -> None:
    path = hooks.container(root_host, "one", hooks.layers(*lowers(built, "tree", root_host)))
    (path / "rootfs/.oci-py-id").write_text("another container's\n")
    assert root_host.lxc("copy", "one", "-N", "two", check=False).returncode != 0
    assert not (root_host.lxcpath / "two").exists()


# --- failures --------------------------------------------------------------------------------------------------


def hook_fails(host: Host, path: Path, rootfs: str = "") -> str:
    """Run the pre-mount hook as LXC would, in a mount namespace of its own that is looked at afterwards."""
    script = '"$0" "$1" lxc pre-mount; echo $?; cat /proc/self/mountinfo'
    program = hooks.program(host.directory, "oci-py-mount")
    environment = {"LXC_CONFIG_FILE": f"{path}/config", "LXC_ROOTFS_PATH": rootfs or f"dir:{path}/rootfs"}
    command = ["unshare", "-m", "/bin/sh", "-c", script, program, path.name]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, env=environment, check=True
    )
    status, _, mounts = done.stdout.partition("\n")
    assert status == "1", done.stderr
    assert str(host.directory) not in mounts
    nothing_left(host)
    assert done.stderr.startswith("oci-py-mount: ") or "\noci-py-mount: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "oci-py-mount: " + (path / "oci-py/failure").read_text().rstrip("\n")
    return done.stderr


@pytest.mark.parametrize("kind", ["squashfs", "erofs", "squashfs-fuse"])
@pytest.mark.parametrize("damage", ["truncated", "not an image", "missing", "a directory"])
def test_a_bad_layer_leaves_nothing_mounted(root_host: Host, built: dict[str, Path], kind: str, damage: str) -> None:
    found = lowers(built, kind, root_host)
    bad = root_host.directory / "bad"
    if damage == "truncated":
        content = Path(found[0]["path"]).read_bytes()
        bad.write_bytes(content[: len(content) // 2])
    elif damage == "not an image":
        bad.write_bytes(b"\0" * 8192)
    elif damage == "a directory":
        bad.mkdir()
    found[1]["path"] = str(bad)
    path = hooks.container(root_host, "one", hooks.layers(*found))
    assert str(bad) in hook_fails(root_host, path)


def test_a_block_that_was_changed_is_not_mounted(root_host: Host, built: dict[str, Path]) -> None:
    found = lowers(built, "squashfs-verity", root_host)
    with open(found[0]["path"], "r+b") as file:
        file.seek(5000)
        file.write(b"changed")
    path = hooks.container(root_host, "one", hooks.layers(*found))
    hook_fails(root_host, path)


@pytest.mark.parametrize("part", ["upper", "work"])
def test_a_missing_directory_of_the_container_is_named(root_host: Host, built: dict[str, Path], part: str) -> None:
    path = hooks.container(root_host, "one", hooks.layers(*lowers(built, "erofs", root_host)))
    os.rename(path / part, path / "elsewhere")
    assert f"{path}/{part}" in hook_fails(root_host, path)
    (path / part).symlink_to(path / "elsewhere")
    assert f"{path}/{part}" in hook_fails(root_host, path)


def test_a_mount_point_that_is_taken_is_named(root_host: Host, built: dict[str, Path]) -> None:
    path = hooks.container(root_host, "one", hooks.layers(*lowers(built, "erofs", root_host)))
    module = hooks.module("oci-py-mount")
    script = 'mount -t tmpfs taken "$1/rootfs" && exec "$0" attach "$1"'
    done = subprocess.run(
        ["unshare", "-m", "/bin/sh", "-c", script, str(hooks.program(root_host.directory, "oci-py-mount")), str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "is already a mount point (tmpfs from taken)" in done.stderr
    assert module.mounts_at(str(path / "rootfs")) == []


def test_a_second_run_finds_the_first_one(root_host: Host, built: dict[str, Path]) -> None:
    path = hooks.container(root_host, "one", hooks.layers(*lowers(built, "erofs", root_host)))
    program = hooks.program(root_host.directory, "oci-py-mount")
    script = '"$0" attach "$1" && "$0" attach "$1" && grep -c "$1/rootfs" /proc/self/mountinfo && "$0" detach "$1"'
    command = ["unshare", "-m", "/bin/sh", "-c", script, str(program), str(path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize(
    ("config", "rootfs", "why"),
    [
        ("relative/config", "dir:{path}/rootfs", "not the config of a container"),
        ("{path}/../one/config", "dir:{path}/rootfs", "not the config of a container"),
        ("{path}/fstab", "dir:{path}/rootfs", "not the config of a container"),
        ("", "", "not the config of a container"),
        ("{path}/config", "dir:/", "but the plan is for"),
        ("{path}/config", "loop:{path}/rootdev", "but the plan is for"),
        ("{path}/config", "overlay:", "names no lower directory"),
        ("/nonexistent/config", "dir:/nonexistent/rootfs", "cannot read the mount plan"),
    ],
)
def test_variables_that_are_not_lxcs_are_refused(
    root_host: Host, built: dict[str, Path], config: str, rootfs: str, why: str
) -> None:
    path = hooks.container(root_host, "one", hooks.layers(*lowers(built, "tree", root_host)))
    environment = {"LXC_CONFIG_FILE": config.format(path=path), "LXC_ROOTFS_PATH": rootfs.format(path=path)}
    done = subprocess.run(
        ["unshare", "-m", str(hooks.program(root_host.directory, "oci-py-mount")), "one", "lxc", "pre-mount"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and why in done.stderr
    nothing_left(root_host)


def test_f15_f17_each_system_call_of_a_mount_may_fail(root_host: Host, built: dict[str, Path]) -> None:
    need.program("strace")
    path = hooks.container(root_host, "one", hooks.layers(*lowers(built, "squashfs", root_host)))
    program = hooks.program(root_host.directory, "oci-py-mount")
    failed = 0
    for call, times in (("fsopen", 4), ("fsconfig", 12), ("fsmount", 4), ("move_mount", 4), ("ioctl", 4), ("mkdir", 2)):
        for when in range(1, times + 1):
            script = (
                f'strace -qq -o /dev/null -e trace={call} -e inject={call}:error=EIO:when={when} "$0" attach "$1";'
                " echo $?; cat /proc/self/mountinfo"
            )
            command = ["unshare", "-m", "/bin/sh", "-c", script, str(program), str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            status, _, mounts = done.stdout.partition("\n")
            if status == "0":
                continue  # fewer calls than that are made
            failed += 1
            assert str(root_host.directory) not in mounts, (call, when)
            assert done.stderr.count("oci-py-mount: ") == 1 and "Traceback" not in done.stderr, (
                call,
                when,
                done.stderr,
            )
            nothing_left(root_host)
    assert failed > 15


def test_the_images_environment_is_not_passed_on(root_host: Host, built: dict[str, Path]) -> None:
    # A helper shows what environment programs get that the hook runs (C15).
    seen = root_host.directory / "seen"
    helper = root_host.directory / "helper"
    helper.write_text(f'#!/bin/sh\nenv > {seen}\nmount -t tmpfs none "$5"\n')
    helper.chmod(0o755)
    plan = {"lowers": [{"kind": "helper"}], "helper": {
        "program": str(helper), "persist": True, "layout": "oci", "name": "image", "upper": "upper"}}  # fmt: skip
    path = hooks.container(root_host, "one", plan)
    environment = {
        "LXC_CONFIG_FILE": f"{path}/config",
        "LXC_ROOTFS_PATH": f"dir:{path}/rootfs",
        "BASH_ENV": "/image/x",
        "FROM_IMAGE": "1",
        "PATH": "/image/bin",
        "PYTHONPATH": "/image",
    }
    subprocess.run(
        ["/usr/bin/unshare", "-m", str(hooks.program(root_host.directory, "oci-py-mount")), "one", "lxc", "pre-mount"],
        env=environment, check=True,
    )  # fmt: skip
    names = {line.partition("=")[0] for line in seen.read_text().splitlines()}
    assert names <= {"PATH", "LC_ALL", "HOME", "DM_DISABLE_UDEV", "PWD", "SHLVL", "_", "OLDPWD"}
    assert "/image" not in seen.read_text()


def test_the_hook_costs_little(root_host: Host, built: dict[str, Path]) -> None:
    """At most 30 ms over an empty shell hook, in processor time: the machine may be shared."""
    path = hooks.container(root_host, "one", hooks.layers(*lowers(built, "erofs", root_host)))
    empty = root_host.directory / "empty"
    empty.write_text("#!/bin/sh\n")
    empty.chmod(0o755)
    environment = {"LXC_CONFIG_FILE": f"{path}/config", "LXC_ROOTFS_PATH": f"dir:{path}/rootfs"}

    def best(program: Path) -> float:
        spent = []
        for _ in range(20):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = ["/usr/bin/unshare", "-m", str(program), "one", "lxc", "pre-mount"]
            subprocess.run(command, env=environment, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(spent)

    assert best(hooks.program(root_host.directory, "oci-py-mount")) - best(empty) < 0.030


# --- by hand ---------------------------------------------------------------------------------------------------


@pytest.fixture
def layout(root_host: Host, built: dict[str, Path]) -> Path:
    """An OCI layout with the two squashfs layers, and with a tar image."""
    squashfs = images.Image([
        images.Layer(built[f"squashfs{number}"].read_bytes(), images.SQUASHFS) for number in (1, 2)
    ])  # fmt: skip
    path = root_host.directory / "oci"
    images.write_layout(path, {"image": squashfs, "tar": images.Image([images.layer(images.file("a"))])})
    return path


def by_hand(host: Host, *argv: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(hooks.program(host.directory, "oci-py-mount")), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, check=check)


@pytest.mark.parametrize("options", [(), ("--no-kernel-mount",)])
def test_mount_and_umount_by_hand(root_host: Host, layout: Path, options: tuple[str, ...]) -> None:
    target, upper = root_host.directory / "target", root_host.directory / "mine"
    target.mkdir()
    by_hand(root_host, "mount", *options, f"{layout}:image", target)
    assert os.listdir(target / "opt") == ["up"]
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").touch()
    again = by_hand(root_host, "mount", f"{layout}:image", target, check=False)
    assert again.returncode == 1 and "already a mount point" in again.stderr
    by_hand(root_host, "umount", target)
    for content in ("first", "second"):
        by_hand(root_host, "mount", *options, "--persist", upper, f"{layout}:image", target)
        assert (target / "new").exists() == (content == "second")
        (target / "new").write_text(content)
        by_hand(root_host, "umount", target)
    failed = by_hand(root_host, "umount", target, check=False)
    assert failed.returncode == 1 and "nothing is mounted" in failed.stderr
    nothing_left(root_host)


def test_without_dev_fuse(root_host: Host, layout: Path) -> None:
    target = root_host.directory / "target"
    target.mkdir()
    hook = hooks.program(root_host.directory, "oci-py-mount")
    script = 'mount -t tmpfs -o size=1m none /dev && "$@"; status=$?; cat /proc/self/mountinfo; exit $status'
    argv = [hook, "mount", "--no-kernel-mount", f"{layout}:image", target]
    failed = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *map(str, argv)], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1 and "cannot use /dev/fuse" in failed.stderr
    assert failed.stderr.count("\n") == 1 and str(target) not in failed.stdout


def test_require_verity_by_hand(root_host: Host, layout: Path) -> None:
    target = root_host.directory / "target"
    target.mkdir()
    failed = by_hand(root_host, "mount", "--require-verity", f"{layout}:image", target, check=False)
    assert failed.returncode == 1 and "has no verity root hash" in failed.stderr
    nothing_left(root_host)


@pytest.mark.parametrize("image", ["{layout}:none", "{layout}", "/nonexistent:image", "{layout}/blobs:image"])
def test_what_is_no_image_by_hand(root_host: Host, layout: Path, image: str) -> None:
    target = root_host.directory / "target"
    target.mkdir()
    failed = by_hand(root_host, "mount", image.format(layout=layout), target, check=False)
    assert failed.returncode == 1 and failed.stderr.startswith("oci-py-mount: ")
    nothing_left(root_host)


def test_the_root_directory_is_the_image_s(root_host: Host, tmp_path: Path) -> None:
    """overlayfs shows the upper directory's attributes for `/`; the umask of whoever mounts is no matter."""
    tree = tmp_path / "tree"
    tree.mkdir()
    os.chown(tree, 7, 8)
    tree.chmod(0o1711)
    os.setxattr(tree, "user.note", b"kept")
    blob = tmp_path / "squashfs"
    command = [need.program("mksquashfs"), tree, blob, "-quiet", "-no-progress"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    layout, target, upper = root_host.directory / "oci", root_host.directory / "target", root_host.directory / "mine"
    images.write_layout(layout, {"image": images.Image([images.Layer(blob.read_bytes(), images.SQUASHFS)])})
    target.mkdir()
    for mode, owner in ((0o1711, (7, 8)), (0o750, (9, 8))):
        before = os.umask(0o077)
        try:
            by_hand(root_host, "mount", "--persist", upper, f"{layout}:image", target)
        finally:
            os.umask(before)
        status = target.stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (mode, *owner)
        assert os.getxattr(target, "user.note") == b"kept"
        # What the user changes stays.
        target.chmod(0o750)
        os.chown(target, 9, 8)
        by_hand(root_host, "umount", target)


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [
        ("index.json", {"manifests": [1]}, "not a list of descriptors"),
        ("index.json", {"manifests": 5}, "not a list of descriptors"),
        ("index.json", {}, "not a list of descriptors"),
        ("index.json", {"manifests": [{"annotations": "x"}]}, "not an object"),
        ("manifest", {"layers": ["x"]}, "is not what its digest says"),
        ("layer", b"", "as its manifest says"),
    ],
)
def test_a_damaged_layout_by_hand(root_host: Host, layout: Path, which: str, change: Any, message: str) -> None:
    index = json.loads((layout / "index.json").read_text())
    blobs = layout / "blobs/sha256"
    manifest = blobs / next(
        entry["digest"] for entry in index["manifests"] if "image" in entry["annotations"].values()
    ).removeprefix("sha256:")
    layer = blobs / json.loads(manifest.read_text())["layers"][0]["digest"].removeprefix("sha256:")
    path = {"index.json": layout / "index.json", "manifest": manifest, "layer": layer}[which]
    path.write_bytes(change if isinstance(change, bytes) else json.dumps(change).encode())
    target = root_host.directory / "target"
    target.mkdir()
    failed = by_hand(root_host, "mount", f"{layout}:image", target, check=False)
    assert failed.returncode == 1 and message in failed.stderr and failed.stderr.count("\n") == 1, failed.stderr
    nothing_left(root_host)


@pytest.mark.parametrize("digest", ["sha256:../../../../etc/passwd", "sha256:", None, 7])
def test_a_digest_is_no_path(root_host: Host, layout: Path, digest: object) -> None:
    index = json.loads((layout / "index.json").read_text())
    for entry in index["manifests"]:
        entry["digest"] = digest
    (layout / "index.json").write_text(json.dumps(index))
    failed = by_hand(root_host, "mount", f"{layout}:image", root_host.directory, check=False)
    assert failed.returncode == 1 and "is not a digest" in failed.stderr


@pytest.mark.parametrize("argv", [(), ("mount",), ("mount", "a"), ("umount",), ("mount", "--bad", "a:b", "c"), ("x",)])
def test_wrong_usage(root_host: Host, argv: tuple[str, ...]) -> None:
    failed = by_hand(root_host, *argv, check=False)
    assert failed.returncode == 2 and failed.stderr.startswith("usage: ")


@pytest.mark.parametrize("options", ["", "nosuid,nodev,noexec,noatime"])
def test_a_tree_mounted_read_only_in_a_user_namespace(root_host: Host, options: str) -> None:
    """What the file system's own mount forbids is locked there, and must be asked for again."""
    below, target = root_host.directory / "below", root_host.directory / "target"
    below.mkdir()
    target.mkdir()
    script = f"""
        mount -t tmpfs -o size=1m,{options} none {below} && mkdir {below}/tree
        exec unshare --user --map-root-user --mount /usr/bin/python3 -c '
import sys
from lxc_oci.verbs import mount
mount._mount_read_only(sys.argv[1], sys.argv[2])
print(open("/proc/self/mountinfo").read())
' {below}/tree {target}
    """
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": launch.modules()}
    done = subprocess.run(
        ["unshare", "--mount", "/bin/sh", "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    shown = [line.split()[5].split(",") for line in done.stdout.splitlines() if line.split()[4:5] == [str(target)]]
    assert len(shown) == 1 and "ro" in shown[0] and {*options.split(",")} - {""} <= {*shown[0]}
