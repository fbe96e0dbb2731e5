# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images in the store: kept verbatim, read back checked, and every name that led to them."""

import os
from pathlib import Path

import pytest

from lxc_oci.image.digest import Digest, sha256
from lxc_oci.store import home, images

RAW = b'{"a manifest": 1}'
DIGEST = sha256(RAW)
PATH = f"sha256-{DIGEST.hex}"


@pytest.fixture
def store(tmp_path: Path) -> home.Store:
    return home.open_store(str(tmp_path / "store"))


def save(
    store: home.Store, name: str = "host/a", reference: str = "docker://host/a:1", indexes: list[Digest] | None = None
) -> None:
    added = "2026-01-01T00:00:00Z"
    images.save(store, DIGEST, RAW, b"{}", name=name, reference=reference, indexes=indexes or [], added=added)


def test_an_image_is_kept_verbatim(store: home.Store) -> None:
    save(store)
    found = images.load(store, DIGEST)
    assert found is not None
    assert (found.raw_manifest, found.raw_config, found.names) == (RAW, b"{}", ("host/a",))
    assert [image.digest for image in images.every(store)] == [DIGEST]
    assert os.listdir(store.at("staging")) == []


def test_names_are_added(store: home.Store) -> None:
    save(store)
    save(store, "host/b", "docker://host/b:2", [sha256(b"index")])
    save(store)
    found = images.load(store, DIGEST)
    assert found is not None
    assert found.names == ("host/a", "host/b")
    assert found.references == ("docker://host/a:1", "docker://host/b:2")
    assert found.indexes == (sha256(b"index"),)
    assert found.added == "2026-01-01T00:00:00Z"


def test_who_waited_for_another_create_keeps_what_that_one_wrote(
    store: home.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other create is faster between our look and our lock.
    looks = []
    load = images.load

    def late(store: home.Store, digest: Digest) -> images.StoredImage | None:
        if not looks:
            looks.append(None)
            return None
        return load(store, digest)

    save(store, "host/b", "docker://host/b:2")
    before = os.stat(store.at("images", PATH)).st_ino
    monkeypatch.setattr(images, "load", late)
    save(store)
    found = load(store, DIGEST)
    assert found is not None and found.names == ("host/a", "host/b")
    assert os.stat(store.at("images", PATH)).st_ino == before


def test_f19_a_damaged_image_is_replaced(store: home.Store) -> None:
    save(store)
    Path(store.at("images", PATH, "manifest.json")).write_bytes(b"{}")
    assert images.load(store, DIGEST) is None
    assert list(images.every(store)) == []
    save(store)
    assert images.load(store, DIGEST) is not None


def test_what_is_no_image_is_passed_over(store: home.Store) -> None:
    os.mkdir(store.at("images", "sha256-" + "0" * 63))
    os.mkdir(store.at("images", "x"))
    assert list(images.every(store)) == []
