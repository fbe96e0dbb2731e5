# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entrypoint and Cmd → one argument vector, and whether a configuration key can carry it.

LXC 5 splits `lxc.init.cmd` at spaces and leaves quotes as they are; LXC 6 and, for `lxc.execute.cmd`, every
version split by lxc_string_split_quoted: a quote counts only at the start of a word, and nothing escapes it.
What neither can carry goes through the wrapper.
"""

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from lxc_oci.container.lxcconfig import encode, representable
from lxc_oci.container.overrides import Overrides
from lxc_oci.errors import RefusedError
from lxc_oci.image.config import ImageConfig
from lxc_oci.kernel.root import Root
from lxc_oci.limits import Limits

QUOTED_INIT_SINCE = 6
# lxc-execute reads its key into PATH_MAX bytes and crashes on a longer one (lxc_execute.c set_argv).
EXECUTE_BYTES = 4095
_NAME_BYTES, _PATH_BYTES = 255, 4095  # NAME_MAX, and PATH_MAX without its NUL
_SPACE = frozenset(" \t\n\v\f\r")  # isspace(3)
_QUOTES = "\"'"


class Values(NamedTuple):
    """The values of `lxc.init.cmd` and `lxc.execute.cmd`; None where the key cannot carry the vector."""

    init: str | None
    execute: str | None


def combine(config: ImageConfig, overrides: Overrides, limits: Limits) -> tuple[str, ...]:
    """Return the argument vector: podman's rules, an entrypoint of the user drops the image's Cmd.

    Empty when neither names a command.  Raises RefusedError for a NUL and beyond the limits.
    """
    entrypoint = config.entrypoint if overrides.entrypoint is None else overrides.entrypoint
    cmd = overrides.cmd
    if cmd is None:
        cmd = config.cmd if overrides.entrypoint is None else ()
    if entrypoint == ("",):
        entrypoint = ()
    arguments = (*entrypoint, *cmd)
    total = 0
    for argument in arguments:
        size = len(encode(argument)) + 1
        total += size
        if "\0" in argument:
            raise RefusedError(f"the argument {argument!r:.100} has a NUL, which no argument can hold")
        if size > limits.argument_bytes:
            raise RefusedError(
                f"the argument {argument!r:.50} has {size} bytes, more than the limit of {limits.argument_bytes}",
                "the kernel takes no longer argument",
            )
    if total > limits.arguments_bytes:
        raise RefusedError(f"the command has {total} bytes, more than the limit of {limits.arguments_bytes}")
    if arguments and not arguments[0]:
        raise RefusedError("the image's command begins with an empty word", "choose one with --entrypoint")
    _check_program(arguments)
    return arguments


def _check_program(arguments: Sequence[str]) -> None:
    """Refuse a name that no file has: with a PATH of 60,000 directories, its candidates would fill the memory."""
    program = encode(arguments[0]) if arguments else b""
    if len(program) > (_PATH_BYTES if b"/" in program else _NAME_BYTES):
        raise RefusedError(
            f"the image's command begins with {arguments[0]!r:.50}…, a name of {len(program)} bytes that no file has",
            "choose one with --entrypoint",
        )


def values(arguments: Sequence[str], lxc_major: int) -> Values:
    """Return how the configuration can carry `arguments` for this version of LXC."""
    quoted = _quoted(arguments)
    init = quoted if lxc_major >= QUOTED_INIT_SINCE else _plain(arguments)
    execute = quoted if quoted is not None and len(encode(quoted)) <= EXECUTE_BYTES else None
    return Values(init, execute)


def _plain(arguments: Sequence[str]) -> str | None:
    """Return the words joined when every version of LXC splits them alike."""
    if all(_is_plain(argument) for argument in arguments):
        return _checked(" ".join(arguments))
    return None


def _quoted(arguments: Sequence[str]) -> str | None:
    """Return the words for lxc_string_split_quoted, or None when one of them cannot be written."""
    found = []
    for argument in arguments:
        if _is_plain(argument):
            found.append(argument)
            continue
        quote = next((quote for quote in _QUOTES if quote not in argument), None)
        if quote is None:
            return None
        found.append(quote + argument + quote)
    return _checked(" ".join(found))


def _is_plain(argument: str) -> bool:
    return bool(argument) and argument[0] not in _QUOTES and not _SPACE.intersection(argument)


def _checked(value: str) -> str | None:
    return value if representable(value) else None


def candidates(program: str, path: str) -> tuple[str, ...]:
    """Return the paths that execvp(3) would try for `program` with this PATH, in its order."""
    if "/" in program:
        return (program,)
    return tuple(os.path.join(directory, program) for directory in path.split(":"))


def find(program: str, path: str, directory: str, root: Root) -> bytes | None:
    """Return where in the image `program` is: a regular file that someone may execute; None when nowhere.

    `directory` is the working directory, for relative paths.
    """
    for candidate in candidates(program, path):
        name = encode(os.path.join("/", directory, candidate))
        try:
            status = root.stat(name)
        except (OSError, RefusedError):
            continue
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o111:
            return name
    return None
