# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command lxc-oci-py: inspect and pull, as root and as a user whose store is in a user namespace."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support import direct
from tests.support import image as images
from tests.support import registry as registries
from tests.support.host import Host

CONFIG = {
    "Entrypoint": ["/bin/sh", "-c", "true"],
    "Env": ["PATH=/bin", "A=from image"],
    "User": "app",
    "WorkingDir": "/srv",
    "StopSignal": "SIGQUIT",
    "Labels": {"org.example.title": "a title", "escape": "\x1b]0;owned\x07"},
    "ExposedPorts": {"80/tcp": {}},
    "Volumes": {"/data": {}},
}


@pytest.fixture(scope="session")
def described(layouts: Path) -> str:
    made = images.busybox_image(CONFIG)
    other = images.busybox_image(CONFIG, platform="linux/s390x")
    return f"oci:{images.write_layout(layouts / 'described', {'latest': images.Index([other, made])})}:latest"


def shown(host: Host, *argv: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(host.oci(*argv, "--json").stdout)
    return found


def test_pull_makes_what_create_uses(any_host: Host, registry: registries.Registry) -> None:
    repository = f"pull/{'user' if any_host.user else 'root'}"
    digest = registry.push(repository, "1", images.busybox_image())
    url = f"docker://{registry.host}/{repository}:1"
    pulled = any_host.oci("pull", url, "--insecure")
    assert pulled.stdout.decode() == f"{digest}\n"
    assert b"layer 1" in pulled.stderr
    made = direct.parts(any_host)
    blobs = registry.requests("GET", f"/{repository}/blobs/")
    any_host.create("one", url, "--insecure")
    assert registry.requests("GET", f"/{repository}/blobs/") == blobs
    found = direct.inspect(any_host, "one")
    assert sorted(found["parts"]) == made == direct.parts(any_host)
    assert len(made) == 1  # the tree, or the index of the one layer
    again = any_host.oci("pull", url, "--insecure", "--quiet")
    assert again.stdout == pulled.stdout and again.stderr == b""
    assert direct.store_leftovers(any_host) == []


def test_pull_for_programs(root_host: Host, busybox: str) -> None:
    done = root_host.oci("pull", busybox, "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    *progress, last = events
    assert done.stderr == b""
    assert progress[-1]["event"] == "progress" and progress[-1]["done"] and progress[-1]["task"] == "layer 1"
    assert progress[-1]["bytes"] == progress[-1]["total"] > 500_000
    assert (
        last["event"] == "pulled"
        and last["digest"].startswith("sha256:")
        and last["storage"] in ("tree", "overlay", "index")
    )
    assert last["reference"] == busybox and last["platform"].startswith("linux/") and last["bytes"] > 1_000_000
    (listed,) = json.loads(root_host.oci("list", "--json").stdout)
    assert listed["digest"] == last["digest"] and listed["containers"] == []


def test_inspect_an_image(any_host: Host, described: str) -> None:
    found = shown(any_host, "inspect", described)
    assert found["platforms"] == sorted([images.busybox_image().platform, "linux/s390x"])
    assert found["entrypoint"] == CONFIG["Entrypoint"] and found["environment"] == CONFIG["Env"]
    assert found["user"] == "app" and found["workingDirectory"] == "/srv" and found["stopSignal"] == "SIGQUIT"
    assert found["labels"] == CONFIG["Labels"] and found["ports"] == ["80/tcp"] and found["volumes"] == ["/data"]
    (layer,) = found["layers"]  # type: ignore[misc]
    assert layer["digest"] == images.busybox_rootfs().descriptor()["digest"]  # type: ignore[index]
    other = shown(any_host, "inspect", described, "--platform", "linux/s390x")
    assert other["platform"] == "linux/s390x" and other["digest"] != found["digest"]
    assert not any_host.store.exists()  # layers and store have no part in it
    text = any_host.oci("inspect", described).stdout.decode()
    assert f"digest: {found['digest']}" in text and 'entrypoint: ["/bin/sh","-c","true"]' in text
    assert "\x1b" not in text and "\\x1b]0;owned\\x07" in text


def test_inspect_raw_is_the_document_itself(root_host: Host, described: str) -> None:
    raw = root_host.oci("inspect", "--raw", described).stdout
    assert images.digest(raw) == shown(root_host, "inspect", described)["indexDigest"]
    chosen = root_host.oci("inspect", "--raw", "--platform", "linux/s390x", described).stdout
    assert images.digest(chosen) == shown(root_host, "inspect", described, "--platform", "linux/s390x")["digest"]


def test_inspect_a_container(any_host: Host, described: str) -> None:
    any_host.create("one", described, "-e", "B=from user", "--workdir", "/tmp")
    with open(any_host.lxcpath / "one/config", "a") as file:
        file.write("lxc.environment = C=added later\nlxc.init.cmd = /bin/sh\n")
    found = shown(any_host, "inspect", "-P", str(any_host.lxcpath), "one")
    image, options, now = found["image"], found["options"], found["now"]
    assert found["container"] == f"{any_host.lxcpath}/one" and found["reference"] == described
    assert found["digest"] == shown(any_host, "inspect", described)["digest"]
    assert found["storage"] in ("tree", "overlay", "index") and found["store"] == str(any_host.store)
    assert str(found["made"])[10] == "T"
    assert image["environment"] == CONFIG["Env"] and image["workingDirectory"] == "/srv"  # type: ignore[index]
    assert options["lxc.environment"] == ["B=from user"]  # type: ignore[index]
    assert "C=added later" in now["lxc.environment"] and now["lxc.init.cmd"] == ["/bin/sh"]  # type: ignore[index]
    text = any_host.oci("inspect", "--lxcpath", str(any_host.lxcpath), "one").stdout.decode()
    for title in ("from the image:", "from the options:", "LXC's configuration now:"):
        assert f"\n{title}\n" in text
    assert "\x1b" not in text


def test_inspect_looks_where_lxc_does(user_host: Host, busybox: str, test_user: str) -> None:
    home = Path(f"/home/{test_user}")
    settings = home / ".config/lxc"
    settings.mkdir(parents=True)
    try:
        (settings / "lxc.conf").write_text(f"lxc.lxcpath = {user_host.lxcpath}\n")
        subprocess.run(["chown", "-R", f"{test_user}:{test_user}", str(home / ".config")], check=True)
        user_host.create("one", busybox)
        assert shown(user_host, "inspect", "one")["container"] == f"{user_host.lxcpath}/one"
    finally:
        subprocess.run(["rm", "-rf", str(home / ".config")], check=True)


def test_what_inspect_cannot_find(root_host: Host, busybox: str, place: Path) -> None:
    missing = root_host.oci("inspect", "-P", str(root_host.lxcpath), "none", check=False)
    assert missing.returncode == 4
    direct.check_message(missing, "none", str(root_host.lxcpath))
    (root_host.lxcpath / "other").mkdir()
    (root_host.lxcpath / "other/config").write_text("lxc.uts.name = other\n")
    foreign = root_host.oci("inspect", "-P", str(root_host.lxcpath), "other", check=False)
    assert foreign.returncode == 2
    direct.check_message(foreign, "was not made by lxc-oci-py")
    assert root_host.oci("inspect", f"oci:{place}/none", check=False).returncode == 4
    for verb in ("pull", "inspect"):
        wrong = root_host.oci(verb, "nginx:1" if verb == "pull" else "example/nginx", check=False)
        assert wrong.returncode == 2
        direct.check_message(wrong, "docker://")
    unknown = root_host.oci("frobnicate", check=False)
    assert unknown.returncode == 2
    direct.check_message(unknown, "frobnicate")


def test_a_pull_that_fails_leaves_nothing(any_host: Host, place: Path) -> None:
    made = images.busybox_image({}, images.layer(images.file("a", "b")))
    layout = place / "image"
    images.write_layout(layout, {"latest": made})
    blob = layout / "blobs" / images.digest(made.layers[1].blob).replace(":", "/")
    blob.write_bytes(b"damaged")
    done = any_host.oci("pull", f"oci:{layout}:latest", check=False)
    assert done.returncode == 5 and done.stdout == b""
    direct.check_message(done, "layer 2")
    assert direct.store_leftovers(any_host) == [] and not list(any_host.store.glob("trees/*"))
    blob.write_bytes(made.layers[1].blob)
    any_host.oci("pull", f"oci:{layout}:latest")


def test_version_and_help(root_host: Host) -> None:
    assert root_host.oci("--version").stdout.startswith(b"lxc-oci-py ")
    for verb in ((), ("inspect",), ("pull",), ("list",), ("prune",), ("verify",)):
        assert root_host.oci(*verb, "--help").stdout.startswith(b"usage: lxc-oci-py")


def test_a_reader_that_goes_away(root_host: Host, described: str) -> None:
    done = root_host.run("/bin/bash", "-c", f"{root_host.command} inspect {described} | true; echo ${{PIPESTATUS[0]}}")
    assert done.stdout in (b"0\n", b"141\n") and b"Traceback" not in done.stderr
