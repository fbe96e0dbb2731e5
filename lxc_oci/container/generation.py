# SPDX-License-Identifier: LGPL-2.1-or-later
"""Generations: what create made of a container, and what each update and rollback made of it since.

A generation's files lie in a directory of its own and are complete before anything names them.  The container's
configuration says which generation is in force, so the rename of that one file is the whole switch: it carries the
lower directory, the mounts and the image's block with it.  hooks/oci-py-clone reads the same comment;
hooks/oci-py-mount may be the root of a user's container, which cannot read the file, so the line that starts it names
the generation too.
"""

import os
import re
from collections.abc import Collection

from lxc_oci.container import lxcconfig
from lxc_oci.container.lxcconfig import Line
from lxc_oci.errors import UnsupportedError
from lxc_oci.kernel import durable
from lxc_oci.kernel.root import remove_tree

FIRST = 1
DIRECTORY = "oci-py"  # below the container's directory: the first generation's, and what all of them share
KEPT = 4  # the one in force and the three before it
_NOTE = b"\n# lxc-oci-py: generation "
_NAME = re.compile(r"g[0-9]+\Z")
_TEMPORARY = re.compile(r"\.config\.[0-9]+\.tmp\Z")  # durable.write_file's
_HOOK = "oci-py-mount"
_OVERLAY = ("overlay:", "overlayfs:")
# What of DIRECTORY belongs to the first generation alone.
_FIRSTS = ("image.json", "manifest.json", "config.json", "plan.json", "guest")


def directory(number: int) -> str:
    """Return where generation `number` has its files, below the container's directory."""
    return DIRECTORY if number == FIRST else f"{DIRECTORY}/g{number}"


def guest_directory(number: int) -> str:
    """Return what the containers's /.oci-py shows, likewise."""
    return f"{directory(number)}/guest"


def note(number: int) -> str:
    """Return what lxcconfig.block takes as its note, so that `of` finds the number."""
    return f"generation {number}" if number != FIRST else ""


def of(text: bytes) -> int:
    """Return the generation that the configuration `text` names; one that was never updated names none."""
    number = (b"\n" + text).partition(_NOTE)[2].partition(b"\n")[0]
    return int(number) if number.isdigit() else FIRST


def current(container: str) -> int:
    """Return the generation in force of the container in that directory; of one without a configuration, the first."""
    try:
        with open(os.path.join(container, "config"), "rb") as file:
            return of(file.read())
    except FileNotFoundError:
        return FIRST


def discard(container: str, keep: Collection[int]) -> None:
    """Remove the files of all generations but those in `keep`, and what killed runs left.  Raises OSError."""
    fd = os.open(os.path.join(container, DIRECTORY), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in os.listdir(fd):
            old = int(name[1:]) not in keep if _NAME.match(name) else name in _FIRSTS and FIRST not in keep
            if old:
                remove_tree(fd, os.fsencode(name))
    finally:
        os.close(fd)
    for name in os.listdir(container):
        if _TEMPORARY.match(name):
            os.unlink(os.path.join(container, name))


# --- the configuration ---------------------------------------------------------------------------------------------


def overlay_of(text: bytes) -> tuple[str, str] | None:
    """Return (lower, upper) of LXC's own overlay store, None where the rootfs in force is something else.

    Raises UnsupportedError for several lowers, which lxc-oci-py never makes.
    """
    value = rootfs_of(text)
    if not value.startswith(_OVERLAY):
        return None
    directories = value.partition(":")[2].split(":")
    if len(directories) != 2:
        raise UnsupportedError(f"lxc.rootfs.path = {value!r:.200} has not one lower directory and one upper")
    return directories[0], directories[1]


def rootfs_of(text: bytes) -> str:
    """Return the value of lxc.rootfs.path in force."""
    return lxcconfig.last(lxcconfig.parse(text), "lxc.rootfs.path")


def set_rootfs(text: bytes, value: str, options: str) -> bytes:
    """Return the configuration `text` with `value` for lxc.rootfs.path; `options` ("" for none) are overlay's.

    Options that another form of ours needed go, those of the user stay.
    """
    lines = [line for line in text.split(b"\n") if not _is_ours(line)]
    return replace_rootfs(b"\n".join(lines), value, options)


def _is_ours(line: bytes) -> bool:
    return any(found == Line("lxc.rootfs.options", "userxattr") for found in lxcconfig.parse(line))


def replace_rootfs(text: bytes, value: str, options: str = "") -> bytes:
    """Return the configuration `text` with `value` for lxc.rootfs.path in force, every other line as it was.

    `options`, if there are any, stand in a line of their own behind it.
    """
    lines = text.split(b"\n")
    numbers = [number for number, line in enumerate(lines) if line.partition(b"=")[0].strip() == b"lxc.rootfs.path"]
    rendered = lxcconfig.render(Line("lxc.rootfs.path", value))
    if options:
        rendered += lxcconfig.render(Line("lxc.rootfs.options", options))
    if not numbers:
        return text + (b"" if text.endswith(b"\n") or not text else b"\n") + rendered
    lines[numbers[-1]] = rendered.rstrip(b"\n")
    return b"\n".join(lines)


def replace_hook(text: bytes, number: int) -> bytes:
    """Return the configuration `text` with the line that starts our mount hook naming generation `number`."""
    lines = text.split(b"\n")
    for position, line in enumerate(lines):
        if program := _our_hook(line):
            word = f" --generation={number}" if number != FIRST else ""
            lines[position] = lxcconfig.render(Line("lxc.hook.pre-mount", program + word)).rstrip(b"\n")
    return b"\n".join(lines)


def _our_hook(line: bytes) -> str:
    """Return the program of a line that starts our mount hook, "" of any other."""
    for found in lxcconfig.parse(line):
        program = found.value.split(" ")[0]
        if found.key == "lxc.hook.pre-mount" and os.path.basename(program) == _HOOK:
            return program
    return ""


def set_hook(text: bytes, program: str) -> bytes:
    """Return the configuration `text` with `program` as our mount hook, "" for none; the user's own hooks stay."""
    text = b"\n".join(line for line in text.split(b"\n") if not _our_hook(line))
    if not program:
        return text
    if text and not text.endswith(b"\n"):
        text += b"\n"
    begin = text.find(b"# lxc-oci-py: begin ")
    position = len(text) if begin < 0 else begin
    return text[:position] + lxcconfig.render(Line("lxc.hook.pre-mount", program)) + text[position:]


def write_config(container: str, text: bytes) -> None:
    """Put `text` into the place of the container's configuration, whole or not at all.  Raises OSError."""
    path = os.path.join(container, "config")
    status = os.stat(path)
    durable.write_file(path, text, status.st_mode & 0o7777, (status.st_uid, status.st_gid))
