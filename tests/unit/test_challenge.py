# SPDX-License-Identifier: LGPL-2.1-or-later
"""WWW-Authenticate as real registries and hostile ones write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_oci.source.challenge import Challenge, parse


@pytest.mark.parametrize(
    "line, expected",
    [
        ('Basic realm="x"', [Challenge("basic", {"realm": "x"})]),
        ("basic", [Challenge("basic", {})]),
        (
            'Bearer realm="https://a/token",service="s",scope="repository:a/b:pull,push"',
            [Challenge("bearer", {"realm": "https://a/token", "service": "s", "scope": "repository:a/b:pull,push"})],
        ),
        ('BEARER Realm = "a" , SERVICE=b', [Challenge("bearer", {"realm": "a", "service": "b"})]),
        ('Bearer realm="a\\"b\\\\c"', [Challenge("bearer", {"realm": 'a"b\\c'})]),
        ('Bearer realm=""', [Challenge("bearer", {"realm": ""})]),
        (
            'Bearer realm="a", error="e" Basic realm="b"',
            [Challenge("bearer", {"realm": "a", "error": "e"}), Challenge("basic", {"realm": "b"})],
        ),
        (
            'Basic realm="b", Bearer realm="a",service="s"',
            [Challenge("basic", {"realm": "b"}), Challenge("bearer", {"realm": "a", "service": "s"})],
        ),
        ('Negotiate, Basic realm="b"', [Challenge("negotiate", {}), Challenge("basic", {"realm": "b"})]),
        ('Negotiate YWJj==, Basic realm="b"', [Challenge("negotiate", {}), Challenge("basic", {"realm": "b"})]),
        ('Bearer realm="a",realm="b"', [Challenge("bearer", {"realm": "a"})]),
        ('Bearer realm="unterminated', [Challenge("bearer", {})]),
        ("", []),
        ("   ,,, ", []),
        ("\x00\x01", []),
        ('Bearer realm="' + "x" * 10_000 + '"', []),
    ],
)  # fmt: skip
def test_challenges(line: str, expected: list[Challenge]) -> None:
    assert parse([line]) == expected


def test_lines_are_joined_in_order() -> None:
    assert [found.scheme for found in parse(["Basic realm=a", "Bearer realm=b"])] == ["basic", "bearer"]


@given(st.lists(st.text(max_size=200), max_size=4))
def test_no_line_breaks_the_parser(lines: list[str]) -> None:
    for found in parse(lines):
        assert found.scheme == found.scheme.lower()


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=50))
def test_quoted_value_is_what_was_quoted(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    assert parse([f'Bearer realm="{quoted}",service=x']) == [Challenge("bearer", {"realm": value, "service": "x"})]
