# SPDX-License-Identifier: LGPL-2.1-or-later
"""JSON from strangers: parsed by orjson, refused when two readers could disagree.

This module knows nothing of what a document means; image.manifest and
image.config do.
"""

import re
import struct
from collections.abc import Collection
from typing import Any

import orjson

from lxc_oci.errors import RefusedError

_UTF16 = struct.Struct(">H")
# Every string token of a valid document, in order; group 1 is set where the string is a member's name.
# Possessive: a parser that remembers each escape to come back to it takes a hundred times the document.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"(\s*+:)?')


def parse(raw: bytes, what: str) -> Any:
    """Return the value of the JSON document `raw`; `what` names it in errors.

    Raises RefusedError for anything that is not JSON (a BOM, NaN, unpaired surrogates and nesting
    beyond orjson's 1024 included) and for duplicate member names, which orjson would resolve silently.
    """
    try:
        value = orjson.loads(raw)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise RefusedError(f"{what} is not valid JSON: {error}") from error
    if sum(1 for match in _STRING.finditer(raw) if match[1]) != _members(value):
        raise RefusedError(f"{what} has duplicate JSON keys", "the document is ambiguous; ask the image's author")
    return value


def exact_members(value: dict[str, Any], names: Collection[str], what: str) -> None:
    """Refuse a member that differs from one of `names` in case only.

    Go's decoder takes `Manifests` for `manifests`, so another reader would see another document.
    """
    folded = {name.casefold(): name for name in names}
    for name in value:
        known = folded.get(name.casefold(), name)
        if known != name:
            raise RefusedError(f"{what} has a member {name!r:.50}, which some readers take for {known!r}")


def folded_members(value: dict[str, Any], names: Collection[str], what: str) -> dict[str, Any]:
    """Return the members of `value` that Go's decoder would take for one of `names`, by these names.

    Raises RefusedError where two members would be the same one.
    """
    folded = {name.casefold(): name for name in names}
    found: dict[str, Any] = {}
    for name, item in value.items():
        known = folded.get(name.casefold())
        if known in found:
            raise RefusedError(f"{what} has two members that some readers take for {known!r}")
        if known is not None:
            found[known] = item
    return found


def dump(value: Any) -> bytes:
    """Return `value` as indented JSON with a final newline, for files that people may read."""
    return _printable(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def compact(value: Any) -> bytes:
    """Return `value` as JSON on one line, keys sorted: the same value gives the same bytes."""
    return _printable(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))


def _printable(raw: bytes) -> bytes:
    """Escape what orjson leaves and a terminal may obey: DEL, the C1 controls, marks that turn text around."""
    if raw.isascii() and b"\x7f" not in raw:
        return raw
    return "".join(
        char
        if char.isprintable() or char == "\n"
        else "".join(f"\\u{unit:04x}" for (unit,) in _UTF16.iter_unpack(char.encode("utf-16-be")))
        for char in raw.decode()
    ).encode()


def _members(value: Any) -> int:
    """Count the members of all objects in `value`, without recursion."""
    count = 0
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            count += len(item)
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return count
