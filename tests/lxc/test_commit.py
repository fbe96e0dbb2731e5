# SPDX-License-Identifier: LGPL-2.1-or-later
"""Containers committed to registries, layouts and archives, and what skopeo, umoci, podman and we make of them."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lxc.test_update import made
from tests.support import direct, need
from tests.support import image as images
from tests.support import tree as trees
from tests.support.host import Host
from tests.support.registry import Registry, free_port

WRITES = (
    "echo mine > /etc/app.conf; rm /etc/removed.conf; rm -r /home/app; mkdir /home/app; echo x > /home/app/x;"
    "ln /home/app/x /home/app/y; ln -s nowhere /link; mkfifo /pipe; chmod 4711 /only1; chown 5:6 /etc/same.conf;"
    "touch -d 2001-01-01 /etc/kept.conf; rm -r /tmp; echo a file now > /tmp; mkdir -p /deep/er; chmod 1777 /deep/er"
)
HOOK = "/usr/share/lxc/hooks/oci-py-mount"
OURS = ("./etc/hostname", "./etc/hosts", "./etc/resolv.conf", "./.oci-py")


def prepare(host: Host, registry: Registry, name: str, kind: str = "tree", *options: str) -> str:
    """Make a container that has written something; returns its repository."""
    repository = f"commit/{name}"
    registry.push(repository, "1", made(kind, 1))
    host.create(name, f"docker://{registry.host}/{repository}:1", "--insecure", *options)
    host.execute(name, "/bin/sh", "-c", WRITES)
    return repository


def commit(host: Host, name: str, destination: str, *options: str, check: bool = True) -> tuple[str, str]:
    """Returns the digest and the messages."""
    done = host.oci("commit", name, destination, "-P", str(host.lxcpath), "--insecure", *options, check=check)
    return done.stdout.decode().strip(), done.stderr.decode()


def skopeo(place: Path, source: str, *options: str) -> tuple[dict[str, object], Path]:
    """Copy an image to a layout; returns its manifest and where it is."""
    layout = place / f"copied-{len(list(place.iterdir()))}"
    subprocess.run(
        [need.program("skopeo"), "copy", "-q", "--src-tls-verify=false", *options, source, f"oci:{layout}:x"],
        check=True,
    )
    entry = json.loads((layout / "index.json").read_text())["manifests"][0]
    return json.loads((layout / "blobs/sha256" / entry["digest"][7:]).read_text()), layout


def unpacked(place: Path, layout: Path) -> Path:
    bundle = place / f"bundle-{layout.name}"
    subprocess.run([need.program("umoci"), "unpack", "--image", f"{layout}:x", str(bundle)], check=True)
    return bundle / "rootfs"


def digests(manifest: dict[str, object]) -> list[str]:
    return [layer["digest"] for layer in manifest["layers"]]  # type: ignore[index, attr-defined]


def unlike(one: Path, other: Path) -> list[str]:
    """The differences of two trees but for what is every container's own; making it changes times of directories."""
    return [
        line
        for line in trees.differences(one, other)
        if not line.startswith((*OURS, ".: mtime", "./etc: mtime", "./more: mtime"))
    ]


def test_pushed_to_the_same_registry_only_what_is_new_is_sent(root_host: Host, registry: Registry, place: Path) -> None:
    repository = prepare(root_host, registry, "same")
    seen = [registry.requests(method, "/blobs/") for method in ("GET", "PUT")]
    digest, _ = commit(root_host, "same", f"docker://{registry.host}/commit/other:2")
    after = [registry.requests(method, "/blobs/") for method in ("GET", "PUT")]
    assert after == [seen[0], seen[1] + 2], "a layer and a configuration"
    manifest, layout = skopeo(place, f"docker://{registry.host}/commit/other:2")
    assert images.digest((layout / "blobs/sha256" / digest[7:]).read_bytes()) == digest
    original = made("tree", 1)
    assert digests(manifest)[:-1] == [layer.descriptor()["digest"] for layer in original.layers]
    assert manifest["annotations"]["org.opencontainers.image.base.name"] == f"{registry.host}/{repository}:1"  # type: ignore[index]
    with mounted(root_host, "same") as rootfs:
        assert not unlike(unpacked(place, layout), rootfs)


def test_equal_writes_give_an_equal_layer(root_host: Host, registry: Registry, place: Path) -> None:
    prepare(root_host, registry, "equal")
    first, _ = commit(root_host, "equal", f"oci:{place}/one:x")
    second, _ = commit(root_host, "equal", f"oci-archive:{place}/two.tar:x")
    archived, _ = skopeo(place, f"oci-archive:{place}/two.tar:x")
    assert digests(json.loads((place / "one/blobs/sha256" / first[7:]).read_text())) == digests(archived)
    with_same_time = root_host.run(
        root_host.command, "commit", "equal", f"oci:{place}/three:x", "-P", root_host.lxcpath, "--quiet",
        environment={"SOURCE_DATE_EPOCH": "1000000000"},
    ).stdout  # fmt: skip
    again = root_host.run(
        root_host.command, "commit", "equal", f"oci:{place}/four:x", "-P", root_host.lxcpath, "--quiet",
        environment={"SOURCE_DATE_EPOCH": "1000000000"},
    ).stdout  # fmt: skip
    assert with_same_time == again != second


@pytest.mark.parametrize("way", ["oci", "oci-archive", "docker"])
def test_a_container_of_the_commit_is_like_the_one_that_was_committed(
    any_host: Host, registry: Registry, place: Path, way: str
) -> None:
    name = f"of-{way}-{place.name[-8:].lower().replace('_', 'x')}"
    prepare(any_host, registry, name)
    out = place / "out"
    out.mkdir()
    out.chmod(0o777)
    to = {"oci": f"oci:{out}/made:x", "oci-archive": f"oci-archive:{out}/made.tar:x"}
    destination = to.get(way, f"docker://{registry.host}/commit/new-{name}:x")
    commit(any_host, name, destination, "--entrypoint", '["/bin/sh", "-c", "exit 3"]', "--env", "VERSION=mine")
    any_host.create("copy", destination, *(("--insecure",) if way == "docker" else ()))
    script = "cat /etc/app.conf /home/app/y /tmp; stat -c '%a %u %Y' /etc/kept.conf /only1 /deep/er /etc/same.conf"
    shown = any_host.execute("copy", "/bin/sh", "-c", script)
    assert shown == any_host.execute(name, "/bin/sh", "-c", script) and shown.startswith(b"mine\nx\na file now\n")
    assert any_host.lxc("execute", "copy", "--", "/bin/ls", "/etc/removed.conf", check=False).returncode != 0
    assert "VERSION=mine" in any_host.key("copy", "lxc.environment").split("\n")
    assert any_host.lxc("execute", "copy", check=False).returncode == 3
    assert direct.store_leftovers(any_host) == []


@pytest.mark.parametrize(("kind", "options"), [("mounted", ()), ("tree", ("--storage", "flat"))])
def test_what_cannot_be_a_layer_more_is_one_layer(
    root_host: Host, registry: Registry, place: Path, kind: str, options: tuple[str, ...]
) -> None:
    prepare(root_host, registry, "whole", kind, *options)
    _, said = commit(root_host, "whole", f"oci:{place}/made:x")
    assert "everything becomes one layer" in said
    manifest, layout = skopeo(place, f"oci:{place}/made:x")
    assert len(digests(manifest)) == 1
    root = unpacked(place, layout)
    assert (root / "etc/app.conf").read_text() == "mine\n" and (root / "etc/kept.conf").read_text() == "of image 1\n"
    assert not (root / "etc/removed.conf").exists() and (root / "only1").stat().st_mode & 0o7777 == 0o4711


def test_layers_that_cannot_be_had_any_more(root_host: Host, place: Path) -> None:
    layout = images.write_layout(place / "image", {"x": made("tree", 1)})
    root_host.create("lost", f"oci:{layout}:x")
    root_host.execute("lost", "/bin/sh", "-c", WRITES)
    subprocess.run(["rm", "-r", layout], check=True)
    _, said = commit(root_host, "lost", f"oci:{place}/made:x")
    assert "cannot be had any more" in said and "everything becomes one layer" in said
    _, copied = skopeo(place, f"oci:{place}/made:x")
    assert (unpacked(place, copied) / "etc/kept.conf").read_text() == "of image 1\n"


@contextmanager
def mounted(host: Host, name: str) -> Iterator[Path]:
    """What a container shows."""
    container = host.lxcpath / name
    subprocess.run([HOOK, "attach", container], check=True)
    try:
        yield container / "rootfs"
    finally:
        subprocess.run([HOOK, "detach", container], check=True)


def test_podman_has_and_runs_what_was_pushed(
    root_host: Host, registry: Registry, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(place))  # podman makes files there
    prepare(root_host, registry, "forpodman")
    name = f"{registry.host}/commit/podman:x"
    commit(root_host, "forpodman", f"docker://{name}", "--cmd", "")
    store = ["--root", str(place / "podman"), "--runroot", str(place / "run"), "--storage-driver", "vfs"]
    podman = [need.program("podman"), *store]
    try:
        subprocess.run([*podman, "pull", "-q", "--tls-verify=false", name], check=True)
        done = subprocess.run([*podman, "image", "mount", name], capture_output=True, check=True, text=True)
        with mounted(root_host, "forpodman") as rootfs:
            assert not unlike(Path(done.stdout.strip()), rootfs)
        run = subprocess.run(
            [*podman, "run", "--rm", "--network", "none", "--cgroups", "disabled",
             "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
             "--entrypoint", "/bin/cat", name, "/etc/app.conf", "/home/app/y"],
            capture_output=True, check=False,
        )  # fmt: skip
        # crun runs nothing in such a hierarchy.
        assert run.stdout == b"mine\nx\n" or b"cgroups in hybrid mode" in run.stderr, run.stderr.decode()
    finally:
        subprocess.run([*podman, "system", "reset", "--force"], capture_output=True, check=False)


def test_upstreams_template_runs_what_was_pushed(root_host: Host, registry: Registry, place: Path) -> None:
    for program in ("skopeo", "umoci", "jq"):
        need.program(program)
    prepare(root_host, registry, "forlxc")
    name = f"{registry.host}/commit/upstream:x"
    commit(root_host, "forlxc", f"docker://{name}", "--entrypoint", '["/bin/cat", "/etc/app.conf", "/home/app/y"]')
    settings = place / ".config/containers/registries.conf"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'[[registry]]\nlocation = "{registry.host}"\ninsecure = true\n')
    create = ("lxc-create", "-P", root_host.lxcpath, "-f", root_host.configuration, "-n", "theirs", "-t", "oci")
    root_host.run(*create, "--", "--url", f"docker://{name}", "--no-cache", environment={"HOME": str(place)})
    assert root_host.execute("theirs") == b"mine\nx\n"


@pytest.mark.parametrize(
    ("destination", "status", "message"),
    [
        ("dir:/tmp/x", 2, "cannot be written"),
        ("oci:{place}/default.conf:x", 2, "cannot write the layout"),
        ("oci:{place}:x", 2, "is not empty and no OCI layout"),
        ("oci-archive:{place}/default.conf:x", 2, "exists already"),
        ("docker://{closed}/a/b:x", 3, "cannot connect"),
    ],
)
def test_destinations_that_cannot_be(
    root_host: Host, busybox: str, place: Path, destination: str, status: int, message: str
) -> None:
    root_host.create("bad", busybox)
    to = destination.format(place=place, closed=f"127.0.0.1:{free_port()}")
    done = root_host.oci("commit", "bad", to, "-P", str(root_host.lxcpath), "--insecure", check=False)
    direct.check_message(done, message)
    assert done.returncode == status


def test_a_snapshot_clone_of_a_flat_container_is_refused(root_host: Host, busybox: str, place: Path) -> None:
    root_host.create("one", busybox, "--storage", "flat")
    root_host.lxc("copy", "one", "-s", "-N", "two")
    done = root_host.oci("commit", "two", f"oci:{place}/made", "-P", str(root_host.lxcpath), check=False)
    direct.check_message(done, "snapshot clone", "work on that one")
    assert not (place / "made").exists()


def test_a_running_container_is_refused(root_host: Host, busybox: str, place: Path) -> None:
    root_host.create("runs", busybox)
    root_host.start("runs")
    done = root_host.oci("commit", "runs", f"oci:{place}/x:x", "-P", str(root_host.lxcpath), check=False)
    direct.check_message(done, "is running")
    assert not (place / "x").exists()
