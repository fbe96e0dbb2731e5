# SPDX-License-Identifier: LGPL-2.1-or-later
"""LXC's configuration file: the one writer of `key = value`, and a reader that splits lines as LXC does.

LXC ends a line at `\\n` and at `\\r` and the file at NUL, trims a value, takes one pair of outer quotes off and
knows no escape (confile.c parse_line, parse.c).  So nothing that comes from an image may reach the file but
through `render`, which refuses what would not arrive byte for byte.  What a value means is for the caller to
have decided.
"""

import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lxc_oci.errors import RefusedError

# Everything that this program ever writes; an image cannot bring in another key.
_KEYS = frozenset(
    {
        "lxc.console.logfile",
        "lxc.console.rotate",
        "lxc.console.size",
        "lxc.console.buffer.size",
        "lxc.environment",
        "lxc.environment.runtime",
        "lxc.execute.cmd",
        "lxc.hook.clone",
        "lxc.hook.destroy",
        "lxc.hook.post-stop",
        "lxc.hook.pre-mount",
        "lxc.hook.pre-start",
        "lxc.hook.start-host",
        "lxc.hook.stop",
        "lxc.include",
        "lxc.init.cmd",
        "lxc.init.cwd",
        "lxc.init.gid",
        "lxc.init.groups",
        "lxc.init.uid",
        "lxc.mount.auto",
        "lxc.mount.entry",
        "lxc.mount.fstab",
        "lxc.rootfs.options",
        "lxc.rootfs.path",
        "lxc.signal.halt",
        "lxc.uts.name",
    }
)
_NETWORK_KEY = re.compile(r"lxc\.net\.[0-9]{1,3}\.(?:ipv[46]\.(?:address|gateway)|flags|script\.down)\Z")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # every C0 byte but TAB, and DEL
_LINE_END = re.compile(rb"[\r\n]+")
_INCLUDE_DEPTH = 8

# getmntent(3) reads a mount entry into a buffer of PATH_MAX bytes and cuts off the rest (conf.c mount_file_entries).
MOUNT_ENTRY_BYTES = 4000
_MOUNT_ESCAPES = {" ": "\\040", "\t": "\\011", "\n": "\\012", "\\": "\\134"}


class Line(NamedTuple):
    """One `key = value`; the value as LXC is to see it."""

    key: str
    value: str


def encode(text: str) -> bytes:
    """Return the bytes of `text`: UTF-8, and the very bytes of a file name or argument that is not."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise RefusedError(f"{text!r:.100} is not text that has bytes") from error


def representable(value: str) -> bool:
    """Tell whether `render` can write `value`."""
    return bool(value) and not _CONTROL.search(encode(value))


def render(line: Line) -> bytes:
    """Return the configuration line for LXC, its end included.

    Raises RefusedError for a key that is not in the list, for an empty value (it would clear the key) and for
    any control byte but TAB.
    """
    if line.key not in _KEYS and not _NETWORK_KEY.match(line.key):
        raise RefusedError(f"{line.key!r:.100} is not a configuration key that lxc-oci-py writes")
    value = encode(line.value)
    bad = _CONTROL.search(value)
    if bad:
        raise RefusedError(
            f"{line.key} cannot have the value {line.value!r:.100}: byte {bad[0].hex()} ends or breaks a line of LXC's",
            "the image or the option has a control character where LXC has no way to write one",
        )
    if not value:
        raise RefusedError(f"{line.key} cannot be empty: LXC would clear the key")
    # Outer quotes keep what trimming and unquoting would lose; LXC takes off this pair and no other.
    if value[:1] in b" \t'\"" or value[-1:] in b" \t":
        value = b'"' + value + b'"'
    return line.key.encode("ascii") + b" = " + value + b"\n"


def mount_field(text: str) -> str:
    """Return `text` escaped for one field of an `lxc.mount.entry`, which LXC reads with getmntent(3)."""
    return "".join(_MOUNT_ESCAPES.get(character, character) for character in text)


def mount_entry(source: str, target: str, kind: str, options: str) -> Line:
    """Return the line that mounts `source` on `target`, a path relative to the container's root.

    Raises RefusedError for an entry longer than LXC reads.
    """
    value = " ".join((mount_field(source), mount_field(target), kind, options, "0", "0"))
    if len(encode(value)) > MOUNT_ENTRY_BYTES:
        raise RefusedError(
            f"the mount of {target!r:.100} needs a longer line than the {MOUNT_ENTRY_BYTES} bytes of LXC"
        )
    return Line("lxc.mount.entry", value)


# --- reading ---------------------------------------------------------------------------------------------------


def parse(text: bytes) -> list[Line]:
    """Return the lines of a configuration as LXC reads them; comments and what is no `lxc.` key are left out."""
    lines = []
    for raw in _LINE_END.split(text.partition(b"\0")[0]):
        key, equals, value = raw.lstrip(b" \t").partition(b"=")
        if not equals or not key.startswith(b"lxc."):
            continue
        value = value.strip(b" \t")
        if len(value) > 1 and value[:1] in b"'\"" and value[-1:] == value[:1]:
            value = value[1:-1]
        lines.append(Line(_decode(key.rstrip(b" \t")), _decode(value)))
    return lines


def read(path: str, depth: int = 0) -> list[Line]:
    """Return the lines of the configuration `path` with those of its `lxc.include` files in their place.

    A directory stands for its `*.conf`.  An include that is missing is left out: LXC itself will say so.
    Raises OSError for `path` itself.
    """
    with open(path, "rb") as file:
        return expand(file.read(), depth)


def expand(text: bytes, depth: int = 0) -> list[Line]:
    """Return the lines of the configuration `text`, as `read` does of a file."""
    found: list[Line] = []
    for line in parse(text):
        if line.key != "lxc.include":
            found.append(line)
        elif line.value and depth < _INCLUDE_DEPTH:
            for name in _included(line.value):
                try:
                    found += read(name, depth + 1)
                except OSError:
                    continue
    return found


def values(lines: Iterable[Line], key: str) -> list[str]:
    """Return the values of `key` that are in force: an empty one clears those before it."""
    found: list[str] = []
    for line in lines:
        if line.key == key:
            found = [*found, line.value] if line.value else []
    return found


def last(lines: Iterable[Line], key: str) -> str:
    """Return the value of `key` that is in force, or ``."""
    return (values(lines, key) or [""])[-1]


def _included(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    return [os.path.join(path, name) for name in sorted(os.listdir(path)) if name.endswith(".conf")]


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


# --- our blocks ------------------------------------------------------------------------------------------------

IMAGE_BLOCK = "image block"
OPTIONS_BLOCK = "options block"


def block(name: str, lines: Sequence[Line], note: str = "") -> bytes:
    """Return `lines` between the two comments that let a later update find and replace them, `note` as a comment
    before them."""
    comment = b"# lxc-oci-py: " + note.encode("ascii") + b"\n" if note else b""
    return _begin(name) + comment + b"".join(render(line) for line in lines) + _end(name)


def replace_block(text: bytes, name: str, lines: Sequence[Line], note: str = "") -> bytes:
    """Return the configuration `text` with the lines of block `name` replaced; without such a block, appended.

    Everything else, the user's own lines included, stays as it is.  Raises RefusedError when a begin has no end.
    """
    before, found, rest = _cut(text, _begin(name))
    if not found:
        return text + (b"" if text.endswith(b"\n") or not text else b"\n") + block(name, lines, note)
    _, ended, after = _cut(rest, _end(name))
    if not ended:
        raise RefusedError(f"the configuration has the begin of the {name} but not its end", "restore the comment line")
    return before + block(name, lines, note) + after


def outside_blocks(text: bytes) -> bytes:
    """Return the configuration `text` without our blocks: what lxc-create and the user wrote."""
    for name in (IMAGE_BLOCK, OPTIONS_BLOCK):
        before, found, rest = _cut(text, _begin(name))
        _, ended, after = _cut(rest, _end(name))
        if found and ended:
            text = before + after
    return text


def block_lines(text: bytes, name: str) -> list[Line]:
    """Return the lines of block `name` in the configuration `text`; empty when there is none."""
    _, _, rest = _cut(text, _begin(name))
    inside, ended, _ = _cut(rest, _end(name))
    return parse(inside) if ended else []


def _begin(name: str) -> bytes:
    return b"# lxc-oci-py: begin " + name.encode("ascii") + b"\n"


def _end(name: str) -> bytes:
    return b"# lxc-oci-py: end " + name.encode("ascii") + b"\n"


def _cut(text: bytes, marker: bytes) -> tuple[bytes, bool, bytes]:
    """Partition `text` at the line `marker`; only a whole line counts."""
    if text.startswith(marker):
        return b"", True, text[len(marker) :]
    before, found, after = text.partition(b"\n" + marker)
    return (before + b"\n", True, after) if found else (text, False, b"")
