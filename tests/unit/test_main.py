# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.__main__: what comes out of the two doors."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from lxc_oci import __main__ as main
from lxc_oci import errors
from lxc_oci.log import Log

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def door(raised: BaseException | None, *argv: str) -> int:
    def body(words: Sequence[str], log: Log) -> int:
        if raised is not None:
            raise raised
        return 0

    return main._door(body, argv)


def test_success(capfd: pytest.CaptureFixture[str]) -> None:
    assert door(None) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.OciError, 1),
        (errors.UsageError, 2),
        (errors.UnavailableError, 3),
        (errors.AccessError, 4),
        (errors.RefusedError, 5),
        (errors.NoSpaceError, 6),
        (errors.UnsupportedError, 7),
    ],
)
def test_statuses_are_those_of_the_page(
    kind: type[errors.OciError], status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert door(kind("it failed", "do that")) == status
    assert capfd.readouterr().err == "lxc-oci-py: error: it failed\nlxc-oci-py: hint: do that\n"
    assert f"\n{status}\tT{{\n" in (ROOT / "man/lxc-oci-py.1").read_text()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert door(OSError(number, os.strerror(number), "/x/file")) == 6
    assert capfd.readouterr().err.startswith("lxc-oci-py: error: no space left on device: /x/file\n")


def test_an_error_of_the_system(capfd: pytest.CaptureFixture[str]) -> None:
    assert door(PermissionError(errno.EACCES, "Permission denied", b"/x\xff")) == 1
    assert capfd.readouterr().err == "lxc-oci-py: error: Permission denied: /x\\xff\n"


def test_a_bug_of_ours_is_one_line_and_a_request(capfd: pytest.CaptureFixture[str]) -> None:
    assert door(ZeroDivisionError("by zero")) == 70
    shown = capfd.readouterr().err
    assert shown.startswith("lxc-oci-py: error: internal error: ZeroDivisionError: by zero\n")
    assert "report it" in shown and "Traceback" not in shown


def test_a_bug_of_ours_for_developers(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LXC_OCI_PY_DEBUG", "1")
    assert door(ZeroDivisionError("by zero")) == 70
    assert "Traceback" in capfd.readouterr().err


def test_no_memory(capfd: pytest.CaptureFixture[str]) -> None:
    assert door(MemoryError()) == 1
    assert capfd.readouterr().err == "lxc-oci-py: error: out of memory\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_stop_with_their_status(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    ignored = []

    def body(words: Sequence[str], log: Log) -> int:
        try:
            os.kill(os.getpid(), number)
        finally:
            # While things are taken away, a second ^C changes nothing.
            ignored.append([signal.getsignal(other) for other in SIGNALS])
        return 0

    assert main._door(body, ()) == 128 + number
    assert capfd.readouterr().err == f"lxc-oci-py: error: stopped by {number.name}\n"
    assert ignored == [[signal.SIG_IGN] * 3]


def doors() -> dict[str, Callable[[Sequence[str] | None], int]]:
    return {"template": main.template, "command": main.command}


@pytest.mark.parametrize("name", ["template", "command"])
def test_wrong_words(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert doors()[name](["--nonsense"]) == 2
    shown = capfd.readouterr()
    assert shown.out == "" and shown.err.splitlines()[0].startswith("lxc-oci-py: error: ")


def run(code: str, *argv: str, **words: object) -> "subprocess.CompletedProcess[str]":
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'lxc-oci-py'; {code}"
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", program, *argv], capture_output=True, text=True, check=False, **words
    )


def test_help_loads_nothing_of_a_pull() -> None:
    code = (
        "from lxc_oci.__main__ import template\n"
        "try: template(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "bad = {'ssl', 'http.client', 'lxc_oci.create', 'subprocess'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = run("exec(sys.argv[1])", code)
    assert done.returncode == 0, done.stderr


def test_a_closed_standard_output_is_no_traceback() -> None:
    code = (
        "from lxc_oci import verbs\n"
        "def talk(arguments, log):\n"
        "    for _ in range(100000): print('a line')\n"
        "    return 0\n"
        "verbs.run = talk\n"
        "from lxc_oci.__main__ import command\n"
        "sys.exit(command(['list']))"
    )
    read, write = os.pipe()
    os.close(read)
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); exec(sys.argv.pop(1))"
    done = subprocess.run(
        [sys.executable, "-c", program, code], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert done.returncode == 128 + signal.SIGPIPE and done.stderr == ""


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_change_no_status_and_are_given_to_no_file(closed: str, tmp_path: Path) -> None:
    code = f"""
from lxc_oci import verbs
def write(arguments, log):
    fd = os.open({str(tmp_path / "layer")!r}, os.O_WRONLY | os.O_CREAT)
    assert fd > 2
    log.warn('careful')
    os.system('echo from a program >&2')
    raise verbs.UnsupportedError('no')
import os
from lxc_oci.errors import UnsupportedError
verbs.UnsupportedError = UnsupportedError
verbs.run = write
from lxc_oci.__main__ import command
sys.exit(command(['list']))
"""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); exec(sys.argv.pop(1))"
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", program, code], capture_output=True, check=False
    )
    assert done.returncode == 7
    assert (tmp_path / "layer").read_bytes() == b""


def test_a_signal_waits_until_everything_is_loaded(capfd: pytest.CaptureFixture[str]) -> None:
    reached = []

    def body(words: Sequence[str], log: Log) -> int:
        with main._signals_held():
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("the end of the import")
        reached.append("the work")
        return 0

    assert main._door(body, ()) == 128 + signal.SIGTERM
    assert reached == ["the end of the import"]
    assert capfd.readouterr().err == "lxc-oci-py: error: stopped by SIGTERM\n"
