# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages for people: one line each, on standard error, with nothing in them that a terminal would obey."""

import sys
from enum import IntEnum
from typing import TextIO

from lxc_oci.errors import OciError

_WARNINGS = 100  # distinct ones: an image can give reason for millions
_MESSAGE = 8192  # characters; two paths fit, what a registry wrote into an error need not


class Level(IntEnum):
    """How much is said."""

    QUIET = 0  # errors and warnings
    NORMAL = 1
    VERBOSE = 2


def escape(text: str) -> str:
    """Return `text` with control characters, lone surrogates and other unprintable ones written as escapes.

    Names and labels come from images and registries and must not reach a terminal as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable()
        else char.encode("utf-8", "surrogateescape").decode("latin-1").encode("unicode_escape").decode()
        for char in text
    )


class Log:
    """Where messages go.  A closed or broken standard error loses them and nothing else."""

    def __init__(self, level: Level = Level.NORMAL, stream: TextIO | None = None, program: str = "lxc-oci-py") -> None:
        self.level = level
        self.stream = stream if stream is not None else sys.stderr
        self.program = program
        self._warned: set[str] = set()

    def error(self, error: OciError) -> None:
        """Say what failed, and in a second line what to do."""
        self._write(f"error: {error.message}")
        if error.hint:
            self._write(f"hint: {error.hint}")

    def warn(self, message: str) -> None:
        """Say, once, what is not as it should be although the work goes on."""
        if message in self._warned or len(self._warned) > _WARNINGS:
            return
        if len(self._warned) == _WARNINGS:
            message = "further warnings are left out"
        self._warned.add(message)
        self._write(f"warning: {message}")

    def info(self, message: str) -> None:
        """Say what was done, unless --quiet."""
        if self.level >= Level.NORMAL:
            self._write(message)

    def detail(self, message: str) -> None:
        """Say why, with --verbose."""
        if self.level >= Level.VERBOSE:
            self._write(message)

    def _write(self, message: str) -> None:
        if len(message) > _MESSAGE:
            message = message[:_MESSAGE] + "…"
        try:
            self.stream.write(f"{self.program}: {escape(message)}\n")
            self.stream.flush()
        except (OSError, ValueError):
            pass
