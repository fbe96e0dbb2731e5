# SPDX-License-Identifier: LGPL-2.1-or-later
"""What upstream's template gets wrong, each with the image or the call that shows it there."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import direct, need
from tests.support import image as images
from tests.support.host import Host


def only_busybox(*names: str) -> images.Layer:
    """A layer with the static busybox and links to it, and nothing else."""
    static = Path(need.program("busybox")).read_bytes()
    links = (images.symlink(f"bin/{name}", "busybox") for name in names)
    return images.layer(images.directory("bin"), images.program("bin/busybox", static), *links)


def test_an_image_without_env(any_host: Host, place: Path) -> None:
    made = images.busybox_image({"Env": None, "Cmd": ["/bin/env"]})
    assert b"Env" in made.configuration  # null, as builders write it
    url = f"oci:{images.write_layout(place / 'image', {'latest': made})}:latest"
    any_host.create("one", url)
    found = any_host.execute("one").decode().splitlines()
    assert "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in found


def test_an_image_without_etc(any_host: Host, place: Path) -> None:
    made = images.Image([only_busybox("sh", "cat")], {"Cmd": ["/bin/cat", "/etc/hostname"]})
    url = f"oci:{images.write_layout(place / 'image', {'latest': made})}:latest"
    any_host.create("one", url)
    assert any_host.execute("one") == b"one\n"


def test_an_image_without_a_shell(any_host: Host, place: Path) -> None:
    made = images.Image([only_busybox("cat")], {"Entrypoint": ["cat", "/etc/hostname"], "Env": ["PATH=/bin"]})
    url = f"oci:{images.write_layout(place / 'image', {'latest': made})}:latest"
    any_host.create("one", url)
    assert any_host.execute("one") == b"one\n"


def test_an_image_without_a_configuration(any_host: Host, place: Path) -> None:
    made = images.Image([images.busybox_rootfs()], None)
    squashed = images.Image([images.squashfs_layer(images.directory("bin"), images.program(
        "bin/sh", Path(need.program("busybox")).read_bytes()))], None)  # fmt: skip
    path = images.write_layout(place / "image", {"tar": made, "squashfs": squashed})
    refused = any_host.create("one", f"oci:{path}:tar", check=False)
    assert refused.returncode == 1 and b"DiffIDs" in refused.stderr
    any_host.create("two", f"oci:{path}:squashfs", "--storage", "flat")
    assert any_host.key("two", "lxc.init.cmd") == "/bin/sh"


@pytest.mark.parametrize("verb", ["start", "execute"])
def test_lxc_start_runs_the_entrypoint(any_host: Host, place: Path, verb: str) -> None:
    # Upstream writes lxc.execute.cmd only, so lxc-start looks for an /sbin/init.
    made = images.busybox_image({"Entrypoint": ["/bin/sh", "-c", "echo ran > /ran"]})
    url = f"oci:{images.write_layout(place / 'image', {'latest': made})}:latest"
    any_host.create("one", url, "--storage", "flat")
    any_host.lxc(verb, "one", *(("-F",) if verb == "start" else ()))
    assert (any_host.lxcpath / "one/rootfs/ran").read_text() == "ran\n"


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_help_succeeds(root_host: Host, argument: str) -> None:
    by_hand = root_host.run(root_host.template, argument)
    assert by_hand.stdout.startswith(b"usage: lxc-create -t oci-py") and by_hand.stderr == b""
    by_lxc = root_host.run("lxc-create", "-t", root_host.template, "--help", check=False)
    assert b"--require-verity" in by_lxc.stdout + by_lxc.stderr


# Upstream copies jq's raw output into the configuration, and LXC ends a line at \n and at \r (C01).
INJECTED = "\nlxc.hook.pre-start = /bin/touch {witness}\n"
FIELDS = {
    "Env": lambda text: {"Env": ["PATH=/bin", f"A=b{text}"]},
    "Env name": lambda text: {"Env": ["PATH=/bin", f"A{text}=b"]},
    "Cmd": lambda text: {"Cmd": ["/bin/echo", text]},
    "Entrypoint": lambda text: {"Entrypoint": [f"/bin/sh{text}"]},
    "WorkingDir": lambda text: {"WorkingDir": f"/tmp{text}"},
    "User": lambda text: {"User": f"root{text}"},
    "StopSignal": lambda text: {"StopSignal": f"SIGTERM{text}"},
    "Volumes": lambda text: {"Volumes": {f"/data{text}": {}}},
    "Labels": lambda text: {"Labels": {f"a{text}": text}},
    "ExposedPorts": lambda text: {"ExposedPorts": {f"80/tcp{text}": {}}},
}


@pytest.mark.parametrize("end", ["\n", "\r", "\0"], ids=["LF", "CR", "NUL"])
def test_no_field_of_an_image_adds_a_line(root_host: Host, place: Path, end: str) -> None:
    witness = place / "witness"
    injected = INJECTED.format(witness=witness).replace("\n", end)
    shapes = {name: images.busybox_image(make(injected)) for name, make in FIELDS.items()}
    path = images.write_layout(place / "images", {name.replace(" ", ""): made for name, made in shapes.items()})
    for number, name in enumerate(FIELDS):
        container = f"c{number}"
        done = root_host.create(container, f"oci:{path}:{name.replace(' ', '')}", check=False)
        if done.returncode != 0:
            direct.check_message(done)
            assert not (root_host.lxcpath / container).exists()
            continue
        text = (root_host.lxcpath / container / "config").read_bytes()
        assert b"lxc.hook.pre-start" not in text.replace(b"\r", b"\n"), name
        assert b"\r" not in text and b"\0" not in text
        if name == "Cmd":  # it is carried, so liblxc reads a configuration with something of it
            root_host.lxc("execute", container, "--", "/bin/true")
    assert not witness.exists()


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_no_line_of_the_images_passwd_adds_a_line(root_host: Host, place: Path, end: str) -> None:
    witness = place / "witness"
    home = f"/root{end}lxc.hook.pre-start = /bin/touch {witness}{end}"
    hostile = images.layer(images.file("etc/passwd", f"root:x:0:0::{home}:/bin/sh\nbad:x:0{end}lxc.x:0::/:/bin/sh\n"))
    path = images.write_layout(place / "images", {
        "root": images.busybox_image({}, hostile), "bad": images.busybox_image({"User": "bad"}, hostile),
    })  # fmt: skip
    for name in ("root", "bad"):
        if root_host.create(name, f"oci:{path}:{name}", check=False).returncode == 0:
            assert "lxc.hook.pre-start" not in root_host.config(name).replace("\r", "\n")
            root_host.lxc("execute", name, "--", "/bin/true", check=False)
    assert not witness.exists()


HELPER = """#!/bin/sh
# A mount helper that notes how it was called: HELPER mount --persist UPPER OCI_DIR:NAME TARGET
echo "$*" >> {notes}
[ "$1" = mount ] || exit 0
shift
while [ $# -gt 1 ]; do case $1 in --persist) mkdir -p "$2"; shift ;; esac; last=$1; shift; done
mount -t tmpfs helper "$1" && mkdir "$1/bin" "$1/etc" && cp {busybox} "$1/bin/busybox" && ln -s busybox "$1/bin/sh" &&
    echo "$last" > "$1/etc/asked"
"""


@pytest.mark.skipif(not os.path.exists("/usr/share/lxc/hooks/oci-py-mount"), reason="the hook comes with the package")
def test_the_mount_helper_that_was_asked_for_is_used(root_host: Host, place: Path) -> None:
    helper = place / "helper"
    helper.write_text(HELPER.format(notes=place / "notes", busybox=need.program("busybox")))
    helper.chmod(0o755)
    made = images.busybox_image({"Cmd": ["/bin/sh"]})
    url = f"oci:{images.write_layout(place / 'image', {'latest': made})}:latest"
    root_host.create("one", url, "--mount-helper", str(helper))
    notes = (place / "notes").read_text().splitlines()
    assert any(line.startswith("mount ") for line in notes), notes
    assert root_host.execute("one", "/bin/sh", "-c", "read x < /etc/asked; echo $x").decode().strip().count(":") == 1
    mounted = subprocess.run(["grep", "-c", str(place), "/proc/self/mountinfo"], capture_output=True, check=False)
    assert mounted.stdout == b"0\n"


def test_a_mount_helper_that_is_missing_is_an_error(root_host: Host, busybox: str) -> None:
    done = root_host.create("one", busybox, "--mount-helper", "/nonexistent/helper", check=False)
    assert done.returncode == 1
    direct.check_message(done, "/nonexistent/helper")
    assert not (root_host.lxcpath / "one").exists()
