# SPDX-License-Identifier: LGPL-2.1-or-later
"""Progress of long work: bars on a terminal, plain lines elsewhere, nothing when quiet.

The work calls `Task.advance`; this module decides when that is worth writing.
"""

import os
import threading
import time
from types import TracebackType
from typing import Self, TextIO

from lxc_oci import jsonio

_BAR_SECONDS = 0.1  # between two drawings of the bars
_LINE_SECONDS = 5.0  # between two lines about one task where there is no terminal
_EVENT_SECONDS = 0.5  # between two events about one task
_BAR_CELLS = 24


def size(count: float) -> str:
    """Return a number of bytes for people: `63.1 MB` (decimal units, as apt and curl write them)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


class Task:
    """One piece of work of `total` bytes (0: not known)."""

    def __init__(self, progress: "Progress", label: str, total: int) -> None:
        self._progress = progress
        self.label = label
        self.total = total
        self.current = 0
        self.started = time.monotonic()
        self.ended = 0.0
        self.note = ""
        self.said = self.started

    def advance(self, count: int) -> None:
        """Add `count` bytes; called from any thread."""
        self.current += count
        self._progress.changed(self)

    def done(self, note: str = "done") -> None:
        """Say that the work is finished."""
        self.ended = time.monotonic()
        self.note = note
        self._progress.finished(self)

    def rate(self) -> float:
        """Bytes per second so far."""
        return self.current / max((self.ended or time.monotonic()) - self.started, 1e-3)


class Progress:
    """The display of all tasks.  A context manager: leaving it ends the display, the cursor below the bars."""

    def __init__(self, stream: TextIO, quiet: bool = False) -> None:
        self._stream = stream
        try:
            terminal = stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
        except ValueError:
            terminal = False
        self._bars = terminal and not quiet
        self._lines = not terminal and not quiet
        self._tasks: list[Task] = []
        self._lock = threading.Lock()
        self._drawn = 0  # lines of bars on the screen
        self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._bars and self._tasks:
                self._draw()
            self._tasks.clear()
            self._drawn = 0

    def task(self, label: str, total: int) -> Task:
        """Begin a task that is shown as `label`."""
        task = Task(self, label, total)
        with self._lock:
            self._tasks.append(task)
        return task

    def changed(self, task: Task) -> None:
        """Draw, if it is time to."""
        now = time.monotonic()
        if self._bars:
            if now - self._last >= _BAR_SECONDS and self._lock.acquire(blocking=False):
                try:
                    self._draw()
                finally:
                    self._lock.release()
        elif self._lines and now - task.said >= _LINE_SECONDS:
            task.said = now
            share = f" of {size(task.total)}" if task.total else ""
            self._write(f"{task.label}: {size(task.current)}{share}, {size(task.rate())}/s\n")

    def finished(self, task: Task) -> None:
        """Draw the last state of a task."""
        if self._bars:
            with self._lock:
                self._draw()
        elif self._lines:
            self._write(f"{task.label}: {size(task.current)} {task.note}\n")

    def _draw(self) -> None:
        self._last = time.monotonic()
        columns, lines_there = self._terminal_size()
        rows = lines_there - 2
        shown = self._tasks[-rows:] if rows > 0 else self._tasks
        lines = [self._bar(task)[: columns - 1] for task in shown]
        if len(self._tasks) > 1:
            lines.append(self._total()[: columns - 1])
        text = f"\x1b[{self._drawn}F" if self._drawn else ""
        text += "".join(f"\x1b[2K{line}\n" for line in lines)
        self._drawn = len(lines)
        self._write(text)

    def _terminal_size(self) -> tuple[int, int]:
        try:
            columns, lines = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        return columns or 80, lines or 24

    def _bar(self, task: Task) -> str:
        share = min(task.current / task.total, 1.0) if task.total else 0.0
        filled = int(share * _BAR_CELLS)
        bar = "#" * filled + "-" * (_BAR_CELLS - filled)
        if task.ended:
            return f"{task.label} [{bar}] {size(task.current):>9} {task.note}"
        return f"{task.label} [{bar}] {size(task.current):>9} of {size(task.total)}, {size(task.rate())}/s"

    def _total(self) -> str:
        current = sum(task.current for task in self._tasks)
        total = sum(max(task.total, task.current) for task in self._tasks)
        elapsed = max(time.monotonic() - min(task.started for task in self._tasks), 1e-3)
        return f"total {size(current)} of {size(total)}, {size(current / elapsed)}/s"

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            pass


class Events(Progress):
    """Progress for programs: one JSON object a line, for each task now and then and at its end."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream, quiet=True)

    def changed(self, task: Task) -> None:
        """Write, if it is time to."""
        now = time.monotonic()
        if now - task.said >= _EVENT_SECONDS:
            task.said = now
            self._event(task)

    def finished(self, task: Task) -> None:
        """Write the last state of a task."""
        self._event(task)

    def _event(self, task: Task) -> None:
        event = {"event": "progress", "task": task.label, "bytes": task.current, "total": task.total}
        with self._lock:
            self._write(jsonio.compact({**event, "done": bool(task.ended)}).decode() + "\n")


class Counter:
    """Work that is counted in steps and usually short: says nothing for the first second.  A context manager."""

    def __init__(self, stream: TextIO, label: str, quiet: bool) -> None:
        self._stream = stream
        self._label = label
        self._count = 0
        self._next = time.monotonic() + 1.0
        self._quiet = quiet
        self._shown = False
        try:
            self._terminal = stream.isatty()
        except ValueError:
            self._terminal = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown and self._terminal:
            self._write("\r\x1b[2K")

    def step(self) -> None:
        """Count one."""
        self._count += 1
        if self._quiet or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (0.2 if self._terminal else _LINE_SECONDS)
        self._shown = True
        self._write(f"\r{self._label}: {self._count}" if self._terminal else f"{self._label}: {self._count}\n")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            pass
