# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hostile images through the whole program: lxc-create and what LXC does with what it left, as on a user's host.

An image that goes on to be a container tries all at once to leave it; others are refused, and each refusal is one
line within ten seconds and 256 MiB.  A tree of canaries lies beside everything that the program writes.
"""

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support import direct, need
from tests.support import image as images
from tests.support.host import Host
from tests.support.tarmaker import archive, directory, file, hardlink, symlink

SECONDS = 10.0
MEBIBYTES = 256
Snapshot = Mapping[str, tuple[object, ...]]


def snapshot(*places: Path) -> Snapshot:
    """Everything that a write from outside would change, access times excepted."""
    found: dict[str, tuple[object, ...]] = {}
    for place in places:
        for top, directories, files in os.walk(place):
            for name in [".", *directories, *files]:
                path = os.path.normpath(os.path.join(top, name))
                status = os.lstat(path)
                content = ""
                if os.path.isfile(path) and not os.path.islink(path):
                    content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
                found[path] = (
                    status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime_ns,
                    status.st_ctime_ns, content, sorted(os.listxattr(path, follow_symlinks=False)),
                )  # fmt: skip
    return found


@pytest.fixture
def canaries(root_host: Host) -> Path:
    """Files that an image would like to change, beside the lxcpath and the store."""
    place = root_host.directory / "canary"
    (place / "etc").mkdir(parents=True)
    (place / "etc/hosts").write_text("the host's\n")
    (place / "etc/hostname").write_text("the-host\n")
    (place / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    (place / "etc/shadow").write_text("root:secret\n")
    (place / "etc/shadow").chmod(0o400)
    (place / "data").mkdir(mode=0o700)
    return place


def escaping(canary: Path) -> images.Image:
    """An image that is legal, and every name of which wants to lead to `canary`."""
    to = os.fsencode(canary)
    first = archive(
        symlink(b"etc/link", to + b"/etc"),
        symlink(b"outside", to),
        symlink(b"up", b"../../../../../../../.." + to),
        directory(b"home/app"),
        symlink(b"home/app/work", b"/proc/self/root/.." + to),
        file(b"etc/link/written-through", b"x"),
        file(b"outside/data/x", b"x"),
        file(b"../../../../" + to[1:] + b"/dots", b"x"),
        file(to + b"/absolute", b"x"),
    )
    second = archive(
        symlink(b"etc/hosts", to + b"/etc/hosts"),
        symlink(b"etc/hostname", b"/outside/etc/hostname"),
        symlink(b"etc/resolv.conf", to + b"/etc/resolv.conf"),
        file(b"up/second-layer", b"x"),
        directory(b"up/data", mode=0o777),
        file(b"outside/etc/.wh.shadow"),
        hardlink(b"joined", b"outside/absolute"),
        file(b"bin/suid", b"#!/bin/sh\n", mode=0o4755),
    )
    return images.busybox_image(
        {
            "Entrypoint": ["/bin/sh", "-c", "env > /out.env; exit 0"],
            "Env": [
                "PATH=/tmp/evil:/usr/bin:/bin:/sbin",
                "LD_PRELOAD=/outside/evil.so",
                "BASH_ENV=/outside/evil",
                "LXC_CONFIG_FILE=/outside/config",
                "PYTHONPATH=/outside",
                "HARMLESS=yes",
                "BAD\nlxc.hook.pre-start = /bin/false",
            ],
            "WorkingDir": "/up/workdir",
            "Volumes": {"/outside/data": {}, "/etc/link/volume": {}},
            "Labels": {"\x1b]0;owned\x07": "\x1b[2J"},
            "ExposedPorts": {"80/tcp\nlxc.cap.keep = sys_admin": {}},
        },
        images.layer(first),
        images.layer(second),
    )


# What an image may make us write, and what LXC's own defaults bring.
ALLOWED = re.compile(
    r"lxc\.(net\.0\.type|rootfs\.(path|options)|mount\.(auto|entry|fstab)|include|uts\.name|signal\.halt|environment|"
    r"hook\.(clone|destroy|pre-mount)|init\.(cmd|uid|gid|cwd)|execute\.cmd|console\.(logfile|size|rotate)|"
    r"apparmor\.profile)\Z"
)


@pytest.mark.parametrize("storage", ["flat", "auto"])
def test_c07_an_image_that_wants_out_becomes_a_container_and_stays_in_it(
    root_host: Host, canaries: Path, storage: str
) -> None:
    """Rows U01 to U05, U15, U30, C01, C11 to C15, C17 and C19 in one image, from lxc-create to lxc-destroy."""
    host = root_host
    layout = host.directory / "image"
    images.write_layout(layout, {"latest": escaping(canaries)})
    before = snapshot(canaries)
    done = host.create("one", f"oci:{layout}:latest", "--storage", storage)
    assert not any(byte < 0x20 and byte != 0x0A for byte in done.stderr), done.stderr
    assert snapshot(canaries) == before
    config = (host.lxcpath / "one/config").read_bytes()
    assert b"\r" not in config and b"\0" not in config
    lines = [line.strip() for line in config.decode().splitlines() if line.strip() and not line.startswith("#")]
    assert [line for line in lines if not ALLOWED.match(line.partition("=")[0].strip())] == []
    assert host.key("one", "lxc.hook.pre-start") == "" and "mac_admin" in host.key("one", "lxc.cap.drop")

    hook, seen = host.directory / "hook", host.directory / "seen"
    hook.write_text(f"#!/bin/sh\ncat /proc/self/environ >> {seen}\n")
    hook.chmod(0o755)
    with (host.lxcpath / "one/config").open("a") as file_:
        for stage in ("pre-start", "pre-mount", "mount", "autodev", "start-host", "stop", "post-stop"):
            file_.write(f"lxc.hook.{stage} = {hook}\n")
    before = snapshot(canaries)
    printed = host.execute("one", "/bin/cat", "/etc/hosts", "/etc/hostname").decode()
    assert "the host's" not in printed and printed.endswith("one\n")
    environments = seen.read_bytes()
    assert environments.count(b"LXC_NAME=one") >= 5
    for word in (b"evil", b"PYTHONPATH", b"LXC_CONFIG_FILE=/outside", b"BASH_ENV"):
        assert word not in environments, word
    assert "HARMLESS=yes" in host.execute("one", "/bin/env").decode()
    host.lxc("copy", "one", "-N", "two")
    host.destroy("two")
    host.destroy("one")
    assert snapshot(canaries) == before


def test_u30_nobody_else_reaches_what_an_image_brought(root_host: Host, canaries: Path) -> None:
    """A set-id program in the store, in a rootfs or in a volume is in no other user's reach."""
    host = root_host
    layout = host.directory / "image"
    images.write_layout(layout, {"latest": escaping(canaries)})
    host.create("one", f"oci:{layout}:latest")
    host.create("two", f"oci:{layout}:latest", "--storage", "flat")
    setpriv = need.program("setpriv", "util-linux")
    found = [
        str(path)
        for top in (host.store, host.lxcpath)
        for path in top.rglob("suid")
        if path.is_file() and not path.is_symlink()
    ]
    assert len(found) >= 2, "the image's program is somewhere"
    in_store = [path for path in found if path.startswith(str(host.store))]
    assert in_store
    for path in in_store:
        command = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "--", "/bin/ls", "-l", path]
        assert subprocess.run(command, capture_output=True, check=False).returncode != 0, path
    assert host.store.stat().st_mode & 0o077 == 0


def _layer(*parts: bytes, compression: str = "gzip") -> dict[str, images.Image]:
    return {"latest": images.busybox_image({}, images.layer(archive(*parts), compression=compression))}


def _config(**config: object) -> dict[str, images.Image]:
    return {"latest": images.busybox_image(config)}


def _document(raw: bytes) -> dict[str, images.Image]:
    return {"latest": images.Image([], {}, raw_config=raw)}


BOMB = images.layer(archive(file(b"zeros", bytes(64 << 20))))
# What is wrong → (the image, a part of the message, lowered limits).
REFUSED: dict[str, tuple[Callable[[], dict[str, images.Image]], str, str]] = {
    "u08 root is a link": (lambda: _layer(symlink(b"./", b"/")), "root directory", ""),
    "u09 hard link outside": (lambda: _layer(hardlink(b"x", b"../../etc/shadow")), "does not exist", ""),
    "u12 link with data": (lambda: _layer(symlink(b"x", b"y", size=512)), "has data", ""),
    "u14 whiteout of the root": (lambda: _layer(file(b".wh..")), "whiteout", ""),
    "u27 attribute with NUL": (lambda: _layer(file(b"x", xattrs={b"user.a\0b": b""})), "NUL", ""),
    "u33 broken extension": (lambda: _layer(images.pax_block(b"99 a=b\n"), file(b"x")), "extended record", ""),
    "u34 large extension": (lambda: _layer(images.pax_block(bytes(2 << 20)), file(b"x")), "limit", ""),
    "u37 bad checksum": (lambda: _layer(file(b"x", checksum=b"0000001\0")), "checksum", ""),
    "u37 cut": (lambda: {"latest": images.busybox_image({}, images.layer(file(b"x", bytes(999))[:600]))}, "middle", ""),
    "u39 bomb": (lambda: {"latest": images.busybox_image({}, BOMB)}, "bomb", "ratio_floor_bytes=99999 layer_ratio=99"),
    "u39 large layer": (lambda: {"latest": images.busybox_image({}, BOMB)}, "uncompressed", "layer_bytes=10000000"),
    "u39 large image": (lambda: {"latest": images.busybox_image({}, BOMB, BOMB)}, "the image has more than",
                        "image_bytes=100000000"),
    "u39 endless layer": (lambda: {"latest": images.busybox_image({}, members={"layers": [{
        "mediaType": images.TAR, "digest": "sha256:" + "0" * 64, "size": 1 << 62}]})}, "more than the limit", ""),
    "u45 deep": (lambda: _layer(file(b"d/" * 1500 + b"x")), "components", ""),
    "u45 many": (lambda: _layer(*(file(b"%d" % number) for number in range(1100))), "entries", "entries=1000"),
    "u45 long": (lambda: _layer(file(b"x" * 300)), "name too long", ""),
    "u53 owner": (lambda: _layer(file(b"x", pax={b"uid": b"4294967295"})), "owner", ""),
    "p02 digest": (lambda: {"latest": images.busybox_image({}, members={"layers": [{
        "mediaType": images.TAR, "digest": "sha256:../../../../etc/passwd", "size": 1}]})}, "digest", ""),
    "p05 deep document": (lambda: _document(b"[" * 100_000), "JSON", ""),
    "p05 large document": (lambda: _config(Labels={"x": "y" * (5 << 20)}), "limit", ""),
    "p13 schema 1": (lambda: {"latest": images.Image(raw_manifest=b'{"schemaVersion":1}')}, "schema 1", ""),
    "p25 DiffIDs": (lambda: {"latest": images.busybox_image(
        {}, document={"rootfs": {"type": "layers", "diff_ids": []}})}, "", ""),
    "c02 NUL": (lambda: _config(Cmd=["/bin/sh", "a\0b"]), "NUL", ""),
    "c08 user": (lambda: _config(User="nobody-knows"), "no user", ""),
    "c09 user": (lambda: _config(User="4294967296"), "larger than", ""),
    "c10 user database": (lambda: {"latest": images.busybox_image({"User": "app"}, images.layer(
        images.fifo("etc/passwd")))}, "not a regular file", ""),
    "c13 volume": (lambda: _config(Volumes={"/../../etc": {}}), "'..'", ""),
    "c13 volumes": (lambda: _config(Volumes={f"/v{number}": {} for number in range(200)}), "volumes", ""),
    "c14 directory": (lambda: _config(WorkingDir="/a" * 500_000), "longer than", ""),
    "c14 directory of LXC": (lambda: _config(WorkingDir="/proc/self/fd/8"), "/proc", ""),
    "c16 environment": (lambda: _config(Env=[f"V{number}=x" for number in range(5000)]), "variables", ""),
    "c16 program": (lambda: _config(Cmd=["x" * 100_000], Env=["PATH=" + "/a:" * 40_000]), "no file has", ""),
    "c17 signal": (lambda: _config(StopSignal="SIGTERM\nlxc.hook.stop = /bin/false"), "signal", ""),
    "c18 types": (lambda: _config(Env="A=b"), "list of strings", ""),
    "c19 escapes": (lambda: _config(User="\x1b]0;x\x07\x9b31m"), "no user", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_every_refusal_is_one_line_soon_and_small(root_host: Host, canaries: Path, case: str) -> None:
    make, part, limits = REFUSED[case]
    layout = root_host.directory / "image"
    images.write_layout(layout, make())
    direct.prepare(root_host, "bad")
    before = snapshot(canaries)
    start = time.monotonic()
    environment = {**root_host._environment(), "LXC_OCI_PY_LIMITS": limits}
    status, errors, peak = measured(
        direct.command(root_host, "bad", "--url", f"oci:{layout}:latest", "--storage", "flat"), environment
    )
    assert time.monotonic() - start < SECONDS
    assert status in (5, 7), errors  # refused, or not supported
    lines = errors.decode().splitlines()
    said = [line for line in lines if line.startswith("lxc-oci-py: error: ")]
    assert len(said) == 1 and part in said[0], lines
    assert all(line.startswith(("lxc-oci-py: ", "layer ")) for line in lines), lines
    assert len([line for line in lines if line.startswith("lxc-oci-py: hint: ")]) <= 1
    assert errors.decode().replace("\n", "").isprintable() and "internal error" not in errors.decode()
    assert peak < MEBIBYTES
    assert direct.leftovers(root_host, "bad") == []
    assert snapshot(canaries) == before


# Linux keeps the peak of a process over fork and exec, so a child of this large process would seem as large.  A small
# process in between has small children.
_BETWEEN = """
import os, resource, subprocess, sys
done = subprocess.run(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60)
os.write(int(sys.argv[1]), b"%d %d" % (done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""


def measured(command: list[str], environment: Mapping[str, str]) -> tuple[int, bytes, int]:
    """Run `command`; return its status, what it said, and MiB of memory at the highest, children included."""
    reading, writing = os.pipe()
    try:
        between = ["/usr/bin/python3", "-ISc", _BETWEEN, str(writing)]
        done = subprocess.run(
            [*between, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=dict(environment),
            pass_fds=[writing],
            timeout=90,
        )
        os.close(writing)
        writing = -1
        status, peak = map(int, os.read(reading, 100).split())
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    return status, done.stderr, peak // 1024
