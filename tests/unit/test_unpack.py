# SPDX-License-Identifier: LGPL-2.1-or-later
import errno
import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lxc_oci.errors import NoSpaceError, OciError, RefusedError, UnsupportedError
from lxc_oci.kernel.root import Root
from lxc_oci.layer import entry as kinds
from lxc_oci.layer.entry import Entry
from lxc_oci.layer.objects import failure
from lxc_oci.layer.unpack import Unpacker
from lxc_oci.limits import Limits
from tests.support import need
from tests.support.tarmaker import (
    TIME,
    apply_entries,
    archive,
    block,
    character,
    directory,
    entry,
    fifo,
    file,
    hardlink,
    symlink,
    unpack,
)
from tests.unit.test_tarstream import LOGICAL, sparse_forms

ME = {"uid": os.getuid(), "gid": os.getgid()}


def test_files_have_content_mode_time_and_attributes(tmp_path: Path) -> None:
    big = os.urandom(3_000_000)
    made = archive(
        file(b"etc/motd", b"hello\n", mode=0o640, mtime=5),
        file(b"big", big, pax={b"mtime": b"7.000000009"}),
        file(b"empty", mode=0o400),
        file(b"su", b"x", mode=0o6755),
        file(b"attributes", b"x", xattrs={b"user.a": b"b"}),
        fifo(b"fifo", mode=0o622, mtime=8),
        symlink(b"link", b"etc/motd", mtime=9),
        hardlink(b"etc/same", b"etc/motd"),
    )
    path = unpack(tmp_path, made).path
    assert (path / "etc/motd").read_bytes() == b"hello\n"
    assert (path / "big").read_bytes() == big
    status = {name: os.lstat(path / name) for name in os.listdir(path)} | {"motd": os.lstat(path / "etc/motd")}
    assert {name: stat.S_IMODE(of.st_mode) for name, of in status.items()} == {
        "etc": 0o755, "motd": 0o640, "big": 0o644, "empty": 0o400, "su": 0o6755, "attributes": 0o644, "fifo": 0o622,
        "link": 0o777,
    }  # fmt: skip
    assert status["motd"].st_mtime == 5
    assert status["big"].st_mtime_ns == 7_000_000_009
    assert (status["fifo"].st_mtime, status["link"].st_mtime) == (8, 9)
    assert os.readlink(path / "link") == "etc/motd"
    assert os.path.samefile(path / "etc/motd", path / "etc/same")
    assert os.getxattr(path / "attributes", "user.a") == b"b"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_the_umask_changes_nothing(tmp_path: Path, umask: int) -> None:
    if umask == 0o777:
        need.root()  # nobody else could enter such a directory
    made = archive(
        directory(b"d", mode=0o777),
        file(b"d/f", mode=0o666),
        file(b"implied/g", mode=0o777),
        fifo(b"p", mode=0o666),
        directory(b"d/e", mode=0o1775),
    )
    (tmp_path / "record").touch()
    before = os.umask(umask)
    try:
        tree = unpack(tmp_path, made)
    finally:
        os.umask(before)
        os.chmod(tmp_path / "record", 0o600)
    modes = {"d": 0o777, "d/f": 0o666, "implied": 0o755, "implied/g": 0o777, "p": 0o666, "d/e": 0o1775}
    assert {name: tree.mode(name) for name in modes} == modes


def test_owners_devices_and_the_group_of_set_id_directories(tmp_path: Path) -> None:
    need.root()
    made = archive(
        directory(b"mail", mode=0o2775, gid=8),
        file(b"mail/plain", mode=0o4755, gid=0),
        directory(b"mail/sub"),
        file(b"mail/sub/x"),
        symlink(b"mail/link", b"x"),
        fifo(b"mail/fifo"),
        file(b"f", uid=1000, gid=2_000_000, mode=0o6711, xattrs={b"user.a": b"b"}),
        symlink(b"l", b"x", uid=5, gid=6),
        character(b"c", 5, 1, uid=7, gid=8, mode=0o620),
        block(b"b", 259, 70000, mode=0o660),
        directory(b"d", uid=9, gid=10, mode=0o700),
    )
    path = unpack(tmp_path, made).path

    def facts(name: str) -> tuple[int, int, int]:
        status = os.lstat(path / name)
        return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)

    assert facts("mail") == (0, 8, 0o2775)
    assert facts("mail/plain") == (0, 0, 0o4755)
    assert facts("mail/sub") == (0, 0, 0o755)
    assert facts("mail/sub/x") == (0, 0, 0o644)
    assert facts("mail/link")[:2] == facts("mail/fifo")[:2] == (0, 0)
    assert facts("f") == (1000, 2_000_000, 0o6711)
    assert facts("l")[:2] == (5, 6)
    assert facts("c") == (7, 8, 0o620)
    assert facts("d") == (9, 10, 0o700)
    assert os.lstat(path / "c").st_rdev == os.makedev(5, 1)
    assert os.lstat(path / "b").st_rdev == os.makedev(259, 70000)


def test_file_capabilities(tmp_path: Path) -> None:
    need.root()
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    made = archive(file(b"ping", b"x", uid=3, xattrs={b"security.capability": capability}))
    assert os.getxattr(unpack(tmp_path, made).path / "ping", "security.capability") == capability


@pytest.mark.parametrize("form", ["0.0", "0.1", "1.0", "old"])
def test_sparse_files_stay_sparse(tmp_path: Path, form: str) -> None:
    path = unpack(tmp_path, archive(sparse_forms()[form], file(b"after", b"x"))).path
    wanted = bytearray(LOGICAL)
    wanted[4096:4101], wanted[8192:8704] = b"hello", b"w" * 512
    assert (path / "sparse").read_bytes() == wanted
    assert (path / "after").read_bytes() == b"x"


def test_a_large_hole_takes_no_room(tmp_path: Path) -> None:
    sparse = [
        (b"GNU.sparse.map", b"0,1,50000000,1"),
        (b"GNU.sparse.numblocks", b"2"),
        (b"GNU.sparse.size", b"99000000"),
    ]
    status = (unpack(tmp_path, archive(entry(b"x", data=b"ab", pax=sparse))).path / "x").stat()
    assert status.st_size == 99_000_000
    assert status.st_blocks * 512 < 1_000_000


def test_directories_keep_their_time_when_layers_change_them(tmp_path: Path) -> None:
    first = archive(directory(b"./", mtime=1), directory(b"a", mtime=2), directory(b"a/b", mtime=3), file(b"a/b/c"))
    second = archive(file(b"a/new"), file(b"a/b/.wh.c"), file(b"implied/x", mtime=TIME), symlink(b"a/b/l", b"x"))
    tree = unpack(tmp_path, first, second)
    times = {name: (tree.path / name).stat().st_mtime for name in (".", "a", "a/b", "implied")}
    assert times == {".": 1, "a": 2, "a/b": 3, "implied": TIME}


def test_metadata_of_a_directory_comes_from_its_last_entry(tmp_path: Path) -> None:
    first = archive(directory(b"d", mode=0o700, mtime=1, xattrs={b"user.old": b"x"}), file(b"d/f"))
    second = archive(directory(b"d", mode=0o711, mtime=2, xattrs={b"user.new": b"y"}))
    tree = unpack(tmp_path, first, second)
    assert (tree.mode("d"), (tree.path / "d").stat().st_mtime) == (0o711, 2)
    assert os.listxattr(tree.path / "d") == ["user.new"]
    assert (tree.path / "d/f").exists()


def test_types_replace_each_other(tmp_path: Path) -> None:
    forms = [
        file(b"x", b"content"),
        directory(b"x") + file(b"x/below/deep", b"y"),
        symlink(b"x", b"nowhere"),
        fifo(b"x"),
        file(b"other") + hardlink(b"x", b"other"),
    ]
    for number, (old, new) in enumerate((old, new) for old in forms for new in forms):
        (tmp_path / str(number)).mkdir()
        tree = unpack(tmp_path / str(number), archive(old), archive(new))
        alone = tmp_path / f"{number}-alone"
        alone.mkdir()
        kind = stat.S_IFMT(os.lstat(unpack(alone, archive(new)).path / "x").st_mode)
        assert stat.S_IFMT(os.lstat(tree.path / "x").st_mode) == kind


def test_a_hard_link_to_itself_changes_nothing(tmp_path: Path) -> None:
    tree = unpack(tmp_path, archive(file(b"d/x", b"kept"), hardlink(b"d/x", b"./d/x")))
    assert (tree.path / "d/x").read_bytes() == b"kept"


def test_a_hard_link_over_the_directory_of_its_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="hard link"):
        unpack(tmp_path, archive(file(b"d/x"), hardlink(b"d", b"d/x")))
    with pytest.raises(RefusedError, match="hard link"):
        unpack_again(tmp_path, archive(directory(b"e"), hardlink(b"f", b"e")))


def unpack_again(directory: Path, made: bytes) -> None:
    (directory / "again").mkdir()
    unpack(directory / "again", made)


def test_many_directories_with_few_descriptors(tmp_path: Path) -> None:
    parts = [file(b"%d/%d/%d" % (one, two, three)) for one in range(8) for two in range(8) for three in range(2)]
    parts += [hardlink(b"%d/%d/link" % (one, one), b"%d/0/1" % (7 - one)) for one in range(8)]
    code = """
import resource, sys; from pathlib import Path; from tests.support.tarmaker import unpack
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
print(len(unpack(Path("."), sys.stdin.buffer.read()).names()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=archive(*parts),
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
    )
    assert done.stdout.strip() == b"208", done.stderr.decode()


def test_memory_does_not_grow_with_the_size_of_a_file(tmp_path: Path) -> None:
    code = """
import io, os, resource, sys
from lxc_oci.kernel.root import Root
from lxc_oci.layer.pipeline import TarLayer, apply_image
from lxc_oci.layer.unpack import Unpacker
from lxc_oci.image.digest import Digest
from lxc_oci.limits import Limits
import hashlib
from tests.support.tarmaker import archive, file
os.mkdir("rootfs")
head = archive(file(b"x", size=400 << 20))[:512]
class Endless:
    def __init__(self):
        self.left = [head] + [bytes(1 << 20)] * 400 + [bytes(1024)]
    def read(self, size):
        return self.left.pop(0) if self.left else b""
hasher = hashlib.sha256()
reader = Endless()
while data := reader.read(1): hasher.update(data)
layer = TarLayer(Endless, "", Digest("sha256:" + hasher.hexdigest()))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with Root.at("rootfs") as root, Unpacker(root, Limits(), print) as unpacker:
    apply_image(unpacker, [layer], Limits(), print)
print(os.stat("rootfs/x").st_size >> 20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
    )
    size, growth = map(int, done.stdout.split() or pytest.fail(done.stderr.decode()))
    assert size == 400
    assert growth < 40 * 1024  # KiB
    (tmp_path / "rootfs/x").unlink()


# --- entries of other formats -----------------------------------------------------------------------------------------


def test_overlay_whiteouts_count_where_they_are_expected(tmp_path: Path) -> None:
    file_of = {"type": kinds.FILE, **ME}
    tree = apply_entries(
        tmp_path,
        (Entry(b"gone", **file_of), b""),
        (Entry(b"opaque/old", **file_of), b""),
        (Entry(b"stays/old", **file_of), b""),
        overlay=True,
    )  # type: ignore[arg-type]
    apply_entries(
        tmp_path,
        (Entry(b"gone", kinds.CHARACTER, **ME), b""),
        (Entry(b"opaque", kinds.DIRECTORY, 0o755, xattrs=((b"trusted.overlay.opaque", b"y"),), **ME), b""),
        (Entry(b"opaque/new", **file_of), b""),
        (Entry(b"stays", kinds.DIRECTORY, 0o755, xattrs=((b"trusted.overlay.impure", b"y"),), **ME), b""),
        (Entry(b".wh.literal", **file_of), b""),
        (Entry(b"never-there", kinds.CHARACTER, **ME), b""),
        overlay=True,
        tree=tree,
    )  # type: ignore[arg-type]
    assert tree.names() == {"opaque", "opaque/new", "stays", "stays/old", ".wh.literal"}
    assert tree.warnings == []
    assert not os.listxattr(tree.path / "opaque")


@pytest.mark.parametrize("word", [b"redirect", b"metacopy", b"origin", b"whiteout"])
def test_overlay_attributes_that_lead_elsewhere_are_refused(tmp_path: Path, word: bytes) -> None:
    xattrs = ((b"trusted.overlay." + word, b"/etc"),)
    for kind in (kinds.FILE, kinds.DIRECTORY):
        with pytest.raises(RefusedError, match="attribute trusted"):
            apply_again(tmp_path, Entry(b"x", kind, xattrs=xattrs, **ME))


def apply_again(where: Path, item: Entry) -> None:
    (where / item.type).mkdir()
    apply_entries(where / item.type, (item, b""), overlay=True)


def test_sockets_are_made(tmp_path: Path) -> None:
    tree = apply_entries(tmp_path, (Entry(b"s", kinds.SOCKET, 0o600, **ME), b""))
    assert stat.S_ISSOCK(os.lstat(tree.path / "s").st_mode)


@pytest.mark.parametrize("data", [b"shor", b"longer", io.BytesIO(b"shor"), io.BytesIO(b"longer"), memoryview(b"shor")])
@pytest.mark.parametrize("sparse", [None, ((0, 5),)])
def test_data_of_another_length_is_refused(
    tmp_path: Path, data: bytes, sparse: tuple[tuple[int, int], ...] | None
) -> None:
    with pytest.raises(RefusedError, match="not as much data"):
        apply_entries(tmp_path, (Entry(b"x", kinds.FILE, size=5, sparse=sparse, **ME), data))


# --- failures ---------------------------------------------------------------------------------------------------------


def test_an_owner_outside_of_the_id_map_is_refused_by_name(tmp_path: Path) -> None:
    need.program("unshare")
    (tmp_path / "layer").write_bytes(archive(file(b"etc/mine", uid=0, gid=0), file(b"etc/foreign", uid=65534, gid=7)))
    os.chmod(tmp_path, 0o755)
    code = """
import sys; from pathlib import Path; from tests.support.tarmaker import unpack
unpack(Path("new"), Path("layer").read_bytes())
"""
    (tmp_path / "new").mkdir()
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": os.environ["PATH"]},
        capture_output=True,
        check=False,
    )
    if b"unshare failed" in done.stderr:
        need.missing("user namespaces are not allowed")
    assert b"RefusedError: 'etc/foreign' in the image belongs to 65534:7" in done.stderr, done.stderr


def test_failures_of_the_file_system_are_told_apart() -> None:
    for number, kind, hint in (
        (errno.ENOSPC, NoSpaceError, "space"),
        (errno.EDQUOT, NoSpaceError, "space"),
        (errno.EROFS, UnsupportedError, "read-only"),
        (errno.ENAMETOOLONG, RefusedError, "names"),
        (errno.EIO, OciError, ""),
    ):
        error = failure("cannot unpack 'x'", OSError(number, os.strerror(number)))
        assert type(error) is kind
        assert hint in error.hint
        assert error.message == f"cannot unpack 'x': {os.strerror(number)}"


def test_a_full_tmpfs(tmp_path: Path) -> None:
    need.root()
    code = """
import sys; from pathlib import Path; from tests.support.tarmaker import unpack, archive, file
from lxc_oci.errors import NoSpaceError
for made in (archive(file(b"big", bytes(3 << 20))), archive(*(file(b"d/%d" % n) for n in range(300)))):
    try: unpack(Path(sys.argv[1]), made)
    except NoSpaceError as error: print(error.message)
    import shutil; shutil.rmtree(sys.argv[1] + "/rootfs"); Path(sys.argv[1] + "/canary").unlink()
"""
    script = 'mount -t tmpfs -o size=1m,nr_inodes=100 none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable, code],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        check=False,
    )
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 2, done.stderr.decode()
    assert lines[0].startswith("cannot unpack 'big'") and lines[1].startswith("cannot unpack 'd/")


def test_a_root_that_went_away(tmp_path: Path) -> None:
    tmp_path.joinpath("rootfs").mkdir()
    with Root.at(str(tmp_path / "rootfs")) as root, Unpacker(root, Limits(), print) as unpacker:
        unpacker.begin_layer()
        (tmp_path / "rootfs").rmdir()
        with pytest.raises(OciError, match="cannot unpack 'x'"):
            unpacker.add(Entry(b"x", kinds.FILE))


def test_a_file_system_without_attributes_costs_one_warning(tmp_path: Path) -> None:
    need.root()
    code = """
import sys; from pathlib import Path; from tests.support.tarmaker import *
xattrs = {"xattrs": {b"user.a": b"x"}}
made = archive(file(b"f", b"1", **xattrs), file(b"g", b"2", **xattrs), directory(b"d", **xattrs), directory(b"d"))
tree = unpack(Path(sys.argv[1]), made)
print(sorted(tree.names()), tree.warnings)
"""
    # ramfs knows the calls and refuses every name.
    script = 'mount -t ramfs none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable, code],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        check=False,
    )
    wanted = (
        "['d', 'f', 'g'] [\"extended attributes 'user.a' of the image cannot be set here: Operation not supported\"]"
    )
    assert done.stdout.decode().strip() == wanted, done.stderr.decode()
