# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the kernel can run programs of another architecture: what binfmt_misc says (admin-guide/binfmt-misc)."""

import os
import struct

_DIRECTORY = "/proc/sys/fs/binfmt_misc"
# ELF class (1: 32 bit, 2: 64), byte order (1: little, 2: big) and e_machine of elf.h.
_ELF = {
    "386": (1, 1, 3),
    "amd64": (2, 1, 62),
    "arm": (1, 1, 40),
    "arm64": (2, 1, 183),
    "loong64": (2, 1, 258),
    "mips64le": (2, 1, 8),
    "ppc64le": (2, 1, 21),
    "riscv64": (2, 1, 243),
    "s390x": (2, 2, 22),
}
# What a kernel of the first runs without help.
_NATIVE = frozenset({("amd64", "386"), ("arm64", "arm")})


def obstacle(architecture: str, host: str, directory: str = _DIRECTORY) -> str:
    """Return why programs for `architecture` do not run on `host`, "" when they do."""
    if architecture == host or (host, architecture) in _NATIVE:
        return ""
    header = _header(architecture)
    handlers = _handlers(directory) if header else []
    matching = [handler for handler in handlers if _matches(handler, header)]
    if not matching:
        return "no handler for its programs is registered in binfmt_misc (apt install qemu-user-static)"
    if not any("F" in handler.get("flags:", "") for handler in matching):
        # Without F the kernel looks for the interpreter inside the container.
        return f"its handler {matching[0].get('interpreter', '')!r:.100} is registered without the flag F"
    return ""


def _header(architecture: str) -> bytes:
    """The first 20 bytes of an executable, or b"" for an architecture that is not known."""
    if architecture not in _ELF:
        return b""
    width, order, machine = _ELF[architecture]
    return b"\x7fELF" + bytes((width, order, 1)) + bytes(9) + struct.pack("<HH" if order == 1 else ">HH", 2, machine)


def _handlers(directory: str) -> list[dict[str, str]]:
    """The enabled handlers that go by magic: their lines `name value`."""
    found = []
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    for name in names:
        if name in ("register", "status"):
            continue
        try:
            with open(os.path.join(directory, name), encoding="ascii", errors="replace") as file:
                lines = file.read(8192).splitlines()
        except OSError:
            continue  # unregistered meanwhile
        if "enabled" in lines:
            found.append({word: value for word, _, value in (line.partition(" ") for line in lines)})
    return found


def _matches(handler: dict[str, str], header: bytes) -> bool:
    try:
        magic = bytes.fromhex(handler["magic"])
        mask = bytes.fromhex(handler.get("mask", "")) or b"\xff" * len(magic)
        start = int(handler.get("offset", "0"))
    except (KeyError, ValueError):
        return False
    part = header[start : start + len(magic)].ljust(len(magic), b"\0")
    return all((a ^ b) & m == 0 for a, b, m in zip(part, magic, mask, strict=False))
