# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.jsonio"""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxc_oci import jsonio
from lxc_oci.errors import RefusedError


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"{}", {}),
        (b' {"a": [1, "x", null, true, {"a": {}}]} ', {"a": [1, "x", None, True, {"a": {}}]}),
        (b'{"a": "b\\"c\\\\", "b\\\\": ":"}', {"a": 'b"c\\', "b\\": ":"}),
        (b'{"a" : "\\"a\\":"}', {"a": '"a":'}),
        (b'[{"a":1},{"a":1}]', [{"a": 1}, {"a": 1}]),
        (b'{"": {"": ""}}', {"": {"": ""}}),
        (b'{"\\u00e9": "\xc3\xa9"}', {"é": "é"}),
    ],
)
def test_values(raw: bytes, value: object) -> None:
    assert jsonio.parse(raw, "it") == value


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nul",
        b"{} {}",
        b"[1,]",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 01}',
        b'{"a": "\t"}',
        b'{"a": "\\x"}',
        b'"\\ud800"',
        b'{"\\udc00": 1}',
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        b'\xff\xfe{\x00"\x00',
        b"// x\n{}",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
    ],
)
def test_what_is_not_json(raw: bytes) -> None:
    with pytest.raises(RefusedError, match="it is not valid JSON"):
        jsonio.parse(raw, "it")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": 1, "a": 1}',
        b'{"a": {"b": 1, "c": 2, "b": 3}}',
        b'[[{"a": 1, "\\u0061": 2}]]',
        b'{"a"\n\t :1,"a":2}',
        b'{"\\"": 1, "\\u0022": 2}',
        b'{"": 1, "": 2}',
    ],
)
def test_duplicate_keys(raw: bytes) -> None:
    with pytest.raises(RefusedError, match="it has duplicate JSON keys"):
        jsonio.parse(raw, "it")


def oracle(raw: bytes) -> Any:
    """The value by json.loads, which shows every pair; ValueError for a duplicate."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in items}) != len(items):
            raise ValueError("duplicate")
        return dict(items)

    return json.loads(raw, object_pairs_hook=pairs)


_keys = st.sampled_from(['"a"', '"\\u0061"', '"b"', '"\\""', '"\\\\"', '"a:"', '"{\\"a\\":"', '""', '"é"', '"\\u00e9"'])
_leaves = st.sampled_from(["1", "-2.5e3", "null", "true", "[]", "{}", '"x"', '"\\"a\\":1"', '"a\\\\"', '":"'])


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.tuples(_keys, st.sampled_from([":", " : ", "\n:"]), inner).map("".join)
    return st.one_of(
        st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]"),
        st.lists(members, max_size=4).map(lambda items: f"{{{' , '.join(items)}}}"),
    )


@settings(deadline=None)  # the machine may be busy
@given(st.recursive(_leaves, _grow, max_leaves=12))
def test_duplicates_are_found_as_a_hook_finds_them(text: str) -> None:
    raw = text.encode()
    try:
        expected = oracle(raw)
    except ValueError:
        with pytest.raises(RefusedError, match="duplicate"):
            jsonio.parse(raw, "it")
    else:
        assert jsonio.parse(raw, "it") == expected


def test_members_that_go_would_take_for_others() -> None:
    jsonio.exact_members({"layers": 1, "other": 2, "Other": 3}, ("layers",), "it")
    for name in ("Layers", "LAYERS", "layer\u017f"):
        with pytest.raises(RefusedError, match="which some readers take for 'layers'"):
            jsonio.exact_members({name: 1}, ("layers",), "it")


def test_folded_members() -> None:
    assert jsonio.folded_members({"cmd": 1, "x": 2}, ("Cmd", "Env"), "it") == {"Cmd": 1}
    with pytest.raises(RefusedError, match="two members that some readers take for 'Cmd'"):
        jsonio.folded_members({"Cmd": 1, "cmd": 1}, ("Cmd",), "it")


def test_compact_is_the_same_for_the_same_value() -> None:
    assert jsonio.compact({"b": 1, "a": [2]}) == jsonio.compact({"a": [2], "b": 1}) == b'{"a":[2],"b":1}'
    assert jsonio.dump({"a": 1}) == b'{\n  "a": 1\n}\n'
