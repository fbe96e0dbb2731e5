# SPDX-License-Identifier: LGPL-2.1-or-later
"""`lxc-oci-py logs`: order, rotation, following, and nothing that steers a terminal."""

import argparse
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lxc_oci.errors import OciError, UsageError
from lxc_oci.log import Log
from lxc_oci.verbs import logs

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def container(tmp_path: Path) -> Path:
    made = tmp_path / "web"
    made.mkdir()
    (made / "config").write_text(f"lxc.console.logfile = {made}/console.log\n")
    return made


def show(container: Path, capfdbinary: pytest.CaptureFixture[bytes], name: str = "web") -> bytes:
    arguments = argparse.Namespace(name=name, lxcpath=str(container.parent), follow=False)
    assert logs.run(arguments, Log()) == 0
    return capfdbinary.readouterr().out


def test_the_rotated_file_comes_first(container: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (container / "console.log").write_bytes(b"new\r\n\xff\x1b[1m")
    assert show(container, capfdbinary) == b"new\r\n\xff\x1b[1m"
    (container / "console.log.1").write_bytes(b"old\r\n")
    assert show(container, capfdbinary) == b"old\r\nnew\r\n\xff\x1b[1m"


def test_a_terminal_is_not_steered() -> None:
    target = io.BytesIO()
    printer = logs._Printer(target, terminal=True)
    printer.copy(io.BytesIO("grün\r\n\x1b]0;pwned\x07\ttab\x9b2J\u202e".encode() + b"\xff"))
    assert target.getvalue().decode() == "grün\n\\x1b]0;pwned\\x07\ttab\\x9b2J\\u202e\ufffd"


@pytest.mark.parametrize("name", ("", "..", "a/b"))
def test_what_is_no_name(container: Path, name: str) -> None:
    with pytest.raises(UsageError):
        logs.run(argparse.Namespace(name=name, lxcpath=str(container.parent), follow=False), Log())


def test_what_there_is_not(container: Path) -> None:
    for name, text in (("none", "no container"), ("web", "no log yet")):
        with pytest.raises(OciError, match=text):
            logs.run(argparse.Namespace(name=name, lxcpath=str(container.parent), follow=False), Log())
    os.mkfifo(container / "console.log")
    with pytest.raises(OciError, match="regular"):
        logs.run(argparse.Namespace(name="web", lxcpath=str(container.parent), follow=False), Log())
    (container / "config").write_text("")
    with pytest.raises(OciError, match="not logged"):
        logs.run(argparse.Namespace(name="web", lxcpath=str(container.parent), follow=False), Log())


def test_following_over_a_rotation(container: Path) -> None:
    log = container / "console.log"
    program = (
        "import sys, argparse; sys.path[:0] = eval(sys.argv[2])\n"
        "from lxc_oci.verbs import logs\nfrom lxc_oci.log import Log\n"
        "logs.run(argparse.Namespace(name='web', lxcpath=sys.argv[1], follow=True), Log())"
    )
    argv = [sys.executable, "-c", program, str(container.parent), repr([str(CHECKOUT), *sys.path])]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        try:
            with log.open("ab", buffering=0) as file:
                file.write(b"one\n")
                assert follower.stdout.readline() == b"one\n"
                file.write(b"two\n")
                assert follower.stdout.readline() == b"two\n"
                log.rename(container / "console.log.1")
                file.write(b"three\n")
            with log.open("ab", buffering=0) as file:
                file.write(b"four\n")
                assert follower.stdout.readline() == b"three\n"
                assert follower.stdout.readline() == b"four\n"
            log.write_bytes(b"cut\n")
            assert follower.stdout.readline() == b"cut\n"
        finally:
            follower.terminate()
