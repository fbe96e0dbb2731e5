# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boot a Debian of image.py in QEMU and work in it: run, put, get, reboot, cut the power, boot again.

    with Box("trixie") as box:
        box.run(["lxc-create", "-t", "busybox", "-n", "c"])
        box.power_cut()
        box.boot()
        status, output = box.run("lxc-ls -f")

Each Box has a throw-away disk over the image.  The guest has no network.  Software emulation only: KVM would be
faster but is not everywhere, and what works by luck of timing should fail here.

Needs no root; image.build() does when the image is not in the cache yet.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import io
import json
import shlex
import signal
import socket
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

from tests.vm import image

CORES = 2
MEMORY_MIB = 2048
BOOT_SECONDS = 300  # 20 s on an idle machine; two busy cores and a journal to replay take longer
COMMAND_SECONDS = 120
PROJECT = Path(__file__).resolve().parents[2]
SUITE = "/srv/suite"  # the tests, as in the project; every user of the box can read them
DEBS = "/root/debs"

KERNEL_ARGUMENTS = [
    f"root=LABEL={image.ROOT_LABEL} rw console=ttyS0",
    "panic=-1 oops=panic",  # with -no-reboot: QEMU ends, and the host is told
    "log_buf_len=4M audit_backlog_limit=8192",  # every audit record of a run is kept (guest/denials.py reads them)
    "mitigations=off net.ifnames=0 quiet",
]


class BoxError(Exception):
    """The box did not do what it must do for any test to mean something: it did not boot, or it died."""


class Result(NamedTuple):
    """How a command ended: exit status, or minus the signal; what it printed, both streams as one."""

    status: int
    output: str


class Command:
    """A command that runs in the box; made by Box.start()."""

    def __init__(self, box: Box, number: int, told: str, echo: IO[str] | None) -> None:
        self._box = box
        self._number = number
        self._told = told
        self._echo = echo
        self._changed = threading.Condition()
        self._output = bytearray()
        self._status: int | None = None
        self._lost = False

    def _message(self, message: dict[str, Any]) -> None:
        with self._changed:
            if "output" in message:
                chunk = base64.b64decode(message["output"])
                self._output += chunk
                if self._echo is not None:
                    self._echo.write(chunk.decode(errors="replace"))
                    self._echo.flush()
            if "status" in message:
                self._status = message["status"]
            self._changed.notify_all()

    def _hang_up(self) -> None:
        with self._changed:
            self._lost = True
            self._changed.notify_all()

    def _wait(self, done: Callable[[], bool], timeout: float, what: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: done() or self._lost, timeout)
            if done():
                return
            tail = bytes(self._output[-2000:]).decode(errors="replace")
            reason = "the box went down" if self._lost else f"{timeout:.0f} s passed"
        raise BoxError(f"{reason} before {what}: {self._told}\n{tail}")

    @property
    def output(self) -> bytes:
        """What it has printed so far."""
        with self._changed:
            return bytes(self._output)

    def wait_for(self, text: str, timeout: float = COMMAND_SECONDS) -> None:
        """Wait until it has printed *text* (the moment for a power cut)."""
        self._wait(lambda: text.encode() in self._output, timeout, f"{text!r} was printed")

    def wait(self, timeout: float = COMMAND_SECONDS) -> int:
        """Its exit status.  Raises BoxError, and kills it, when *timeout* seconds pass or the box goes down."""
        try:
            self._wait(lambda: self._status is not None, timeout, "the end of the command")
        except BoxError:
            self.kill()
            raise
        assert self._status is not None
        return self._status

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal its process group."""
        with contextlib.suppress(BoxError):
            self._box._say(id=self._number, kill=int(number))


class Box:
    """One machine with one disk, from __enter__ (boots) to __exit__ (gone without a trace).

    *keep*: a directory for the console's log; otherwise a temporary one.  *console*: the serial console is this
    terminal instead.
    """

    def __init__(self, release: str, *, keep: Path | None = None, console: bool = False) -> None:
        self.release = release
        self.boot_seconds = 0.0
        self._console = console
        self._exit = contextlib.ExitStack()
        self._keep = keep
        self._qemu: subprocess.Popen[bytes] | None = None
        self._wire: socket.socket | None = None
        self._hello = threading.Event()
        self._reader: threading.Thread | None = None
        self._saying = threading.Lock()
        self._commands: dict[int, Command] = {}
        self._last_number = 0

    def __enter__(self) -> Box:
        with contextlib.ExitStack() as undo:
            self._image = image.build(self.release)
            # Tells image.build() of another run that this image is in use.
            undo.enter_context(image.locked(self._image.directory, fcntl.LOCK_SH))
            work = undo.enter_context(tempfile.TemporaryDirectory(prefix=f"box-{self.release}-"))
            self._work = Path(work)
            self.console_log = (self._keep or self._work) / f"console-{self.release}.log"
            self._disk = self._work / "disk.qcow2"
            argv = [
                "qemu-img",
                "create",
                "-q",
                "-f",
                "qcow2",
                "-F",
                "raw",
                "-b",
                str(self._image.disk),
                str(self._disk),
            ]
            subprocess.run(argv, check=True)
            undo.callback(self._kill_qemu)
            self.boot()
            self._exit = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit.close()

    # Life

    def _qemu_argv(self, port: int) -> list[str]:
        # cache=writeback: what the guest has flushed survives the death of QEMU, what it has not may be lost in
        # part, since QEMU then still holds the qcow2 tables in its own memory: as a disk with a volatile cache.
        return [
            *("qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi"),
            *("-smp", str(CORES), "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none", "-no-reboot"),
            *("-net", "none", "-device", "virtio-rng-pci"),
            *("-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd)),
            *("-append", " ".join(KERNEL_ARGUMENTS)),
            *("-drive", f"file={self._disk},format=qcow2,if=virtio,cache=writeback,discard=unmap"),
            *("-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={port}"),
            *("-device", "virtserialport,chardev=agent,name=box.agent"),
            *("-chardev", "stdio,id=console,signal=off" if self._console else self._console_file()),
            *("-serial", "chardev:console"),
        ]

    def _console_file(self) -> str:
        return f"file,id=console,path={self.console_log},append=on"

    def boot(self) -> None:
        """Switch it on and wait until systemd has started everything.  Raises BoxError with the console's end."""
        if self._qemu is not None:
            raise BoxError("it is running")
        began = time.monotonic()
        ours, theirs = socket.socketpair()
        with theirs:
            argv = self._qemu_argv(theirs.fileno())
            self._qemu = subprocess.Popen(
                argv, pass_fds=[theirs.fileno()], stdin=None if self._console else subprocess.DEVNULL
            )
        self._wire = ours
        self._hello.clear()
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()
        try:
            if not self._hello.wait(BOOT_SECONDS) or self._qemu.poll() is not None:
                raise BoxError("no word from the agent")
            status, output = self.run(["systemctl", "is-system-running", "--wait"], timeout=BOOT_SECONDS)
            if status:
                failed = self.run("systemctl --failed --no-legend --plain; journalctl -b -p err --no-pager").output
                raise BoxError(f"systemd says {output.strip()}\n{failed}")
        except BoxError as error:
            self._kill_qemu()
            raise BoxError(f"{self.release} did not boot: {error}\n{self._console_tail()}") from None
        self.boot_seconds = time.monotonic() - began

    def _console_tail(self) -> str:
        if self._console or not self.console_log.exists():
            return ""
        return self.console_log.read_text(errors="replace")[-3000:]

    def _kill_qemu(self) -> None:
        if self._qemu is not None:
            self._qemu.kill()
            self._gone()

    def _gone(self) -> None:
        """QEMU has ended or is about to: collect it and hang up on every command."""
        assert self._qemu is not None and self._wire is not None and self._reader is not None
        self._qemu.wait()
        self._qemu = None
        with contextlib.suppress(OSError):
            self._wire.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._wire.close()
        self._wire = None

    @property
    def is_on(self) -> bool:
        return self._qemu is not None and self._qemu.poll() is None

    def power_cut(self) -> None:
        """Stop it dead, in the middle of whatever it does.  boot() starts it again from the same disk."""
        if self._qemu is None:
            raise BoxError("it is not running")
        self._kill_qemu()

    def shut_down(self, verb: str = "poweroff", timeout: float = COMMAND_SECONDS) -> None:
        """Have systemd stop everything, and wait for the end."""
        self.start(["systemctl", "--no-block", verb])
        assert self._qemu is not None
        try:
            self._qemu.wait(timeout)
        except subprocess.TimeoutExpired:
            raise BoxError(f"still running {timeout:.0f} s after {verb}\n{self._console_tail()}") from None
        self._gone()

    def reboot(self) -> None:
        """Have systemd reboot it, and wait until it is up again."""
        self.shut_down("reboot")
        self.boot()

    def wait_until_off(self) -> None:
        """Wait for somebody else, a person at the console, to switch it off."""
        assert self._qemu is not None
        self._qemu.wait()
        self._gone()

    # Wire

    def _read(self, wire: socket.socket) -> None:
        buffered = b""
        while True:
            try:
                chunk = wire.recv(1 << 18)
            except OSError:
                chunk = b""
            if not chunk:
                break
            *lines, buffered = (buffered + chunk).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "hello" in message:
                    self._hello.set()
                elif (command := self._commands.get(message["id"])) is not None:
                    command._message(message)
                    if "status" in message:
                        del self._commands[message["id"]]
        self._hello.set()  # boot() need not wait for who will not come
        for command in list(self._commands.values()):
            command._hang_up()
        self._commands.clear()

    def _say(self, **message: Any) -> None:
        if self._wire is None:
            raise BoxError("it is not running")
        try:
            with self._saying:
                self._wire.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise BoxError(f"it went down: {error}") from None

    # Work

    def start(
        self,
        command: str | Sequence[str],
        *,
        user: str = "root",
        stdin: bytes = b"",
        environment: dict[str, str] | None = None,
        directory: str = "/",
        echo: IO[str] | None = None,
    ) -> Command:
        """Start a command (a string is for the shell) without waiting for its end; print what it prints to *echo*.

        As another *user* than root it runs as after a login of hers: with her systemd's address, and her own HOME.
        """
        argv = ["sh", "-c", command] if isinstance(command, str) else list(command)
        if user != "root":
            argv = ["runuser", "-u", user, "--", "sh", "-c", _AS_LOGIN + 'exec "$@"', "sh", *argv]
        self._last_number += 1
        number = self._last_number
        started = self._commands[number] = Command(self, number, shlex.join(argv), echo)
        self._say(
            id=number,
            argv=argv,
            stdin=base64.b64encode(stdin).decode(),
            environment=environment or {},
            directory=directory,
        )
        return started

    def run(self, command: str | Sequence[str], timeout: float = COMMAND_SECONDS, **how: Any) -> Result:
        """Run a command to its end; *how* as for start().  Raises BoxError on time-out, not on a bad status."""
        started = self.start(command, **how)
        status = started.wait(timeout)
        return Result(status, started.output.decode(errors="replace"))

    def check(self, command: str | Sequence[str], timeout: float = COMMAND_SECONDS, **how: Any) -> str:
        """What a command that must succeed printed."""
        status, output = self.run(command, timeout, **how)
        if status:
            told = command if isinstance(command, str) else shlex.join(command)
            raise BoxError(f"status {status}: {told}\n{output}")
        return output

    def put(self, path: str, data: bytes) -> None:
        """Write a file, over what is there."""
        self.check(["dd", "status=none", f"of={path}"], stdin=data)

    def get(self, path: str) -> bytes:
        """Read a file."""
        started = self.start(["cat", path])
        if started.wait():
            raise BoxError(started.output.decode(errors="replace"))
        return started.output

    def unpack(self, members: Iterable[tuple[Path, str]], directory: str) -> None:
        """Copy files and trees of the host into *directory*: each (host path, name there).

        They are owned by root there.
        """
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path, name in members:
                archive.add(path, name, filter=_owned_by_root)
        self.check(["mkdir", "-p", directory])
        self.check(["tar", "-C", directory, "-xf", "-"], stdin=packed.getvalue())

    def install(self, debs: Sequence[Path], *, timeout: float = 300) -> str:
        """Install packages with apt, as a user without a network does.  Returns what apt said."""
        self.unpack([(deb, deb.name) for deb in debs], DEBS)
        names = " ".join(shlex.quote(f"{DEBS}/{deb.name}") for deb in debs)
        return self.check(f"DEBIAN_FRONTEND=noninteractive apt-get install --yes {names}", timeout)

    def install_suite(self) -> None:
        """Bring the tests in.  Not the program: what they test there is the installed package."""
        self.unpack([(PROJECT / "setup.cfg", "setup.cfg"), (PROJECT / "tests", "tests")], SUITE)


_AS_LOGIN = """
XDG_RUNTIME_DIR=/run/user/$(id -u) DBUS_SESSION_BUS_ADDRESS=unix:path=$XDG_RUNTIME_DIR/bus
export XDG_RUNTIME_DIR DBUS_SESSION_BUS_ADDRESS
cd
"""


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return None if member.name.endswith(("/__pycache__", ".pyc")) else member
