# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every row of docs/threats.md has a test that carries its id, or a module says why not; and ids are those of rows."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
ROWS = re.findall(r"^\| ([UPCF][0-9]{2}) \|", (TESTS.parent / "docs/threats.md").read_text(), re.MULTILINE)
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
    assert set().union(*map(in_names, trees), *map(in_docstring, trees)) <= set(ROWS)


def test_the_program_speaks_of_rows_that_there_are() -> None:
    sources = [path for part in ("lxc_oci", "hooks", "docs") for path in (TESTS.parent / part).rglob("*")]
    texts = [path.read_text() for path in sources if path.suffix in ("", ".py", ".md") and path.is_file()]
    assert set().union(*(_IN_TEXT.findall(text) for text in texts)) <= set(ROWS)
    assert len(ROWS) == len(set(ROWS)) > 100


def test_ids_are_found_where_they_stand() -> None:
    tree = ast.parse(
        '"""F01 to F03, and C15."""\ndef test_u01_x(): pass\ndef test_the_p02(): pass\ndef test_up10x(): pass'
    )
    assert in_names(tree) == {"U01", "P02"}
    assert in_docstring(tree) == {"F01", "F02", "F03", "C15"}
