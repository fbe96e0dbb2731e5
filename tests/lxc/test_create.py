# SPDX-License-Identifier: LGPL-2.1-or-later
"""From an image to a container that runs, by the real LXC, as root and as a user, in both forms."""

import os
import time
from pathlib import Path

import pytest

from tests.support import direct
from tests.support import image as images
from tests.support.host import Host

# Leaves argv, environment, directory and ids where the image's user may write.
REPORT = images.program(
    "report",
    "#!/bin/sh\n"
    'printf "%s\\n" "$@" > /out/argv; cat /proc/$$/environ > /out/environ; pwd -P > /out/cwd; id > /out/id\n'
    '[ "$1" = once ] && exit\n'
    'trap "touch /out/asked; exit 0" QUIT; touch /out/ready; while :; do sleep 1; done\n',
)
CONFIG = {
    "Entrypoint": ["/report"],
    "Cmd": ["once", "-g", "daemon off;", "it's", ""],
    "Env": ["PATH=/bin", "GREETING=hello world", "QUOTED=\"x\" 'y'"],
    "User": "app:video",
    "WorkingDir": "/srv/data dir",
    "StopSignal": "SIGQUIT",
}
STORAGE = ("auto", "flat")


@pytest.fixture(scope="session")
def report(layouts: Path) -> str:
    """The URL of an image whose entrypoint reports what it was given."""
    layer = images.layer(REPORT, images.directory("out", mode=0o777), images.directory("srv"))
    path = layouts / "report"
    images.write_layout(path, {"latest": images.busybox_image(CONFIG, layer)})
    return f"oci:{path}:latest"


def out(host: Host, name: str) -> Path:
    """Where the container's /out is on the host."""
    return direct.upper(host, name) / "out"


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.02)


@pytest.mark.parametrize("storage", STORAGE)
def test_a_container_lives(any_host: Host, busybox: str, storage: str) -> None:
    any_host.create("one", busybox, "--storage", storage)
    any_host.start("one")
    assert any_host.attach("one", "/bin/cat", "/proc/1/comm") == b"sh\n"
    any_host.attach("one", "/bin/touch", "/etc/mine")
    any_host.stop("one")
    assert any_host.execute("one", "/bin/ls", "/etc/mine") == b"/etc/mine\n"
    assert any_host.execute("one", "/bin/cat", "/etc/hostname") == b"one\n"
    any_host.destroy("one")
    assert os.listdir(any_host.lxcpath) == ["one.log"]
    assert direct.store_leftovers(any_host) == []


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("verb", ["start", "execute"])
def test_the_entrypoint_runs_as_the_image_says(any_host: Host, report: str, storage: str, verb: str) -> None:
    any_host.create("one", report, "--storage", storage)
    any_host.lxc(verb, "one", *(("-F",) if verb == "start" else ()))
    found = out(any_host, "one")
    assert (found / "argv").read_bytes() == b"once\n-g\ndaemon off;\nit's\n\n"
    environment = dict(entry.partition(b"=")[::2] for entry in (found / "environ").read_bytes().split(b"\0") if entry)
    expected = {b"PATH": b"/bin", b"GREETING": b"hello world", b"QUOTED": b"\"x\" 'y'", b"HOME": b"/home/app"}
    assert {name: value for name, value in environment.items() if not name.startswith(b"container")} == expected
    assert (found / "cwd").read_text() == "/srv/data dir\n"
    assert (found / "id").read_text() == "uid=1000(app) gid=44(video)\n"


def test_the_stop_signal_is_the_images(any_host: Host, report: str) -> None:
    any_host.create("one", report, "--cmd", "wait")
    any_host.start("one")
    wait_for(out(any_host, "one") / "ready")
    any_host.stop("one")
    assert (out(any_host, "one") / "asked").exists()


def test_liblxc_reads_what_was_written(any_host: Host, layouts: Path) -> None:
    made = images.busybox_image({
        "Entrypoint": ["/bin/env"], "Cmd": [], "Env": ["A=b", "B= c "], "User": "0:44", "StopSignal": "SIGQUIT",
    })  # fmt: skip
    url = f"oci:{images.write_layout(layouts / 'keys', {'latest': made})}:latest"
    any_host.create("one", url, "--hostname", "web-1")
    keys = {
        "lxc.init.uid": "0",
        "lxc.init.gid": "44",
        "lxc.init.cwd": "/",
        "lxc.init.cmd": "/bin/env",
        "lxc.execute.cmd": "/bin/env",
        "lxc.signal.halt": "3",
        "lxc.uts.name": "web-1",
    }
    assert {key: any_host.key("one", key) for key in keys} == keys
    assert set(any_host.key("one", "lxc.environment").split("\n")) >= {"A=b", "B= c "}
    mounts = any_host.key("one", "lxc.mount.auto")
    # userns.conf, which upstream includes too, makes /sys writable for those who own nothing in it.
    assert mounts == f"proc:mixed sys:{'rw' if any_host.user else 'mixed'} cgroup:mixed"


@pytest.mark.parametrize("user", [None, "test_user"])
def test_isolation_is_that_of_upstreams_template(request: pytest.FixtureRequest, place: Path, user: str | None) -> None:
    # Capability drops, seccomp, devices and hooks come from the includes that upstream's template has too.
    host: Host = request.getfixturevalue("user_host" if user else "root_host")
    url = f"oci:{images.write_layout(place / 'image', {'latest': images.busybox_image()})}:latest"
    host.create("ours", url)
    upstream = host.lxcpath / "theirs"
    upstream.mkdir()
    share = "/usr/share/lxc/config"
    lines = ["lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed", f"lxc.include = {share}/common.conf"]
    lines += [f"lxc.include = {share}/userns.conf"] if user else []
    text = host.configuration.read_text() + "\n".join([*lines, f"lxc.include = {share}/oci.common.conf"])
    (upstream / "config").write_text(f"{text}\nlxc.rootfs.path = dir:{upstream}/rootfs\n")
    (upstream / "rootfs").mkdir()
    for key in ("lxc.cap.drop", "lxc.cap.keep", "lxc.seccomp.profile", "lxc.mount.auto", "lxc.cgroup.devices",
                "lxc.cgroup2.devices", "lxc.hook.start-host", "lxc.hook.pre-start", "lxc.hook.mount",
                "lxc.idmap", "lxc.apparmor.profile", "lxc.tty.max", "lxc.pty.max"):  # fmt: skip
        assert host.key("ours", key) == host.key("theirs", key), key


# --- options ---------------------------------------------------------------------------------------------------


def test_options_replace_what_the_image_says(any_host: Host, report: str, place: Path) -> None:
    variables = place / "variables"
    variables.write_text("# a comment\nFROM_FILE=1 2\n\nBOTH=file\nCALLERS\n")
    any_host.create(
        "one", report, "--entrypoint", '["/report", "once", "a b"]', "--cmd", "c", "--env-file", str(variables),
        "-e", "BOTH=option", "-e", "GREETING=bye", "--user", "1000", "--workdir", "/home/app", "--hostname", "other",
    )  # fmt: skip
    any_host.lxc("start", "one", "-F")
    found = out(any_host, "one")
    assert (found / "argv").read_text() == "once\na b\nc\n"
    assert (found / "cwd").read_text() == "/home/app\n"
    assert (found / "id").read_text().startswith("uid=1000(app) gid=1000(app)")
    environment = (found / "environ").read_bytes().split(b"\0")
    assert {b"FROM_FILE=1 2", b"BOTH=option", b"GREETING=bye"} <= set(environment)
    assert b"BOTH=file" not in environment and not any(entry.startswith(b"CALLERS") for entry in environment)
    assert any_host.key("one", "lxc.uts.name") == "other"


def test_volumes_and_tmpfs(root_host: Host, busybox: str, place: Path) -> None:
    for name in ("data", "fixed"):
        (place / name).mkdir()
        (place / name / "file").write_text(name)
    root_host.create(
        "one", busybox, "--volume", f"{place}/data:/var/data", "--volume", f"{place}/fixed:/fixed:ro",
        "--tmpfs", "/scratch:size=64k",
    )  # fmt: skip
    script = "cat /var/data/file /fixed/file; echo x > /var/data/new; echo x > /fixed/new; df -k /scratch | tail -1"
    shown = root_host.execute("one", "/bin/sh", "-c", script).decode()
    assert shown.startswith("datafixed") and "tmpfs" in shown and " 64 " in shown
    assert (place / "data/new").read_text() == "x\n" and not (place / "fixed/new").exists()


@pytest.mark.parametrize("way", ["--store", "LXC_OCI_PY_STORE"])
def test_the_store_is_where_it_is_said_to_be(root_host: Host, busybox: str, place: Path, way: str) -> None:
    if way == "--store":
        root_host.create("one", busybox, "--store", str(place / "elsewhere"))
        assert not root_host.store.exists()
    else:
        root_host.create("one", busybox)
    expected = place / "elsewhere" if way == "--store" else root_host.store
    assert direct.inspect(root_host, "one")["store"] == str(expected)
    assert all((expected / part).exists() for part in direct.inspect(root_host, "one")["parts"])
    assert expected.stat().st_mode & 0o777 == 0o700


def test_quiet_and_verbose(root_host: Host, busybox: str) -> None:
    quiet = root_host.create("one", busybox, "--quiet")
    assert quiet.stderr == quiet.stdout == b""
    normal = root_host.create("two", busybox)
    assert normal.stderr.decode().splitlines()[-1].startswith("lxc-oci-py: created two from oci:")
    verbose = root_host.create("three", busybox, "--verbose").stderr.decode()
    assert "lxc-oci-py: storage: " in verbose and "lxc-oci-py: image sha256:" in verbose


# --- the image is kept once ------------------------------------------------------------------------------------


def test_a_second_container_shares_the_image(any_host: Host, busybox: str) -> None:
    first = any_host.create("one", busybox)
    begin = time.monotonic()
    second = any_host.create("two", busybox)
    assert time.monotonic() - begin < 5
    assert b"layer 1" in first.stderr and b"layer 1" not in second.stderr
    assert direct.inspect(any_host, "one")["parts"] == direct.inspect(any_host, "two")["parts"] != []
    any_host.execute("one", "/bin/sh", "-c", "echo changed > /etc/passwd")
    assert any_host.execute("two", "/bin/cat", "/etc/passwd").startswith(b"root:")


def test_a_name_with_dots_and_a_path_with_spaces(root_host: Host, place: Path, busybox: str) -> None:
    root_host.lxcpath = place / "my containers"
    root_host.lxcpath.mkdir()
    root_host.create("web.example-1_a", busybox)
    assert root_host.execute("web.example-1_a", "/bin/hostname") == b"web.example-1_a\n"


@pytest.mark.parametrize("char", [",", ":"])
def test_a_path_that_overlayfs_cannot_carry_gets_files_of_its_own(
    root_host: Host, place: Path, busybox: str, char: str
) -> None:
    root_host.lxcpath = place / f"a{char}b"
    root_host.lxcpath.mkdir()
    done = root_host.create("one", busybox, "-v")
    assert b"storage: flat: " in done.stderr
    if char == ",":
        assert root_host.execute("one", "/bin/echo", "ran") == b"ran\n"


def test_a_backslash_gets_files_of_its_own(root_host: Host, place: Path, busybox: str) -> None:
    done = root_host.create("one", busybox, "--store", f"{place}/back\\slash", "-v")
    assert b"storage: flat: " in done.stderr
    assert root_host.execute("one", "/bin/echo", "ran") == b"ran\n"
