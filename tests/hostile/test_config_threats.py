# SPDX-License-Identifier: LGPL-2.1-or-later
"""Image configurations written to get out: one test per threat C01 to C20, read back by the real liblxc.

A value that LXC cannot hold is refused or goes to the guest by the wrapper; in no case does it become another
line, another file, or another program of the host.
"""

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from lxc_oci import log
from lxc_oci.container import guest, lxcconfig, users
from lxc_oci.container.idmap import ContainerMap, Range
from lxc_oci.container.overrides import Overrides, VolumeOption
from lxc_oci.errors import OciError, RefusedError, UsageError
from lxc_oci.image import config as configs
from lxc_oci.kernel.root import Root
from lxc_oci.limits import Limits
from tests.support import need
from tests.support.guestbox import Box, image_config, make_rootfs

LINE_ENDS = ("\n", "\r", "\r\n", "\n\r")
INJECTED = "lxc.hook.pre-start = /bin/touch /nonexistent"
ARGUMENTS = ("/bin/sh", "/dump")


@pytest.fixture
def box(tmp_path: Path) -> Box:
    made = Box(tmp_path / "lxc")
    make_rootfs(made.rootfs)
    return made


def keys(box: Box) -> set[str]:
    return {line.key for line in lxcconfig.parse((box.directory / "config").read_bytes())}


def value(box: Box, key: str) -> str:
    (found,) = box.effective(key)
    return found


# --- C01, C02: line ends and NUL ---------------------------------------------------------------------------------

FIELDS = {
    "Env value": lambda bad: {"env": (f"A={bad}",)},
    "Env name": lambda bad: {"env": (f"A{bad}=x",)},
    "WorkingDir": lambda bad: {"working_dir": f"/x{bad}"},
    "User": lambda bad: {"user": f"root{bad}"},
    "Entrypoint": lambda bad: {"entrypoint": ("/bin/sh", f"a{bad}")},
    "program": lambda bad: {"entrypoint": (f"/bin/sh{bad}",)},
    "Cmd": lambda bad: {"entrypoint": (), "cmd": ("/bin/sh", bad)},
    "StopSignal": lambda bad: {"stop_signal": f"SIGTERM{bad}"},
    "Volumes": lambda bad: {"volumes": (f"/data{bad}",)},
    "Labels": lambda bad: {"labels": {f"k{bad}": f"v{bad}"}},
    "ExposedPorts": lambda bad: {"exposed_ports": (f"80/tcp{bad}",)},
    "author": lambda bad: {"author": bad, "created": bad},
    "Healthcheck": lambda bad: {"healthcheck": ("CMD", bad)},
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("end", [*LINE_ENDS, "\u2028", "\u0085", "\v", "\f", "\x1c"], ids=repr)
def test_c01_line_ends_add_no_line(box: Box, field: str, end: str) -> None:
    try:
        box.make(image_config(**{"entrypoint": ARGUMENTS, **FIELDS[field](f"{end}{INJECTED}")}))
    except OciError:
        assert not (box.directory / "config").exists()
        return
    assert box.effective("lxc.hook.pre-start") == []
    box.make(image_config(entrypoint=ARGUMENTS))
    plain = keys(box)
    box.make(image_config(**{"entrypoint": ARGUMENTS, **FIELDS[field](f"{end}{INJECTED}")}))
    assert keys(box) <= plain | {"lxc.mount.entry", "lxc.mount.fstab"}


@pytest.mark.parametrize("byte", [*range(0x20), 0x7F])
def test_c01_every_control_byte(box: Box, byte: int) -> None:
    """Whatever the byte, the real parser sees one line with all of the value, or the writer refuses."""
    line = lxcconfig.Line("lxc.environment", f"A=x{chr(byte)}y")
    if byte == 0x09:
        (box.directory / "config").write_bytes(lxcconfig.render(line))
        assert box.effective("lxc.environment") == ["A=x\ty"]
    else:
        with pytest.raises(RefusedError, match=r"lxc\.environment"):
            lxcconfig.render(line)


def test_c01_only_listed_keys() -> None:
    for key in ("lxc.apparmor.profile", "lxc.idmap", "lxc.hook.mount", "lxc.environment\nlxc.x", "lxc.net.0.link", ""):
        with pytest.raises(RefusedError):
            lxcconfig.render(lxcconfig.Line(key, "x"))


@pytest.mark.parametrize("field", FIELDS)
def test_c02_nul_hides_no_line(box: Box, field: str) -> None:
    try:
        box.make(image_config(**{"entrypoint": ARGUMENTS, **FIELDS[field]("\0")}))
    except OciError:
        return
    assert b"\0" not in (box.directory / "config").read_bytes()
    assert "mac_admin" in box.effective("lxc.cap.drop")


# --- C03, C04, C05: what LXC makes of values ---------------------------------------------------------------------


def test_c03_no_variable_of_the_host(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_HOST", "leaked")
    box.make(image_config(entrypoint=ARGUMENTS, env=("SECRET_OF_HOST", "NOPE", "=x", "", "OK=1")))
    assert not [entry for entry in box.effective("lxc.environment") if "leaked" in entry or "NOPE" in entry]
    assert "OK=1" in box.effective("lxc.environment")
    assert len(box.warnings) == 4


@pytest.mark.parametrize(
    "variable", ("A= b ", 'A="x"', "A='x\"", "A=", 'A="', "'A'=x'", ' A= "', "A=\tx\t", "A=#x", "A=x # y"), ids=repr
)
def test_c04_no_trimming_and_no_unquoting(box: Box, variable: str) -> None:
    box.make(image_config(entrypoint=ARGUMENTS, env=(variable,)))
    found = (box.directory / "config").read_bytes()
    assert lxcconfig.Line("lxc.environment", variable) in lxcconfig.parse(found)
    # lxc-info prints the value as it is held; its own output is one variable a line.
    assert variable in box.effective("lxc.environment")


@pytest.mark.parametrize(
    "word", ("daemon off;", '"', "'", "\"'", "", "*", "\\", "a\\ b", "--x='y z'", "\t", "a\nb", "$(id)"), ids=repr
)
def test_c05_words_are_not_split_again(box: Box, word: str) -> None:
    arguments = ("/bin/sh", "/dump", word, "end")
    for major in (5, 6, 7):
        planned = box.make(image_config(entrypoint=arguments), lxc_major=major)
        for key, splitter in (
            ("lxc.init.cmd", split_at_spaces if major < 6 else split_quoted),
            ("lxc.execute.cmd", split_quoted),
        ):
            found = splitter(lxcconfig.last(planned.lines, key))
            assert found == list(arguments) or (found == [guest.WRAPPER] and planned.wrapper)


def split_at_spaces(text: str) -> list[str]:
    """LXC 5's split_init_cmd."""
    return [word for word in text.split(" ") if word]


def split_quoted(text: str) -> list[str]:
    """lxc_string_split_quoted, letter by letter."""
    words, word, state = [], "", " "
    for letter in text:
        if state == " ":
            if letter in " \t\n\v\f\r":
                continue
            state = letter if letter in "\"'" else "a"
            word = "" if state != "a" else letter
        elif (state == "a" and letter in " \t\n\v\f\r") or letter == state != "a":
            words.append(word)
            state = " "
        else:
            word += letter
    return [*words, word] if state == "a" else words


# --- C06, C07: nothing of an image or a name is run --------------------------------------------------------------


@pytest.mark.parametrize("name", ("a;touch x", "$(id)", "a b", "`id`", "a'b"))
def test_c06_no_shell_sees_a_name(tmp_path: Path, name: str) -> None:
    """A hook's value is a fixed path; a container's name never gets as far as a configuration."""
    box = Box(tmp_path / "$(touch pwned) x")
    make_rootfs(box.rootfs)
    planned = box.make(image_config(entrypoint=("/bin/sh", "a\nb"), labels={"hook": name}))
    assert not [line for line in planned.lines if line.key.startswith("lxc.hook.")]
    mounts = box.effective("lxc.mount.entry")
    assert any(entry.split(" ")[0].endswith("/$(touch\\040pwned)\\040x/box/oci-py/guest") for entry in mounts)
    with pytest.raises(UsageError):
        Box(tmp_path / "lxc", name).plan(image_config(entrypoint=ARGUMENTS))


def test_c07_labels_choose_nothing(box: Box) -> None:
    plain = box.plan(image_config(entrypoint=ARGUMENTS))
    labels = {"org.opencontainers.image.ref.name": "/etc/shadow:x,lowerdir=/", "a,b": "c\\d:e"}
    ports = ("80/tcp", "/etc/passwd")
    assert box.plan(image_config(entrypoint=ARGUMENTS, labels=labels, exposed_ports=ports)) == plain


@pytest.mark.parametrize("name", ("a,b", "a:b", "a\\b", "a,lowerdir=/etc:x\\,y"))
def test_c07_u24_u28_u30_names_of_directories_are_no_mount_options(tmp_path: Path, name: str) -> None:
    need.root()
    place = tmp_path / name
    for part in ("lower", "upper", "work", "target"):
        (place / part).mkdir(parents=True)
    (place / "lower/of-lower").write_text("x")
    code = (
        "import sys; from lxc_oci.rootfs import overlay\n"
        "overlay.private_namespace()\n"
        "import os; names = [f'{sys.argv[1]}/{part}' for part in ('lower', 'upper', 'work', 'target')]\n"
        "with overlay.mounted(*names):\n"
        "    print(os.listdir(names[3]))\n"
        "    print(next(line for line in open('/proc/self/mountinfo') if ' - overlay ' in line and 'target' in line))"
    )
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = ["/usr/bin/python3", "-c", code, str(place)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    listed, mount = done.stdout.splitlines()[:2]
    assert listed == "['of-lower']"
    options = set(mount.replace(" ", ",").split(","))
    # Nothing in a layer may lead to another file of it; what is off by default is not listed.
    assert {"nosuid", "nodev", "noexec", "redirect_dir=nofollow"} <= options
    assert not {"index=on", "metacopy=on", "nfs_export=on", "redirect_dir=on"} & options


# --- C08, C09, C10: users ----------------------------------------------------------------------------------------


def identify(box: Box, text: str, idmap: ContainerMap | None = None) -> users.Identity:
    with Root.at(str(box.rootfs)) as root:
        return users.identify(text, root, idmap, Limits())


def passwd(box: Box, text: str, group: str = "") -> None:
    (box.rootfs / "etc").mkdir(exist_ok=True)
    (box.rootfs / "etc/passwd").write_text(text)
    (box.rootfs / "etc/group").write_text(group)


@pytest.mark.parametrize(
    "text",
    (
        "../..",
        ".*",
        "*",
        "root\n",
        "root\r",
        "0:",
        ":0",
        ":",
        "a:b:c",
        "unknown",
        "root:unknown",
        "ro",
        "Root",
        " root",
        "-1",
        "0x0",
        "+0",
        "٣",
    ),
)
def test_c08_malformed_and_unknown_users(box: Box, text: str) -> None:
    passwd(box, "root:x:0:0::/root:/bin/sh\n", "root:x:0:\n")
    with pytest.raises(RefusedError):
        identify(box, text)


@pytest.mark.parametrize("number", ("4294967296", "2147483648", "4294967295", "9" * 30, "0" * 20))
def test_c09_numbers_do_not_wrap(box: Box, number: str) -> None:
    passwd(box, f"{number}:x:0:0::/:\nwrap:x:{number}:0::/:\nneg:x:-1:0::/:\n", f"big:x:{number}:\n")
    for text in (number, f"0:{number}", "wrap", "neg", "0:big"):
        with pytest.raises(RefusedError):
            identify(box, text)


def test_c09_a_number_is_no_name(box: Box) -> None:
    passwd(box, "1000:x:0:0::/:\napp:x:1000:7::/home/app:\n", "7:x:0:\n")
    assert identify(box, "1000") == users.Identity(1000, 7, (), "/home/app")
    assert identify(box, "1000:7").gid == 7
    assert identify(box, "00").uid == 0
    assert identify(box, "2147483647").uid == 2147483647


def test_c09_ids_outside_the_map(box: Box) -> None:
    mapped = ContainerMap((Range(0, 100000, 1000),), (Range(0, 100000, 1000),))
    passwd(box, "app:x:999:999::/:\nfar:x:1000:0::/:\nout:x:1:1000::/:\nin:x:2:2::/:\n", "g:x:5000:in\n")
    assert identify(box, "app", mapped).uid == 999
    for text in ("far", "out", "in", "1000", "0:1000"):
        with pytest.raises(RefusedError, match="id map"):
            identify(box, text, mapped)


def test_c10_user_database_that_is_none(box: Box) -> None:
    etc = box.rootfs / "etc"
    etc.mkdir()
    secret = box.lxcpath / "host-passwd"
    secret.write_text("host:x:4242:4242::/:\n")
    for kind in ("host link", "relative link", "fifo", "socket", "directory", "device", "huge", "loop"):
        if kind == "host link":
            (etc / "passwd").symlink_to(secret)
        elif kind == "relative link":
            (etc / "passwd").symlink_to("../../../host-passwd")
        elif kind == "fifo":
            os.mkfifo(etc / "passwd")
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as made:
                os.chdir(etc)
                made.bind("passwd")
                os.chdir("/")
        elif kind == "directory":
            (etc / "passwd").mkdir()
        elif kind == "device":
            need.root()
            os.mknod(etc / "passwd", 0o20666, os.makedev(4095, 5))  # opening it would fail: there is no driver
        elif kind == "huge":
            with (etc / "passwd").open("wb") as file:
                file.truncate(1 << 30)
        else:
            (etc / "passwd").symlink_to("passwd")
        with pytest.raises(RefusedError, match="regular file" if kind == "device" else ""):
            identify(box, "host")
        (etc / "passwd").rmdir() if kind == "directory" else (etc / "passwd").unlink()


def test_c10_link_inside_the_image(box: Box) -> None:
    (box.rootfs / "etc").mkdir()
    (box.rootfs / "nix/store").mkdir(parents=True)
    (box.rootfs / "nix/store/passwd").write_text("app:x:12:34::/:\n")
    (box.rootfs / "etc/passwd").symlink_to("/nix/store/passwd")
    assert identify(box, "app") == users.Identity(12, 34)


# --- C11 … C14: paths in the root --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ("etc/hosts", "etc/hostname", "etc/resolv.conf", "etc"))
@pytest.mark.parametrize("kind", ("absolute", "relative", "dangling", "directory", "fifo"))
def test_c11_files_of_the_host_stay(box: Box, place: str, kind: str) -> None:
    outside = box.lxcpath / "outside"
    outside.mkdir()
    for name in ("hosts", "hostname", "resolv.conf"):
        (outside / name).write_text("host's own")
    victim = outside if place == "etc" else outside / os.path.basename(place)
    target = box.rootfs / place
    target.parent.mkdir(exist_ok=True)
    if kind == "absolute":
        target.symlink_to(victim)
    elif kind == "relative":
        target.symlink_to(os.path.join("../" * 20, str(victim)[1:]))
    elif kind == "dangling":
        target.symlink_to("/nowhere/to/be/found")
    elif kind == "directory":
        (target / "below").mkdir(parents=True)
    else:
        os.mkfifo(target)
    box.make(image_config(entrypoint=ARGUMENTS))
    for name in ("hosts", "hostname", "resolv.conf"):
        assert (outside / name).read_text() == "host's own"
        written = box.rootfs / "etc" / name
        assert (place.endswith(name) and name == "resolv.conf") or (written.is_file() and not written.is_symlink())
    assert (box.rootfs / "etc").is_dir() and not (box.rootfs / "etc").is_symlink()
    assert (box.rootfs / "etc/hostname").read_text() == "box\n"


def test_c11_a_linked_etc_keeps_its_content(box: Box) -> None:
    (box.rootfs / "usr/etc").mkdir(parents=True)
    (box.rootfs / "usr/etc/passwd").write_text("app:x:5:5::/:\n")
    (box.rootfs / "etc").symlink_to("usr/etc")
    box.make(image_config(entrypoint=ARGUMENTS, user="app"))
    assert (box.rootfs / "etc/passwd").read_text() == "app:x:5:5::/:\n"
    assert not (box.rootfs / "usr/etc/hostname").exists()


@pytest.mark.parametrize("name", ("proc", "sys", "dev", ".oci-py"))
def test_c12_mount_points_that_are_links(box: Box, name: str) -> None:
    """LXC refuses to mount through a link; create makes none of its own and follows none."""
    outside = box.lxcpath / "outside"
    outside.mkdir()
    (box.rootfs / name).symlink_to(outside)
    box.make(image_config(entrypoint=("/bin/sh", "a\nb"), volumes=("/data",)))
    assert list(outside.iterdir()) == []
    if name == ".oci-py":
        assert (box.rootfs / name).is_dir() and not (box.rootfs / name).is_symlink()


@pytest.mark.parametrize(
    "path",
    (
        "/../../etc",
        "/a/../b",
        "/",
        "//",
        "/.",
        "/proc",
        "/proc/self",
        "/sys/x",
        "/dev",
        "/dev/shm",
        "/.oci-py",
        "/x\ny",
        "/to-proc",
        "/loop",
        "/bin/busybox",
        "/dump/x",
    ),
)
def test_c13_volumes_that_are_refused(box: Box, path: str) -> None:
    (box.rootfs / "to-proc").symlink_to("proc/1")
    (box.rootfs / "loop").symlink_to("loop")
    try:
        planned = box.make(image_config(entrypoint=ARGUMENTS, volumes=(path,)))
        assert planned.mounts.volumes == () and len(box.warnings) == 1, "left out: it is LXC's own"
        assert not (box.rootfs / "proc").exists()
    except RefusedError:
        assert not (box.directory / "config").exists()
    with pytest.raises(OciError):
        box.make(image_config(entrypoint=ARGUMENTS), Overrides(volumes=(VolumeOption(str(box.lxcpath), path),)))


def test_c13_volumes_through_links_stay_inside(box: Box) -> None:
    outside = box.lxcpath / "outside"
    outside.mkdir()
    (outside / "secret").write_text("host's own")
    (box.rootfs / "data").symlink_to(outside)
    planned = box.make(image_config(entrypoint=ARGUMENTS, volumes=("/data/#a b",)))
    (volume,) = planned.mounts.volumes
    assert volume.target == f"{outside}/#a b"
    assert (box.rootfs / volume.target[1:]).is_dir()
    assert list((box.directory / "oci-py/volumes" / volume.name).iterdir()) == []
    assert list(outside.iterdir()) == [outside / "secret"]


@pytest.mark.parametrize(
    "path",
    (
        "relative",
        "../../proc/self/fd/8",
        "/proc/self/fd/8",
        "/a/../../proc",
        "/to-fd",
        "/to-fd/x",
        "/x\ry",
        "/dump",
        "/dump/x",
        "/sys",
        "/loop",
    ),
)
def test_c14_working_directories_that_are_refused(box: Box, path: str) -> None:
    (box.rootfs / "to-fd").symlink_to("/proc/self/fd/8")
    (box.rootfs / "loop").symlink_to("/loop")
    with pytest.raises(RefusedError):
        box.make(image_config(entrypoint=ARGUMENTS, working_dir=path))


def test_c14_missing_directory_is_made_inside(box: Box) -> None:
    outside = box.lxcpath / "outside"
    outside.mkdir()
    (box.rootfs / "srv").symlink_to(outside)
    box.make(image_config(entrypoint=ARGUMENTS, working_dir="/srv//a b/./c"))
    assert value(box, "lxc.init.cwd") == f"{outside}/a b/c"
    assert list(outside.iterdir()) == []
    assert (box.rootfs / str(outside)[1:] / "a b/c").is_dir()


@pytest.mark.parametrize("number", (6, 17, 47))
def test_c14_no_descriptor_of_the_host_as_directory(box: Box, number: int) -> None:
    """LXC 5 and 6 change the directory while they hold the host's: a swapped directory must not lead there."""
    need.root()
    os.chmod(box.lxcpath.parent, 0o755)
    (box.rootfs / "home/app/web").mkdir(parents=True)
    os.chown(box.rootfs / "home/app", 1000, 1000)
    passwd(box, "app:x:1000:1000::/home/app:\n")
    planned = box.make(image_config(entrypoint=ARGUMENTS, working_dir="/home/app/web", user="app"))
    assert value(box, "lxc.init.cwd") == "/"
    assert planned.wrapper
    # What the application may do before the next start:
    (box.rootfs / "home/app/web").rmdir()
    (box.rootfs / "home/app/web").symlink_to(f"/proc/self/fd/{number}")
    box.run(status=None)
    assert not (box.rootfs / "out/cwd").exists(), "the wrapper could enter the directory"
    assert "cannot enter /home/app/web" in (box.directory / "console.log").read_text()


# --- C15, C16: the environment -----------------------------------------------------------------------------------

STEERING = {
    "LD_PRELOAD": "/evil.so",
    "LD_LIBRARY_PATH": "/evil",
    "LD_AUDIT": "/evil.so",
    "GLIBC_TUNABLES": "x",
    "GCONV_PATH": "/evil",
    "LOCPATH": "/evil",
    "BASH_ENV": "/evil",
    "ENV": "/evil",
    "IFS": "/",
    "PYTHONPATH": "/evil",
    "PYTHONSTARTUP": "/evil",
    "PERL5OPT": "-Mevil",
    "RUBYOPT": "-revil",
    "NODE_OPTIONS": "--require /evil",
    "LXC_ROOTFS_PATH": "/evil",
    "LXC_CONFIG_FILE": "/evil",
    "LANGUAGE": "../../../evil",
    "TEXTDOMAINDIR": "/evil",
    "TAR_OPTIONS": "--checkpoint-action=exec=evil",
    "APT_CONFIG": "/evil",
    "XTABLES_LIBDIR": "evil",
    "MODPROBE_OPTIONS": "-C /evil",
    "RSYNC_RSH": "evil",
    "WGETRC": "/tmp/evil",
    "SSLKEYLOGFILE": "/evil",
    "PHP_INI_SCAN_DIR": "/evil",
    "NOBODY_KNOWS": "../evil",
    "BASH_FUNC_ls%%": "() { :; }",
    "X": "() { :; }",
}


@pytest.mark.parametrize("by", ("image", "user"))
def test_c15_hooks_of_the_host_are_not_steered(box: Box, by: str) -> None:
    need.root()
    path = f"{box.rootfs}/bin:/proc/self/root/bin:/tmp:/usr/sbin:/usr/bin:/sbin:/bin::."
    # Whatever the name: a file that the image brought can be named, since the store's names are digests.
    evil = {**STEERING, "OF_THE_IMAGE": f"x={box.rootfs}/evil", "OF_ANYBODY": "/tmp/evil"}
    variables = {**evil, "PATH": path, "HARMLESS": "1", "PGDATA": "/var/lib/postgresql/data"}
    if by == "image":
        box.make(image_config(entrypoint=ARGUMENTS, env=tuple(f"{name}={text}" for name, text in variables.items())))
    else:
        box.make(image_config(entrypoint=ARGUMENTS), Overrides(env=tuple(variables.items())))
    hook = box.lxcpath / "hook"
    seen = box.lxcpath / "seen"
    hook.write_text(f"#!/bin/sh\ncat /proc/self/environ > {seen}.$3\n")
    hook.chmod(0o755)
    stages = ("pre-start", "pre-mount", "mount", "autodev", "start-host", "stop", "post-stop")
    with (box.directory / "config").open("a") as file:
        for stage in stages:
            file.write(f"lxc.hook.{stage} = {hook}\n")
    ran = box.run()
    for name, text in variables.items():
        assert ran.environment[name.encode()] == text.encode()
    for stage in stages:
        entries = Path(f"{seen}.{stage}").read_bytes().split(b"\0")[:-1]
        found = dict(entry.partition(b"=")[::2] for entry in entries)
        for name, text in evil.items():
            assert found.get(name.encode()) != text.encode(), (stage, name)
        if stage in ("pre-mount", "mount", "autodev"):
            assert (found[b"HARMLESS"], found[b"PGDATA"]) == (b"1", b"/var/lib/postgresql/data")
        for part in found[b"PATH"].split(b":"):
            status = os.stat(part)
            assert status.st_uid == 0 and not status.st_mode & 0o002, (stage, part)
            assert not part.startswith((b"/proc", os.fsencode(box.lxcpath)))


def test_c15_lxc_7_has_a_key_for_it(box: Box) -> None:
    planned = box.plan(
        image_config(entrypoint=ARGUMENTS, env=("LD_PRELOAD=/x.so", "PATH=/tmp")),
        Overrides(env=(("IFS", "/"),)),
        lxc_major=7,
    )
    assert not planned.wrapper
    assert lxcconfig.values(planned.lines, "lxc.environment") == []
    assert lxcconfig.values(planned.lines, "lxc.environment.runtime") == [
        "LD_PRELOAD=/x.so",
        "PATH=/tmp",
        "HOME=/",
        "IFS=/",
    ]


@pytest.mark.parametrize(
    "members",
    (
        {"env": tuple(f"V{number}=x" for number in range(4097))},
        {"env": tuple(f"V{number}=x" for number in range(10_000))},
        {"env": ("A=" + "x" * 131_070,)},
        {"env": tuple(f"V{number}=" + "x" * 100_000 for number in range(11))},
        {"cmd": ("x" * 131_072,)},
        {"cmd": ("x" * 200_000,)},
        {"cmd": ("x" * 100_000,) * 11},
        {"cmd": ("x" * 104_800,) * 10, "env": tuple(f"V{number}=" + "x" * 104_800 for number in range(10))},
    ),
)
def test_c16_more_than_the_kernel_takes(box: Box, members: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(RefusedError, match=r"bytes|variables"):
        box.make(image_config(**{"entrypoint": ARGUMENTS, **members}))
    assert not (box.directory / "config").exists()


@pytest.mark.parametrize("home", ["/" + "x" * 140_000, "/a\0b"], ids=["long", "NUL"])
def test_c16_a_home_that_no_variable_can_hold(box: Box, home: str) -> None:
    """HOME comes from the image's /etc/passwd, and is a variable like those of Env."""
    passwd(box, f"app:x:5:5::{home}:/bin/sh\n")
    with pytest.raises(RefusedError, match="HOME"):
        box.make(image_config(entrypoint=ARGUMENTS, user="app"))
    assert not (box.directory / "config").exists()


def test_c16_the_largest_that_is_taken_runs(box: Box) -> None:
    need.root()
    box.make(
        image_config(
            entrypoint=ARGUMENTS,
            cmd=("x" * 131_070, *("y" * 100_000,) * 9),
            env=("PATH=/bin", *(f"V{number}={'x' * 100_000}" for number in range(8)), "LD_X=" + "z" * 131_000),
        )
    )
    ran = box.run()
    assert [len(word) for word in ran.argv[2:]] == [131_070, *[100_000] * 9]
    assert len(ran.environment[b"LD_X"]) == 131_000


# --- C17 … C20 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ("SIGTERM\nlxc.x", "SIGNOPE", "0", "32", "65", "999", "SIGRTMIN+31", "SIGRTMIN-1", "-9", "TERM ", "٣")
)
def test_c17_signals_that_are_none(box: Box, text: str) -> None:
    with pytest.raises(RefusedError, match="StopSignal"):
        box.plan(image_config(entrypoint=ARGUMENTS, stop_signal=text))


@pytest.mark.parametrize(
    "text, number", (("SIGQUIT", 3), ("quit", 3), ("3", 3), ("SIGRTMIN+3", 37), ("rtmax-1", 63), ("WINCH", 28))
)
def test_c17_signals_reach_lxc(box: Box, text: str, number: int) -> None:
    box.make(image_config(entrypoint=ARGUMENTS, stop_signal=text))
    assert value(box, "lxc.signal.halt") == str(number)


CORPUS = {
    "Env is a string": {"Env": "A=b"},
    "Env has null": {"Env": [None]},
    "Env has a number": {"Env": [1]},
    "Entrypoint is a number": {"Entrypoint": 1},
    "Entrypoint is a string": {"Entrypoint": "/bin/sh"},
    "Cmd is an object": {"Cmd": {}},
    "Cmd is nested": {"Cmd": [["/bin/sh"]]},
    "User is a number": {"User": 0},
    "User is a list": {"User": ["root"]},
    "WorkingDir is true": {"WorkingDir": True},
    "StopSignal is 15": {"StopSignal": 15},
    "Volumes is a list": {"Volumes": ["/data"]},
    "Labels has a number": {"Labels": {"a": 1}},
    "float": {"User": 1e30},
}


@pytest.mark.parametrize("inner", CORPUS.values(), ids=CORPUS.keys())
def test_c18_wrong_types(inner: dict[str, object]) -> None:
    raw = json.dumps({"os": "linux", "architecture": "amd64", "config": inner}).encode()
    with pytest.raises(RefusedError):
        configs.parse(raw)


@pytest.mark.parametrize(
    "raw",
    (
        b'{"config": {"User": "app"}, "config": {"User": "root"}}',
        b'{"config": {"User": "app", "User": "root"}}',
        b'\xef\xbb\xbf{"config": {}}',
        b'{"config": {"User": "\\ud800"}}',
        b'{"config": {"User": NaN}}',
        b'{"config": {"User": "\xff"}}',
        b"[]",
        b"null",
        b"",
        b"[" * 100_000,
    ),
)
def test_c18_ambiguous_documents(raw: bytes) -> None:
    with pytest.raises(RefusedError):
        configs.parse(raw)


def test_c18_null_is_absent() -> None:
    raw = b'{"os":"linux","architecture":"amd64","config":{"Env":null,"Entrypoint":null,"User":null,"Volumes":null}}'
    assert configs.parse(raw).env == () and configs.parse(raw).volumes == ()


@pytest.mark.parametrize("field", FIELDS)
def test_c19_no_terminal_escape_in_a_message(box: Box, field: str) -> None:
    bad = "\x1b]0;pwned\x07\x1b[2J"
    messages = []
    try:
        box.make(image_config(**{"entrypoint": ARGUMENTS, **FIELDS[field](bad)}))
    except OciError as error:
        messages = [error.message, error.hint]
    for message in (*messages, *box.warnings):
        assert "\x1b" not in message and "\x07" not in message
    assert "\x1b" not in (log.escape(bad) if hasattr(log, "escape") else "")


@pytest.mark.parametrize("name", ("..", "-x", ".x", "x" * 300, "x" * 64, "a b", "a/b", "a\nb", "", "é", "a-"))
def test_c20_host_names(tmp_path: Path, name: str) -> None:
    box = Box(tmp_path / "lxc")
    make_rootfs(box.rootfs)
    if name:
        with pytest.raises(UsageError, match="--hostname"):
            box.plan(image_config(entrypoint=ARGUMENTS), Overrides(hostname=name))
    with pytest.raises(UsageError, match="name"):
        box.plan(image_config(entrypoint=ARGUMENTS), name=name)


@pytest.mark.parametrize("name", ("web", "web_1", "a.b-c", "0", "x" * 63))
def test_c20_host_names_that_reach_lxc(box: Box, name: str) -> None:
    box.make(image_config(entrypoint=ARGUMENTS), Overrides(hostname=name))
    assert value(box, "lxc.uts.name") == name
    assert (box.rootfs / "etc/hostname").read_text() == f"{name}\n"


def test_lxc_itself_loads_every_configuration(box: Box) -> None:
    """liblxc refuses a file with one bad line; nothing that was accepted above may be such a line."""
    box.make(
        image_config(
            entrypoint=("/bin/sh", "a b", "\n"),
            env=("A=b", "LD_PRELOAD=x", "PATH=/bin:/tmp"),
            volumes=("/data", "/with space"),
            stop_signal="SIGINT",
            user="5:6",
            working_dir="/srv",
        ),
        Overrides(env=(("B", ""),), hostname="other"),
    )
    done = subprocess.run(
        [need.program("lxc-info"), "-n", box.name, "-P", box.lxcpath, "-s"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert value(box, "lxc.init.uid") == "5" and value(box, "lxc.init.gid") == "6"
