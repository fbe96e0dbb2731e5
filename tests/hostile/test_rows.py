# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every row of the threat model and of the fault list has a test that carries its id, or a module says why not.

U: the unpack path; P: the pull path; C: the image's configuration; F: faults.  The model itself is not part of the
repository; the ids are.
"""

import ast
import re
from pathlib import Path

import pytest

ROWS = [
    f"{part}{number:02}" for part, last in (("U", 53), ("P", 25), ("C", 20), ("F", 22)) for number in range(1, last + 1)
]
TESTS = Path(__file__).resolve().parents[1]
_IN_NAME = re.compile(r"(?:\A|_)([upcf][0-9]{2})(?=_|\Z)")
_IN_TEXT = re.compile(r"\b[UPCF][0-9]{2}\b")
_RANGE = re.compile(r"\b([UPCF])([0-9]{2}) to [UPCF]?([0-9]{2})\b")


def in_names(tree: ast.Module) -> set[str]:
    return {
        row.upper()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        for row in _IN_NAME.findall(node.name)
    }


def in_docstring(tree: ast.Module) -> set[str]:
    text = ast.get_docstring(tree) or ""
    found = set(_IN_TEXT.findall(text))
    for part, first, last in _RANGE.findall(text):
        found |= {f"{part}{number:02}" for number in range(int(first), int(last) + 1)}
    return found


@pytest.fixture(scope="module")
def trees() -> list[ast.Module]:
    return [
        ast.parse(path.read_text()) for path in sorted(TESTS.rglob("test_*.py")) if path != Path(__file__).resolve()
    ]


def test_every_row_has_a_test_or_a_reason(trees: list[ast.Module]) -> None:
    tested = set().union(*map(in_names, trees))
    reasons = set().union(*map(in_docstring, trees))
    assert [row for row in ROWS if row not in tested | reasons] == []
    # A reason instead of a test is the exception.
    assert {row for row in ROWS if row not in tested} <= {"F15", "F16", "F17"}


def test_no_test_carries_a_row_that_is_none(trees: list[ast.Module]) -> None:
    assert set().union(*map(in_names, trees)) <= set(ROWS)


def test_ids_are_found_where_they_stand() -> None:
    tree = ast.parse(
        '"""F01 to F03, and C15."""\ndef test_u01_x(): pass\ndef test_the_p02(): pass\ndef test_up10x(): pass'
    )
    assert in_names(tree) == {"U01", "P02"}
    assert in_docstring(tree) == {"F01", "F02", "F03", "C15"}
