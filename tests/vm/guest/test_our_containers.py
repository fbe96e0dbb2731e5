# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our containers on a stock host, with AppArmor enforced: the form that `auto` chooses starts, and LXC's verbs work.

Each test is a whole life: what takes a moment elsewhere takes seconds in an emulated machine.

Any denial in AppArmor's log fails the test (tests.vm.guest.denials).
"""

import contextlib
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
PROFILE = "lxc-container-default-cgns"
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


@pytest.fixture(params=["root", "root elsewhere", "user"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Containers in the usual place, in one where AppArmor keeps hooks from mounting, and those of a plain user."""
    with contextlib.ExitStack() as stack:
        user = stack.enter_context(hosts.test_user()) if request.param == "user" else None
        below = {"root": "/var/lib/lxc", "root elsewhere": "/srv", "user": "/var/tmp"}[request.param]
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="oci-py-", dir=below)))
        directory.chmod(0o755)
        made = stack.enter_context(hosts.host(directory, user))
        share_a_profile(made)
        yield made


def share_a_profile(host: Host) -> None:
    """Confine root's containers by the profile that is loaded at boot.

    LXC compiles a generated one, test_debians_configuration's, for each start and stop: 5 s each under emulation.
    """
    text = host.configuration.read_text()
    host.configuration.write_text(text.replace(" = generated\n", f" = {PROFILE}\n"))


def form(host: Host, name: str) -> str:
    """The form that a container was made in."""
    facts = json.loads((host.lxcpath / name / "oci-py/image.json").read_text())
    found: str = facts["form"]
    return found


def expected(host: Host) -> str:
    """What `auto` is to choose here for an image of tar layers."""
    if not str(host.lxcpath).startswith("/var/lib/lxc/"):
        return "overlay"
    return "index" if int(RELEASE) >= 13 else "tree"


def label(host: Host, name: str) -> str:
    """AppArmor's label of a container's first process."""
    pid = host.lxc("info", name, "-p", "-H").stdout.decode().strip()
    return Path(f"/proc/{pid}/attr/current").read_text()


def test_a_life(host: Host, layout: Path) -> None:
    """Create, start confined, attach, stop, start again; copy, rename, snapshot, restore; destroy."""
    host.create("one", f"oci:{layout}:tar")
    assert form(host, "one") == expected(host)
    host.start("one")
    # As Debian documents it, a user's container has no profile of its own.
    assert label(host, "one") == (f"{PROFILE} (enforce)\n" if host.user is None else "unconfined\n")
    assert host.attach("one", "/bin/cat", "/etc/hostname", "/etc/upper") == b"one\nupper\n"
    assert host.attach("one", "/bin/ls", "/").split().count(b"home") == 0
    host.attach("one", "/bin/sh", "-c", "echo mine > /etc/mine")
    host.stop("one")
    host.start("one")
    assert host.attach("one", "/bin/cat", "/etc/mine") == b"mine\n"
    host.stop("one", "-k")

    host.lxc("copy", "one", "-N", "two", "-s")
    host.start("two")
    assert host.attach("two", "/bin/cat", "/etc/mine", "/etc/upper") == b"mine\nupper\n"
    host.stop("two", "-k")
    if form(host, "one") != "overlay":  # which LXC can neither copy in full nor rename
        host.lxc("copy", "one", "-N", "three")
        host.lxc("copy", "three", "-N", "four", "-R")
        assert host.execute("four", "/bin/cat", "/etc/mine") == b"mine\n"
    if host.user is None:
        host.lxc("snapshot", "one")
        host.execute("one", "/bin/sh", "-c", "echo later > /etc/mine")
        host.destroy("two")
        host.lxc("snapshot", "one", "-r", "snap0")
        assert host.execute("one", "/bin/cat", "/etc/mine") == b"mine\n"
    else:
        host.destroy("two")
    assert host.oci("verify").stdout == b""
    host.destroy("one", "-s")
    assert not (host.lxcpath / "one").exists()


def test_a_mounted_image_with_verity(layout: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="oci-py-", dir="/var/lib/lxc") as directory:
        Path(directory).chmod(0o755)
        with hosts.host(Path(directory)) as made:
            share_a_profile(made)
            made.create("one", f"oci:{layout}:squashfs", "--require-verity")
            assert form(made, "one") == "mounted"
            made.start("one")
            mapped = subprocess.run(["dmsetup", "table"], check=True, capture_output=True).stdout
            assert b" verity " in mapped
            made.attach("one", "/bin/sh", "-c", "echo mine > /etc/mine")
            made.stop("one")
            made.start("one")
            assert made.attach("one", "/bin/cat", "/etc/mine") == b"mine\n"
            made.stop("one", "-k")
            refused = made.create("two", f"oci:{layout}:tar", "--require-verity", check=False)
            assert refused.returncode != 0


# oci-py-mount(8) has it: where AppArmor lets LXC's hooks mount, and without the notes of a mount that is gone.
ATOMFS = """\
#!/bin/sh
verb=$1; shift
for target; do :; done
notes=${target%/rootfs}/atomfs
[ "$verb" = umount ] || rm -rf --one-file-system "$notes"
exec atomfs "$verb" --metadir "$notes" "$@"
"""


def test_the_real_atomfs_with_verity(layout: Path) -> None:
    if not Path("/usr/local/bin/atomfs").exists():
        pytest.skip("atomfs is not built: not every module proxy serves it (make peers PEERS=atomfs)")
    with tempfile.TemporaryDirectory(prefix="oci-py-", dir="/var/lib/lxc") as directory:
        Path(directory).chmod(0o755)
        helper = Path(directory) / "atomfs-for-lxc"
        helper.write_text(ATOMFS)
        helper.chmod(0o755)
        with hosts.host(Path(directory)) as made:
            share_a_profile(made)
            made.create("one", f"oci:{layout}:squashfs", "--mount-helper", str(helper))
            assert form(made, "one") == "helper"
            for content in (b"", b"mine\n"):
                made.start("one")
                assert b" verity " in subprocess.run(["dmsetup", "table"], check=True, capture_output=True).stdout
                assert made.attach("one", "/bin/sh", "-c", "cat /etc/mine 2>/dev/null; :") == content
                made.attach("one", "/bin/sh", "-c", "echo mine > /etc/mine")
                made.stop("one", "-k")
