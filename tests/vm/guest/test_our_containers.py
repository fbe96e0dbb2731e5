# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our containers on a stock host, with AppArmor enforced: the form that `auto` chooses starts, and LXC's verbs work.

Any denial in AppArmor's log fails the test (tests.vm.guest.denials).
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import host as hosts
from tests.support import image as images
from tests.support import need
from tests.support.host import Host

pytestmark = pytest.mark.box

RELEASE = Path("/etc/debian_version").read_text().split(".")[0]
CONFIG = {"Entrypoint": ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"], "Env": ["PATH=/bin"]}


@pytest.fixture(scope="module")
def layout() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        path = Path(directory)
        path.chmod(0o755)
        base, upper = (
            images.busybox_rootfs(),
            images.layer(images.directory("etc"), images.file("etc/upper", "upper\n"), images.whiteout("home")),
        )
        made = {"tar": images.Image([base, upper], CONFIG)}
        tree = path / "tree"
        tree.mkdir()
        subprocess.run(["tar", "-C", tree, "-xp"], input=base.plain, check=True)
        made["squashfs"] = images.Image([_with_verity(path, tree)], CONFIG)
        images.write_layout(path / "layout", made)
        yield path / "layout"


def _with_verity(path: Path, tree: Path) -> images.Layer:
    """A squashfs layer with verity data behind it and the annotation that names its root hash."""
    file = path / "squashfs"
    subprocess.run(["mksquashfs", tree, file, "-quiet", "-no-progress"], check=True)
    size = -(-file.stat().st_size // 4096) * 4096
    with open(file, "r+b") as padded:
        padded.truncate(size)
    said = subprocess.run(
        [need.program("veritysetup"), "format", file, file, f"--hash-offset={size}"], check=True, capture_output=True
    ).stdout.decode()
    root = next(line.split()[-1] for line in said.splitlines() if line.startswith("Root hash"))
    annotations = {"io.stackeroci.stacker.atomfs_verity_root_hash": root}
    blob = file.read_bytes()
    return images.Layer(blob, images.SQUASHFS, images.digest(blob), annotations=annotations)


@pytest.fixture(params=["/var/lib/lxc", "/srv"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Root's containers, in the usual place and in one where AppArmor keeps hooks from mounting."""
    with tempfile.TemporaryDirectory(prefix="oci-py-", dir=request.param) as directory:
        Path(directory).chmod(0o755)
        with hosts.host(Path(directory)) as made:
            yield made


@pytest.fixture
def user_host() -> Iterator[Host]:
    with hosts.test_user() as user, tempfile.TemporaryDirectory(prefix="oci-py-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        with hosts.host(Path(directory), user) as made:
            yield made


def form(host: Host, name: str) -> str:
    """The form that a container was made in."""
    facts = json.loads((host.lxcpath / name / "oci-py/image.json").read_text())
    found: str = facts["form"]
    return found


def expected(host: Host, kind: str) -> str:
    """What `auto` is to choose here."""
    if not str(host.lxcpath).startswith("/var/lib/lxc/") or host.user is not None:
        return "overlay"
    if kind == "squashfs":
        return "mounted"
    return "index" if int(RELEASE) >= 13 else "tree"


def life(host: Host, name: str, url: str, kind: str) -> None:
    """Create, start confined, write, stop, find the writes after another start."""
    host.create(name, url)
    assert form(host, name) == expected(host, kind)
    host.start(name)
    assert host.attach(name, "/bin/cat", "/etc/hostname").decode() == f"{name}\n"
    host.attach(name, "/bin/sh", "-c", "echo mine > /etc/mine")
    host.stop(name)
    host.start(name)
    assert host.attach(name, "/bin/cat", "/etc/mine") == b"mine\n"
    host.stop(name, "-k")


@pytest.mark.parametrize("kind", ["tar", "squashfs"])
def test_a_container_lives_confined(host: Host, layout: Path, kind: str) -> None:
    life(host, "one", f"oci:{layout}:{kind}", kind)
    if kind == "tar":
        assert host.execute("one", "/bin/cat", "/etc/upper") == b"upper\n"
        assert host.execute("one", "/bin/ls", "/home", check=False) == b""
    assert host.oci("verify").stdout == b""
    host.destroy("one")


def test_a_users_container_lives(user_host: Host, layout: Path) -> None:
    life(user_host, "one", f"oci:{layout}:tar", "tar")
    user_host.destroy("one")


def test_lxcs_verbs(host: Host, layout: Path) -> None:
    host.create("one", f"oci:{layout}:tar")
    host.execute("one", "/bin/sh", "-c", "echo mine > /etc/mine")
    clone = host.lxc("copy", "one", "-N", "two", "-s")
    assert clone.returncode == 0
    assert host.execute("two", "/bin/cat", "/etc/mine") == b"mine\n"
    if form(host, "one") != "overlay":  # which LXC can neither copy in full nor rename
        host.lxc("copy", "one", "-N", "three")
        host.lxc("copy", "three", "-N", "four", "-R")
        assert host.execute("four", "/bin/cat", "/etc/mine") == b"mine\n"
    host.lxc("snapshot", "one")
    host.execute("one", "/bin/sh", "-c", "echo later > /etc/mine")
    host.destroy("two")
    host.lxc("snapshot", "one", "-r", "snap0")
    assert host.execute("one", "/bin/cat", "/etc/mine") == b"mine\n"
    host.destroy("one", "-s")
    assert not (host.lxcpath / "one").exists()


def test_verity_is_demanded_and_checked(layout: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="oci-py-", dir="/var/lib/lxc") as directory:
        Path(directory).chmod(0o755)
        with hosts.host(Path(directory)) as made:
            made.create("one", f"oci:{layout}:squashfs", "--require-verity")
            made.start("one")
            mapped = subprocess.run(["dmsetup", "table"], check=True, capture_output=True).stdout
            assert b" verity " in mapped
            made.stop("one", "-k")
            refused = made.create("two", f"oci:{layout}:tar", "--require-verity", check=False)
            assert refused.returncode != 0
