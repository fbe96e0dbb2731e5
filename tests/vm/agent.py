#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The box's side of the wire: run what the host says, as root, and send back what it prints.

Lines of JSON over a virtio-serial port, several commands at once.  To us:

    {"id": 1, "argv": [...], "stdin": "base64", "environment": {...}, "directory": "/"}    start a command
    {"id": 1, "kill": 9}                                                                   signal its process group

From us: ``{"hello": BOOT_ID}`` when we are up; for each command any number of ``{"id": 1, "output": "base64"}``
(standard output and error as one), then ``{"id": 1, "status": N}``: its exit status, or minus the signal that
ended it, or 127 when it could not be started.

Part of the image, not of our package; standard library of Python 3.11 only.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from typing import Any, BinaryIO

PORT = "/dev/virtio-ports/box.agent"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/sh",
    "LANG": "C.UTF-8",
}


class Agent:
    def __init__(self, port: BinaryIO) -> None:
        self._port = port
        self._writing = threading.Lock()
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def say(self, **message: Any) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self._writing:
            while line:
                line = line[self._port.write(line) :]

    def serve(self) -> None:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            self.say(hello=file.read().strip())
        buffered = os.fdopen(os.dup(self._port.fileno()), "rb")
        for line in buffered:
            message = json.loads(line)
            if "kill" in message:
                self._kill(message["id"], message["kill"])
            else:
                threading.Thread(target=self._run, args=(message,), daemon=True).start()

    def _kill(self, number: int, signal: int) -> None:
        process = self._running.get(number)
        if process is not None:
            try:
                os.killpg(process.pid, signal)
            except ProcessLookupError:
                pass

    def _run(self, message: dict[str, Any]) -> None:
        number = message["id"]
        try:
            process = subprocess.Popen(
                message["argv"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT | message.get("environment", {}),
                cwd=message.get("directory", "/"),
                start_new_session=True,
            )
        except OSError as error:
            self.say(id=number, output=base64.b64encode(f"{error}\n".encode()).decode())
            self.say(id=number, status=127)
            return
        self._running[number] = process
        stdin = base64.b64decode(message.get("stdin", ""))
        threading.Thread(target=self._feed, args=(process.stdin, stdin), daemon=True).start()
        # A daemon that the command leaves behind holds the pipe open: what counts is that the command itself ended.
        reader = threading.Thread(target=self._forward, args=(number, process.stdout), daemon=True)
        reader.start()
        status = process.wait()
        reader.join(timeout=2)
        del self._running[number]
        self.say(id=number, status=status)

    @staticmethod
    def _feed(pipe: BinaryIO, data: bytes) -> None:
        try:
            with pipe:
                pipe.write(data)
        except BrokenPipeError:
            pass

    def _forward(self, number: int, pipe: BinaryIO) -> None:
        while chunk := os.read(pipe.fileno(), 1 << 16):
            self.say(id=number, output=base64.b64encode(chunk).decode())


def main() -> int:
    with open(PORT, "r+b", buffering=0) as port:
        Agent(port).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
