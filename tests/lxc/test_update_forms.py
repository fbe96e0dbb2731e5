# SPDX-License-Identifier: LGPL-2.1-or-later
"""One story for every form of a rootfs: written to, updated, committed, rolled back, committed again.  And what was
asked for at create holds for later images too."""

import functools
import json
import subprocess
from pathlib import Path

import pytest

from lxc_oci.store import mountplan
from tests.lxc import test_update as updates
from tests.lxc.test_update import create, read, rollback, update, url
from tests.support import direct, need
from tests.support import image as images
from tests.support.host import Host
from tests.support.registry import Registry

WRITES = "echo mine > /etc/app.conf; rm /etc/removed.conf; echo new > /new; echo kept > /data/kept"

# Both read an image of one squashfs layer.  This one keeps writes as atomfs does, in UPPER/persist …
PERSISTING = """
case $1 in
mount) [ "$2" = --persist ] || exit 9
    mkdir -p "$3/persist" "$3/work" "$3/lower"
    mount -o ro,loop "$(layer "${4%:*}")" "$3/lower"
    mount -t overlay -o "lowerdir=$3/lower,upperdir=$3/persist,workdir=$3/work" overlay "$5" ;;
umount) umount "$2"; umount "${2%/rootfs}/helper/lower" ;;
esac
"""
# … and this one has no --persist, as puzzlefs 0.2.
READING = """
case $1$2 in
mount--help) echo "usage: mount OCI_DIR MOUNTPOINT" ;;
mount--persist) exit 2 ;;
mount*) mount -o ro,loop "$(layer "${2%:*}")" "$3" ;;
*) exit 2 ;;
esac
"""
LAYER = r"""#!/bin/sh
printf '%s\n' "$*" >> "$(dirname "$0")/calls"
digest() { grep -o '"digest": *"sha256:[0-9a-f]*"' | tail -n 1 | grep -o '[0-9a-f]\{64\}'; }
layer() {
    manifest=$1/blobs/sha256/$(digest < "$1/index.json")
    echo "$1/blobs/sha256/$(sed 's/.*"layers"//' "$manifest" | digest)"
}
"""


@functools.cache
def made(kind: str, version: int) -> images.Image:
    """The images of test_update, also of one layer of squashfs or of two of EROFS."""
    if kind in ("tree", "index", "mounted"):
        return updates.made(kind, version)
    config = updates.FIRST if version == 1 else updates.SECOND
    base, parents = updates.busybox_items(), [images.directory("etc"), images.directory("data")]
    files = updates._files(version)
    if kind == "erofs":
        layers = [images.erofs_layer(*base), images.erofs_layer(*parents, *files)]
    else:
        layers = [images.squashfs_layer(*base, *files)]
    return images.Image(layers, config, platform=images.busybox_image().platform)


def prepare(host: Host, registry: Registry, kind: str) -> None:
    """Make the container `one` of image 1, and let it write."""
    registry.push("update/one", "latest", made(kind, 1))
    if kind in ("persisting", "reading"):
        helper = host.directory / "helper"
        helper.write_text(LAYER + (PERSISTING if kind == "persisting" else READING))
        helper.chmod(0o755)
        host.create("one", url(registry, "one"), "--insecure", "--mount-helper", str(helper))
    elif kind == "erofs":
        need.kernel_filesystem("erofs")
        host.create("one", url(registry, "one"), "--insecure")
    else:
        create(host, registry, "one", kind)
    host.execute("one", "/bin/sh", "-c", WRITES)


def calls(host: Host) -> list[str]:
    """The images that a helper was called to mount, since the last look."""
    path = host.directory / "calls"
    lines = path.read_text().splitlines()
    path.unlink()
    return [word for line in lines if line.startswith("mount ") for word in line.split() if word.endswith(":image")]


def check(host: Host, name: str, version: int) -> None:
    """The container has image `version` below what it wrote."""
    shown = read(host, name, "/etc/app.conf", "/new", "/etc/kept.conf", f"/only{version}")
    assert shown == f"mine\nnew\nof image {version}\nx"
    gone = ("/etc/removed.conf", f"/only{3 - version}")
    assert host.execute(name, "/bin/sh", "-c", f"ls -d {' '.join(gone)} || true") == b""


def committed(host: Host, place: Path, name: str, version: int, layers: int) -> None:
    """An image of `layers` layers comes of a commit, and a container of that has what was committed."""
    to = f"oci:{place}/{name}:x"
    digest = host.oci("commit", "one", to, "-P", str(host.lxcpath), "--insecure", "--quiet").stdout.decode().strip()
    manifest = json.loads((place / name / "blobs/sha256" / digest[7:]).read_text())
    assert len(manifest["layers"]) == layers
    host.create(name, to)
    check(host, name, version)
    host.destroy(name)


@pytest.mark.parametrize(
    ("kind", "layers"), [("tree", 3), ("index", 3), ("mounted", 1), ("erofs", 1), ("persisting", 1), ("reading", 1)]
)
def test_updated_committed_and_rolled_back(
    root_host: Host, registry: Registry, place: Path, kind: str, layers: int
) -> None:
    prepare(root_host, registry, kind)
    container = root_host.lxcpath / "one"
    helped = kind in ("persisting", "reading")
    storage = "helper" if helped else "mounted" if kind == "erofs" else kind
    assert direct.inspect(root_host, "one")["storage"] == storage
    if helped:
        assert set(calls(root_host)) == {f"{container}/oci:image"}
    registry.push("update/one", "latest", made(kind, 2))
    update(root_host, "one")
    assert direct.inspect(root_host, "one")["storage"] == storage
    check(root_host, "one", 2)
    assert read(root_host, "one", "/data/kept", "/more/seed") == "kept\nmore 2\n"
    if helped:
        assert set(calls(root_host)) == {f"{container}/oci-py/g2/oci:image"}
        plan = mountplan.load(str(container), "oci-py/g2")
        assert plan is not None and plan.helper is not None and plan.helper.persist is (kind == "persisting")
    committed(root_host, place, "updated", 2, layers)
    root_host.oci("prune", "--force")
    rollback(root_host, "one")
    check(root_host, "one", 1)
    assert direct.inspect(root_host, "one")["storage"] == storage
    if layers > 1:
        committed(root_host, place, "again", 1, layers)
    root_host.start("one")
    root_host.stop("one", "-k")
    assert direct.store_leftovers(root_host) == []


def test_layers_of_another_kind(root_host: Host, registry: Registry) -> None:
    prepare(root_host, registry, "tree")
    for kind, form in (("mounted", "mounted"), ("tree", "tree")):
        registry.push("update/one", "latest", made(kind, 2))
        update(root_host, "one")
        assert direct.inspect(root_host, "one")["storage"] == form
        check(root_host, "one", 2)
    for form in ("mounted", "tree"):
        rollback(root_host, "one")
        assert direct.inspect(root_host, "one")["storage"] == form
    check(root_host, "one", 1)


def test_what_a_helper_keeps_cannot_be_dropped_but_converted(root_host: Host, registry: Registry) -> None:
    prepare(root_host, registry, "persisting")
    registry.push("update/one", "latest", made("persisting", 2))
    before = root_host.config("one")
    said = update(root_host, "one", "--reset", check=False)
    assert "cannot drop them" in said and root_host.config("one") == before
    check(root_host, "one", 1)
    assert "changed files are kept and not listed" in update(root_host, "one")
    root_host.oci("convert", "one", "--storage", "flat", "-P", str(root_host.lxcpath))
    left = {path.name for path in (root_host.lxcpath / "one").iterdir()}
    assert not left & {"helper", "oci", "upper", "work"}
    (root_host.directory / "helper").unlink()
    check(root_host, "one", 2)


# --- what holds for later images -----------------------------------------------------------------------------------


def verified(layer: images.Layer, place: Path) -> images.Layer:
    """A file system with its dm-verity data behind it."""
    file = place / "layer"
    file.write_bytes(layer.blob + bytes(-len(layer.blob) % 4096))
    size = file.stat().st_size
    argv = [need.program("veritysetup"), "format", file, file, f"--hash-offset={size}", f"--data-blocks={size // 4096}"]
    done = subprocess.run(list(map(str, argv)), check=True, capture_output=True, text=True)
    root = next(line.split()[-1] for line in done.stdout.splitlines() if line.startswith("Root hash"))
    blob = file.read_bytes()
    annotations = {"io.stackeroci.stacker.squashfs_verity_root_hash": root}
    return images.Layer(blob, layer.media_type, images.digest(blob), annotations)


def test_verity_is_required_of_later_images_too(root_host: Host, registry: Registry, place: Path) -> None:
    plain = {version: made("one layer", version) for version in (1, 2)}
    with_hashes = {
        version: images.Image([verified(image.layers[0], place)], image.config, platform=image.platform)
        for version, image in plain.items()
    }
    registry.push("update/one", "latest", with_hashes[1])
    # It is unpacked, so that a kernel without dm-verity does; what is required of the image is the same.
    root_host.create("one", url(registry, "one"), "--insecure", "--require-verity", "--no-kernel-mount")
    registry.push("update/one", "latest", plain[2])
    for options in ((), ("--dry-run",)):
        done = root_host.oci("update", "one", "-P", str(root_host.lxcpath), "--insecure", *options, check=False)
        direct.check_message(done, "has no verity root hash", "--no-require-verity")
    assert read(root_host, "one", "/etc/kept.conf") == "of image 1\n"
    registry.push("update/one", "latest", with_hashes[2])
    update(root_host, "one")
    registry.push("update/one", "latest", plain[1])
    assert "has no verity root hash" in update(root_host, "one", check=False)
    update(root_host, "one", "--no-require-verity")
    registry.push("update/one", "latest", plain[2])
    update(root_host, "one")
    assert read(root_host, "one", "/etc/kept.conf") == "of image 2\n"
    rollback(root_host, "one")
    rollback(root_host, "one")  # to the image before it was given up
    assert "has no verity root hash" in update(root_host, "one", check=False)


@pytest.mark.parametrize("verb", ["update", "convert"])
def test_the_kernel_does_not_mount_later_images_either(root_host: Host, registry: Registry, verb: str) -> None:
    registry.push("update/one", "latest", made("mounted", 1))
    storage = ("--storage", "flat") if verb == "convert" else ()
    root_host.create("one", url(registry, "one"), "--insecure", "--no-kernel-mount", *storage)
    if verb == "update":
        registry.push("update/one", "latest", made("mounted", 2))
        update(root_host, "one")
    else:
        root_host.oci("convert", "one", "--storage", "layered", "-P", str(root_host.lxcpath), "--insecure")
    assert direct.inspect(root_host, "one")["storage"] == "tree"
    assert read(root_host, "one", "/etc/kept.conf") == f"of image {2 if verb == 'update' else 1}\n"


def test_the_platform_that_was_asked_for_is_asked_for_again(root_host: Host, registry: Registry) -> None:
    host = images.busybox_image().platform

    def index(version: int) -> images.Index:
        """The host's own is chosen unless the other is asked for; both run."""
        wrong = images.busybox_image(updates.FIRST, images.layer(images.file("wrong", "")), platform=host)
        right = updates.made("tree", version)
        return images.Index([wrong, images.Image(right.layers, right.config, platform="linux/other")])

    registry.push("update/one", "latest", index(1))
    root_host.create("one", url(registry, "one"), "--insecure", "--platform", "linux/other", "--storage", "flat")
    root_host.oci("convert", "one", "--storage", "layered", "-P", str(root_host.lxcpath), "--insecure")
    registry.push("update/one", "latest", index(2))
    update(root_host, "one")
    assert read(root_host, "one", "/etc/kept.conf") == "of image 2\n"
    update(root_host, "one", "--platform", host)
    registry.push("update/one", "latest", index(1))
    assert "has this image already" in update(root_host, "one")
    rollback(root_host, "one")
    update(root_host, "one")
    assert read(root_host, "one", "/etc/kept.conf") == "of image 1\n"
