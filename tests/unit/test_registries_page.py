# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/registries.md says nothing that a test does not show: the tests that it names are there."""

import fnmatch
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/registries.md").read_text()
TESTS = [path for part in ("unit", "hostile", "peers") for path in sorted((ROOT / "tests" / part).glob("test_*.py"))]


def test_every_test_that_is_named_exists() -> None:
    found = {name for path in TESTS for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)}
    files = {path.name for path in TESTS}
    named = set(re.findall(r"`(?:tests/peers/)?(test_[\w.*]+)`", PAGE))
    missing = {name for name in named if name not in files and not fnmatch.filter(found, name)}
    assert len(named) > 40 and missing == set()


def test_every_difference_names_its_test() -> None:
    differences = re.findall(r"^\* .*(?:\n  .*)*", PAGE.partition("## Where we differ")[2], re.MULTILINE)
    assert len(differences) > 10
    assert [text for text in differences if "`test_" not in text] == []
