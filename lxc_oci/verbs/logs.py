# SPDX-License-Identifier: LGPL-2.1-or-later
"""`lxc-oci-py logs`: what a container's program wrote to its console, the rotated file first.

Runs as whoever calls: LXC writes a plain user's log as that user, who is nobody in the user namespace of a container.
"""

import argparse
import codecs
import os
import stat
import sys
import time
from typing import IO

from lxc_oci.container import lxcconfig, lxcpath
from lxc_oci.errors import AccessError, UsageError
from lxc_oci.log import Log

_INTERVAL = 0.2  # seconds between two looks at a file that is followed
_PIECE = 1 << 16
_KEPT = frozenset("\n\t")


def run(arguments: argparse.Namespace, log: Log) -> int:
    """Print the log; with --follow, until a signal ends it.  Return 0."""
    path = _path(arguments)
    printer = _Printer(sys.stdout.buffer, terminal=sys.stdout.isatty())
    first = _open(f"{path}.1")
    if first is not None:
        with first:
            printer.copy(first)
    current = _open(path)
    if current is None and first is None and not arguments.follow:
        raise AccessError(f"{arguments.name} has no log yet", "it begins when the container is started")
    while True:
        if current is not None:
            printer.copy(current)
        if not arguments.follow:
            break
        time.sleep(_INTERVAL)
        if current is None or _replaced(current, path):
            if current is not None:
                printer.copy(current)  # what was written between the last look and the rotation
                current.close()
            current = _open(path)
    if current is not None:
        current.close()
    return 0


class _Printer:
    """Writes bytes as they are, or for a terminal as text without what would steer it."""

    def __init__(self, target: IO[bytes], *, terminal: bool) -> None:
        self._target = target
        self._terminal = terminal
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def copy(self, source: IO[bytes]) -> None:
        """Print what `source` has left."""
        while piece := source.read(_PIECE):
            self._target.write(self._fit(piece) if self._terminal else piece)
        self._target.flush()

    def _fit(self, piece: bytes) -> bytes:
        text = self._decoder.decode(piece).replace("\r\n", "\n").replace("\r", "")
        shown = "".join(letter if letter in _KEPT or letter.isprintable() else _escaped(letter) for letter in text)
        return shown.encode("utf-8", "replace")


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _path(arguments: argparse.Namespace) -> str:
    """Return the file that the container's configuration names.  Raises UsageError and AccessError."""
    if "/" in arguments.name or arguments.name in ("", ".", ".."):
        raise UsageError(f"{arguments.name!r:.100} is not the name of a container", "say where it is with -P")
    place = arguments.lxcpath or lxcpath.default(os.environ, user=os.geteuid() != 0)
    config = os.path.join(os.path.abspath(place), arguments.name, "config")
    try:
        found = lxcconfig.last(lxcconfig.read(config), "lxc.console.logfile")
    except FileNotFoundError:
        raise AccessError(
            f"there is no container {arguments.name!r:.100} in {place}", "-P names another place"
        ) from None
    if not found:
        raise AccessError(
            f"the console of {arguments.name} is not logged", f"set lxc.console.logfile in {config} to have a log"
        )
    return found


def _open(path: str) -> IO[bytes] | None:
    """Open a log, None when it is missing.  Raises AccessError for what is no regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise AccessError(f"{path} is not a regular file")
    return os.fdopen(fd, "rb")


def _replaced(file: IO[bytes], path: str) -> bool:
    """Tell whether `path` is another file than the one that is open, or was cut off."""
    status = os.fstat(file.fileno())
    try:
        now = os.stat(path)
    except FileNotFoundError:
        return False  # between LXC's rename and its new file
    return (now.st_dev, now.st_ino) != (status.st_dev, status.st_ino) or now.st_size < file.tell()
