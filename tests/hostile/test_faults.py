# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults of the host under a create: what fails is said in one line, leaves nothing, and works when the cause is gone.

The other rows of the fault list are elsewhere:

    F01 F02 F03  tests/lxc/test_store_kill.py, test_store_space.py, tests/long, tests/vm/host/test_power.py
    F06 to F11, F21  test_pull_threats.py
    F12 F13      tests/lxc/test_store_sharing.py, test_store_containers.py
    F14          tests/lxc/test_store_trees.py; a destroy while a hook runs is refused by LXC itself, which holds a lock
    F15 F17      tests/lxc/test_mount_hook.py; loop devices that run out are among the calls that fail there
    F16          tests/vm/host/test_power.py
    F18 F19      tests/unit/test_store_home.py, test_health.py, tests/lxc/test_store_trees.py
    F20          here for output that is closed; signals are tests/lxc/test_interrupt.py
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxc_oci.errors import NoSpaceError
from lxc_oci.image import mediatype
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from lxc_oci.store import blobs, home
from tests.support import direct, need
from tests.support import image as images
from tests.support.faultregistry import FaultRegistry
from tests.support.host import Host
from tests.support.image import END, padded, pax_block, pax_record, raw_header
from tests.support.tarmaker import archive, file


@pytest.fixture
def url(root_host: Host) -> str:
    layout = root_host.directory / "image"
    images.write_layout(layout, {"latest": images.busybox_image()})
    return f"oci:{layout}:latest"


def run(host: Host, url: str, *options: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[bytes]:
    """Run the template with something before it; the directory is made and taken away around it."""
    direct.prepare(host, "one")
    done = host.run(*before, *direct.command(host, "one", "--url", url, *options), check=False)
    assert done.returncode == 0 or direct.leftovers(host, "one") == [], done.stderr
    direct.discard(host, "one")
    return done


@pytest.mark.parametrize("storage", ["flat", "layered"])
def test_f03_too_little_space_is_told_before_anything_is_fetched(root_host: Host, storage: str) -> None:
    root_host.store.mkdir(mode=0o700)
    large = images.layer(images.file("large", os.urandom(12 << 20)))
    rootfs = root_host.directory / "elsewhere"
    rootfs.mkdir()
    with FaultRegistry() as registry:
        registry.add("app", "1", images.busybox_image({}, large))
        with mounted(root_host.store, "size=8m,mode=0700"), mounted(rootfs, "size=8m"):
            direct.prepare(root_host, "one")
            url = f"docker://{registry.host}/app:1"
            elsewhere = {"rootfs": str(rootfs)} if storage == "flat" else {}
            command = direct.command(root_host, "one", "--url", url, "--insecure", "--storage", storage, **elsewhere)
            done = root_host.run(*command, check=False)
        assert done.returncode == 6
        direct.check_message(done, "no space left")
        assert not [request for request in registry.requests if request.path.endswith(large.descriptor()["digest"])]


def test_f03_a_disk_that_fills_up_ends_the_fetch(root_host: Host) -> None:
    """A blob that is needed as a file is not read on once there is no file for it."""
    large = images.layer(images.file("large", os.urandom(12 << 20)))
    descriptor = Descriptor(mediatype.OCI_LAYER, Digest(large.descriptor()["digest"]), len(large.blob))
    given = 0

    class Source:
        def open(self, descriptor: Descriptor, offset: int = 0) -> "Source":
            return self

        def read(self, size: int, /) -> bytes:
            nonlocal given
            given += size
            return bytes(size)

        def close(self) -> None:
            pass

    root_host.store.mkdir(mode=0o700)
    with mounted(root_host.store, "size=4m,mode=0700"):
        store = home.open_store(str(root_host.store))
        with pytest.raises(NoSpaceError, match="no space left"):
            blobs.fetch(store, Source(), descriptor, "layer 1", lambda count: None)  # type: ignore[arg-type]
    assert given < 6 << 20


@pytest.mark.parametrize("call", ["fsync", "syncfs", "rename", "symlinkat"])
@pytest.mark.parametrize("storage", ["flat", "layered"])
def test_f04_an_error_of_the_disk_is_told_and_the_store_stays_sound(
    root_host: Host, url: str, call: str, storage: str
) -> None:
    strace = need.program("strace")
    trace = root_host.directory / "trace"
    inject = [strace, "-f", "--seccomp-bpf", "-qq", "-o", str(trace), "-e", f"inject={call}:error=EIO:when=1"]
    done = run(root_host, url, "--storage", storage, "--no-kernel-mount", before=[*inject, "-e", f"trace={call}"])
    assert "INJECTED" in trace.read_text()
    assert done.returncode
    direct.check_message(done, "nput/output error")
    done = run(root_host, url, "--storage", storage, "--no-kernel-mount")
    assert done.returncode == 0, done.stderr
    assert root_host.oci("verify").returncode == 0


@pytest.mark.parametrize("storage", ["flat", "layered"])
def test_f04_a_layer_that_cannot_be_read_is_told(root_host: Host, storage: str) -> None:
    strace = need.program("strace")
    trace = root_host.directory / "trace"
    layout = root_host.directory / "image"
    last = images.layer(images.file("large", os.urandom(1 << 20)))
    images.write_layout(layout, {"latest": images.busybox_image({}, last)})
    blob = layout / "blobs" / last.descriptor()["digest"].replace(":", "/")
    inject = [strace, "-f", "-qq", "-o", str(trace), "-P", str(blob), "-e", "inject=read,pread64:error=EIO:when=2+"]
    done = run(root_host, f"oci:{layout}:latest", "--storage", storage, before=inject)
    assert "INJECTED" in trace.read_text()
    assert done.returncode == 3
    direct.check_message(done, "nput/output error")
    done = run(root_host, f"oci:{layout}:latest", "--storage", storage)
    assert done.returncode == 0, done.stderr


@contextmanager
def mounted(place: Path, options: str, kind: str = "tmpfs") -> Iterator[None]:
    subprocess.run(["mount", "-t", kind, "-o", options, "none", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_f05_a_read_only_store_is_told_before_anything_is_fetched(root_host: Host) -> None:
    root_host.store.mkdir(mode=0o700)
    with FaultRegistry() as registry:
        registry.add("app", "1", images.busybox_image())
        with mounted(root_host.store, "ro,mode=0700"):
            done = run(root_host, f"docker://{registry.host}/app:1", "--insecure")
        assert done.returncode
        direct.check_message(done, "Read-only file system")
        assert registry.requests == []


def test_f05_a_rootfs_that_cannot_be_written_is_told(root_host: Host, url: str) -> None:
    rootfs = root_host.directory / "elsewhere"
    rootfs.mkdir()
    direct.prepare(root_host, "one")
    with mounted(rootfs, "ro"):
        command = direct.command(root_host, "one", "--url", url, rootfs=str(rootfs))
        done = root_host.run(*command, check=False)
    assert done.returncode
    direct.check_message(done, "ead-only")
    assert direct.leftovers(root_host, "one") == []


def test_f05_attributes_that_the_file_system_has_not_are_told(root_host: Host) -> None:
    """ramfs has none, and says nothing of its size either."""
    layout = root_host.directory / "image"
    attributed = images.layer(archive(file(b"attributed", b"x", xattrs={b"user.note": b"x"})))
    images.write_layout(layout, {"latest": images.busybox_image({}, attributed)})
    rootfs = root_host.directory / "elsewhere"
    rootfs.mkdir()
    direct.prepare(root_host, "one")
    with mounted(rootfs, "mode=0755", "ramfs"):
        command = direct.command(
            root_host, "one", "--url", f"oci:{layout}:latest", "--storage", "flat", rootfs=str(rootfs)
        )
        done = root_host.run(*command, check=False)
        assert done.returncode == 0, done.stderr
        assert (rootfs / "attributed").read_bytes() == b"x"
    assert b"'user.note' of the image cannot be set here" in done.stderr
    direct.discard(root_host, "one")


def test_f05_a_command_that_needs_a_program_is_refused_where_none_may_run(root_host: Host) -> None:
    layout = root_host.directory / "image"
    images.write_layout(layout, {"latest": images.busybox_image({"Cmd": ["/bin/sh", "-c", "a\nb"]})})
    with mounted(root_host.lxcpath, "noexec,mode=0755"):
        done = run(root_host, f"oci:{layout}:latest")
        assert done.returncode == 7
        direct.check_message(done, "noexec", "lxcpath")


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "2>&- >&- <&-", "2>/dev/full", ">/dev/full 2>/dev/full"])
def test_f20_a_create_without_its_output_is_a_create(root_host: Host, url: str, closed: str) -> None:
    """A descriptor that is missing is no number for a file of the store to get."""
    done = run(root_host, url, before=["/bin/sh", "-c", f'exec "$@" {closed}', "sh"])
    assert done.returncode == 0, done.stderr
    assert root_host.oci("verify").returncode == 0


def test_f20_a_reader_that_leaves_ends_the_command_quietly(root_host: Host, url: str) -> None:
    root_host.oci("pull", url)
    for verb in ("list", "verify"):
        done = root_host.run("/bin/sh", "-c", '"$@" | true', "sh", root_host.command, verb)
        assert b"Traceback" not in done.stderr and b"internal error" not in done.stderr


def sparse_layer(gibibytes: int) -> images.Layer:
    """A layer with one file of many holes and a few bytes."""
    size = gibibytes << 30
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"%d" % size}
    records[b"GNU.sparse.name"] = b"holes"
    numbers = padded(b"2\n0\n1\n%d\n1\n" % (size - 1))
    head = pax_block(b"".join(pax_record(key, value) for key, value in records.items()))
    member = raw_header(b"holes", size=len(numbers) + 2) + padded(numbers + b"ab")
    return images.layer(head + member + END)


def test_f22_few_descriptors_and_little_memory_are_enough(root_host: Host) -> None:
    """64 descriptors and 256 MiB of address space, for a file of 1 GiB and directories deeper than descriptors go."""
    prlimit = need.program("prlimit", "util-linux")
    deep = images.layer(*(images.directory("/".join(["d"] * depth)) for depth in range(1, 200)),
                        images.file("/".join(["d"] * 199) + "/f", "x"))  # fmt: skip
    layout = root_host.directory / "image"
    images.write_layout(layout, {"latest": images.busybox_image({}, sparse_layer(1), deep)})
    limits = [prlimit, "--nofile=64", f"--as={256 << 20}"]
    for storage in ("flat", "layered"):
        done = run(root_host, f"oci:{layout}:latest", "--storage", storage, before=limits)
        assert done.returncode == 0, done.stderr


def test_f22_too_little_memory_is_one_line(root_host: Host, url: str) -> None:
    prlimit = need.program("prlimit", "util-linux")
    told = 0
    for mebibytes in (20, 24, 28):
        done = run(root_host, url, "--storage", "flat", before=[prlimit, f"--as={mebibytes << 20}"])
        assert done.returncode
        told += done.stderr.startswith(b"lxc-oci-py: error: out of memory\n")
    assert told  # what fails inside a library may end the process
    assert run(root_host, url, "--storage", "flat").returncode == 0
