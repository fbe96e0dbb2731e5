# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only place that starts another program.

An absolute path, no shell, an environment made from nothing, closed
descriptors, a time limit, and death with us: a helper outlives nobody.
"""

import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from lxc_oci.errors import UnavailableError, UnsupportedError

if TYPE_CHECKING:  # slow to import, and most creates start no program
    import subprocess

OUTPUT_BYTES = 16 * 1024 * 1024  # what `run` keeps of an output: documents, not data
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SETPRIV = "/usr/bin/setpriv"
_PRLIMIT = "/usr/bin/prlimit"
CLEAN_ENVIRONMENT = {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}


class Result(NamedTuple):
    """How a program ended: exit status (negative: the signal), standard output, standard error."""

    status: int
    output: bytes
    errors: bytes

    def message(self) -> str:
        """The last non-empty line of standard error, for use in a message of ours."""
        lines = [line.strip() for line in self.errors.decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"exit status {self.status}"


def find(program: str) -> str | None:
    """Return the absolute path of `program` in the system's fixed PATH, never the caller's, or None."""
    for directory in SYSTEM_PATH.split(":"):
        path = os.path.join(directory, program)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def require(program: str, package: str) -> str:
    """Return the path of `program` or raise UnsupportedError naming the Debian package that has it."""
    path = find(program)
    if path is None:
        raise UnsupportedError(f"{program} is not installed", f"apt install {package}")
    return path


def run(
    argv: Sequence[str | bytes],
    *,
    timeout: float,
    input: bytes | int | None = None,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    memory: int | None = None,
    user: tuple[int, int] | None = None,
    cwd: str = "/",
) -> Result:
    """Run `argv` (argv[0] an absolute path) to its end and return how it ended.

    `input` is what it reads, bytes or a descriptor, else nothing; `environment` is added to CLEAN_ENVIRONMENT;
    `timeout` is seconds, `memory` the address space in bytes, `user` the (uid, gid) to become.  Raises
    UnavailableError when the time is over or an output longer than OUTPUT_BYTES (the program's process group is
    killed) and UnsupportedError when it cannot be started.
    """
    import subprocess

    name = _name(argv)
    end = time.monotonic() + timeout
    fd = _file_of(input) if isinstance(input, bytes) else subprocess.DEVNULL if input is None else input
    try:
        process = subprocess.Popen(
            [*_prefix(memory, user), *argv],
            stdin=fd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**CLEAN_ENVIRONMENT, **(environment or {})},
            cwd=cwd,
            bufsize=0,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as error:
        raise UnsupportedError(f"cannot start {name}: {error.strerror}") from error
    finally:
        if isinstance(input, bytes):
            os.close(fd)
    with process.stdout, process.stderr:  # type: ignore[union-attr]
        try:
            output, errors = _read_both(process, end)
            process.wait(max(0.0, end - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            raise UnavailableError(f"{name} did not finish in {timeout:.0f} seconds") from None
        except _TooLong:
            raise UnavailableError(f"{name} printed more than {OUTPUT_BYTES >> 20} MiB, and was stopped") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return Result(process.returncode, output, errors)


class _TooLong(Exception):
    """A program printed more than is kept."""


def _file_of(data: bytes) -> int:
    """Return a descriptor from which a program reads `data`."""
    fd = os.memfd_create("input")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _read_both(process: "subprocess.Popen[bytes]", end: float) -> tuple[bytes, bytes]:
    """Return both outputs, read to their ends.  Raises TimeoutError and _TooLong."""
    assert process.stdout is not None and process.stderr is not None
    kept = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    waiting = select.poll()
    for fd in kept:
        waiting.register(fd, select.POLLIN)
    open_ones = len(kept)
    while open_ones:
        ready = waiting.poll(max(0.0, end - time.monotonic()) * 1000)
        if not ready:
            raise TimeoutError
        for fd, _ in ready:
            data = os.read(fd, 1 << 16)
            kept[fd] += data
            if not data:
                waiting.unregister(fd)
                open_ones -= 1
            elif len(kept[fd]) > OUTPUT_BYTES:
                raise _TooLong
    output, errors = kept.values()
    return bytes(output), bytes(errors)


def _name(argv: Sequence[str | bytes]) -> str:
    """Return the name of a program for messages.  Its path is absolute: nobody's PATH decides what root runs."""
    path = os.fsdecode(argv[0])
    if not os.path.isabs(path):
        raise ValueError(f"{path!r} is not an absolute path of a program")
    return os.path.basename(path)


def _prefix(memory: int | None, user: tuple[int, int] | None) -> list[str]:
    """Return what stands before a program: util-linux's own programs set the limits, because code of ours between
    fork and exec is unsafe with threads."""
    prefix = [_SETPRIV, "--pdeathsig", "KILL"]
    if user is not None:
        prefix += ["--reuid", str(user[0]), "--regid", str(user[1]), "--clear-groups", "--no-new-privs"]
        prefix += ["--inh-caps", "-all", "--bounding-set", "-all"]
    if memory is not None:
        prefix += [_PRLIMIT, f"--as={memory}"]
    return prefix


class Stream:
    """A program whose standard output is read while it runs.  A context manager; leaving it kills the program.

    `timeout` is seconds for the whole of it; `memory`, `user` and `pass_fds` are those of `run`.  Starting raises
    UnsupportedError, reading UnavailableError when the time is over.
    """

    def __init__(
        self,
        argv: Sequence[str | bytes],
        *,
        timeout: float,
        pass_fds: Sequence[int] = (),
        memory: int | None = None,
        user: tuple[int, int] | None = None,
    ) -> None:
        import subprocess

        self._name = _name(argv)
        self.ended = False  # the output was read to its end
        self._timeout = timeout
        self._end = time.monotonic() + timeout
        self._errors = open(os.memfd_create("errors"), "w+b", buffering=0)
        try:
            self._process = subprocess.Popen(
                [*_prefix(memory, user), *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=CLEAN_ENVIRONMENT,
                cwd="/",
                bufsize=0,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise UnsupportedError(f"cannot start {self._name}: {error.strerror}") from error
        assert self._process.stdout is not None
        self._output = self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._output.close()
        self._process.wait()
        self._errors.close()

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes of what the program prints, b"" at the end."""
        left = self._end - time.monotonic()
        if left <= 0 or not select.select([self._output], [], [], left)[0]:
            raise UnavailableError(f"{self._name} did not finish in {self._timeout:.0f} seconds")
        data = os.read(self._output.fileno(), size)
        self.ended = self.ended or not data
        return data

    def finish(self) -> Result:
        """Wait for the program, whose output was read to its end, and return how it ended (without the output)."""
        import subprocess

        try:
            self._process.wait(max(0.0, self._end - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"{self._name} did not finish in {self._timeout:.0f} seconds") from None
        self._errors.seek(0)
        return Result(self._process.returncode, b"", self._errors.read(1 << 20))
