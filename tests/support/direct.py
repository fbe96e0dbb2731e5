# SPDX-License-Identifier: LGPL-2.1-or-later
"""The template run as lxc-create runs it, but by hand: its own exit status and messages are seen, and what it leaves.

lxc-create turns every failure into status 1 and removes the container's directory.
"""

import json
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import need
from tests.support.host import Host

_OWN = ("config", "rootfs")


def prepare(host: Host, name: str, *lines: str) -> Path:
    """Make the directory that lxc-create makes before it runs the template; `lines` go into the configuration."""
    directory = host.lxcpath / name
    rootfs = directory / "rootfs"
    rootfs.mkdir(parents=True)
    text = host.configuration.read_text() + "".join(f"{line}\n" for line in lines)
    (directory / "config").write_text(f"{text}lxc.rootfs.path = dir:{rootfs}\n")
    if host.user is not None:
        owner = pwd.getpwnam(host.user)
        first = ids(host, "u")[0]
        os.chown(directory, first, owner.pw_gid)
        directory.chmod(0o770)
        os.chown(rootfs, first, ids(host, "g")[0])
        os.chown(directory / "config", owner.pw_uid, owner.pw_gid)
    return directory


def command(host: Host, name: str, *options: str, rootfs: str = "") -> list[str]:
    """The command line of the template, in the namespaces that lxc-create gives it."""
    directory = host.lxcpath / name
    words = [host.template]
    if not host.template.startswith("/"):
        words = [f"/usr/share/lxc/templates/lxc-{host.template}"]
    words += [f"--path={directory}", f"--name={name}", f"--rootfs={rootfs or directory / 'rootfs'}", *options]
    if host.user is None:
        return ["unshare", "-m", *words]
    owner = pwd.getpwnam(host.user)
    maps = []
    for kind, own in (("u", owner.pw_uid), ("g", owner.pw_gid)):
        first, count = ids(host, kind)
        maps += ["-m", f"{kind}:0:{first}:{count}", "-m", f"{kind}:{count}:{own}:1"]
    last = [f"--mapped-uid={ids(host, 'u')[1]}", f"--mapped-gid={ids(host, 'g')[1]}"]
    return [need.program("lxc-usernsexec"), *maps, "--", *words, *last]


def run(host: Host, name: str, *options: str, **words: object) -> subprocess.CompletedProcess[bytes]:
    """Run the template in a fresh directory."""
    prepare(host, name)
    return host.run(*command(host, name, *options), check=False, **words)  # type: ignore[arg-type]


def ids(host: Host, kind: str) -> tuple[int, int]:
    """The first id outside and the number of ids of a user's containers; `kind` is u or g."""
    for line in host.configuration.read_text().splitlines():
        words = line.split()
        if words[:3] == ["lxc.idmap", "=", kind]:
            return int(words[4]), int(words[5])
    raise AssertionError("the host has no id map")


def discard(host: Host, name: str) -> None:
    """Remove a directory that `prepare` made."""
    shutil.rmtree(host.lxcpath / name)


def upper(host: Host, name: str) -> Path:
    """Where a container's own files are on the host, whatever its form."""
    directory = host.lxcpath / name
    return next(path for part in ("upper", "overlay/delta", "rootfs") if (path := directory / part).is_dir())


def inspect(host: Host, name: str) -> dict[str, Any]:
    """What `lxc-oci-py inspect` says of a container."""
    found: dict[str, Any] = json.loads(host.oci("inspect", "-P", str(host.lxcpath), name, "--json").stdout)
    return found


def leftovers(host: Host, name: str) -> list[str]:
    """What a failed run of the template left: in the container's directory and in the store's temporary names."""
    directory = host.lxcpath / name
    found = [str(path) for path in sorted(directory.iterdir()) if path.name not in _OWN] if directory.exists() else []
    if (directory / "rootfs").exists():
        found += [str(path) for path in (directory / "rootfs").iterdir() if path.name != "lost+found"]
    return found + store_leftovers(host)


def store_leftovers(host: Host) -> list[str]:
    """The store's temporary names: staging places, and files with names that durable.write_file gives."""
    if not host.store.exists():
        return []
    return [str(path) for path in (*(host.store / "staging").glob("*"), *host.store.glob("*/.*.tmp"))]


def parts(host: Host) -> list[str]:
    """The trees and indexes of the store, by their names below it."""
    return sorted(f"{kind}/{path.name}" for kind in ("trees", "indexes") for path in (host.store / kind).glob("*"))


def check_message(done: subprocess.CompletedProcess[bytes], *parts: str) -> None:
    """One line says what failed, at most one more what to do, and none is a bug's."""
    lines = done.stderr.decode().splitlines()
    said = [line for line in lines if line.startswith("lxc-oci-py: error: ")]
    assert len(said) == 1, lines
    text = "\n".join(line for line in lines if line.startswith(("lxc-oci-py: error: ", "lxc-oci-py: hint: ")))
    assert "Traceback" not in done.stderr.decode() and "internal error" not in text, lines
    for part in parts:
        assert part in text, text


def check_no_loop_devices(place: Path) -> None:
    """No loop device has a file below `place`; the kernel lets go of one a moment after its last user."""
    end = time.monotonic() + 30
    while True:
        done = subprocess.run(["losetup", "-n", "-O", "BACK-FILE", "-a"], capture_output=True, text=True, check=True)
        found = [line for line in done.stdout.splitlines() if line.startswith(f"{place}/")]
        if not found:
            return
        assert time.monotonic() < end, found
        time.sleep(0.1)


@contextmanager
def file_system(place: Path, megabytes: int, make: Sequence[str]) -> Iterator[Path]:
    """A file system of its own, from a file by a loop device; `make` is its mkfs and options."""
    need.root()
    file, mount_point = place / "disk", place / "mount"
    with open(file, "wb") as output:
        output.truncate(megabytes << 20)
    subprocess.run([need.program(make[0]), *make[1:], str(file)], check=True, capture_output=True)
    mount_point.mkdir()
    subprocess.run(["mount", "-o", "loop", str(file), str(mount_point)], check=True)
    try:
        mount_point.chmod(0o755)
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)
        check_no_loop_devices(place)
        file.unlink()


@contextmanager
def memory(place: Path) -> Iterator[Path]:
    """A file system in memory, for tests that write much and need none of it after a power cut."""
    need.root()
    mount_point = place / "memory"
    mount_point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", str(mount_point)], check=True)
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)
