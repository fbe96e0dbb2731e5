# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees in the store: made once, extended from what is there, replaced when they are damaged."""

import io
import os
from pathlib import Path

import pytest

from lxc_oci.errors import RefusedError
from lxc_oci.image.digest import Digest
from lxc_oci.kernel.root import Root
from lxc_oci.layer.displaced import Displaced
from lxc_oci.layer.pipeline import TarLayer, apply_image
from lxc_oci.layer.record import RecordWriter
from lxc_oci.layer.unpack import Unpacker
from lxc_oci.limits import Limits
from lxc_oci.store import health, home, prune, trees
from tests.support import need
from tests.support.image import Layer, directory, fifo, file, hardlink, layer, opaque, symlink, whiteout
from tests.support.tree import differences

LIMITS = Limits()
BASE = layer(
    directory(".", mtime=3),
    directory("usr", mtime=5),
    directory("usr/lib", mode=0o750),
    file("usr/lib/shared", b"shared" * 1000, mtime=100),
    file("usr/lib/changed", b"before", mode=0o4755),
    file("usr/lib/removed", b"removed", xattrs={"user.note": b"here"}),
    hardlink("usr/lib/again", "usr/lib/removed"),
    symlink("lib", "usr/lib"),
    directory("etc"),
    file("etc/crontab", b"one link only"),
    symlink("etc/link", "crontab", mtime=7),
    directory("srv"),
    directory("srv/deep"),
    file("srv/deep/data", b"deep" * 100, uid=33, gid=44),
    fifo("srv/deep/queue", mode=0o620),
    directory("tmp", mode=0o1777),
)
SECOND = layer(file("usr/lib/second", b"2"), file("etc/second", b"2"))
UPPER = layer(
    file("lib/changed", b"after"),
    whiteout("usr/lib/removed"),
    opaque("srv"),
    file("srv/new", b"new"),
    file("etc", b"a file in the place of a directory"),
    whiteout("tmp"),
)
OTHER = layer(file("usr/lib/other", b"other"), file("srv/deep/data", b"changed here"))


class Puller:
    """Fills trees from layers in memory and counts which were asked for."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = layers
        self.pulled: list[int] = []

    @property
    def identities(self) -> list[Digest]:
        return [Digest(item.diff_id) for item in self.layers]

    def __call__(
        self, root: Root, first: int, record: RecordWriter | None = None, displaced: Displaced | None = None
    ) -> None:
        wanted = list(range(first, len(self.layers)))
        self.pulled += wanted
        made = [
            TarLayer(lambda number=number: io.BytesIO(self.layers[number].blob), "gzip", self.identities[number])  # type: ignore[misc]
            for number in wanted
        ]
        with Unpacker(root, LIMITS, pytest.fail, record=record, displaced=displaced) as unpacker:
            apply_image(unpacker, made, LIMITS, pytest.fail)


@pytest.fixture
def store(tmp_path: Path) -> home.Store:
    need.root()
    return home.open_store(str(tmp_path / "store"))


def ensure(store: home.Store, *layers: Layer) -> tuple[str, list[int]]:
    puller = Puller(*layers)
    return trees.rootfs(store, trees.ensure(store, puller.identities, puller)), puller.pulled


def fresh(tmp_path: Path, *layers: Layer) -> str:
    place = tmp_path / f"fresh{len(list(tmp_path.iterdir()))}"
    place.mkdir()
    with Root.at(str(place)) as root:
        Puller(*layers)(root, 0)
    return str(place)


def test_a_tree_is_made_once(store: home.Store) -> None:
    first, pulled = ensure(store, BASE, SECOND)
    assert pulled == [0, 1]
    assert ensure(store, BASE, SECOND) == (first, [])
    assert list(health.check(store)) == []
    assert os.listdir(store.at("staging")) == []


@pytest.mark.parametrize("layers", [(BASE,), (BASE, SECOND), (BASE, SECOND, OTHER), (BASE, OTHER)])
def test_layers_that_the_store_has_are_not_pulled_again(
    store: home.Store, tmp_path: Path, layers: tuple[Layer, ...]
) -> None:
    ensure(store, BASE, SECOND, UPPER)
    path, pulled = ensure(store, *layers)
    assert pulled == [number for number, item in enumerate(layers) if item is OTHER]
    assert differences(path, fresh(tmp_path, *layers)) == []
    assert list(health.check(store)) == []
    # And the tree made from a tree serves as one itself.
    again, pulled = ensure(store, *layers, UPPER)
    assert pulled == ([] if layers == (BASE, SECOND) else [len(layers)])
    assert differences(again, fresh(tmp_path, *layers, UPPER)) == []


def test_contents_are_shared_below_usr_and_links_are_not_seen_elsewhere(store: home.Store) -> None:
    one, _ = ensure(store, BASE, UPPER)
    two, _ = ensure(store, BASE, SECOND)
    assert os.stat(f"{one}/usr/lib/shared").st_ino == os.stat(f"{two}/usr/lib/shared").st_ino
    assert os.stat(f"{two}/etc/crontab").st_nlink == 1
    facts = trees.facts(store, os.path.basename(os.path.dirname(two)))
    assert facts is not None
    assert facts.shared >= 6000


def test_u46_extending_a_tree_changes_nothing_in_it(store: home.Store) -> None:
    ensure(store, BASE)
    ensure(store, BASE, SECOND)
    ensure(store, BASE, OTHER)
    ensure(store, BASE, OTHER, UPPER)
    assert list(health.check(store)) == []


def test_f19_a_damaged_tree_is_marked_and_replaced(store: home.Store) -> None:
    path, _ = ensure(store, BASE)
    before = os.stat(path).st_ino
    Path(path, "etc/crontab").write_bytes(b"one link 0nly")
    os.mkfifo(Path(path, "etc/extra"))
    found = dict(health.check(store))
    assert [*found] == [f"trees/{os.path.basename(os.path.dirname(path))}"]
    for part in found:
        health.mark(store, part)
    again, pulled = ensure(store, BASE)
    assert (again, pulled) == (path, [0])
    assert os.stat(path).st_ino != before
    assert [name for name in os.listdir(store.at("trees")) if home.REPLACED in name]
    with store.alone():
        prune.carry_out(store, prune.plan(store), force=True)
    assert os.listdir(store.at("trees")) == []


def test_a_tree_that_lost_what_a_smaller_one_needs_only_costs_a_pull(store: home.Store, tmp_path: Path) -> None:
    large, _ = ensure(store, BASE, UPPER)
    aside = Path(large).parent / "displaced"
    with Root.at(str(aside.parent)) as root:
        from lxc_oci.kernel.root import remove_tree

        remove_tree(root.fd, b"displaced")
    path, pulled = ensure(store, BASE)
    assert pulled == [0]
    assert differences(path, fresh(tmp_path, BASE)) == []


def test_a_layer_that_is_refused_leaves_nothing(store: home.Store) -> None:
    wrong = Layer(SECOND.blob, SECOND.media_type, BASE.diff_id)
    with pytest.raises(RefusedError, match="DiffID"):
        ensure(store, BASE, wrong)
    assert os.listdir(store.at("trees")) == os.listdir(store.at("staging")) == []


def test_an_image_without_layers_is_an_empty_tree(store: home.Store) -> None:
    path, _ = ensure(store)
    assert os.listdir(path) == []
