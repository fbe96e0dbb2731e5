# SPDX-License-Identifier: LGPL-2.1-or-later
"""A call of ours killed at its N-th system call that changes something, whatever process of it makes that call.

    total = kill.at(0, body).calls
    for number in range(1, total + 1):
        kill.at(number, body)

`body` runs in a fork of the test, so nothing is imported anew, under ptrace with a seccomp filter that stops at the
calls below only.  strace's `inject=…:signal=KILL:when=N` would count for each thread and each call by itself, and
would count the files that are opened for reading.
"""

import ctypes
import os
import re
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import need

_CHANGING = (
    "write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "copy_file_range", "ftruncate", "truncate",
    "fallocate", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat",
    "rmdir", "mkdir", "mkdirat", "mknod", "mknodat", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown",
    "lchown", "fchownat", "utimensat", "setxattr", "lsetxattr", "fsetxattr", "removexattr", "fremovexattr",
    "lremovexattr", "ioctl", "fsync", "fdatasync", "syncfs", "mount", "umount2", "fsmount", "fsconfig",
    "move_mount", "open_tree", "mount_setattr",
)  # fmt: skip
_OPENING = {"openat": 2, "openat2": -1, "open": 1, "creat": -1}  # the argument that has the flags; -1: not looked at
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_LOOP = 0x4C00  # the ioctls of loop devices

_TRACEME, _CONT, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 7, 0x4200, 0x420E
_FORKS_CLONES_EXEC, _TRACE_SECCOMP, _EXITKILL = 0x02 | 0x04 | 0x08 | 0x10, 0x80, 0x100000
_EVENT_SECCOMP = 7
_WALL = 0x40000000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_INFO = 88

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    calls: int  # that change something, before the end
    status: int  # the exit status, or minus the signal
    call: str  # at which it was killed, "" when it was not
    output: str  # what it wrote to its standard output and error


def at(number: int, body: Callable[[], int], output: Path) -> Outcome:
    """Run `body` and kill the process that makes the call `number`, counted from 1; 0 lets it run to its end.

    Returns when all processes that came of it have ended.
    """
    need.root()
    reading, writing = os.pipe()
    tracer = os.fork()
    if tracer == 0:
        try:
            os.close(reading)
            with open(writing, "w") as answer:
                answer.write(_trace(number, body, output))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(writing)
    with open(reading) as answer:
        words = answer.read().split()
    _, status = os.waitpid(tracer, 0)
    assert status == 0 and len(words) >= 2, "the tracer failed"
    return Outcome(int(words[0]), int(words[1]), " ".join(words[2:]), output.read_text(errors="replace"))


def _trace(number: int, body: Callable[[], int], output: Path) -> str:
    """Run and count; in a process of its own, which has no other children."""
    names = _numbers()
    main = os.fork()
    if main == 0:
        _be_traced(body, names, output)
    os.waitpid(main, _WALL)
    _ptrace(_SETOPTIONS, main, _FORKS_CLONES_EXEC | _TRACE_SECCOMP | _EXITKILL)
    _ptrace(_CONT, main, 0)
    calls, end, killed = 0, 0, ""
    born: set[int] = {main}
    while True:
        try:
            pid, status = os.waitpid(-1, _WALL)
        except ChildProcessError:
            return f"{calls} {end} {killed}"
        if not os.WIFSTOPPED(status):
            if pid == main:
                end = os.waitstatus_to_exitcode(status)
            continue
        given = os.WSTOPSIG(status)
        if status >> 16 == _EVENT_SECCOMP:
            call = _call(pid, names)
            if call:
                calls += 1
                if calls == number:
                    killed = call
                    os.kill(_process(pid), signal.SIGKILL)
                    continue
            given = 0
        elif status >> 16 or (given == signal.SIGSTOP and pid not in born):
            born.add(pid)  # each new process and thread begins with a SIGSTOP
            given = 0
        try:
            _ptrace(_CONT, pid, given)
        except ProcessLookupError:  # killed meanwhile
            pass


def _be_traced(body: Callable[[], int], names: dict[int, str], output: Path) -> None:
    status = 70
    try:
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (fd, 1), (fd, 2)):
            os.dup2(source, target)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)  # pytest's are files of its own
        _ptrace(_TRACEME, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        _filter(sorted(names))
        status = body()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _call(pid: int, names: dict[int, str]) -> str:
    """The call that a stopped process is about to make, "" when it changes nothing."""
    info = ctypes.create_string_buffer(_INFO)
    _ptrace(_GET_SYSCALL_INFO, pid, _INFO, info)
    number, *arguments = struct.unpack_from("<7Q", info, 24)
    name = names[number]
    if name in _OPENING:
        index = _OPENING[name]
        flags = arguments[index] if index >= 0 else _WRITES
        if name == "openat2":
            with open(f"/proc/{pid}/mem", "rb") as memory:
                memory.seek(arguments[2])
                (flags,) = struct.unpack("<Q", memory.read(8))
        return name if flags & _WRITES else ""
    if name in ("write", "writev", "pwrite64") and arguments[0] <= 2:
        return ""
    if name == "ioctl" and arguments[1] & 0xFF00 != _LOOP:
        return ""
    return name


def _process(thread: int) -> int:
    text = Path(f"/proc/{thread}/status").read_text()
    found = re.search(r"^Tgid:\s+(\d+)", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def _numbers() -> dict[int, str]:
    """The numbers of the calls on this machine, from the C library's header."""
    header = Path(f"/usr/include/{os.uname().machine}-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        header = Path("/usr/include/asm-generic/unistd.h")
    if not header.exists():
        need.missing("there is no asm/unistd.h (Debian: libc6-dev)")
    wanted = {*_CHANGING, *_OPENING}
    found = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text(), re.MULTILINE)
    return {int(number): name for name, number in found if name in wanted}


def _filter(numbers: list[int]) -> None:
    """Install a seccomp filter that stops at `numbers` and lets all else pass."""
    allow, trace = 0x7FFF0000, 0x7FF00000
    program = [struct.pack("<HBBI", 0x20, 0, 0, 0)]  # load the number
    for index, number in enumerate(numbers):
        program.append(struct.pack("<HBBI", 0x15, len(numbers) - index, 0, number))  # equal: to the last
    program += [struct.pack("<HBBI", 0x06, 0, 0, allow), struct.pack("<HBBI", 0x06, 0, 0, trace)]
    code = ctypes.create_string_buffer(b"".join(program))
    header = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code)))
    if _libc.prctl(_PR_SET_SECCOMP, 2, ctypes.c_void_p(ctypes.addressof(header)), 0, 0):
        pytest.fail(f"prctl: {os.strerror(ctypes.get_errno())}")


def _ptrace(request: int, pid: int, number: int, data: "ctypes.Array[ctypes.c_char] | None" = None) -> None:
    address, value = (number, ctypes.addressof(data)) if data is not None else (0, number)
    if _libc.ptrace(request, pid, address, value) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
