# SPDX-License-Identifier: LGPL-2.1-or-later
"""F01: creates and prunes killed at some of their system calls.  At all of them: tests/long/test_kill.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import direct, need
from tests.support import scene as scenes

POINTS = 8  # of about 220


@pytest.fixture
def quick(place: Path) -> Iterator[Path]:
    """A place in memory: what is flushed is not what is tested here."""
    need.root()
    with direct.memory(place) as path:
        yield path


@pytest.mark.root
@pytest.mark.parametrize("form", ["flat", "tree", "mounted"])
def test_f01_a_killed_create_leaves_nothing_half_made(quick: Path, form: str) -> None:
    made = scenes.scene(quick, form)
    total = made.run(made.creating("counted")).calls
    made.destroy("counted")
    assert total > 100
    calls = scenes.kill_creates(made, scenes.spread(total, POINTS))
    assert len(set(calls)) > 3


@pytest.mark.root
def test_f01_a_killed_create_changes_nothing_of_the_tree_that_it_extends(quick: Path) -> None:
    made = scenes.extended(quick)
    total = made.run(made.creating("counted")).calls
    made.destroy("counted")
    scenes.kill_creates(made, scenes.spread(total, POINTS))


@pytest.mark.root
def test_f01_a_killed_prune_removes_nothing_that_is_used(quick: Path) -> None:
    made = scenes.unused(quick)
    total = made.run(made.pruning()).calls
    calls = scenes.kill_prunes(made, scenes.spread(total, POINTS))
    assert len(set(calls)) > 2
