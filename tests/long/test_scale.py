# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ten thousand containers, a thousand layers, layers of gigabytes: what may grow and what may not."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lxc_oci import jsonio
from lxc_oci.image.digest import Digest, sha256
from lxc_oci.store import home, images, trees
from tests.support import direct, need
from tests.support import image as builder
from tests.support.host import Host
from tests.support.image import file, layer

pytestmark = [pytest.mark.long, pytest.mark.root]

_ADDED = "2026-01-01T00:00:00Z"
_RESIDENT = 80 << 20  # bytes
_CHUNK = 1 << 20


def fill(host: Host, first: int, last: int, layers: int) -> None:
    """Make containers `first` to `last` and as many images as make up `layers`, as creates would have left them."""
    store = home.open_store(str(host.store))
    names = []
    for number in range(layers // 10):
        ids = [sha256(b"%d %d" % (number, one)) for one in range(10)]
        name = trees.chain_ids(ids)[-1].hex
        names.append(name)
        path = Path(store.at("trees", name))
        if path.exists():
            continue
        (path / "rootfs").mkdir(parents=True)
        (path / "record").write_bytes(b"")
        facts = {"layers": ids, "size": 10 << 20, "shared": 0, "entries": 1}
        (path / "facts.json").write_bytes(jsonio.dump(facts))
        config = builder.dump({
            "os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}, "config": {},
        })  # fmt: skip
        layers_of = [{"mediaType": builder.TAR, "digest": one, "size": 1} for one in ids]
        manifest = builder.dump({
            "schemaVersion": 2, "mediaType": builder.MANIFEST, "config": builder.descriptor(builder.CONFIG, config),
            "layers": layers_of,
        })  # fmt: skip
        reference = f"docker://example.org/{number}:1"
        images.save(store, sha256(manifest), manifest, config, name="e", reference=reference, added=_ADDED)
    for number in range(first, last):
        directory = host.lxcpath / f"c{number}"
        (directory / "oci-py").mkdir(parents=True)
        tree = f"trees/{names[number % len(names)]}"
        (directory / "config").write_text(f"lxc.rootfs.path = overlay:{store.path}/{tree}/rootfs:{directory}/delta\n")
        (directory / "oci-py/image.json").write_bytes(jsonio.dump({"uses": [tree]}))
        reference_facts = {
            "lxcpath": str(host.lxcpath), "name": directory.name, "image": Digest("sha256:" + "0" * 64),
            "uses": [tree], "created": _ADDED, "mountPoint": "/",
        }  # fmt: skip
        Path(store.at("containers", f"{number:032x}")).write_bytes(jsonio.dump(reference_facts))


def seconds(call: Callable[[], object], times: int = 3) -> float:
    """The shortest of some runs: others use this machine, too."""
    best = float("inf")
    for _ in range(times):
        begin = time.monotonic()
        call()
        best = min(best, time.monotonic() - begin)
    return best


def test_creates_do_not_grow_and_the_rest_grows_linearly(root_host: Host, busybox: str) -> None:
    root_host.create("first", busybox)
    taken: dict[int, dict[str, float]] = {}
    made = 0
    for count, layers in ((1, 10), (100, 100), (10_000, 1_000)):
        fill(root_host, made, count, layers)
        made = count
        names = iter(f"new-{count}-{number}" for number in range(3))
        taken[count] = {
            "create": seconds(lambda names=names: root_host.create(next(names), busybox)),
            "list": seconds(lambda: root_host.oci("list", "--quiet")),
            "prune": seconds(lambda: root_host.oci("prune", "--quiet")),
        }
    shown = json.dumps(taken, indent=1)
    assert taken[10_000]["create"] < 1.5 * taken[1]["create"] + 0.2, shown
    for verb in ("list", "prune"):
        assert taken[10_000][verb] < 20, shown  # some milliseconds for each
        # From 100 to 10,000 containers: a hundredfold at most, with what starting the program takes aside.
        grown = taken[10_000][verb] - taken[1][verb]
        assert grown < 200 * max(taken[100][verb] - taken[1][verb], 0.02), shown
    subprocess.run(["rm", "-rf", root_host.lxcpath], check=True)
    root_host.lxcpath.mkdir()


# --- memory ----------------------------------------------------------------------------------------------------


_MEASURE = """
import os, sys
_, status, usage = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024)
"""


def resident(argv: list[str], environment: dict[str, str]) -> tuple[int, int]:
    """The exit status of a program and the most memory that it or a program of its had, in bytes.

    A program starts with the mark of the process that it was forked from, and that of these tests is high.
    """
    small = ["/usr/bin/python3", "-ISc", _MEASURE, *argv]
    done = subprocess.run(small, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    status, size = done.stdout.split()[-2:]
    return int(status), int(size)


def large_image(place: Path, name: str, tar_command: str, size: int, compression: str) -> str:
    """An image with busybox and one layer whose tar `tar_command` writes; hashed and compressed on the way."""
    blobs = place / name / "blobs/sha256"
    blobs.mkdir(parents=True)
    packer = {"gzip": "gzip -1 -n", "zstd": "zstd -q -1 -c", "": "cat"}[compression]
    script = f"{tar_command} | tee >(sha256sum >{place}/plain) | {packer} >{place}/blob && sha256sum <{place}/blob"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, text=True)
    digest = done.stdout.split()[0]
    end = time.monotonic() + 60
    while not (place / "plain").read_text():  # bash does not wait for it
        assert time.monotonic() < end
        time.sleep(0.01)
    plain = (place / "plain").read_text().split()[0]
    bytes_ = (place / "blob").stat().st_size
    (place / "blob").rename(blobs / digest)
    base = builder.busybox_rootfs()
    config = builder.dump({
        "os": "linux", "architecture": builder.busybox_image().platform.split("/")[1], "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [base.diff_id, f"sha256:{plain}"]},
    })  # fmt: skip
    manifest = builder.dump({
        "schemaVersion": 2, "mediaType": builder.MANIFEST, "config": builder.descriptor(builder.CONFIG, config),
        "layers": [base.descriptor(), {
            "mediaType": builder.TAR + (f"+{compression}" if compression else ""), "digest": f"sha256:{digest}",
            "size": bytes_,
        }],
    })  # fmt: skip
    index = {"schemaVersion": 2, "manifests": [builder.descriptor(builder.MANIFEST, manifest)]}
    builder.write_files(place / name, {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": builder.dump(index),
        **{f"blobs/{builder.digest(blob).replace(':', '/')}": blob for blob in (config, manifest, base.blob)},
    })  # fmt: skip
    return f"oci:{place / name}"


_REAL = "tar -C {place} -c --format=posix --sort=name data"
_SPARSE = "tar -C {place} -cS --format=posix data"


@pytest.mark.parametrize(
    ("what", "size", "compression"),
    [("sparse", 4 << 30, "gzip"), ("real", 2 << 30, "zstd")],
)
def test_memory_does_not_depend_on_the_size_of_a_layer(
    root_host: Host, place: Path, what: str, size: int, compression: str
) -> None:
    need.program("zstd")
    (place / "data").mkdir()
    block = os.urandom(_CHUNK)
    with open(place / "data/large", "wb") as output:
        if what == "sparse":
            output.write(block)
            output.seek(size - len(block))
            output.write(block)
        else:
            for _ in range(size // len(block)):
                output.write(block)
    command = (_SPARSE if what == "sparse" else _REAL).format(place=place)
    url = large_image(place, "image", command, size, compression)
    (place / "data/large").unlink()
    direct.prepare(root_host, "one")
    argv = direct.command(root_host, "one", "--url", url, "--quiet")
    argv[0] = need.program(argv[0])
    status, most = resident(argv, root_host._environment())
    assert status == 0
    (tree,) = (root_host.store / "trees").iterdir()
    large = (tree / "rootfs/data/large").stat()
    assert large.st_size == size
    if what == "sparse":
        assert large.st_blocks * 512 < 16 << 20
    assert most < _RESIDENT, f"{most >> 20} MiB"
    direct.discard(root_host, "one")


def test_memory_of_a_second_create(root_host: Host, place: Path, busybox: str) -> None:
    root_host.create("first", busybox)
    direct.prepare(root_host, "one")
    argv = direct.command(root_host, "one", "--url", busybox, "--quiet")
    argv[0] = need.program(argv[0])
    status, most = resident(argv, root_host._environment())
    assert status == 0 and most < 60 << 20, f"{most >> 20} MiB"
    direct.discard(root_host, "one")


def test_a_hundred_containers_cost_one_image(root_host: Host, place: Path) -> None:
    """Under 110 % of the unpacked image, and under 100 kB each."""
    made = builder.busybox_image({}, layer(file("usr-share", os.urandom(20 << 20)), compression=""))
    url = f"oci:{builder.write_layout(place / 'image', {'latest': made})}:latest"
    root_host.create("c0", url)
    (tree,) = (root_host.store / "trees").iterdir()
    image, first = used(tree / "rootfs"), used(root_host.store, root_host.lxcpath)
    assert first < 1.1 * image
    for number in range(1, 100):
        root_host.create(f"c{number}", url)
    assert used(root_host.store, root_host.lxcpath) < 1.1 * image + 100 * 100_000
    assert root_host.execute("c99", "/bin/echo", "ran") == b"ran\n"
    subprocess.run(["rm", "-rf", *(root_host.lxcpath / f"c{number}" for number in range(100))], check=True)


def used(*paths: Path) -> int:
    """Bytes on disk, each inode once."""
    done = subprocess.run(["du", "-scxB1", *paths], capture_output=True, check=True)
    return int(done.stdout.split()[-2])
