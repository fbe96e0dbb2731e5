# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.progress"""

import io
import json
import os
import pty
import re
import threading

import pytest

from lxc_oci import progress
from lxc_oci.progress import Counter, Events, Progress, size


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (63_100_000, "63.1 MB"), (5e9, "5.0 GB"), (5e13, "50000.0 GB")],
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert size(count) == text


class Clock:
    """Takes the place of time.monotonic."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("lxc_oci.progress.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_lines_where_there_is_no_terminal(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(stream) as display:
        task = display.task("layer 1", 4_000_000)
        task.advance(1_000_000)
        assert stream.getvalue() == ""  # not yet
        clock.now += 5
        task.advance(1_000_000)
        task.advance(1_000_000)
        clock.now += 1
        task.done()
    assert stream.getvalue() == "layer 1: 2.0 MB of 4.0 MB, 400.0 kB/s\nlayer 1: 3.0 MB done\n"


def test_a_total_that_is_not_known(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(stream) as display:
        task = display.task("archive", 0)
        clock.now += 10
        task.advance(5_000)
    assert stream.getvalue() == "archive: 5.0 kB, 500 B/s\n"


def test_quiet_says_nothing(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(stream, quiet=True) as display:
        task = display.task("layer 1", 10)
        clock.now += 100
        task.advance(10)
        task.done()
    assert stream.getvalue() == ""


def on_terminal(monkeypatch: pytest.MonkeyPatch, quiet: bool = False) -> str:
    """What is written to a real terminal of 80 columns for two tasks."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    main, terminal = pty.openpty()
    written = b""
    try:
        with open(terminal, "w") as stream, Progress(stream, quiet=quiet) as display:
            tasks = [display.task(f"layer {number}", 1_000_000) for number in (1, 2)]
            for task in tasks:
                task.advance(500_000)
            for task in tasks:
                task.advance(500_000)
                task.done()
            stream.flush()
            os.set_blocking(main, False)
            while True:
                written += os.read(main, 1 << 20)
    except BlockingIOError:
        pass
    finally:
        os.close(main)
    return written.decode().replace("\r\n", "\n")


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = on_terminal(monkeypatch)
    last = re.split(r"\x1b\[\d+F", text)[-1].replace("\x1b[2K", "")
    rows = last.splitlines()
    assert rows[0].startswith("layer 1 [########################]") and rows[0].endswith("1.0 MB done")
    assert rows[1].startswith("layer 2 [") and rows[2].startswith("total 2.0 MB of 2.0 MB, ")
    assert all(len(row) < 80 for row in rows)


def test_no_bars_when_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_terminal(monkeypatch, quiet=True) == ""


def test_events_for_programs(clock: Clock) -> None:
    stream = io.StringIO()
    with Events(stream) as display:
        task = display.task("layer 1", 100)
        task.advance(10)
        clock.now += 1
        task.advance(10)
        task.done()
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    common = {"event": "progress", "task": "layer 1", "total": 100, "bytes": 20}
    assert events == [{**common, "done": False}, {**common, "done": True}]


@pytest.mark.parametrize("make", [Progress, Events])
def test_a_closed_stream_ends_nothing(make: type[Progress], clock: Clock) -> None:
    stream = io.StringIO()
    display = make(stream)
    stream.close()
    with display:
        task = display.task("layer 1", 10)
        clock.now += 10
        task.advance(5)
        task.done()


def test_many_threads_may_advance() -> None:
    stream = io.StringIO()
    with Progress(stream) as display:
        task = display.task("layer 1", 0)
        threads = [threading.Thread(target=lambda: [task.advance(0) for _ in range(1000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        task.done()
    assert stream.getvalue() == "layer 1: 0 B done\n"


def test_a_counter_is_silent_at_first(clock: Clock) -> None:
    stream = io.StringIO()
    with Counter(stream, "looking", quiet=False) as counter:
        counter.step()
        assert stream.getvalue() == ""
        clock.now += progress._LINE_SECONDS
        counter.step()
        counter.step()
    assert stream.getvalue() == "looking: 2\n"
    with Counter(stream, "quiet", quiet=True) as counter:
        clock.now += 100
        counter.step()
    assert stream.getvalue() == "looking: 2\n"
