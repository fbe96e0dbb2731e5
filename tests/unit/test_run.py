# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starting a program: what it is given, what comes back, and that it is bounded in time and in what it prints."""

import os
import signal
import time

import pytest

from lxc_oci.errors import UnavailableError, UnsupportedError
from lxc_oci.kernel import run

SH = "/bin/sh"


def shell(script: str, timeout: float = 60, **options: bytes) -> run.Result:
    return run.run([SH, "-c", script], timeout=timeout, **options)  # type: ignore[arg-type]


def test_status_and_both_outputs_come_back_whole() -> None:
    result = shell("head -c 300000 /dev/zero; head -c 200000 /dev/zero >&2; exit 3")
    assert (result.status, len(result.output), len(result.errors)) == (3, 300_000, 200_000)
    assert shell("kill -TERM $$").status == -signal.SIGTERM


def test_it_reads_what_it_is_given_and_else_nothing() -> None:
    assert shell("cat", input=b"x" * 200_000).output == b"x" * 200_000
    assert shell("cat").output == b""


def test_the_last_line_of_its_errors_is_its_message() -> None:
    assert shell("echo one >&2; echo two >&2; echo >&2; exit 1").message() == "two"
    assert shell("exit 4").message() == "exit status 4"


@pytest.mark.parametrize("stream", ["1", "2"])
def test_endless_output_ends_it(stream: str) -> None:
    with pytest.raises(UnavailableError, match="sh printed more than 16 MiB, and was stopped"):
        shell(f"cat /dev/zero >&{stream}")


@pytest.mark.parametrize("script", ["sleep 100", "exec >&- 2>&-; sleep 100"])
def test_it_is_killed_when_its_time_is_over(script: str) -> None:
    begin = time.monotonic()
    with pytest.raises(UnavailableError, match="sh did not finish in 1 seconds"):
        shell(script, timeout=1)
    assert time.monotonic() - begin < 50


def test_nothing_stays_open() -> None:
    before = os.listdir("/proc/self/fd")
    shell("cat", input=b"x")
    with pytest.raises(UnavailableError):
        shell("cat /dev/zero")
    with pytest.raises(UnsupportedError, match="cannot start sh: No such file or directory"):
        run.run([SH], timeout=1, input=b"x", cwd="/nonexistent")
    assert os.listdir("/proc/self/fd") == before
