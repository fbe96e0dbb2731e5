# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which image kind runs with what, as root and as a user: one test for each cell of the README's table.

Each makes a container by a real create, runs it, writes into it, and finds the writes after a restart, the image
unchanged.  All kinds have the same two layers, the upper of which removes and replaces files of the lower.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    "if test -e /etc/mine; then cat /etc/mine; else echo written > /etc/mine; fi"
)


def _lower(items: tuple[images.Item, ...]) -> list[images.Item]:
    return [*items, images.file("etc/gone", "gone\n"), images.file("etc/replaced", "lower\n")]


@pytest.fixture(scope="session")
def kinds(layouts: Path) -> Iterator[dict[str, str]]:
    """The URL of one image of each kind."""
    busybox = Path(need.program("busybox")).read_bytes()
    base = (
        images.directory("bin"),
        images.program("bin/busybox", busybox),
        images.symlink("bin/sh", "busybox"),
        *(images.symlink(f"bin/{name}", "busybox") for name in ("cat", "test", "sleep", "echo", "id")),
        *(images.directory(name) for name in ("etc", "proc", "sys", "dev", "root", "run")),
        images.directory("tmp", mode=0o1777),
        images.file("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
    )
    config = {"Entrypoint": ["/bin/sh", "-c", SCRIPT], "Env": ["PATH=/bin"]}
    replaced = images.file("etc/replaced", "upper\n")
    upper = (images.directory("etc"), replaced, images.character("etc/gone", 0, 0))
    made = {
        "tar": images.Image([images.layer(*_lower(base)), images.layer(replaced, images.whiteout("etc/gone"))], config),
        "squashfs": images.Image([images.squashfs_layer(*_lower(base)), images.squashfs_layer(*upper)], config),
        "erofs": images.Image([images.erofs_layer(*_lower(base)), images.erofs_layer(*upper)], config),
    }
    images.write_layout(layouts / "kinds", made)
    urls = {kind: f"oci:{layouts / 'kinds'}:{kind}" for kind in made}
    tree = layouts / "kinds-tree"
    tree.mkdir()
    plain = images.layer(*base, replaced).plain
    subprocess.run(["tar", "-C", tree, "-xp"], input=plain, check=True)
    program = _puzzlefs()
    for kind, options in (("puzzlefs", []), ("puzzlefs, compressed", ["-c"])):
        layout = layouts / kind.replace(", ", "-")
        subprocess.run([program, "build", *options, tree, f"{layout}:image"], check=True, capture_output=True)
        urls[kind] = f"oci:{layout}:image"
    yield urls


def _puzzlefs() -> Path:
    from tests.peers import build

    return build.find("puzzlefs") or need.missing("puzzlefs is not built (make peers)")


def _run(host: Host, name: str, kind: str) -> str:
    """Run the entrypoint, once by lxc-execute; PuzzleFS images have no configuration, so the command is given."""
    argv = ("/bin/sh", "-c", SCRIPT) if kind.startswith("puzzlefs") else ()
    return host.execute(name, *argv).decode()


CELLS = [
    *((kind, "by itself", user) for kind in KINDS for user in ("root", "user")),
    *((kind, "--no-kernel-mount", "root") for kind in ("squashfs", "erofs")),
    *((kind, "--storage flat", "root") for kind in ("squashfs", "erofs", "puzzlefs")),
    ("squashfs", "--storage flat", "user"),
]


@pytest.mark.parametrize(("kind", "way", "user"), CELLS)
def test_each_kind_runs(request: pytest.FixtureRequest, kinds: dict[str, str], kind: str, way: str, user: str) -> None:
    host: Host = request.getfixturevalue(f"{user}_host")
    if kind == "erofs" and (host.user is not None or way == "--no-kernel-mount"):
        _need_erofsfuse(host, kinds[kind], way)
    made = host.create("one", kinds[kind], *WAYS[way], "--verbose")
    said = made.stderr.decode() + made.stdout.decode()
    form = re.search(r"storage: (\w+)", said)
    assert form is not None, said
    assert _run(host, "one", kind) == "upper\none\n"
    assert _run(host, "one", kind) == "upper\none\nwritten\n"
    # A second container of the image starts from the image.
    host.create("two", kinds[kind], *WAYS[way])
    assert _run(host, "two", kind) == "upper\ntwo\n"
    assert host.oci("verify").stdout == b""
    for name in ("one", "two"):
        host.destroy(name)
    assert not any(path.is_dir() for path in host.lxcpath.iterdir())


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
def test_each_kind_runs_with_a_helper(root_host: Host, kinds: dict[str, str], kind: str) -> None:
    """`--mount-helper` gets every image: here a helper by the contract, which mounts what our own program can."""
    helper = root_host.directory / "helper"
    log = root_host.directory / "calls"
    hook = CHECKOUT / "hooks/oci-py-mount"
    store = f"export LXC_OCI_PY_STORE={root_host.store} HOME=/root"
    helper.write_text(f'#!/bin/sh\n{store}\necho "$@" >>{log}\nexec {hook} "$@"\n')
    helper.chmod(0o755)
    root_host.create("one", kinds[kind], "--mount-helper", str(helper))
    assert _run(root_host, "one", kind) == "upper\none\n"
    assert _run(root_host, "one", kind) == "upper\none\nwritten\n"
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
