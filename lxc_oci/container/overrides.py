# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the user asks for beside the image: parsed from options, plain data that a later update can read back.

The meaning follows podman-run(1).  Whether the image and the host allow it is decided where it is used.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lxc_oci import jsonio
from lxc_oci.errors import OciError, UsageError

_SIZE = re.compile(r"[0-9]+[kmg]?\Z|[0-9]{1,3}%\Z", re.IGNORECASE)


class VolumeOption(NamedTuple):
    """`--volume HOST:CONTAINER[:ro]`."""

    host: str
    container: str
    read_only: bool = False


class TmpfsOption(NamedTuple):
    """`--tmpfs CONTAINER[:size=SIZE]`; size as tmpfs takes it, `` for its default."""

    container: str
    size: str = ""


class Overrides(NamedTuple):
    """The user's options; None or empty means that the image's own value holds."""

    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    user: str = ""
    workdir: str = ""
    hostname: str = ""
    volumes: tuple[VolumeOption, ...] = ()
    tmpfs: tuple[TmpfsOption, ...] = ()
    dhcp: bool | None = None  # True --dhcp, False --no-dhcp
    address: tuple[str, ...] = ()
    gateway: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()


def words(text: str, option: str) -> tuple[str, ...]:
    """Split the value of --entrypoint or --cmd: a JSON array of strings, else words as a shell splits them.

    An empty text gives no words.  Raises UsageError.
    """
    if text.lstrip().startswith("["):
        try:
            value = jsonio.parse(text.encode("utf-8", "surrogateescape"), option)
        except OciError as error:
            raise UsageError(f"{option} {text!r:.100} is not a JSON array of strings") from error
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UsageError(f"{option} {text!r:.100} is not a JSON array of strings")
        return tuple(value)
    import shlex

    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"{option} {text!r:.100} has an open quote", "write a JSON array of strings") from error


def environment(
    files: Sequence[str], pairs: Sequence[str], caller: Mapping[str, str] | None = None
) -> tuple[tuple[str, str], ...]:
    """Return the variables of --env-file FILE and --env NAME[=VALUE], in that order, as podman does.

    A NAME without a value takes the caller's, and is left out where the caller has none; `NAME*` takes all whose
    names begin so.  Raises UsageError.
    """
    caller = os.environ if caller is None else caller
    found: list[tuple[str, str]] = []
    for path in files:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                lines = file.read().split("\n")
        except OSError as error:
            raise UsageError(f"cannot read the environment file {path}: {error.strerror}") from error
        for number, line in enumerate(lines, 1):
            line = line.removesuffix("\r").lstrip()
            if line and not line.startswith("#"):
                found += _variable(line, f"{path} line {number}", caller)
    for pair in pairs:
        found += _variable(pair, "--env", caller)
    return tuple(found)


def _variable(text: str, origin: str, caller: Mapping[str, str]) -> list[tuple[str, str]]:
    name, equals, value = text.partition("=")
    name = name.lstrip()
    if not name:
        raise UsageError(f"{origin}: {text!r:.100} names no variable", "write NAME=VALUE")
    if equals:
        return [(name, value)]
    if name.endswith("*"):
        return [(key, caller[key]) for key in sorted(caller) if key.startswith(name[:-1])]
    return [(name, caller[name])] if name in caller else []


def volume(text: str) -> VolumeOption:
    """Parse `--volume HOST:CONTAINER[:ro|rw]`.  Raises UsageError."""
    parts = text.split(":")
    if len(parts) == 2:
        parts.append("rw")
    if len(parts) != 3 or parts[2] not in ("ro", "rw") or not parts[0].startswith("/") or not parts[1].startswith("/"):
        raise UsageError(
            f"--volume {text!r:.200} is not HOST:CONTAINER[:ro]", "both are absolute paths without a colon"
        )
    return VolumeOption(os.path.normpath(parts[0]), parts[1], parts[2] == "ro")


def tmpfs(text: str) -> TmpfsOption:
    """Parse `--tmpfs CONTAINER[:size=SIZE]`.  Raises UsageError."""
    path, _, option = text.partition(":")
    size = option.removeprefix("size=")
    if not path.startswith("/") or (option and (size == option or not _SIZE.match(size))):
        raise UsageError(f"--tmpfs {text!r:.200} is not CONTAINER[:size=SIZE]", "such as /tmp:size=64m")
    return TmpfsOption(path, size)
