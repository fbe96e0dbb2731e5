# SPDX-License-Identifier: LGPL-2.1-or-later
"""The wrapper: a program that carries what no configuration key can, and runs the image's command.

It has the argument vector, the added variables and the directory inside it, so that nothing is split or unquoted
again.  For x86-64 and arm64 it is a static ELF file that needs nothing from the image; elsewhere a script for
the image's /bin/sh.  Where it is kept and how the guest sees it is for guest.py to say.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lxc_oci.container import machinecode
from lxc_oci.container.lxcconfig import encode
from lxc_oci.errors import UnsupportedError

_BASE = 0x400000  # above vm.mmap_min_addr, and a multiple of every page size
_HEADERS = 64 + 2 * 56
_MACHINES = {"amd64": (62, machinecode.X86_64), "arm64": (183, machinecode.ARM64)}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PLACE = re.compile(r"\{([a-z_]+)\}")


class Job(NamedTuple):
    """What the wrapper does: enter `directory` (`` for none), add `variables`, run the first of `programs`.

    `programs` are paths that are tried in this order; `arguments` is argv, argv[0] included.
    """

    programs: tuple[str, ...]
    arguments: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    directory: str = ""


def is_binary(architecture: str) -> bool:
    """Tell whether the wrapper for this architecture (of an image's platform) needs no shell."""
    return architecture in _MACHINES


def build(job: Job, architecture: str) -> bytes:
    """Return the program.  Raises UnsupportedError for a variable that a shell script cannot set."""
    if architecture in _MACHINES:
        return _elf(job, *_MACHINES[architecture])
    return _script(job)


def _elf(job: Job, machine: int, listing: str) -> bytes:
    code = _words(listing)
    size = sum(len(word) if isinstance(word, bytes) else 4 for word in code)
    data = _Data(_BASE + _HEADERS + size + -(_HEADERS + size) % 8)
    additions = [f"{name}={value}" for name, value in job.variables]
    run_text = encode(f"lxc-oci-py: cannot run {_shown(job.arguments[0])}: errno ")
    enter_text = encode(f"lxc-oci-py: cannot enter {_shown(job.directory)}: errno ")
    numbers = {
        "room": 8 * len(additions),
        "additions": data.array(additions),
        "programs": data.array(job.programs),
        "arguments": data.array(job.arguments),
        "directory": data.string(encode(job.directory or ".")),
        "enter_text": data.string(enter_text),
        "enter_size": len(enter_text),
        "run_text": data.string(run_text),
        "run_size": len(run_text),
    }
    text = b"".join(word if isinstance(word, bytes) else struct.pack("<I", numbers[word.name]) for word in code)
    content = text.ljust(data.start - _BASE - _HEADERS, b"\0") + data.content()
    total = _HEADERS + len(content)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",  # 64 bits, little-endian, version 1
        2,  # ET_EXEC: addresses are final, so nothing relocates
        machine,
        1,
        _BASE + _HEADERS,
        64,
        0,
        0,
        64,
        56,
        2,
        64,
        0,
        0,
    )
    # One read-only, executable segment for everything; the stack is all that is written.
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, total, total, 0x10000)
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)  # PT_GNU_STACK: not executable
    return header + load + stack + content


@dataclass(frozen=True)
class _Number:
    name: str


def _words(listing: str) -> list[bytes | _Number]:
    """Return the bytes and numbers of a listing of machinecode."""
    found: list[bytes | _Number] = []
    for line in listing.splitlines():
        code = line.partition("#")[0].strip()
        if not code or code.endswith(":"):
            continue
        for position, part in enumerate(_PLACE.split(code)):
            found.append(_Number(part) if position % 2 else bytes.fromhex(part))
    return found


class _Data:
    """The strings and arrays behind the code, at addresses that are known as they are added."""

    def __init__(self, start: int) -> None:
        self.start = start
        self._parts: list[bytes] = []
        self._size = 0

    def _add(self, content: bytes) -> int:
        address = self.start + self._size
        content = content.ljust(len(content) + -len(content) % 8, b"\0")
        self._parts.append(content)
        self._size += len(content)
        return address

    def string(self, content: bytes) -> int:
        return self._add(content + b"\0")

    def array(self, strings: Sequence[str]) -> int:
        addresses = [self.string(encode(text)) for text in strings]
        return self._add(struct.pack(f"<{len(addresses) + 1}Q", *addresses, 0))

    def content(self) -> bytes:
        return b"".join(self._parts)


def _script(job: Job) -> bytes:
    """Return a script for POSIX sh.  Newlines stand for themselves between single quotes."""
    lines = ["#!/bin/sh"]
    for name, value in job.variables:
        if not _NAME.match(name):
            raise UnsupportedError(
                f"the variable {name!r:.100} cannot be set by a shell, and this architecture has no other way",
                "leave it out of the image, or run the image on amd64 or arm64",
            )
        lines.append(f"export {name}={_quote(value)}")
    if job.directory:
        lines.append(f"cd -- {_quote(job.directory)} || exit 126")
    # A shell can give no other argv[0], and looks a name up in PATH as execvp does.
    lines.append("exec " + " ".join(_quote(word) for word in job.arguments))
    return encode("\n".join(lines) + "\n")


def _quote(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def _shown(text: str) -> str:
    """Return `text` fit for a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text[:200])
