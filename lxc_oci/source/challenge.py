# SPDX-License-Identifier: LGPL-2.1-or-later
"""WWW-Authenticate (RFC 9110 section 11): what a server asks for, parsed and nothing more."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?:[ \t]+|(?=,)|\Z)")
_PARAMETER = re.compile(rf'[\s,]*({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))(?=[\s,]|\Z)', re.DOTALL)
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|\Z)")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_MAXIMUM = 8192  # a longer header is no challenge of a registry


@dataclass(frozen=True)
class Challenge:
    """One challenge; scheme and parameter names in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse(headers: Iterable[str]) -> list[Challenge]:
    """Parse all WWW-Authenticate header lines of a response, in order.

    What cannot be parsed ends its line: the challenges before it count.  A parameter given twice keeps its first
    value.
    """
    found: list[Challenge] = []
    for header in headers:
        if len(header) <= _MAXIMUM:
            found += _parse_line(header)
    return found


def _parse_line(line: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = 0
    while match := _SCHEME.match(line, position):
        position = match.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(line, position):
            position = parameter.end()
            name, quoted, plain = parameter.groups()
            value = plain if quoted is None else _ESCAPE.sub(r"\1", quoted)
            parameters.setdefault(name.lower(), value)
        if not parameters and (token := _TOKEN68.match(line, position)):
            position = token.end()
        found.append(Challenge(match[1].lower(), parameters))
    return found
