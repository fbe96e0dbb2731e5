# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many hostile cases were tried, and how much memory one takes.

Every test that passed is one case; a test that tries several says so by `tried`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import host as hosts

HERE = Path(__file__).resolve().parent
_cases = {"tried": 0}


class Peak:
    """The memory of this process at its highest since `start`."""

    def start(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the mark goes down to what is there now
        self._before = self._mark()

    def mebibytes(self) -> int:
        return (self._mark() - self._before) // 1024

    @staticmethod
    def _mark() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@pytest.fixture
def peak() -> Peak:
    return Peak()


@pytest.fixture
def tried() -> Callable[[int], None]:
    """Count further cases, beside the one that the test itself is."""

    def count(cases: int) -> None:
        _cases["tried"] += cases

    return count


@pytest.fixture
def root_host(tmp_path: Path) -> Iterator[hosts.Host]:
    """LXC as root, in an lxcpath and with a store of its own."""
    tmp_path.chmod(0o711)
    with hosts.host(tmp_path) as made:
        yield made


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.outcome == "passed" and "tests/hostile/" in report.nodeid:
        _cases["tried"] += 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"hostile cases tried: {_cases['tried']}")
