# SPDX-License-Identifier: LGPL-2.1-or-later
"""What prune takes away: what nobody uses and has not used lately, all of it and nothing else."""

import os
import time
from pathlib import Path

import pytest

from lxc_oci.errors import UnavailableError
from lxc_oci.image.digest import Digest, sha256
from lxc_oci.image.platform import Platform
from lxc_oci.kernel import durable
from lxc_oci.store import containers, home, images, prefixes, prune, resolutions

HEX = "ab" * 32
OTHER = "ef" * 32


@pytest.fixture
def store(tmp_path: Path) -> home.Store:
    return home.open_store(str(tmp_path / "store"))


def tree(store: home.Store, name: str = HEX, *, old: bool = True) -> Path:
    path = Path(store.at("trees", name))
    (path / "rootfs/usr").mkdir(parents=True)
    (path / "rootfs/usr/file").write_bytes(b"x" * 100_000)
    if old:
        age(path)
    return path


def age(path: Path) -> None:
    before = time.time() - 2 * prune.RECENT_SECONDS
    os.utime(path, (before, before))


def collect(store: home.Store, *, force: bool = False, lxcpaths: tuple[Path, ...] = ()) -> list[prune.Candidate]:
    with store.alone():
        return prune.carry_out(store, prune.plan(store, map(str, lxcpaths)), force=force)


def use(lxcpath: Path, text: str) -> None:
    (lxcpath / "one").mkdir(parents=True, exist_ok=True)
    (lxcpath / "one/config").write_text(f"lxc.rootfs.path = overlay:/store/{text}/rootfs:/delta\n")


def test_what_is_used_stays_and_what_is_not_goes(store: home.Store, tmp_path: Path) -> None:
    tree(store)
    tree(store, OTHER)
    use(tmp_path / "lxc", f"trees/{HEX}")
    removed = collect(store, lxcpaths=(tmp_path / "lxc",))
    assert [item.part for item in removed] == [f"trees/{OTHER}"]
    assert removed[0].size > 100_000
    assert os.listdir(store.at("trees")) == [HEX]
    assert os.listdir(store.at("staging")) == []


def test_what_was_used_until_now_is_recent_and_needs_force(store: home.Store, tmp_path: Path) -> None:
    tree(store)
    use(tmp_path / "lxc", f"trees/{HEX}")
    assert collect(store, lxcpaths=(tmp_path / "lxc",)) == []
    (tmp_path / "lxc/one/config").unlink()
    assert collect(store, lxcpaths=(tmp_path / "lxc",)) == []
    assert [item.part for item in collect(store, force=True)] == [f"trees/{HEX}"]


def test_a_plan_changes_nothing(store: home.Store) -> None:
    tree(store)
    with store.alone():
        assert [item.part for item in prune.plan(store).candidates] == [f"trees/{HEX}"]
    assert os.listdir(store.at("trees")) == [HEX]


@pytest.mark.parametrize("kind", ["blobs", "partial"])
def test_blobs_and_what_was_cut_go_too(store: home.Store, kind: str) -> None:
    path = Path(store.at(kind, f"sha256-{HEX}"))
    path.write_bytes(b"x" * 4096)
    assert collect(store) == []
    age(path)
    assert [(item.part, item.size) for item in collect(store)] == [(f"{kind}/sha256-{HEX}", 4096)]
    assert not path.exists()


def test_hints_and_leftovers_go_with_what_they_belonged_to(store: home.Store) -> None:
    image = sha256(b"manifest")
    chain = [Digest("sha256:" + "11" * 32), Digest("sha256:" + HEX)]
    with store.in_use():
        images.save(store, image, b"manifest", b"{}", name="n", reference="r", added="2026-01-01T00:00:00Z")
    resolutions.remember(store, "n", image, Platform("linux", "amd64"), image)
    tree(store)
    prefixes.note(store, chain, HEX)
    containers.remember(store, "9" * 32, store.path, "never-was", image, [f"trees/{HEX}"], "2026-01-01T00:00:00Z")
    for place in ("", "containers", "resolutions", f"images/sha256-{image.hex}"):
        Path(store.at(place, ".x.123.tmp")).write_bytes(b"")
    removed = collect(store, force=True)
    assert {item.part for item in removed} == {f"trees/{HEX}", f"images/sha256-{image.hex}"}
    left = [str(path.relative_to(store.path)) for path in Path(store.path).glob("*/*")]
    assert left == ["locks/store"]
    assert [path.name for path in Path(store.path).glob(".*")] == []


def test_hints_at_what_stays_stay(store: home.Store) -> None:
    image = sha256(b"manifest")
    platform = Platform("linux", "amd64")
    images.save(store, image, b"manifest", b"{}", name="n", reference="r", added="2026-01-01T00:00:00Z")
    resolutions.remember(store, "n", image, platform, image)
    tree(store, old=False)
    prefixes.note(store, [Digest("sha256:" + HEX)], HEX)
    assert collect(store) == []
    assert resolutions.lookup(store, "n", image, platform) == image
    assert prefixes.find(store, [Digest("sha256:" + HEX)]) == (HEX, 1)


def test_a_replaced_tree_goes_at_once_unless_it_may_be_mounted(store: home.Store, tmp_path: Path) -> None:
    tree(store)
    tree(store, f"{HEX}{home.REPLACED}{'0' * 16}", old=False)
    use(tmp_path / "lxc", f"trees/{HEX}")  # the new one; what was replaced only a running container uses
    assert [item.part for item in collect(store, lxcpaths=(tmp_path / "lxc",))] == [
        f"trees/{HEX}{home.REPLACED}{'0' * 16}"
    ]


def test_f13_prune_waits_for_creates_and_creates_for_prune(store: home.Store) -> None:
    other = home.Store(store.path)
    with store.in_use(), pytest.raises(UnavailableError), other.alone(wait=False):
        pass
    with (
        store.alone(),
        pytest.raises(UnavailableError),
        durable.lock(other.at("locks", "store"), shared=True, wait=False),
    ):
        pass


def test_a_digest_is_locked_only_while_the_store_is_in_use(store: home.Store) -> None:
    # Else prune might take away the lock file under the holder.
    with store.locked("tree-x"), pytest.raises(UnavailableError), home.Store(store.path).alone(wait=False):
        pass
    with store.in_use(), store.locked("tree-x"):
        assert sorted(os.listdir(store.at("locks"))) == ["store", "tree-x"]


# --- sizes -----------------------------------------------------------------------------------------------------


def test_a_shared_file_is_freed_by_the_last_of_its_trees(store: home.Store, tmp_path: Path) -> None:
    one, two = tree(store), tree(store, OTHER)
    (two / "rootfs/usr/file").unlink()
    os.link(one / "rootfs/usr/file", two / "rootfs/usr/file")
    blocks = (one / "rootfs/usr/file").stat().st_blocks * 512
    use(tmp_path / "lxc", f"trees/{HEX}")
    with store.alone():
        (only,) = prune.plan(store, [str(tmp_path / "lxc")]).candidates
        (tmp_path / "lxc/one/config").unlink()
        age(one), age(two)
        both = prune.plan(store, [str(tmp_path / "lxc")]).candidates
    assert only.part == f"trees/{OTHER}" and only.size < blocks
    assert blocks <= sum(item.size for item in both) < 2 * blocks


def test_links_to_itself_do_not_make_a_file_shared(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 50_000)
    os.link(tmp_path / "a", tmp_path / "b")
    os.symlink("/etc", tmp_path / "c")
    expected = sum(os.lstat(path).st_blocks * 512 for path in (tmp_path, tmp_path / "a"))
    assert prune.disk_usage(str(tmp_path), {}) == expected
