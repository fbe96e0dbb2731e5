# SPDX-License-Identifier: LGPL-2.1-or-later
"""Updates and rollbacks of real containers: what is the image's changes, what is the user's stays."""

import functools
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from lxc_oci.__main__ import command
from lxc_oci.kernel import durable
from lxc_oci.rootfs import choose
from tests.support import direct, kill, launch
from tests.support import image as images
from tests.support import tree as trees
from tests.support.host import Host
from tests.support.registry import Registry, free_port

# Our hook's over a tree, over squashfs and over indexed tar files, and LXC's own overlay store.
KINDS = ("tree", "mounted", "index", "overlay")
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
    """Image 1 or 2: as tar layers, which can be indexed or not, or as squashfs layers, mounted as they are."""
    config = config or (FIRST if version == 1 else SECOND)
    if kind == "index":  # a layer that tells of all its directories stands by itself
        parents = [images.directory(name) for name in ("data", "etc", "more")]
        return images.busybox_image(config, images.layer(*parents, *_files(version)))
    if kind != "mounted":
        return images.busybox_image(config, images.layer(images.directory("data"), *_files(version)))
    lower = _squashed()
    upper = images.squashfs_layer(images.directory("etc"), images.directory("data"), *_files(version))
    return images.Image([lower, upper], config, platform=images.busybox_image().platform)


@functools.cache
def _squashed() -> images.Layer:
    return images.squashfs_layer(*busybox_items())


def busybox_items() -> list[images.Item]:
    """The busybox root file system as items, with the directories that the layers above write to."""
    items = [images.directory("data"), images.directory("more")]
    with tarfile.open(fileobj=io.BytesIO(images.busybox_rootfs().plain)) as archive:
        for member in archive:
            content = archive.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
            fields = {"mode": member.mode, "uid": member.uid, "gid": member.gid, "linkname": member.linkname}
            header = {"name": member.name, "type": member.type, "size": member.size, **fields}
            items.append(images.Item(header, content))
    return items


def url(registry: Registry, name: str) -> str:
    return f"docker://{registry.host}/update/{name}:latest"


def create(host: Host, registry: Registry, name: str, kind: str, *options: str) -> None:
    registry.push(f"update/{name}", "latest", made(kind, 1))
    if kind == "index" and not choose._indexes_tar():
        pytest.skip("test_update_trixie runs this where there is an mkfs.erofs that indexes tar files")
    if kind == "overlay":  # what is chosen where AppArmor does not let a hook mount
        if launch.INSTALLED:
            pytest.skip("the installed template finds the hook")
        without = "from lxc_oci.rootfs import choose\nchoose.HOOK = '/nonexistent/hook'\nfrom lxc_oci.__main__"
        for path in (Path(host.template), Path(host.command)):
            path.write_text(path.read_text().replace("from lxc_oci.__main__", without))
    host.create(name, url(registry, name), "--insecure", *options)
    assert direct.inspect(host, name)["storage"] == (kind if "flat" not in options else "flat")


def update(host: Host, name: str, *options: str, check: bool = True) -> str:
    done = host.oci("update", name, "-P", str(host.lxcpath), "--insecure", *options, check=check)
    return done.stdout.decode() + done.stderr.decode()


def rollback(host: Host, name: str, *options: str, check: bool = True) -> str:
    done = host.oci("rollback", name, "-P", str(host.lxcpath), *options, check=check)
    return done.stdout.decode() + done.stderr.decode()


def read(host: Host, name: str, *paths: str) -> str:
    return host.execute(name, "/bin/cat", *paths).decode()


@pytest.fixture(params=["root-tree", "root-mounted", "root-index", "root-overlay", "user-tree", "user-overlay"])
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
    assert direct.inspect(root_host, "moved")["reference"] == f"oci:{layout}:2"


@pytest.mark.parametrize("kind", KINDS)
def test_reset_drops_what_was_written_outside_of_volumes(root_host: Host, registry: Registry, kind: str) -> None:
    create(root_host, registry, "reset", kind)
    root = root_host.execute("reset", "/bin/stat", "-c", "%a %u:%g", "/")
    script = "echo mine > /etc/app.conf; dd if=/dev/zero of=/big bs=1k count=300; echo kept > /data/kept"
    root_host.execute("reset", "/bin/sh", "-c", script)
    registry.push("update/reset", "latest", made(kind, 2))
    shown = update(root_host, "reset", "--reset")
    dropped = re.search(r"dropped: +([0-9.]+) kB", shown)
    assert dropped and float(dropped[1]) > 300
    assert read(root_host, "reset", "/etc/app.conf", "/data/kept", "/etc/hostname") == "of image 2\nkept\nreset\n"
    assert not (root_host.lxcpath / "reset/oci-py/g2/reset").exists()
    assert root_host.lxc("execute", "reset", "--", "/bin/ls", "/big", check=False).returncode != 0
    assert root_host.execute("reset", "/bin/stat", "-c", "%a %u:%g", "/") == root == b"755 0:0\n"


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
    assert sum(item["name"].startswith(("trees/", "indexes/")) for item in json.loads(removed)["removed"]) == 2
    for number in (5, 4, 3):
        rollback(root_host, "many")
        assert read(root_host, "many", "/version") == f"{number}\n"
    assert "no image to go back to" in rollback(root_host, "many", check=False)


def test_copies_and_snapshots(way: tuple[Host, str], registry: Registry) -> None:
    host, kind = way
    create(host, registry, "origin", kind)
    host.execute("origin", "/bin/sh", "-c", "echo mine > /etc/app.conf; echo volume > /data/kept")
    full = () if kind != "overlay" else ("-s",)  # LXC cannot copy its overlay store in full
    host.run("lxc-copy", "-P", host.lxcpath, "-n", "origin", "-N", "copied", *full)
    host.run("lxc-snapshot", "-P", host.lxcpath, "-n", "copied")
    registry.push("update/origin", "latest", made(kind, 2))
    update(host, "copied")
    assert read(host, "copied", "/etc/app.conf", "/etc/kept.conf", "/data/kept") == "mine\nof image 2\nvolume\n"
    assert read(host, "origin", "/etc/kept.conf") == "of image 1\n"
    host.run("lxc-copy", "-P", host.lxcpath, "-n", "copied", "-N", "after", *full)
    assert read(host, "after", "/etc/app.conf", "/etc/kept.conf") == "mine\nof image 2\n"
    rollback(host, "after")
    assert read(host, "after", "/etc/kept.conf", "/only1") == "of image 1\nx"
    assert read(host, "copied", "/etc/kept.conf") == "of image 2\n"
    host.destroy("after")  # LXC does not replace what a copy lies over
    host.run("lxc-snapshot", "-P", host.lxcpath, "-n", "copied", "-r", "snap0")
    assert read(host, "copied", "/etc/app.conf", "/etc/kept.conf", "/data/kept") == "mine\nof image 1\nvolume\n"
    update(host, "copied")
    assert read(host, "copied", "/etc/kept.conf") == "of image 2\n"


# --- outdated ------------------------------------------------------------------------------------------------------


def outdated(host: Host, status: int = 0) -> dict[str, dict[str, str]]:
    """What `lxc-oci-py outdated` says, by the names of the containers."""
    done = host.oci("outdated", "-P", str(host.lxcpath), "--insecure", "--json", check=False)
    assert done.returncode == status, done.stderr.decode()
    return {Path(found["container"]).name: found for found in json.loads(done.stdout)}


def test_outdated_asks_each_url_once_and_changes_nothing(
    any_host: Host, registry: Registry, layouts: Path, place: Path
) -> None:
    whose = "user" if any_host.user else "root"
    names = (f"moved-{whose}", f"same-{whose}")  # a random name may be none for a repository
    for name in names:
        create(any_host, registry, name, "tree")
    any_host.create("twin", url(registry, names[0]), "--insecure")
    any_host.create("layout", f"oci:{images.write_layout(layouts / place.name, {'x': made('tree', 1)})}:x")
    digest = made("tree", 1).digest
    any_host.create("pinned", f"docker://{registry.host}/update/{names[0]}@{digest}", "--insecure")
    assert {found["state"] for name, found in outdated(any_host).items() if name != "pinned"} == {"current"}
    registry.push(f"update/{names[0]}", "latest", made("tree", 2))
    texts = {name: any_host.config(name) for name in (*names, "twin", "layout", "pinned")}
    before = [registry.requests(method, f"/update/{names[0]}/") for method in ("HEAD", "GET")]
    found = outdated(any_host)
    after = [registry.requests(method, f"/update/{names[0]}/") for method in ("HEAD", "GET")]
    assert after == [before[0] + 1, before[1]]
    assert {name: one["state"] for name, one in found.items()} == {
        names[0]: "outdated", "twin": "outdated", names[1]: "current", "layout": "current", "pinned": "pinned",
    }  # fmt: skip
    assert found["twin"]["available"] == made("tree", 2).digest and found["twin"]["digest"] == digest
    assert {name: any_host.config(name) for name in texts} == texts
    update(any_host, "twin")
    assert outdated(any_host)["twin"]["state"] == "current"
    shown = any_host.oci("outdated", "-P", str(any_host.lxcpath), "--insecure").stdout.decode()
    assert re.search(rf"/{names[0]} +outdated +{digest[7:19]} +{made('tree', 2).digest[7:19]} +docker://", shown)


def test_outdated_reports_what_cannot_be_asked(root_host: Host, registry: Registry) -> None:
    create(root_host, registry, "gone", "tree")
    path = root_host.lxcpath / "gone/oci-py/image.json"
    path.write_text(path.read_text().replace(registry.host, f"127.0.0.1:{free_port()}"))
    found = outdated(root_host, status=3)
    assert found["gone"]["state"] == "unreachable" and "cannot connect" in found["gone"]["error"]


# --- convert -------------------------------------------------------------------------------------------------------


def convert(host: Host, name: str, storage: str, check: bool = True) -> CompletedProcess[bytes]:
    options = ("--storage", storage, "-P", str(host.lxcpath), "--insecure")
    return host.oci("convert", name, *options, check=check)


WRITES = (
    "echo mine > /etc/app.conf; rm /etc/removed.conf; rm -r /home; mkdir /home; echo x > /home/x; ln /home/x /home/y;"
    "ln -s nowhere /link; mkfifo /pipe; chmod 700 /root; chown 5:6 /etc/same.conf; touch -d 2001-01-01 /etc/kept.conf"
)


@pytest.mark.parametrize("way", ["root-tree", "root-index", "root-overlay", "user-tree"], indirect=True)
def test_flat_to_layered_and_back(way: tuple[Host, str], registry: Registry, place: Path) -> None:
    host, kind = way
    create(host, registry, "form", kind, "--storage", "flat")
    host.execute("form", "/bin/sh", "-c", WRITES)
    flat = host.lxcpath / "form/rootfs"
    before = place / "before"
    subprocess.run(["cp", "-a", flat, before], check=True)
    own = "lxc.hook.pre-mount = /bin/true\n# of the user\n"
    path = host.lxcpath / "form/config"
    path.write_text(path.read_text() + own)

    convert(host, "form", "layered")
    assert direct.inspect(host, "form")["storage"] == kind and path.read_text().endswith(own)
    assert {entry.name for entry in flat.iterdir()} <= {".oci-py-id"}
    assert not (direct.upper(host, "form") / "bin/busybox").exists(), "the image is shared"
    assert read(host, "form", "/etc/app.conf", "/home/y", "/data/seed") == "mine\nx\nseed 1\n"
    registry.push("update/form", "latest", made(kind, 2))
    update(host, "form")
    assert read(host, "form", "/etc/app.conf", "/more/seed") == "mine\nmore 2\n"
    rollback(host, "form")

    convert(host, "form", "flat")
    assert direct.inspect(host, "form")["storage"] == "flat" and path.read_text().endswith(own)
    assert "oci-py-mount" not in path.read_text() and "userxattr" not in path.read_text()
    # The update made what its image needs: mount points and a directory to work in.
    found = [line for line in trees.differences(before, flat, without=("mtime",)) if not line.startswith("./srv")]
    found = [line for line in found if line != f"./.oci-py: only in {flat}"]
    assert not [line for line in found if not line.startswith("./more")], found
    assert not any((host.lxcpath / "form" / name).exists() for name in ("upper", "work", "overlay"))
    assert read(host, "form", "/etc/app.conf", "/home/y") == "mine\nx\n"
    host.start("form")
    host.stop("form", "-k")
    assert convert(host, "form", "flat", check=False).returncode == 2


def test_a_conversion_needs_the_very_image(root_host: Host, place: Path) -> None:
    layout = images.write_layout(place / "image", {"x": made("tree", 1)})
    root_host.create("other", f"oci:{layout}:x", "--storage", "flat")
    images.write_layout(place / "image", {"x": made("tree", 2)})
    before = root_host.config("other")
    direct.check_message(convert(root_host, "other", "layered", check=False), "has another image now")
    assert root_host.config("other") == before
    assert read(root_host, "other", "/etc/kept.conf") == "of image 1\n"


def test_a_flat_container_below_snapshots_is_left_alone(root_host: Host, registry: Registry) -> None:
    create(root_host, registry, "below", "tree", "--storage", "flat")
    root_host.run("lxc-snapshot", "-P", root_host.lxcpath, "-n", "below")
    direct.check_message(convert(root_host, "below", "layered", check=False), "snapshot")


# --- what goes wrong -----------------------------------------------------------------------------------------------


def updating(host: Host, name: str, to: str) -> Callable[[], int]:
    """The body of an update, for tests.support.kill."""

    def body() -> int:
        return command(["update", "-P", str(host.lxcpath), "--store", str(host.store), "--url", to, name, "--quiet"])

    return body


def kill_updates(host: Host, place: Path, kind: str, hundredths: Sequence[int] | None) -> list[str]:
    """Kill updates from image 1 to image 2 at so many hundredths of their calls (None: at all).

    Each time the container starts with one of both, all of it.  Returns the calls.
    """
    for version in (1, 2):
        images.write_layout(place / f"image{version}", {"x": made(kind, version)})
    first, second = (f"oci:{place}/image{version}:x" for version in (1, 2))
    host.create("killed", first)
    host.execute("killed", "/bin/sh", "-c", "echo mine > /etc/app.conf; echo kept > /data/kept")
    kill.at(0, updating(host, "killed", second), place / "output")
    rollback(host, "killed")
    total = kill.at(0, updating(host, "killed", second), place / "output").calls  # now that the store has both
    assert total > 50
    calls = []
    numbers = [part * total // 100 for part in hundredths] if hundredths else range(1, total + 1)
    for number in numbers:
        if version_of(host, "killed") == 2:
            rollback(host, "killed")
        outcome = kill.at(number, updating(host, "killed", second), place / "output")
        calls.append(outcome.call)
        version_of(host, "killed")
        assert read(host, "killed", "/etc/app.conf", "/data/kept") == "mine\nkept\n"
    update(host, "killed", "--url", second)
    assert version_of(host, "killed") == 2
    ours = host.lxcpath / "killed"
    assert len(list(ours.glob("oci-py/g[0-9]*"))) <= 4 and not list(ours.glob(".*.tmp"))
    host.oci("prune", "--force")
    assert direct.store_leftovers(host) == []
    return calls


def version_of(host: Host, name: str) -> int:
    """The version of a container whose configuration, files and generation agree."""
    configured = next(
        value for value in host.key(name, "lxc.environment").split("\n") if value.startswith("VERSION=")
    ).partition("=")[2]
    assert read(host, name, "/etc/kept.conf") == f"of image {configured}\n"
    return int(configured)


@pytest.mark.parametrize("kind", ["tree", "mounted"])
def test_a_killed_update_leaves_the_old_image_or_the_new(root_host: Host, place: Path, kind: str) -> None:
    calls = kill_updates(root_host, place, kind, (35, 70, 85, 95))
    assert len(set(calls)) > 2


def test_a_failed_update_leaves_all_as_it_was(root_host: Host, registry: Registry) -> None:
    create(root_host, registry, "bad", "tree")
    before = root_host.config("bad")
    registry.push("update/bad", "latest", made("tree", 2, {**SECOND, "User": "nobody-knows"}))
    done = root_host.oci("update", "bad", "-P", str(root_host.lxcpath), "--insecure", check=False)
    direct.check_message(done, "nobody-knows")
    assert root_host.config("bad") == before and not (root_host.lxcpath / "bad/oci-py/g2").exists()
    assert read(root_host, "bad", "/etc/kept.conf") == "of image 1\n"


def test_two_updates_exclude_each_other(root_host: Host, registry: Registry) -> None:
    create(root_host, registry, "busy", "tree")
    with durable.lock(str(root_host.lxcpath / "busy/oci-py/lock")):
        done = root_host.oci("update", "busy", "-P", str(root_host.lxcpath), "--insecure", check=False)
    direct.check_message(done, "is locked by another process")
    assert done.returncode == 3


def test_what_root_of_the_image_is_changes_unless_the_user_changed_it(root_host: Host, registry: Registry) -> None:
    for name, change in (("same", "true"), ("own", "chmod 711 /")):
        create(root_host, registry, name, "tree")
        root_host.execute(name, "/bin/sh", "-c", change)
        layer = images.layer(images.directory(".", mode=0o751))
        registry.push(f"update/{name}", "latest", images.busybox_image(FIRST, layer))
        update(root_host, name)
    shown = [root_host.execute(name, "/bin/stat", "-c", "%a", "/") for name in ("same", "own")]
    assert shown == [b"751\n", b"711\n"]


# --- the manual page -----------------------------------------------------------------------------------------------


def page_example() -> list[str]:
    """The commands of the manual page's example of an update."""
    text = (launch.CHECKOUT / "man/lxc-oci-py.1").read_text()
    example = text.partition("tests/lxc/test_update.py runs these lines")[2]
    block = re.sub(r" \\e\n *", " ", example[example.index(".EX\n") + 4 : example.index(".EE\n")])
    return [re.sub(r"\\f[BP]", "", line).removeprefix("# ").replace("\\-", "-") for line in block.splitlines()]


def test_the_pages_example_does_what_it_says(root_host: Host, registry: Registry, place: Path) -> None:
    # Only where things are differs: LXC's default paths, and the registry's name.
    shims = place / "shims"
    shims.mkdir()
    programs = {
        name: f'/usr/bin/{name} -P {root_host.lxcpath} "$@"' for name in ("lxc-start", "lxc-stop", "lxc-snapshot")
    }
    template = f'"${{@/#oci-py/{root_host.template}}}"'
    programs["lxc-create"] = f"/usr/bin/lxc-create -P {root_host.lxcpath} -f {root_host.configuration} {template}"
    programs["lxc-oci-py"] = f'{root_host.command} "$1" -P {root_host.lxcpath} "${{@:2}}"'
    for name, line in programs.items():
        (shims / name).write_text(f"#!/bin/bash\nexec {line}\n")
        (shims / name).chmod(0o755)
    (place / "registries.conf").write_text(
        f'[[registry]]\nprefix = "registry.example.org"\nlocation = "{registry.host}"\ninsecure = true\n'
    )
    environment = {
        "PATH": f"{shims}:/usr/sbin:/usr/bin:/sbin:/bin",
        "CONTAINERS_REGISTRIES_CONF": str(place / "registries.conf"),
    }
    commands = page_example()
    assert [line.split()[0] for line in commands].count("lxc-oci-py") == 3
    # The program ignores SIGTERM, and a minute of waiting for it shows nothing.
    registry.push("team/shop", "stable", made("tree", 1, {**FIRST, "StopSignal": "SIGKILL"}))
    seen = []
    for line in commands:
        if line.startswith("lxc-start"):
            seen.append(version_of_stopped(root_host))
        root_host.run("/bin/bash", "-ec", line, environment=environment)
        if line.startswith("lxc-start") and len(seen) == 1:
            root_host.attach("shop", "/bin/sh", "-c", "echo mine > /etc/app.conf")
            registry.push("team/shop", "stable", made("tree", 2, {**SECOND, "StopSignal": "SIGKILL"}))
    assert seen == ["1", "2", "1"]
    assert root_host.attach("shop", "/bin/cat", "/etc/app.conf", "/etc/kept.conf") == b"mine\nof image 1\n"


def version_of_stopped(host: Host) -> str:
    values = host.key("shop", "lxc.environment").split("\n")
    return next(value for value in values if value.startswith("VERSION=")).partition("=")[2]
