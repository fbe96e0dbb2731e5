# SPDX-License-Identifier: LGPL-2.1-or-later
"""Argument vector, environment, directory and user arrive in a real container as the image says, byte for byte."""

import os
import shutil
from pathlib import Path

import pytest

from lxc_oci.container.overrides import Overrides
from lxc_oci.image.config import ImageConfig
from tests.support import need
from tests.support.guestbox import Box, image_config, make_rootfs

VERBS = ("lxc-start", "lxc-execute")
PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
# LXC's own: the mark of a container, and the terminals that it made.
LXCS = (b"container", b"container_ttys")

ARGUMENTS = {
    "plain": ("a", "-b", "c=d"),
    "spaces": ("daemon off;", " leading", "trailing ", "  "),
    "tab": ("a\tb", "\t"),
    "empty": ("", "x", ""),
    "single-quotes": ("it's", "'quoted'", "'"),
    "double-quotes": ('say "hi"', '"quoted"', '"'),
    "both-quotes": ("""a'b"c d""", """'"'"""),
    "shell": ("*", "$HOME", "$(id)", "`id`", ";", "|", "\\", "\\n", "#", "~"),
    "newlines": ("a\nb", "\r", "\r\n", "\x01\x1b[31m\x7f"),
    "utf-8": ("Grüße", "日本語", "\u2028", "\u0085", "\u00a0"),
    "10-kB": ("x" * 10_000,),
    "100-kB": ("y" * 100_000, " z" * 5_000),
    "many": tuple(str(number) for number in range(3000)),
}

ENVIRONMENT = {
    "plain": {"A": "b", "EMPTY": "", "EQUALS": "a=b=c"},
    "spaces": {"A": " b ", "B": "\tc\t", "C": "   "},
    "quotes": {"A": '"x"', "B": "'x'", "C": "'x\"", "D": '"'},
    "names": {"discovery.type": "single-node", "a-b": "1", "lower": "2", "0": "3", "W S": "4", '"': "5"},
    "newlines": {
        "KEY": "-----BEGIN-----\nabc\n-----END-----\n",
        "CR": "a\rlxc.hook.pre-start = /bin/false",
        "ESC": "\x1b",
    },
    "steering": {"LD_PRELOAD": "/lib/x.so", "BASH_ENV": "/x", "PYTHONPATH": "/p", "LXC_NAME": "other", "ENV": ""},
    "path": {"PATH": "/tmp/bin:/usr/sbin:/usr/bin:/sbin:/bin:relative"},
    "home": {"HOME": "/tmp"},
    "utf-8": {"A": "Grüße 日本語 \u2028\u0085"},
    "long": {"A": "v" * 100_000},
    "many": {f"V{number}": str(number) for number in range(2000)},
}


@pytest.fixture
def box(place: Path) -> Box:
    need.root()
    made = Box(place / "lxc path")
    make_rootfs(made.rootfs)
    return made


def dumping(*arguments: str, **members: object) -> ImageConfig:
    """An image whose command leaves what it was given in /out."""
    members.setdefault("env", (PATH,))
    return image_config(entrypoint=("/bin/sh", "/dump"), cmd=arguments, **members)


def check_environment(environment: dict[bytes, bytes], expected: dict[str, str]) -> None:
    found = {name: value for name, value in environment.items() if name not in LXCS}
    assert environment[b"container"] == b"lxc"
    assert found == {name.encode(): value.encode() for name, value in expected.items()}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_arguments_arrive(box: Box, verb: str, arguments: tuple[str, ...]) -> None:
    box.make(dumping(*arguments))
    ran = box.run(verb)
    assert ran.argv == [word.encode() for word in ("/bin/sh", "/dump", *arguments)]
    check_environment(ran.environment, {"PATH": PATH[5:], "HOME": "/"})


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("variables", ENVIRONMENT.values(), ids=ENVIRONMENT.keys())
def test_environment_arrives(box: Box, verb: str, variables: dict[str, str]) -> None:
    expected = {"PATH": PATH[5:], "HOME": "/", **variables}
    box.make(dumping("x", env=tuple(f"{name}={value}" for name, value in expected.items())))
    ran = box.run(verb)
    check_environment(ran.environment, expected)
    assert ran.argv == [b"/bin/sh", b"/dump", b"x"]


@pytest.mark.parametrize("verb", VERBS)
def test_program_is_found_in_the_guests_path(box: Box, verb: str) -> None:
    (box.rootfs / "opt").mkdir()
    (box.rootfs / "opt/tool").write_text("#!/bin/sh\n. /dump\n")
    (box.rootfs / "opt/tool").chmod(0o755)
    for argument in ("plain", "two words", "line\nend"):
        box.make(image_config(entrypoint=("tool", argument), env=("PATH=/nothing:/bin/busybox:/opt:/bin",)))
        assert box.run(verb).argv == [b"/bin/sh", b"/opt/tool", argument.encode()]
    assert box.warnings == []


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("length", (4095, 4096))
def test_execute_key_at_its_limit(box: Box, verb: str, length: int) -> None:
    arguments = ("a" * (length - len("/bin/sh /dump ")),)
    planned = box.make(dumping(*arguments))
    assert bool(planned.wrapper) == (length > 4095)
    assert box.run(verb).argv[2] == arguments[0].encode()


@pytest.mark.parametrize("verb", VERBS)
def test_image_without_a_shell(place: Path, verb: str) -> None:
    need.root()
    made = Box(place / "lxc")
    (made.rootfs / "out").mkdir()
    shutil.copy(need.program("busybox"), made.rootfs / "awk")
    for directory in ("bin", "proc", "sys", "dev", "etc"):
        assert not (made.rootfs / directory).exists()
    program = 'BEGIN { for (i = 1; i < ARGC; i++) printf "%s|", ARGV[i] > "/out/argv" }'
    made.make(image_config(entrypoint=("/awk", program, "daemon off;", 'it\'s "both"', "a\nb", "")))
    made.run(verb)
    assert (made.rootfs / "out/argv").read_text() == 'daemon off;|it\'s "both"|a\nb||'


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("owner", (0, 1000), ids=("roots-parents", "own-parents"))
def test_user_groups_and_directory(box: Box, verb: str, owner: int) -> None:
    (box.rootfs / "etc").mkdir()
    (box.rootfs / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/srv/my app:/bin/sh\n")
    (box.rootfs / "etc/group").write_text("root:x:0:\napp:x:1001:\ndata:x:2000:app,other\nnone:x:2001:apple\n")
    (box.rootfs / "srv/my app").mkdir(parents=True)
    (box.rootfs / "srv/link").symlink_to("/srv/my app")
    for name in ("srv", "srv/my app"):
        (box.rootfs / name).chmod(0o755)
        os.chown(box.rootfs / name, owner, owner)
    planned = box.make(dumping(user="app", working_dir="/srv/link/./sub"))
    ran = box.run(verb)
    assert ran.id == "uid=1000(app) gid=1001(app) groups=2000(data)"
    assert ran.cwd == "/srv/my app/sub"
    assert ran.environment[b"HOME"] == b"/srv/my app"
    assert bool(planned.wrapper) == (owner != 0), "LXC enters a directory only where nobody can swap it"


def test_missing_program_is_said(box: Box) -> None:
    box.make(image_config(entrypoint=("/bin/missing", "a\nb")))
    assert box.warnings == ["the image has no program '/bin/missing' that can be run"]
    assert box.run("lxc-execute", status=127).errors.startswith(b"lxc-oci-py: cannot run /bin/missing: errno 2")
    box.run("lxc-start", status=None)
    log = (box.directory / "console.log").read_text()
    assert log.splitlines()[-1] == "lxc-oci-py: cannot run /bin/missing: errno 2"


def test_user_variables_win_and_are_kept_apart(box: Box) -> None:
    overrides = Overrides(env=(("A", "user"), ("B", "two")), entrypoint=("/bin/sh", "/dump", "mine"))
    box.make(dumping("image", env=(PATH, "A=image", "A=again", "C=three")), overrides)
    ran = box.run()
    check_environment(ran.environment, {"PATH": PATH[5:], "HOME": "/", "A": "user", "B": "two", "C": "three"})
    assert ran.argv == [b"/bin/sh", b"/dump", b"mine"]
    text = (box.directory / "config").read_text()
    image, _, options = text.partition("# lxc-oci-py: end image block")
    assert "C=three" in image and "A=" not in image
    assert "A=user" in options and "B=two" in options


def test_shared_memory_and_small_files(box: Box) -> None:
    (box.rootfs / "dump").write_text(
        "touch /dev/shm/x && stat -c %a /dev/shm > /out/shm; cat /etc/hostname /etc/hosts > /out/hosts"
    )
    box.make(dumping())
    out = box.run().out
    assert (out / "shm").read_text() == "1777\n"
    assert (out / "hosts").read_text().startswith("box\n127.0.0.1\tlocalhost\n127.0.1.1\tbox\n")
