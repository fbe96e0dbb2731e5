# SPDX-License-Identifier: LGPL-2.1-or-later
"""make check-vm: install our packages in each Debian, run the tests there, and tell what they ran on.

    python3 -m tests.vm.run [RELEASE ...] [-m MARKS] [-k WORDS] [--guest PATH ...] [--host PATH ...]

In the box run tests/vm/guest and the part of the end-to-end suite that depends on the host, with AppArmor's log
watched; on the host, driving the same box, run tests/vm/host, for which it must be rebooted or lose its power.  The
exit status is 0 when every test of every release passed.  JUnit files, the console and, after a failure, the journal
are left in .cache/vm/RELEASE.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.vm import image
from tests.vm.box import PROJECT, SUITE, Box, BoxError
from tests.vm.prepare import GUEST_ENVIRONMENT, Live, prepare

# Beside the box's own, a part of the end-to-end suite.  All of tests/lxc would take an hour under emulation: name it
# with --guest.
GUEST_TESTS = [
    "tests/vm/guest",
    "tests/lxc/test_create.py::test_isolation_is_that_of_upstreams_template",
]
HOST_TESTS = ["tests/vm/host"]
MARKS = "not long"
SUITE_SECONDS = 1500  # a limit for what hangs
RESULTS = PROJECT / ".cache" / "vm"
SUMMARY = "summary"  # in a release's results

FACTS = r"""
echo "kernel    $(uname -r) ($(uname -v))"
echo "LXC       $(lxc-start --version)"
echo "AppArmor  enabled: $(cat /sys/module/apparmor/parameters/enabled),"\
 "$(grep -c '(enforce)' /sys/kernel/security/apparmor/profiles) profiles enforced," \
 "lxc-start: $(sed -n 's/^.usr.bin.lxc-start (\(.*\))/\1/p' /sys/kernel/security/apparmor/profiles)"
echo "systemd   $(systemctl --version | sed -n 's/^systemd \([0-9]*\).*/\1/p')," \
 "cgroup $(stat -f -c %T /sys/fs/cgroup)"
echo "Python    $(python3 -c 'import platform; print(platform.python_version())')"
echo "tools     erofs-utils $(dpkg-query -W -f '${Version}' erofs-utils)"
"""


class Tally(NamedTuple):
    """The counts of one JUnit file."""

    passed: int
    failed: int
    skipped: int

    @classmethod
    def of(cls, junit: Path) -> Tally:
        if not junit.exists():
            return cls(0, 1, 0)
        suites = list(ElementTree.parse(junit).getroot().iter("testsuite"))
        total, failures, errors, skipped = (
            sum(int(suite.get(name, "0")) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
        )
        return cls(max(0, total - failures - errors - skipped), failures + errors, skipped)


def run_guest_tests(box: Box, paths: Sequence[str], pytest_options: Sequence[str], junit: Path) -> int:
    """Run pytest in the box, its output shown as it comes; returns its status."""
    argv = [
        *("python3", "-m", "pytest", "-v", "--durations=10", "-p", "tests.vm.guest.denials"),
        *("--junit-xml=/root/junit.xml", *pytest_options, *paths),
    ]
    box.check("rm -f /root/junit.xml")
    status = box.run(argv, SUITE_SECONDS, directory=SUITE, environment=GUEST_ENVIRONMENT, echo=sys.stdout).status
    junit.write_bytes(box.get("/root/junit.xml"))
    return status


def run_host_tests(box: Box, paths: Sequence[str], pytest_options: Sequence[str], junit: Path) -> int:
    """Run tests that drive *box* from here."""
    argv = ["-v", "--durations=10", f"--rootdir={PROJECT}", f"--junit-xml={junit}", *pytest_options, *paths]
    return int(pytest.main(argv, plugins=[Live(box)]))


def check(release: str, options: argparse.Namespace) -> bool:
    """Everything in one release: leaves the lines for the summary, and tells whether all is well."""
    began = time.monotonic()
    results = RESULTS / release
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    selection = ["-m", options.marks, *(["-k", options.words] if options.words else [])]
    statuses = []
    with Box(release, keep=results) as box:
        print(f"== {release}: booted in {box.boot_seconds:.0f} s", flush=True)
        facts = box.check(FACTS)
        print(facts, end="", flush=True)
        try:
            prepare(box)
            if options.guest:
                statuses.append(run_guest_tests(box, options.guest, selection, results / "guest.xml"))
            if options.host:
                statuses.append(run_host_tests(box, options.host, selection, results / "host.xml"))
        except BoxError as error:
            print(error, file=sys.stderr)
            statuses.append(1)
        if any(statuses):
            _keep_journal(box, results)
    tallies = [Tally.of(results / f"{place}.xml") for place in ("guest", "host") if getattr(options, place)]
    passed, failed, skipped = (sum(counts) for counts in zip(*tallies, strict=True)) if tallies else (0, 0, 0)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = (
        f"{release}: {passed} passed, {failed} failed, {skipped} skipped in {time.monotonic() - began:.0f} s"
        f" ({used.ru_utime + used.ru_stime:.0f} s of processor time)"
    )
    shown = [f"  {line}" for line in facts.splitlines() if line.split()[0] in ("kernel", "LXC", "AppArmor")]
    (results / SUMMARY).write_text("\n".join([told, *shown, ""]))
    # Status 5, nothing selected, is what a narrow selection gives in one of the two places.
    return failed == 0 and passed > 0 and all(status in (0, 5) for status in statuses)


def check_side_by_side(releases: Sequence[str], words: Sequence[str]) -> bool:
    """Each release in a process of its own: a box mostly waits for one core.  Their lines come with their names."""
    processes = {}
    for release in releases:
        argv = [sys.executable, "-m", "tests.vm.run", release, *words]
        processes[release] = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
    forwarders = [threading.Thread(target=_forward, args=pair) for pair in processes.items()]
    for thread in forwarders:
        thread.start()
    for thread in forwarders:
        thread.join()
    statuses = [process.wait() for process in processes.values()]
    return not any(statuses)


def _forward(name: str, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        print(f"{name:>8} | {line}", end="", flush=True)


def _keep_journal(box: Box, results: Path) -> None:
    try:
        (results / "journal").write_text(box.run("journalctl --no-pager -o short-monotonic").output)
    except BoxError as error:
        print(f"no journal: {error}", file=sys.stderr)
    print(f"the journal and the console are in {results}", file=sys.stderr)


def _paths(words: list[str]) -> list[str]:
    """The paths that there are and that hold tests."""
    return [
        word for word in words if (path := PROJECT / word.partition("::")[0]).is_file() or [*path.rglob("test_*.py")]
    ]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm.run", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "releases", nargs="*", metavar="RELEASE", help=f"of {', '.join(image.RELEASES)}; without one, all side by side"
    )
    parser.add_argument("-m", dest="marks", default=MARKS, help="pytest's -m, in both places (default: %(default)s)")
    parser.add_argument("-k", dest="words", help="pytest's -k, in both places")
    parser.add_argument("--guest", nargs="*", default=GUEST_TESTS, metavar="PATH", help="what runs in the box")
    parser.add_argument("--host", nargs="*", default=HOST_TESTS, metavar="PATH", help="what drives it from here")
    options = parser.parse_args(argv)
    releases = options.releases or list(image.RELEASES)
    if not set(releases) <= set(image.RELEASES):
        parser.error(f"there are {', '.join(image.RELEASES)}")
    if platform.machine() != "x86_64":
        parser.error("the boxes are amd64 machines")
    os.chdir(PROJECT)
    options.guest, options.host = _paths(options.guest), _paths(options.host)
    if len(releases) == 1:
        return 0 if check(releases[0], options) else 1
    for release in releases:
        image.build(release)  # here, one after the other: two builds at once would only share the network
        (RESULTS / release / SUMMARY).unlink(missing_ok=True)
    words = ["-m", options.marks, *(["-k", options.words] if options.words else [])]
    words += ["--guest", *options.guest, "--host", *options.host]
    well = check_side_by_side(releases, words)
    print("\n== check-vm")
    for release in releases:
        summary = RESULTS / release / SUMMARY
        print(summary.read_text() if summary.exists() else f"{release}: did not come to its end\n", end="")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
