# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which image kind runs with what, as root and as a user: one test for each cell of the README's table.

Each makes a container by a real create, runs it, writes into it, and finds the writes after a restart, the image
unchanged.  All kinds have the same two layers, the upper of which removes and replaces files of the lower.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lxc_oci.rootfs import choose
from tests.peers import build
from tests.support import image as images
from tests.support import need
from tests.support.host import Host
from tests.support.launch import CHECKOUT

KINDS = ("tar", "squashfs", "erofs", "puzzlefs", "puzzlefs, compressed")
WAYS: dict[str, tuple[str, ...]] = {
    "by itself": (),
    "--no-kernel-mount": ("--no-kernel-mount",),
    "--storage flat": ("--storage", "flat"),
}
SCRIPT = (
    "test ! -e /etc/gone && cat /etc/replaced && cat /etc/hostname && "
    "if test -e /etc/mine; then cat /etc/mine; else echo written > /etc/mine; fi; stat -c '%a %u:%g' /"
)
WHO = (
    "test ! -e /etc/mine && echo $(id -u):$(id -g) && pwd && cat /etc/hostname /etc/replaced && "
    "grep -q two /etc/hosts && echo in hosts"
)
ROOT = "1711 7:8\n"  # what the images say of `/`


def _lower(items: tuple[images.Item, ...]) -> list[images.Item]:
    return [*items, images.file("etc/gone", "gone\n"), images.file("etc/replaced", "lower\n")]


def _base() -> tuple[images.Item, ...]:
    busybox = Path(need.program("busybox")).read_bytes()
    return (
        images.directory(".", mode=0o1711, uid=7, gid=8),
        images.directory("bin"),
        images.program("bin/busybox", busybox),
        images.symlink("bin/sh", "busybox"),
        *(images.symlink(f"bin/{name}", "busybox") for name in ("cat", "test", "sleep", "echo", "grep", "id", "stat")),
        *(images.directory(name) for name in ("etc", "proc", "sys", "dev", "root", "run", "srv")),
        images.directory("tmp", mode=0o1777),
        images.file("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/srv:/bin/sh\n"),
    )


@pytest.fixture(scope="session")
def urls(layouts: Path) -> Callable[[str], str]:
    """The URL of an image of each kind, made when it is first asked for."""
    made: dict[str, str] = {}

    def url(kind: str) -> str:
        if kind not in made:
            made.update(_puzzlefs_images(layouts) if kind.startswith("puzzlefs") else _images(layouts))
        return made[kind]

    return url


REPLACED = images.file("etc/replaced", "upper\n")


def _images(layouts: Path) -> dict[str, str]:
    base = _base()
    config = {"Entrypoint": ["/bin/sh", "-c", SCRIPT], "Env": ["PATH=/bin"]}
    upper = (base[0], images.directory("etc"), REPLACED, images.character("etc/gone", 0, 0))
    made = {
        "tar": images.Image([images.layer(*_lower(base)), images.layer(REPLACED, images.whiteout("etc/gone"))], config),
        "squashfs": images.Image([images.squashfs_layer(*_lower(base)), images.squashfs_layer(*upper)], config),
        "erofs": images.Image([images.erofs_layer(*_lower(base)), images.erofs_layer(*upper)], config),
    }
    images.write_layout(layouts / "kinds", made)
    return {kind: f"oci:{layouts / 'kinds'}:{kind}" for kind in made}


def _puzzlefs_images(layouts: Path) -> dict[str, str]:
    program = _puzzlefs()
    tree = layouts / "kinds-tree"
    tree.mkdir()
    plain = images.layer(*_base(), REPLACED).plain
    subprocess.run(["tar", "-C", tree, "-xp"], input=plain, check=True)
    urls = {}
    for kind, options in (("puzzlefs", []), ("puzzlefs, compressed", ["-c"])):
        layout = layouts / kind.replace(", ", "-")
        subprocess.run([program, "build", *options, tree, f"{layout}:image"], check=True, capture_output=True)
        urls[kind] = f"oci:{layout}:image"
    return urls


def _puzzlefs() -> Path:
    return build.find("puzzlefs") or need.missing("puzzlefs is not built (make peers)")


def _run(host: Host, name: str, kind: str) -> str:
    """Run the entrypoint, once by lxc-execute; PuzzleFS images have no configuration, so the command is given."""
    argv = ("/bin/sh", "-c", SCRIPT) if kind.startswith("puzzlefs") else ()
    return host.execute(name, *argv).decode()


CELLS = [
    *((kind, "by itself", user) for kind in KINDS for user in ("root", "user")),
    *((kind, "--no-kernel-mount", "root") for kind in ("squashfs", "erofs")),
    *((kind, "--storage flat", "root") for kind in ("squashfs", "erofs", "puzzlefs")),
    *((kind, "--storage flat", "user") for kind in ("squashfs", "erofs", "puzzlefs")),
]


@pytest.mark.parametrize(("kind", "way", "user"), CELLS)
def test_each_kind_runs(
    request: pytest.FixtureRequest, urls: Callable[[str], str], kind: str, way: str, user: str
) -> None:
    host: Host = request.getfixturevalue(f"{user}_host")
    url = urls(kind)
    if kind == "erofs" and (host.user is not None or way == "--no-kernel-mount"):
        request.getfixturevalue("fuse_for_users")
        _need_erofsfuse(host, url, way)
    made = host.create("one", url, *WAYS[way], "--verbose")
    said = made.stderr.decode() + made.stdout.decode()
    form = re.search(r"storage: (\w+)", said)
    assert form is not None and form[1] in _forms(kind, way, user), said
    assert _run(host, "one", kind) == f"upper\none\n{ROOT}"
    assert _run(host, "one", kind) == f"upper\none\nwritten\n{ROOT}"
    # A second container of the image starts from the image, whose user database is read and whose directory is entered.
    command = shlex.join(["/bin/sh", "-c", WHO])
    host.create("two", url, *WAYS[way], "--user", "app", "--workdir", "/srv", "--entrypoint", command)
    assert host.execute("two") == b"1000:1001\n/srv\ntwo\nupper\nin hosts\n"
    assert host.oci("verify").stdout == b""
    for name in ("one", "two"):
        host.destroy(name)
    assert not any(path.is_dir() for path in host.lxcpath.iterdir())


def _forms(kind: str, way: str, user: str) -> tuple[str, ...]:
    """What the README's cell says that the rootfs is; over a tree AppArmor leaves a user LXC's own overlay only."""
    if way == "--storage flat":
        return ("flat",)
    if user == "user":
        return ("tree", "overlay")
    if way == "by itself" and kind in ("squashfs", "erofs"):
        return ("mounted",)
    return ("index",) if kind == "tar" and choose._indexes_tar() else ("tree",)


def _need_erofsfuse(host: Host, url: str, way: str) -> None:
    """Without the kernel EROFS needs erofsfuse, which Debian 12 has not: there the refusal says what does."""
    if need_program("erofsfuse"):
        return
    refused = host.create("one", url, *WAYS[way], check=False)
    assert refused.returncode != 0
    assert b"erofsfuse" in refused.stderr + refused.stdout
    assert not (host.lxcpath / "one").exists()
    pytest.skip("erofsfuse is not installed: the refusal was tested")


def need_program(name: str) -> bool:
    """Tell whether a program is there, without needing it."""
    return any(os.access(f"{directory}/{name}", os.X_OK) for directory in ("/usr/bin", "/usr/sbin", "/usr/local/bin"))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_runs_with_a_helper(root_host: Host, urls: Callable[[str], str], kind: str) -> None:
    """`--mount-helper` gets every image: here a helper by the contract, which mounts what our own program can."""
    helper = root_host.directory / "helper"
    log = root_host.directory / "calls"
    hook = CHECKOUT / "hooks/oci-py-mount"
    store = f"export LXC_OCI_PY_STORE={root_host.store} HOME=/root"
    helper.write_text(f'#!/bin/sh\n{store}\necho "$@" >>{log}\nexec {hook} "$@"\n')
    helper.chmod(0o755)
    root_host.create("one", urls(kind), "--mount-helper", str(helper))
    assert _run(root_host, "one", kind) == f"upper\none\n{ROOT}"
    assert _run(root_host, "one", kind) == f"upper\none\nwritten\n{ROOT}"
    calls = [line.split() for line in log.read_text().splitlines()]
    mounts = [call for call in calls if call[0] == "mount"]
    directory = root_host.lxcpath / "one"
    assert len(mounts) == 3  # at create and at each start
    for call in mounts:
        assert call[1] == "--persist"
        assert call[3].startswith(f"{directory}/")
        assert call[4] == f"{directory}/rootfs"
    assert ["umount", f"{directory}/rootfs"] in calls
    root_host.destroy("one")


def test_p14_a_tree_is_not_shared_with_an_archive_of_the_same_bytes(
    root_host: Host, layouts: Path, urls: Callable[[str], str]
) -> None:
    """An EROFS image may begin with zeros, which are an empty tar archive, which must not stand for it."""
    layer = images.erofs_layer(*_base())
    archive = images.layer(layer.blob, compression="")
    assert archive.plain == layer.blob
    made = {"hostile": images.Image([archive]), "good": images.Image([layer], {"Entrypoint": ["/bin/stat", "/bin/sh"]})}
    layout = images.write_layout(layouts / "same", made)
    root_host.create("hostile", f"oci:{layout}:hostile", "--no-kernel-mount", check=False)
    assert len(list((root_host.store / "trees").iterdir())) == 1
    root_host.create("good", f"oci:{layout}:good", "--storage", "flat")
    assert (root_host.lxcpath / "good/rootfs/bin/busybox").exists()


def _nothing_left(host: Host, name: str, said: bytes) -> None:
    errors = [line for line in said.decode().splitlines() if line.startswith("lxc-oci-py: error: ")]
    assert len(errors) == 1 and "internal error" not in errors[0] and b"Traceback" not in said, said.decode()
    assert not (host.lxcpath / name).exists()
    for table in ("/proc/self/mountinfo", "/proc/1/mountinfo"):
        assert str(host.directory) not in Path(table).read_text()


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
@pytest.mark.parametrize("way", ["by itself", "--storage flat"])
@pytest.mark.parametrize("kind", ["squashfs", "erofs"])
def test_a_damaged_file_system_leaves_nothing(
    root_host: Host, layouts: Path, urls: Callable[[str], str], kind: str, way: str, damage: str
) -> None:
    """The digests are right: it was made so."""
    make = {"squashfs": images.squashfs_layer, "erofs": images.erofs_layer}[kind]
    good = make(*_base())
    blob = good.blob[: len(good.blob) // 2] if damage == "cut" else good.blob[:1152].ljust(len(good.blob), b"\0")
    bad = images.Image([images.Layer(blob, good.media_type, images.digest(blob))], {"Entrypoint": ["/bin/sh"]})
    layout = images.write_layout(layouts / f"{kind}-{damage}", {"bad": bad})
    failed = root_host.create("bad", f"oci:{layout}:bad", *WAYS[way], check=False)
    assert failed.returncode != 0
    _nothing_left(root_host, "bad", failed.stderr + failed.stdout)
    root_host.create("good", urls(kind), *WAYS[way])
    assert _run(root_host, "good", kind) == f"upper\ngood\n{ROOT}"


def test_without_loop_devices_an_image_can_be_unpacked(root_host: Host, urls: Callable[[str], str]) -> None:
    root_host.prefix = ("unshare", "-m", "sh", "-c", 'mount --bind /dev/null /dev/loop-control && exec "$@"', "sh")
    failed = root_host.create("one", urls("squashfs"), check=False)
    assert failed.returncode != 0
    said = failed.stderr + failed.stdout
    assert b"cannot set up a loop device" in said and b"--no-kernel-mount or --storage flat" in said
    _nothing_left(root_host, "one", said)
    root_host.create("one", urls("squashfs"), "--no-kernel-mount")
    root_host.prefix = ()
    assert _run(root_host, "one", "squashfs") == f"upper\none\n{ROOT}"
