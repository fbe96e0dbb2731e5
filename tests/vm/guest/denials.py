# SPDX-License-Identifier: LGPL-2.1-or-later
"""No test may be refused anything by AppArmor: a pytest plugin for the box, and a program.

After each test, its fixtures' end included, the audit records that the kernel wrote meanwhile are read; a denial
that a stock LXC container would not have caused too fails the test.  The box runs no auditd, and its kernel prints
without limit, so every record is in the kernel log.  Give it as ``-p tests.vm.guest.denials``.

As a program it filters log lines from standard input and prints the denials; status 1 when there are any.
"""

import errno
import itertools
import os
import re
import select
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pytest

_NETLINK_AUDIT = 9
_AUDIT_USER_AVC = 1107  # the one user message that is taken while auditing is off
_NLM_F_REQUEST = 1
_BARRIER_SECONDS = 60  # a generous limit: the record is there in milliseconds

# Marks of records that were dropped before they reached the log.
_LOST = re.compile(r"audit: .*(backlog limit exceeded|rate limit exceeded|audit_lost=[1-9]|queue overflow)")


class Allowed(NamedTuple):
    """A denial that is no fault of ours: all fields match, for the reason given."""

    fields: dict[str, str]  # name of an audit field: regular expression for its whole value
    reason: str


ALLOWED: list[Allowed] = []


class Denial(NamedTuple):
    """One refusal: the record and its fields."""

    line: str
    fields: dict[str, str]

    def matches(self, wanted: dict[str, str]) -> bool:
        return all(re.fullmatch(pattern, self.fields.get(name, "")) for name, pattern in wanted.items())


def denials_in(lines: Iterable[str]) -> Iterator[Denial]:
    """The denials among log lines, those that are allowed left out.  A sign of lost records counts as one."""
    for line in lines:
        if _LOST.search(line):
            yield Denial(line, {})
        if 'apparmor="DENIED"' in line:
            fields = dict(re.findall(r'(\w+)=(?:"([^"]*)")', line))
            denial = Denial(line, fields)
            if not any(denial.matches(allowed.fields) for allowed in ALLOWED):
                yield denial


class KernelLog:
    """The kernel's log from the moment this was made."""

    def __init__(self) -> None:
        self._device = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._device, 0, os.SEEK_END)
        self._audit = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_AUDIT)
        self._barriers = itertools.count()

    def _barrier(self) -> str:
        """Send a record of ours: the audit queue keeps its order, so all earlier ones precede it in the log."""
        mark = f"barrier-{os.getpid()}-{next(self._barriers)}"
        text = f"op={mark}".encode() + b"\0"
        self._audit.send(struct.pack("=IHHII", 16 + len(text), _AUDIT_USER_AVC, _NLM_F_REQUEST, 0, 0) + text)
        return mark

    def lines(self) -> list[str]:
        """Everything logged since the last call, up to now."""
        mark = self._barrier()
        found: list[str] = []
        deadline = time.monotonic() + _BARRIER_SECONDS
        while time.monotonic() < deadline:
            try:
                # One record a read; "priority,sequence,time,flags;text", then lines of key=value.
                record = os.read(self._device, 8192).decode(errors="replace")
            except BlockingIOError:
                select.select([self._device], [], [], max(0, deadline - time.monotonic()))
                continue
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                found.append("audit: kernel log overrun, audit_lost=1")
                continue
            text = record.partition(";")[2].partition("\n")[0]
            if mark in text:
                return found
            found.append(text)
        raise TimeoutError("the audit record that was sent did not come out of the kernel log: does auditd run?")


class Watch:
    """What a test gets from the fixture `denials`: the refusals that it provokes on purpose."""

    def __init__(self) -> None:
        self._log = KernelLog()
        self._pending: list[Denial] = []

    def _read(self) -> None:
        self._pending += denials_in(self._log.lines())

    def take(self, **wanted: str) -> list[Denial]:
        """The denials so far whose fields match these regular expressions; they no longer count as failures."""
        self._read()
        taken = [denial for denial in self._pending if denial.matches(wanted)]
        self._pending = [denial for denial in self._pending if denial not in taken]
        return taken

    def rest(self) -> list[Denial]:
        """What nobody took."""
        self._read()
        rest, self._pending = self._pending, []
        return rest


_watch = pytest.StashKey[Watch]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_watch] = Watch()


@pytest.fixture
def denials(request: pytest.FixtureRequest) -> Watch:
    """Expected denials are taken from this."""
    return request.config.stash[_watch]


# A report, not a fixture's teardown: this comes after the end of every fixture, in which containers stop.
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    if call.when == "teardown":
        rest = item.config.stash[_watch].rest()
        if rest:
            report = outcome.get_result()
            report.outcome = "failed"
            told = "".join(f"  {denial.line}\n" for denial in rest)
            report.longrepr = f"{report.longrepr or ''}\nAppArmor denied during this test:\n{told}"


def main() -> int:
    found = list(denials_in(line.rstrip("\n") for line in sys.stdin))
    for denial in found:
        print(denial.line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
