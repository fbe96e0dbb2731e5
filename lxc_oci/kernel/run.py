# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only place that starts another program.

An absolute path, no shell, an environment made from nothing, closed
descriptors, a time limit, and death with us: a helper outlives nobody.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lxc_oci.errors import UnavailableError, UnsupportedError

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SETPRIV = "/usr/bin/setpriv"
_PRLIMIT = "/usr/bin/prlimit"
CLEAN_ENVIRONMENT = {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}


@dataclass(frozen=True)
class Result:
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
    input: bytes | None = None,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    memory: int | None = None,
    user: tuple[int, int] | None = None,
    cwd: str = "/",
) -> Result:
    """Run `argv` (argv[0] an absolute path) to its end and return how it ended.

    `environment` is added to CLEAN_ENVIRONMENT; `timeout` is seconds, `memory` the address space in bytes,
    `user` the (uid, gid) to become.  Raises UnavailableError when the time is over (the program's process
    group is killed) and UnsupportedError when it cannot be started.
    """

    # util-linux's own programs set the limits: code of ours between fork and exec is unsafe with threads.
    prefix = [_SETPRIV, "--pdeathsig", "KILL"]
    if user is not None:
        prefix += ["--reuid", str(user[0]), "--regid", str(user[1]), "--clear-groups", "--no-new-privs"]
        prefix += ["--inh-caps", "-all", "--bounding-set", "-all"]
    if memory is not None:
        prefix += [_PRLIMIT, f"--as={memory}"]

    name = os.path.basename(os.fsdecode(argv[0]))
    try:
        process = subprocess.Popen(
            [*prefix, *argv],
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**CLEAN_ENVIRONMENT, **(environment or {})},
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as error:
        raise UnsupportedError(f"cannot start {name}: {error.strerror}") from error
    try:
        output, errors = process.communicate(input, timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise UnavailableError(f"{name} did not finish in {timeout:.0f} seconds") from None
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return Result(process.returncode, output, errors)
