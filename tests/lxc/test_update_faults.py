# SPDX-License-Identifier: LGPL-2.1-or-later
"""Updates that the network or the disk does not let end: the container starts with the old image, or with the new."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxc_oci.__main__ import command
from tests.lxc.test_update import made, read, rollback, updating, version_of
from tests.support import direct, kill
from tests.support import host as hosts
from tests.support import image as images
from tests.support.faultregistry import Answer, Fault, FaultRegistry, Request, serve_blob
from tests.support.host import Host
from tests.support.scene import spread

QUICK = {"LXC_OCI_PY_LIMITS": "retries=1 idle_timeout=2"}
NEW = made("tree", 2)


def _blob(request: Request) -> bytes | None:
    return next((layer.blob for layer in NEW.layers if request.path.endswith(images.digest(layer.blob))), None)


def _cut(request: Request) -> Answer | None:
    blob = _blob(request)
    return Answer(200, {}, blob, cut=len(blob) // 2) if blob is not None else None


def _other_bytes(request: Request) -> Answer | None:
    blob = _blob(request)
    return serve_blob(request, bytes(len(blob))) if blob is not None else None


FAULTS: dict[str, tuple[Fault, int]] = {
    "nobody answers": (lambda request: Answer(raw=[]), 3),
    "no manifest": (lambda request: Answer(503) if "/manifests/" in request.path else None, 3),
    "the manifest is gone": (lambda request: Answer(404) if "/manifests/" in request.path else None, 4),
    "no layer": (lambda request: Answer(500) if _blob(request) is not None else None, 3),
    "half a layer": (_cut, 3),
    "other bytes": (_other_bytes, 5),
}


def test_whatever_the_registry_does_the_container_is_as_it_was(root_host: Host) -> None:
    with FaultRegistry() as registry:
        registry.add("team/app", "x", made("tree", 1))
        root_host.create("one", f"docker://{registry.host}/team/app:x", "--insecure")
        root_host.execute("one", "/bin/sh", "-c", "echo mine > /etc/app.conf")
        before = root_host.config("one")
        registry.add("team/app", "x", NEW)
        argv = ("update", "one", "-P", str(root_host.lxcpath), "--insecure")
        for what, (fault, status) in FAULTS.items():
            registry.faults = [fault]
            done = root_host.oci(*argv, check=False, environment=QUICK)
            direct.check_message(done)
            assert done.returncode == status, (what, done.stderr.decode())
            assert root_host.config("one") == before, what
            assert [path.name for path in (root_host.lxcpath / "one/oci-py").glob("g[0-9]*")] == [], what
            assert direct.store_leftovers(root_host) == [], what
        assert version_of(root_host, "one") == 1
        registry.faults = []
        root_host.oci(*argv)
        assert version_of(root_host, "one") == 2 and read(root_host, "one", "/etc/app.conf") == "mine\n"


def _directory(disk: Path) -> Path:
    path = disk / "host"
    path.mkdir()
    return path


@contextmanager
def nearly_full(disk: Path, amount: int) -> Iterator[None]:
    """Leave `amount` bytes on a file system."""
    ballast = disk / "ballast"
    subprocess.run(["sync", "-f", disk], check=True)
    space = os.statvfs(disk)
    size = space.f_bavail * space.f_bsize - amount
    with ballast.open("wb") as output:
        while size > 0:
            try:
                os.posix_fallocate(output.fileno(), 0, size)
                break
            except OSError:  # its own extents need some blocks
                size -= space.f_bsize
    try:
        yield
    finally:
        ballast.unlink()


@pytest.mark.parametrize("kind", ["tree", "mounted"])
def test_f03_on_a_full_disk_the_container_keeps_an_image(place: Path, kind: str) -> None:
    mkfs = ["mkfs.ext4", "-q", "-m", "0"]
    with direct.file_system(place, 40, mkfs) as disk, hosts.host(_directory(disk)) as host:
        for version in (1, 2):
            images.write_layout(place / f"image{version}", {"x": made(kind, version)})
        host.create("one", f"oci:{place}/image1:x")
        host.execute("one", "/bin/sh", "-c", "echo mine > /etc/app.conf; echo kept > /data/kept")
        update = updating(host, "one", f"oci:{place}/image2:x")
        statuses = []
        for amount in (0, 16 << 10, 96 << 10, 16 << 20):
            with nearly_full(disk, amount):
                done = kill.at(0, update, place / "output")
            statuses.append(done.status)
            assert done.status in (0, 6), done.output
            assert done.output.count("lxc-oci-py: error: ") == (done.status != 0), done.output
            assert direct.store_leftovers(host) == []
            assert version_of(host, "one") == 2 or done.status == 6
            assert read(host, "one", "/etc/app.conf", "/data/kept") == "mine\nkept\n"
            if version_of(host, "one") == 2:
                with nearly_full(disk, 0):
                    assert host.oci("rollback", "one", "-P", str(host.lxcpath), check=False).returncode == 6
                assert version_of(host, "one") == 2
                rollback(host, "one")
                host.oci("prune", "--force")
            assert version_of(host, "one") == 1
        assert statuses[0] == 6 and statuses[-1] == 0


# --- killed --------------------------------------------------------------------------------------------------------


def _run(host: Host, *argv: str) -> Callable[[], int]:
    """The body of a command, for tests.support.kill."""
    verb, *rest = argv
    return lambda: command([verb, "one", "-P", str(host.lxcpath), "--store", str(host.store), "--quiet", *rest])


@pytest.mark.long
@pytest.mark.parametrize("kind", ["tree", "mounted"])
def test_f01_a_killed_reset_leaves_the_old_image_or_the_new(root_host: Host, place: Path, kind: str) -> None:
    for version in (1, 2):
        images.write_layout(place / f"image{version}", {"x": made(kind, version)})
    root_host.create("one", f"oci:{place}/image1:x")
    update = _run(root_host, "update", "--reset", "--url", f"oci:{place}/image2:x")
    total = kill.at(0, update, place / "output").calls
    for number in spread(total, 40):
        while version_of(root_host, "one") == 2:  # twice after a kill at the very end
            rollback(root_host, "one")
        root_host.execute("one", "/bin/sh", "-c", "echo mine > /etc/app.conf; echo kept > /data/kept")
        kill.at(number, update, place / "output")
        seen = read(root_host, "one", "/etc/app.conf", "/data/kept")
        version = version_of(root_host, "one")
        assert seen in ("mine\nkept\n", f"of image {version}\nkept\n"), number
        assert version == 2 or seen.startswith("mine"), number
        assert kill.at(0, update, place / "output").status == 0
        assert read(root_host, "one", "/etc/app.conf", "/data/kept", "/etc/hostname") == "of image 2\nkept\none\n"
    root_host.oci("prune", "--force")
    assert direct.store_leftovers(root_host) == []


@pytest.mark.long
@pytest.mark.parametrize("kind", ["tree", "mounted"])
@pytest.mark.parametrize("storage", ["flat", "layered"])
def test_f01_a_killed_conversion_leaves_one_form(root_host: Host, place: Path, kind: str, storage: str) -> None:
    images.write_layout(place / "image1", {"x": made(kind, 1)})
    root_host.create("one", f"oci:{place}/image1:x")
    root_host.execute("one", "/bin/sh", "-c", "echo mine > /etc/app.conf; rm /etc/removed.conf; echo kept > /data/kept")
    other = "flat" if storage == "layered" else "layered"
    if other == "flat":
        root_host.oci("convert", "one", "--storage", other, "-P", str(root_host.lxcpath))
    convert = _run(root_host, "convert", "--storage", storage)
    back = ("convert", "one", "--storage", other, "-P", str(root_host.lxcpath))
    total = kill.at(0, convert, place / "output").calls
    for number in spread(total, 40):
        root_host.oci(*back)
        outcome = kill.at(number, convert, place / "output")
        form = direct.inspect(root_host, "one")["storage"]
        assert form in ("flat", kind), (number, outcome)
        for _ in range(2):
            assert read(root_host, "one", "/etc/app.conf", "/etc/kept.conf", "/data/kept") == "mine\nof image 1\nkept\n"
            assert root_host.execute("one", "/bin/sh", "-c", "ls -d /etc/removed.conf || true") == b"", number
            if (form == "flat") == (storage == "flat"):
                break
            assert kill.at(0, convert, place / "output").status == 0
            form = "flat" if storage == "flat" else kind
    root_host.oci("prune", "--force")
    assert direct.store_leftovers(root_host) == []
