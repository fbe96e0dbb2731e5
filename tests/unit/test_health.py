# SPDX-License-Identifier: LGPL-2.1-or-later
"""What verify finds of images, indexes and blobs, and what it passes over.  Trees: test_store_trees."""

import hashlib
import os
from pathlib import Path

import pytest

from lxc_oci import jsonio
from lxc_oci.image.digest import sha256
from lxc_oci.store import health, home, images

CONTENT = b"x" * 5000
HEX = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> home.Store:
    return home.open_store(str(tmp_path / "store"))


def image(store: home.Store) -> Path:
    images.save(store, sha256(b"manifest"), b"manifest", b"{}", name="n", reference="r", added="2026-01-01T00:00:00Z")
    return Path(store.at("images", f"sha256-{sha256(b'manifest').hex}"))


def index(store: home.Store) -> Path:
    path = Path(store.at("indexes", f"sha256-{HEX}"))
    path.mkdir()
    (path / "layer.tar").write_bytes(CONTENT)
    (path / "index.erofs").write_bytes(b"index")
    facts = {"size": 5005, "entries": 1, "index": hashlib.sha256(b"index").hexdigest(), "root": None}
    (path / "facts.json").write_bytes(jsonio.dump(facts))
    return path


def blob(store: home.Store) -> Path:
    path = Path(store.at("blobs", f"sha256-{HEX}"))
    path.write_bytes(CONTENT)
    return path


def test_what_is_sound_is_clean(store: home.Store) -> None:
    image(store), index(store), blob(store)
    assert list(health.check(store)) == []


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "facts.json"])
@pytest.mark.parametrize("how", ["changed", "empty", "missing"])
def test_f19_a_damaged_image_is_found_and_counts_as_absent(store: home.Store, name: str, how: str) -> None:
    path = image(store)
    damage(path / name, how)
    (found,) = health.check(store)
    assert found[0] == f"images/{path.name}"
    assert images.load(store, sha256(b"manifest")) is None
    image(store)
    assert list(health.check(store)) == []


@pytest.mark.parametrize("name", ["layer.tar", "index.erofs", "facts.json"])
@pytest.mark.parametrize("how", ["changed", "empty", "missing"])
def test_f19_a_damaged_index_is_found_and_not_used(store: home.Store, name: str, how: str) -> None:
    path = index(store)
    damage(path / name, how)
    part = f"indexes/{path.name}"
    assert {found for found, _ in health.check(store)} == {part}
    health.mark(store, part)
    assert not store.has("indexes", path.name)


@pytest.mark.parametrize("how", ["changed", "empty"])
def test_f19_a_damaged_blob_is_found_and_removed(store: home.Store, how: str) -> None:
    path = blob(store)
    damage(path, how)
    assert [part for part, _ in health.check(store)] == [f"blobs/{path.name}"]
    health.mark(store, f"blobs/{path.name}")
    assert os.listdir(store.at("blobs")) == []


def test_what_was_replaced_is_not_looked_at_again(store: home.Store) -> None:
    path = index(store)
    damage(path / "layer.tar", "changed")
    path.rename(f"{path}{home.REPLACED}{'0' * 16}")
    assert list(health.check(store)) == []


def test_every_step_is_counted(store: home.Store) -> None:
    image(store), index(store), blob(store)
    steps: list[None] = []
    assert list(health.check(store, lambda: steps.append(None))) == []
    assert len(steps) == 3


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
