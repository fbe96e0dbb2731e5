# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two doors: the template that lxc-create runs, and the command lxc-oci-py.

Arguments in, one try/except, a message with a hint and an exit status out.  Nothing else prints an error.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from lxc_oci import options
from lxc_oci.errors import NoSpaceError, OciError
from lxc_oci.log import Level, Log

if TYPE_CHECKING:
    import argparse

_UMASK = 0o022  # root of a container with an id map reads what root made; what is secret says so itself
_INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h
_NO_SPACE = (28, 122)  # ENOSPC, EDQUOT
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked us to stop; not an Exception, so that nothing takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def template(argv: Sequence[str] | None = None) -> int:
    """Be LXC's template; return the exit status."""
    return _door(_template, sys.argv[1:] if argv is None else argv)


def command(argv: Sequence[str] | None = None) -> int:
    """Be the command lxc-oci-py; return the exit status."""
    return _door(_command, sys.argv[1:] if argv is None else argv)


def _template(argv: Sequence[str], log: Log) -> int:
    arguments = options.template_parser().parse_args(argv)
    _set_level(log, arguments)
    os.umask(_UMASK)
    with _signals_held():
        from lxc_oci import template as verb

    verb.run(arguments, log)
    return 0


def _command(argv: Sequence[str], log: Log) -> int:
    arguments = options.command_parser().parse_args(argv)
    _set_level(log, arguments)
    if arguments.verb != "commit":  # its files are the caller's
        os.umask(_UMASK)
    with _signals_held():
        from lxc_oci import verbs

    return verbs.run(arguments, log)


def _set_level(log: Log, arguments: "argparse.Namespace") -> None:
    if arguments.quiet:
        log.level = Level.QUIET
    elif arguments.verbose:
        log.level = Level.VERBOSE


def _door(body: Callable[[Sequence[str], Log], int], argv: Sequence[str]) -> int:
    """Run `body` and turn what comes out of it into messages and an exit status."""
    _open_standard_descriptors()
    log = Log()
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    try:
        status = body(argv, log)
        sys.stdout.flush()
        return status
    except OciError as error:
        log.error(error)
        if log.level is Level.VERBOSE and error.__cause__ is not None:
            log.detail(f"caused by {error.__cause__!r}")
        return error.status
    except Interrupted as stop:
        log.error(OciError(f"stopped by {signal.Signals(stop.number).name}"))
        return 128 + stop.number
    except BrokenPipeError:
        # Whoever read our output has gone; what is left in the buffer has nowhere to go either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except OSError as error:
        name = f": {os.fsdecode(error.filename)}" if error.filename else ""
        if error.errno in _NO_SPACE:
            log.error(NoSpaceError(f"no space left on device{name}", "free some space, then try again"))
            return NoSpaceError.status
        log.error(OciError(f"{error.strerror}{name}"))
        if log.level is Level.VERBOSE:
            import traceback

            log.detail(traceback.format_exc())
        return OciError.status
    except MemoryError:
        log.error(OciError("out of memory"))
        return OciError.status
    except Exception as error:  # the border: a user gets a line, we get a report
        log.error(
            OciError(
                f"internal error: {type(error).__name__}: {error}",
                "this is a bug of lxc-oci-py; please report it with the output of --verbose",
            )
        )
        if log.level is Level.VERBOSE or "LXC_OCI_PY_DEBUG" in os.environ:
            import traceback

            traceback.print_exc()
        return _INTERNAL_ERROR
    finally:
        _let_go_of_errors()


def _let_go_of_errors() -> None:
    """Drop what standard error does not take: Python would end with status 120 for it, and LXC remove the container."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _open_standard_descriptors() -> None:
    """Open /dev/null for each standard descriptor that is closed: the next file that is opened would become it, and
    what a program then says would be written into a layer."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        os.set_inheritable(fd, True)
        fd = os.dup(fd)
    os.close(fd)
    # Python leaves the streams of what was closed out, whatever their type says.
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let signals wait: orjson ends in SIGSEGV when one of the imports of its initialisation is interrupted (seen)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)  # the cleaning up is not to be stopped half way
    raise Interrupted(number)


if __name__ == "__main__":
    sys.exit(command())
