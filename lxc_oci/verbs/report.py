# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an update or a rollback changes, for people and for programs."""

import sys
from collections.abc import Iterator

from lxc_oci import jsonio
from lxc_oci.changes import Changes
from lxc_oci.log import escape
from lxc_oci.progress import size
from lxc_oci.switch import Report

_WIDTH = 13


def show(report: Report, as_json: bool) -> None:
    """Print a report.  Nothing that a terminal would obey is printed."""
    if as_json:
        sys.stdout.buffer.write(jsonio.dump(_document(report)))
    else:
        for line in _lines(report):
            print(escape(line))
    sys.stdout.flush()


def _lines(report: Report) -> Iterator[str]:
    if report.before != report.after:
        yield _line("image", f"{report.before} -> {report.after}")
    else:
        yield _line("image", report.after)
    found = report.changes
    yield _line("digest", f"{found.before} -> {found.after}")
    yield _line("layers", f"{found.shared_layers} shared, {found.new_layers} new ({size(found.new_bytes)})")
    for value in found.values:
        yield _line(value.name, f"{value.before or '(none)'} -> {value.after or '(none)'}")
    for entry in found.entries:
        signed = [f"- {text}" for text in entry.removed] + [f"+ {text}" for text in entry.added]
        for number, text in enumerate(signed):
            yield _line("" if number else entry.name, text)
    if report.dropped is not None:
        yield _line("dropped", f"{size(report.dropped)} that the container wrote outside of volumes")
    for number, conflict in enumerate(report.conflicts or ()):
        name = "" if number else "kept"
        what = "removed by the container" if conflict.removed else "changed by the container"
        yield _line(name, f"{conflict.path} ({what}; the new image's differs)")


def _line(name: str, text: str) -> str:
    return f"{name + ':' if name else '':{_WIDTH}} {text}"


def _document(report: Report) -> dict[str, object]:
    conflicts = report.conflicts
    return {
        "container": report.container,
        "reference": {"before": report.before, "after": report.after},
        **_changes(report.changes),
        "kept": None if conflicts is None else [{"path": one.path, "removed": one.removed} for one in conflicts],
        "droppedBytes": report.dropped,
    }


def _changes(found: Changes) -> dict[str, object]:
    return {
        "digest": {"before": found.before, "after": found.after},
        "layers": {"shared": found.shared_layers, "new": found.new_layers, "newBytes": found.new_bytes},
        "values": {value.name: {"before": value.before, "after": value.after} for value in found.values},
        "entries": {one.name: {"added": list(one.added), "removed": list(one.removed)} for one in found.entries},
    }
