# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hints at which tree holds which first layers."""

import os
from pathlib import Path

import pytest

from lxc_oci.image.digest import Digest
from lxc_oci.store import home, prefixes

CHAIN = [Digest("sha256:" + 32 * f"{number:02x}") for number in range(4)]


@pytest.fixture
def store(tmp_path: Path) -> home.Store:
    made = home.open_store(str(tmp_path / "store"))
    for name in ("large", "small"):
        os.makedirs(made.at("trees", name, "rootfs"))
    return made


def test_the_longest_prefix_is_found(store: home.Store) -> None:
    prefixes.note(store, CHAIN[:2], "small")
    prefixes.note(store, CHAIN[:3], "large")
    assert prefixes.find(store, CHAIN) == ("large", 3)
    assert prefixes.find(store, CHAIN[:2]) == ("small", 2)
    assert prefixes.find(store, [*CHAIN[:1], CHAIN[3]]) == ("small", 1)
    assert prefixes.find(store, CHAIN[3:]) is None
    assert prefixes.find(store, []) is None


def test_a_tree_that_is_gone_or_damaged_is_no_base(store: home.Store) -> None:
    prefixes.note(store, CHAIN[:2], "small")
    prefixes.note(store, CHAIN[:3], "large")
    Path(store.at("trees", "large", home.DAMAGED)).touch()
    assert prefixes.find(store, CHAIN) == ("small", 2)
    os.rmdir(store.at("trees", "small", "rootfs"))
    os.rmdir(store.at("trees", "small"))
    assert prefixes.find(store, CHAIN) is None


def test_a_hint_at_a_tree_that_is_gone_is_replaced(store: home.Store) -> None:
    prefixes.note(store, CHAIN[:1], "gone")
    prefixes.note(store, CHAIN[:1], "small")
    assert prefixes.find(store, CHAIN) == ("small", 1)


@pytest.mark.parametrize("target", ["../../etc", "/etc", ".", "..", ""])
def test_a_hint_leads_nowhere_but_to_a_tree(store: home.Store, target: str) -> None:
    if target:
        os.symlink(target, store.at("prefixes", CHAIN[0].hex))
    else:
        Path(store.at("prefixes", CHAIN[0].hex)).touch()
    assert prefixes.find(store, CHAIN) is None


def test_hints_at_trees_that_are_gone_are_forgotten(store: home.Store) -> None:
    prefixes.note(store, CHAIN[:1], "gone")
    prefixes.note(store, CHAIN[1:2], "large")
    prefixes.forget_missing(store)
    assert os.listdir(store.at("prefixes")) == [CHAIN[1].hex]
