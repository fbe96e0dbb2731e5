# SPDX-License-Identifier: LGPL-2.1-or-later
"""F01: creates and prunes killed at every system call that changes something."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import direct, need
from tests.support import scene as scenes

pytestmark = [pytest.mark.long, pytest.mark.root]


@pytest.fixture
def quick(place: Path) -> Iterator[Path]:
    """A place in memory: what is flushed is not what is tested here."""
    need.root()
    with direct.memory(place) as path:
        yield path


def all_calls(made: scenes.Scene) -> range:
    total = made.run(made.creating("counted")).calls
    made.destroy("counted")
    return range(1, total + 1)


@pytest.mark.parametrize("form", ["flat", "tree", "mounted"])
def test_f01_a_create_killed_anywhere_leaves_nothing_half_made(quick: Path, form: str) -> None:
    made = scenes.scene(quick, form)
    calls = scenes.kill_creates(made, all_calls(made))
    wanted = {"flat": "symlinkat openat mkdirat", "tree": "syncfs rename mount umount2", "mounted": "rename fsync"}
    assert set(wanted[form].split()) <= set(calls)


def test_f01_a_create_killed_anywhere_changes_nothing_of_the_tree_that_it_extends(quick: Path) -> None:
    made = scenes.extended(quick)
    assert "linkat" in scenes.kill_creates(made, all_calls(made))


def test_f01_a_prune_killed_anywhere_removes_nothing_that_is_used(quick: Path) -> None:
    made = scenes.unused(quick)
    total = made.run(made.pruning()).calls
    assert {"rename", "unlinkat", "unlink"} <= set(scenes.kill_prunes(made, range(1, total + 1)))
