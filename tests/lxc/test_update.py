# SPDX-License-Identifier: LGPL-2.1-or-later
"""Updates and rollbacks of real containers: what is the image's changes, what is the user's stays."""

import functools
import io
import json
import re
import tarfile
from pathlib import Path

import pytest

from tests.support import image as images
from tests.support.host import Host
from tests.support.registry import Registry

KINDS = ("tree", "hook")  # LXC's own overlay store, and our hook's
FIRST = {
    "Entrypoint": ["/bin/sh", "-c", "sleep 1000"],
    "Env": ["PATH=/bin", "SAME=same", "VERSION=1", "OLD=old"],
    "Volumes": {"/data": {}},
    "ExposedPorts": {"80/tcp": {}},
}
SECOND = {
    "Entrypoint": ["/bin/sh", "-c", "echo  two ; sleep 1000"],
    "Env": ["PATH=/bin", "SAME=same", "VERSION=2", "QUOTED=\"a' b"],
    "User": "app",
    "WorkingDir": "/srv/work",
    "Volumes": {"/data": {}, "/more": {}},
    "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
}


def _files(version: int) -> list[images.Item]:
    return [
        images.file("etc/app.conf", f"of image {version}\n"),
        images.file("etc/kept.conf", f"of image {version}\n"),
        images.file("etc/same.conf", "same\n"),
        images.file("etc/removed.conf", f"of image {version}\n"),
        images.file("data/seed", f"seed {version}\n"),
        images.file("more/seed", f"more {version}\n"),
        images.file(f"only{version}", "x"),
    ]


def made(kind: str, version: int, config: dict[str, object] | None = None) -> images.Image:
    """Image 1 or 2: as tar layers, or as squashfs layers, which our hook mounts."""
    config = config or (FIRST if version == 1 else SECOND)
    if kind == "tree":
        return images.busybox_image(config, images.layer(images.directory("data"), *_files(version)))
    lower = _squashed()
    upper = images.squashfs_layer(images.directory("etc"), images.directory("data"), *_files(version))
    return images.Image([lower, upper], config, platform=images.busybox_image().platform)


@functools.cache
def _squashed() -> images.Layer:
    items = [images.directory("data"), images.directory("more")]
    with tarfile.open(fileobj=io.BytesIO(images.busybox_rootfs().plain)) as archive:
        for member in archive:
            content = archive.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
            fields = {"mode": member.mode, "uid": member.uid, "gid": member.gid, "linkname": member.linkname}
            header = {"name": member.name, "type": member.type, "size": member.size, **fields}
            items.append(images.Item(header, content))
    return images.squashfs_layer(*items)


def url(registry: Registry, name: str) -> str:
    return f"docker://{registry.host}/update/{name}:latest"


def create(host: Host, registry: Registry, name: str, kind: str, *options: str) -> None:
    registry.push(f"update/{name}", "latest", made(kind, 1))
    host.create(name, url(registry, name), "--insecure", *options)


def update(host: Host, name: str, *options: str, check: bool = True) -> str:
    done = host.oci("update", name, "-P", str(host.lxcpath), "--insecure", *options, check=check)
    return done.stdout.decode() + done.stderr.decode()


def rollback(host: Host, name: str, *options: str, check: bool = True) -> str:
    done = host.oci("rollback", name, "-P", str(host.lxcpath), *options, check=check)
    return done.stdout.decode() + done.stderr.decode()


def read(host: Host, name: str, *paths: str) -> str:
    return host.execute(name, "/bin/cat", *paths).decode()


@pytest.fixture(params=["root-tree", "root-hook", "user-tree"])
def way(request: pytest.FixtureRequest) -> tuple[Host, str]:
    who, _, kind = request.param.partition("-")
    return request.getfixturevalue(f"{who}_host"), kind


def test_what_is_the_images_changes_and_what_is_the_users_stays(way: tuple[Host, str], registry: Registry) -> None:
    host, kind = way
    create(host, registry, "one", kind, "--env", "MINE=mine", "--env", "SAME=other", "--hostname", "web-1")
    own = "lxc.environment = HAND=made\n# a comment of the user's\n"
    path = host.lxcpath / "one/config"
    path.write_text(path.read_text() + own)
    script = (
        "echo mine > /etc/app.conf; echo mine > /etc/same.conf; rm /etc/removed.conf; echo new > /etc/new.conf;"
        "echo kept > /data/kept; echo 1.2.3.4 example >> /etc/hosts"
    )
    host.execute("one", "/bin/sh", "-c", script)
    hosts = read(host, "one", "/etc/hosts")
    registry.push("update/one", "latest", made(kind, 2))

    shown = update(host, "one")
    assert re.search(r"digest: +sha256:\w+ -> sha256:\w+\n", shown)
    assert "layers:       1 shared, 1 new (" in shown
    assert "directory:    (none) -> /srv/work\n" in shown and "user:         (none) -> app\n" in shown
    assert "- VERSION=1\n" in shown and "+ VERSION=2\n" in shown and "SAME=same" not in shown
    assert "ports:        + 443/tcp\n" in shown and "volumes:      + /more\n" in shown
    kept = [line.partition(" (")[0].split()[-1] for line in shown.splitlines() if "the new image's differs" in line]
    assert kept == ["/etc/app.conf", "/etc/removed.conf"]

    text = path.read_text()
    assert text.endswith(own) and text.count("begin image block") == 1
    assert read(host, "one", "/etc/app.conf", "/etc/same.conf", "/etc/new.conf") == "mine\nmine\nnew\n"
    assert read(host, "one", "/etc/kept.conf", "/data/kept", "/data/seed") == "of image 2\nkept\nseed 1\n"
    assert read(host, "one", "/more/seed", "/etc/hostname") == "more 2\nweb-1\n"
    assert read(host, "one", "/etc/hosts") == hosts
    assert host.lxc("execute", "one", "--", "/bin/ls", "/etc/removed.conf", "/only1", check=False).returncode != 0
    environment = set(host.key("one", "lxc.environment").split("\n"))
    assert {"VERSION=2", "MINE=mine", "SAME=other", "HAND=made"} <= environment
    assert not {"VERSION=1", "OLD=old"} & environment
    assert host.key("one", "lxc.init.uid") == "1000"
    host.start("one")
    shown = host.attach("one", "/bin/sh", "-c", "stat -c %u /proc/1; readlink /proc/1/cwd").decode()
    assert shown.split() == ["1000", "/srv/work"]
    assert host.oci("update", "one", "-P", str(host.lxcpath), check=False).returncode == 2
    host.stop("one", "-k")

    shown = rollback(host, "one")
    assert "- VERSION=2\n" in shown and "+ VERSION=1\n" in shown
    assert read(host, "one", "/etc/app.conf", "/etc/kept.conf", "/only1") == "mine\nof image 1\nx"
    assert {"VERSION=1", "MINE=mine", "HAND=made"} <= set(host.key("one", "lxc.environment").split("\n"))
    assert host.key("one", "lxc.init.uid") == "0"
    assert path.read_text().endswith(own)
    host.start("one")
    host.stop("one", "-k")
    assert "no image to go back to" in rollback(host, "one", check=False)


def test_nothing_to_do(root_host: Host, registry: Registry) -> None:
    create(root_host, registry, "still", "tree")
    before = root_host.config("still")
    assert "has this image already" in update(root_host, "still")
    assert root_host.config("still") == before and not (root_host.lxcpath / "still/oci-py/g2").exists()


def test_a_dry_run_fetches_documents_only(root_host: Host, registry: Registry) -> None:
    create(root_host, registry, "dry", "tree")
    before = root_host.config("dry")
    registry.push("update/dry", "latest", made("tree", 2))
    blobs = registry.requests("GET", "/update/dry/blobs/")
    found = json.loads(
        root_host.oci(
            "update", "dry", "-P", str(root_host.lxcpath), "--insecure", "--dry-run", "--json", "--quiet"
        ).stdout
    )
    assert found["layers"] == {"shared": 1, "new": 1, "newBytes": found["layers"]["newBytes"]}
    assert found["values"]["user"] == {"before": "", "after": "app"}
    assert registry.requests("GET", "/update/dry/blobs/") == blobs + 1  # the configuration
    assert root_host.config("dry") == before
    assert len(list((root_host.store / "trees").iterdir())) == 1


def test_another_url(root_host: Host, registry: Registry, layouts: Path) -> None:
    create(root_host, registry, "moved", "tree")
    layout = images.write_layout(layouts / "moved", {"2": made("tree", 2)})
    update(root_host, "moved", "--url", f"oci:{layout}:2")
    assert read(root_host, "moved", "/etc/kept.conf") == "of image 2\n"
    found = json.loads(root_host.oci("inspect", "moved", "-P", str(root_host.lxcpath), "--json").stdout)
    assert found["reference"] == f"oci:{layout}:2"


@pytest.mark.parametrize("kind", KINDS)
def test_reset_drops_what_was_written_outside_of_volumes(root_host: Host, registry: Registry, kind: str) -> None:
    create(root_host, registry, "reset", kind)
    script = "echo mine > /etc/app.conf; dd if=/dev/zero of=/big bs=1k count=300; echo kept > /data/kept"
    root_host.execute("reset", "/bin/sh", "-c", script)
    registry.push("update/reset", "latest", made(kind, 2))
    shown = update(root_host, "reset", "--reset")
    dropped = re.search(r"dropped: +([0-9.]+) kB", shown)
    assert dropped and float(dropped[1]) > 300
    assert read(root_host, "reset", "/etc/app.conf", "/data/kept", "/etc/hostname") == "of image 2\nkept\nreset\n"
    assert not (root_host.lxcpath / "reset/oci-py/g2/reset").exists()
    assert root_host.lxc("execute", "reset", "--", "/bin/ls", "/big", check=False).returncode != 0


def test_a_flat_container_is_told_how(root_host: Host, registry: Registry) -> None:
    create(root_host, registry, "flat", "tree", "--storage", "flat")
    done = root_host.oci("update", "flat", "-P", str(root_host.lxcpath), "--insecure", check=False)
    assert done.returncode == 7
    assert "lxc-oci-py convert flat --storage layered" in done.stderr.decode()


def test_the_last_images_are_kept_and_older_ones_go(root_host: Host, registry: Registry) -> None:
    create(root_host, registry, "many", "tree")
    for number in range(2, 7):
        layer = images.layer(images.file("version", f"{number}\n"))
        registry.push("update/many", "latest", images.busybox_image(FIRST, layer))
        update(root_host, "many")
    ours = root_host.lxcpath / "many/oci-py"
    assert sorted(path.name for path in ours.glob("g[0-9]*")) == ["g3", "g4", "g5", "g6"]
    assert not (ours / "image.json").exists()
    removed = root_host.oci("prune", "--force", "--json").stdout
    assert sum(item["name"].startswith("trees/") for item in json.loads(removed)["removed"]) == 2
    for number in (5, 4, 3):
        rollback(root_host, "many")
        assert read(root_host, "many", "/version") == f"{number}\n"
    assert "no image to go back to" in rollback(root_host, "many", check=False)


@pytest.mark.parametrize("way", ["root-tree", "root-hook", "user-tree"], indirect=True)
def test_copies_and_snapshots(way: tuple[Host, str], registry: Registry) -> None:
    host, kind = way
    create(host, registry, "origin", kind)
    host.execute("origin", "/bin/sh", "-c", "echo mine > /etc/app.conf; echo volume > /data/kept")
    host.run("lxc-copy", "-P", host.lxcpath, "-n", "origin", "-N", "copied")
    host.run("lxc-snapshot", "-P", host.lxcpath, "-n", "copied")
    registry.push("update/origin", "latest", made(kind, 2))
    update(host, "copied")
    assert read(host, "copied", "/etc/app.conf", "/etc/kept.conf", "/data/kept") == "mine\nof image 2\nvolume\n"
    assert read(host, "origin", "/etc/kept.conf") == "of image 1\n"
    host.run("lxc-copy", "-P", host.lxcpath, "-n", "copied", "-N", "after")
    assert read(host, "after", "/etc/app.conf", "/etc/kept.conf") == "mine\nof image 2\n"
    rollback(host, "after")
    assert read(host, "after", "/etc/kept.conf", "/only1") == "of image 1\nx"
    assert read(host, "copied", "/etc/kept.conf") == "of image 2\n"
    host.destroy("after")
    host.destroy("origin")
    if kind == "tree":  # the snapshot of a mounted container lies over its rootfs
        host.run("lxc-snapshot", "-P", host.lxcpath, "-n", "copied", "-r", "snap0")
        assert read(host, "copied", "/etc/app.conf", "/etc/kept.conf") == "mine\nof image 1\n"
        update(host, "copied")
        assert read(host, "copied", "/etc/kept.conf") == "of image 2\n"
