# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is measured on: images, a registry that has them, and a quiet file system.

Images are made once and kept in ${XDG_CACHE_HOME:-~/.cache}/lxc-oci-py/bench.
"""

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support import image as images
from tests.support import registry as registries
from tests.support import trixie

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lxc-oci-py" / "bench"
CONFIG = {"Entrypoint": ["/bin/sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}
SIZE = 12 << 30  # bytes of the file system, sparse


@contextmanager
def quiet_file_system() -> Iterator[Path]:
    """ext4 on a loop device over a file in memory: no disk of others is heard.  Gone at the end."""
    place = Path("/dev/shm") / f"lxc-oci-py-bench-{os.getpid()}"
    mountpoint = place / "fs"
    mountpoint.mkdir(parents=True, mode=0o755)
    file = place / "ext4"
    try:
        with open(file, "wb") as sparse:
            sparse.truncate(SIZE)
        options = "lazy_itable_init=0,lazy_journal_init=0"
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-E", options, "-N", "2000000", file], check=True)
        subprocess.run(["mount", "-o", "loop,noatime", file, mountpoint], check=True)
        try:
            yield mountpoint
        finally:
            subprocess.run(["umount", mountpoint], check=True)
    finally:
        subprocess.run(["rm", "-rf", place], check=True)


def debian() -> Path:
    """The layout of a one-layer Debian image, as mmdebstrap makes it."""
    layout = CACHE / "debian"
    if not (layout / "index.json").exists():
        tar = CACHE / "debian.tar"
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates,iproute2,perl", "bookworm", tar],
            check=True,
        )
        write(layout, [tar.read_bytes()])
        tar.unlink()
    return layout


def many_files(files: int, layers: int, size: int = 2048) -> Path:
    """The layout of an image of `files` small files, spread over `layers` layers; the same at every call."""
    layout = CACHE / f"files-{files}-{layers}"
    if not (layout / "index.json").exists():
        source = random.Random(files * 1000 + layers)
        write(layout, [_layer(source, number, files // layers, size) for number in range(layers)])
    return layout


def _layer(source: random.Random, number: int, files: int, size: int) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:

        def add(name: str, kind: bytes, mode: int, content: bytes = b"") -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.size, entry.mtime = kind, mode, len(content), 1_700_000_000
            archive.addfile(entry, io.BytesIO(content))

        # The first layer has a shell to run, so that upstream's template finds what it expects.
        if number == 0:
            for name in ("etc", "bin"):
                add(name, tarfile.DIRTYPE, 0o755)
            add("bin/sh", tarfile.REGTYPE, 0o755, Path("/bin/busybox").read_bytes())
            add("etc/passwd", tarfile.REGTYPE, 0o644, b"root:x:0:0::/root:/bin/sh\n")
        for name in ("usr", "usr/share", f"usr/share/layer{number}"):
            add(name, tarfile.DIRTYPE, 0o755)
        for start in range(0, files, 100):
            directory = f"usr/share/layer{number}/{start // 100:04}"
            add(directory, tarfile.DIRTYPE, 0o755)
            for index in range(start, min(start + 100, files)):
                length = source.randrange(size * 2)
                words = source.getrandbits(32).to_bytes(4, "little") * (length // 8) + source.randbytes(length // 2)
                add(f"{directory}/file{index:06}", tarfile.REGTYPE, 0o644, words)
    return output.getvalue()


def write(layout: Path, tars: list[bytes]) -> None:
    """Write an OCI layout with one image, `latest`, of gzip layers."""
    layers = [images.layer(tar) for tar in tars]
    images.write_layout(layout, {"latest": images.Image(layers, CONFIG)})


def layer_blobs(layout: Path) -> list[Path]:
    """The compressed layers of an image."""
    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads(_blob(layout, index["manifests"][0]["digest"]).read_bytes())
    return [_blob(layout, layer["digest"]) for layer in manifest["layers"]]


def manifest_digest(layout: Path) -> str:
    """The digest of the image in a layout."""
    index = json.loads((layout / "index.json").read_bytes())
    digest: str = index["manifests"][0]["digest"]
    assert hashlib.sha256(_blob(layout, digest).read_bytes()).hexdigest() == digest[7:]
    return digest


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


@contextmanager
def registry(place: Path, layouts: dict[str, Path]) -> Iterator[str]:
    """A docker-registry with `layouts` by name; yields its host and port."""
    with registries.serve(place) as made:
        for name, layout in layouts.items():
            subprocess.run(
                [
                    "skopeo",
                    "copy",
                    "--quiet",
                    "--dest-tls-verify=false",
                    f"oci:{layout}:latest",
                    f"docker://{made.host}/{name}:latest",
                ],
                check=True,
            )
        yield made.host


# $1 is the tree, $2 the file system that both sides see.  pivot_root, because LXC pivots again.
_ENTER = r"""
set -eu
cd "$1"
for name in proc sys dev; do mount --rbind "/$name" "$name"; done
for name in run tmp; do mount -t tmpfs none "$name"; done
mkdir -p ".$2" .old
mount --bind "$2" ".$2"
pivot_root . .old
umount -l /.old
echo entered
exec sleep infinity
"""


@contextmanager
def debian_13(place: Path, packages: Path) -> Iterator[list[str]]:
    """A Debian 13 with our package in it, whose writes go to `place`; yields what to put before a command."""
    root, upper, work = (place / f"debian-13{suffix}" for suffix in ("", ".upper", ".work"))
    for path in (root, upper, work):
        path.mkdir()
    options = f"lowerdir={trixie.tree()},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
    try:
        (package,) = packages.glob("lxc-oci-py_*_all.deb")
        copy = root / package.name
        copy.write_bytes(package.read_bytes())
        subprocess.run(["chroot", root, "dpkg", "-i", f"/{package.name}"], check=True, stdout=subprocess.DEVNULL)
        copy.unlink()
        enter = ["unshare", "-m", "--propagation", "private", "sh", "-c", _ENTER, "sh", root, place]
        with subprocess.Popen(enter, stdout=subprocess.PIPE) as sleeper:
            try:
                assert sleeper.stdout is not None
                if sleeper.stdout.readline() != b"entered\n":
                    sys.exit("the Debian 13 tree cannot be entered")
                yield ["nsenter", f"--target={sleeper.pid}", "--mount", "--root", "--wd", "--"]
            finally:
                sleeper.kill()
    finally:
        subprocess.run(["umount", root], check=True)
