# SPDX-License-Identifier: LGPL-2.1-or-later
"""Containers with an id map that root makes: LXC maps the host's root into the template's namespace too, and an
image must not get at it."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import direct, launch, need
from tests.support import image as images
from tests.support import registry as registries
from tests.support.host import Host

FIRST, COUNT = 1_000_000, 65536


@pytest.fixture
def mapped_host(root_host: Host) -> Host:
    """Root with lxc.idmap in the default configuration."""
    need.program("newuidmap")
    with open(root_host.configuration, "a") as file:
        file.write(f"lxc.idmap = u 0 {FIRST} {COUNT}\nlxc.idmap = g 0 {FIRST} {COUNT}\n")
    ranges = root_host.directory / "subid"
    ranges.write_text(f"root:{FIRST}:{COUNT}\n")
    # newuidmap asks for a range of root's; it is given in a mount namespace, not on the host.
    root_host.prefix = ("unshare", "-m", "/bin/sh", "-c",
                        f'mount --bind {ranges} /etc/subuid && mount --bind {ranges} /etc/subgid && exec "$@"',
                        "sh")  # fmt: skip
    return root_host


def test_the_image_is_unpacked_without_roots_store(mapped_host: Host, busybox: str) -> None:
    done = mapped_host.create("one", busybox)
    assert b"root's store is not for containers with an idmap" in done.stderr
    assert not mapped_host.store.exists()
    rootfs = mapped_host.lxcpath / "one/rootfs"
    owners = {
        os.lstat(path).st_uid for path in [rootfs / "bin/busybox", rootfs / "etc/passwd", rootfs / "etc/hostname"]
    }
    assert owners == {FIRST}
    assert mapped_host.execute("one", "/bin/cat", "/etc/hostname") == b"one\n"
    mapped_host.start("one")
    mapped_host.attach("one", "/bin/touch", "/etc/mine")
    assert os.lstat(rootfs / "etc/mine").st_uid == FIRST
    mapped_host.stop("one")
    mapped_host.destroy("one")
    assert not (mapped_host.lxcpath / "one").exists()


def test_a_store_of_roots_that_exists_is_not_touched(mapped_host: Host, root_host: Host, busybox: str) -> None:
    mapped_host.run(mapped_host.command, "pull", busybox)
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in mapped_host.store.rglob("*"))
    mapped_host.create("one", busybox)
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in mapped_host.store.rglob("*")) == before


def test_layered_is_refused(mapped_host: Host, busybox: str) -> None:
    done = mapped_host.create("one", busybox, "--storage", "layered", check=False)
    assert done.returncode == 1
    direct.check_message(done, "idmap")
    assert not (mapped_host.lxcpath / "one").exists()


def test_errors_come_through(mapped_host: Host, place: Path) -> None:
    far = images.layer(images.file("srv/far", uid=COUNT + 9))
    images.write_layout(place / "image", {"latest": images.busybox_image({}, far)})
    done = mapped_host.create("one", f"oci:{place}/image:latest", check=False)
    assert done.returncode == 1
    direct.check_message(done, "srv/far", str(COUNT + 9))
    assert not (mapped_host.lxcpath / "one").exists()
    images.write_layout(place / "image", {"latest": images.busybox_image()})
    mapped_host.create("one", f"oci:{place}/image:latest")


def test_the_options_and_the_wrapper_work_there(mapped_host: Host, place: Path, busybox: str) -> None:
    (place / "data").mkdir()
    (place / "data/file").write_text("shared\n")
    mapped_host.create(
        "one", busybox, "--volume", f"{place}/data:/data", "-e", "A=line\nend",
        "--entrypoint", '["/bin/sh", "-c", "cat /data/file; echo $A"]',
    )  # fmt: skip
    assert mapped_host.execute("one") == b"shared\nline end\n"


def home(host: Host, place: Path, files: dict[str, str]) -> dict[str, str]:
    """A home directory as root's is, closed to everybody else."""
    for name, text in files.items():
        path = place / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
    (place / "home").chmod(0o700)
    return {"HOME": str(place / "home")}


def create_with(host: Host, url: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[bytes]":
    return host.run(
        "lxc-create", "-P", host.lxcpath, "-f", host.configuration, "-n", "one", "-t", host.template, "--", "--url",
        url, environment=environment, check=False,
    )  # fmt: skip


def test_roots_own_policy_holds_there(mapped_host: Host, place: Path, busybox: str) -> None:
    environment = home(mapped_host, place, {".config/containers/policy.json": '{"default": [{"type": "reject"}]}'})
    done = create_with(mapped_host, busybox, environment)
    assert done.returncode == 1
    direct.check_message(done, "policy")
    assert not (mapped_host.lxcpath / "one").exists()
    (place / "home/.config/containers/policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    assert create_with(mapped_host, busybox, environment).returncode == 0
    assert not [name for name in os.listdir(mapped_host.lxcpath / "one") if name.startswith(".")]


def test_roots_own_login_and_settings_are_used_there(mapped_host: Host, place: Path, tmp_path: Path) -> None:
    with registries.serve(tmp_path / "registry", users={"me": "secret"}) as registry:
        registry.push("team/app", "1", images.busybox_image())
        login = base64.b64encode(b"me:secret").decode()
        environment = home(mapped_host, place, {
            ".docker/config.json": json.dumps({"auths": {registry.host: {"auth": login}}}),
            ".config/containers/registries.conf": f'[[registry]]\nlocation = "{registry.host}"\ninsecure = true\n',
        })  # fmt: skip
        done = create_with(mapped_host, f"docker://{registry.host}/team/app:1", environment)
        assert done.returncode == 0, done.stderr.decode()
    kept = subprocess.run(["grep", "-rl", login, str(mapped_host.lxcpath)], capture_output=True, check=False)
    assert kept.stdout == b""


SCRIPT = """\
import json, os, sys
sys.path[:0] = {paths!r}
from lxc_oci.kernel import confine, userns

def attempt(path, flags):
    try:
        os.close(os.open(path, flags, 0o600))
        return "done"
    except OSError as error:
        return error.strerror

def work():
    secret, directory, mine = sys.argv[1:]
    return {{
        "uid": os.geteuid(),
        "read": attempt(secret, os.O_RDONLY),
        "write": attempt(secret, os.O_WRONLY),
        "create": attempt(directory + "/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL),
        "groups": os.getgroups(),
        "mine": attempt(mine + "/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    }}

outside = {{"maps_host_root": userns.current().maps_host_root, "write": attempt(sys.argv[1], os.O_WRONLY)}}
print(json.dumps([outside, confine.without_host_root(work)]))
"""


def test_the_process_that_reads_the_image_cannot_write_files_of_the_hosts_root(place: Path) -> None:
    need.root()
    usernsexec = need.program("lxc-usernsexec")
    secret, directory, mine = place / "secret", place / "roots", place / "containers"
    secret.write_text("of the host's root")
    secret.chmod(0o600)
    directory.mkdir(mode=0o700)
    mine.mkdir()
    os.chown(mine, FIRST, FIRST)
    script = place / "script.py"
    script.write_text(SCRIPT.format(paths=[str(launch.modules()), *(p for p in sys.path if p.endswith("-packages"))]))
    maps = []
    for kind in "ug":
        maps += ["-m", f"{kind}:0:{FIRST}:{COUNT}", "-m", f"{kind}:{COUNT}:0:1"]
    done = subprocess.run(
        [usernsexec, *maps, "--", "/usr/bin/python3", "-I", str(script), str(secret), str(directory), str(mine)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    outside, inside = json.loads(done.stdout)
    assert outside == {"maps_host_root": True, "write": "done"}  # what LXC gives, so the danger is real
    assert inside == {
        "uid": 0, "read": "Permission denied", "write": "Permission denied",
        "create": "Permission denied", "groups": [], "mine": "done",
    }  # fmt: skip
    assert os.lstat(mine / "new").st_uid == FIRST
    assert secret.read_text() == "of the host's root" and not os.listdir(directory)
