# SPDX-License-Identifier: LGPL-2.1-or-later
"""The store's home: who may have it, staging, publishing, leftovers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lxc_oci.errors import UsageError
from lxc_oci.kernel import syscalls
from lxc_oci.store import home


@pytest.fixture
def store(tmp_path: Path) -> home.Store:
    tmp_path.chmod(0o755)
    return home.open_store(str(tmp_path / "a" / "store"))


def test_opening_creates_a_private_directory(store: home.Store) -> None:
    assert os.stat(store.path).st_mode & 0o777 == 0o700
    assert Path(store.at("version")).read_text() == "1\n"
    again = home.open_store(store.path, create=False)
    assert again.path == store.path


def test_a_missing_store_is_an_error_that_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no store"):
        home.open_store(str(tmp_path / "none"), create=False)
    assert list(tmp_path.iterdir()) == []


def test_p18_a_store_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    with pytest.raises(UsageError, match="nobody else can enter"):
        home.open_store(str(path))


def test_p18_a_symbolic_link_in_the_store_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "store").symlink_to("elsewhere")
    with pytest.raises(UsageError, match="nobody else can enter"):
        home.open_store(str(tmp_path / "store"))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another user")
@pytest.mark.parametrize(("owner", "mode"), [(12345, 0o755), (0, 0o777), (0, 0o775)])
def test_p18_an_ancestor_that_another_user_can_change_is_refused(tmp_path: Path, owner: int, mode: int) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    os.chown(loose, owner, 0)
    loose.chmod(mode)
    with pytest.raises(UsageError, match="another user can change"):
        home.open_store(str(loose / "below" / "store"))
    assert list(loose.iterdir()) == []


def test_f18_a_newer_format_is_refused(store: home.Store) -> None:
    Path(store.at("version")).write_text("2\n")
    with pytest.raises(UsageError, match="format '2'"):
        home.open_store(store.path)


def test_a_store_that_was_cut_while_it_was_made_is_completed(store: home.Store) -> None:
    os.unlink(store.at("version"))
    os.rmdir(store.at("trees"))
    home.open_store(store.path)
    assert os.path.isdir(store.at("trees"))


def test_a_stage_is_removed_with_all_in_it(store: home.Store) -> None:
    with pytest.raises(ZeroDivisionError), store.stage() as stage:
        deep = os.path.join(stage.path, *["d"] * 50)
        os.makedirs(deep)
        os.symlink("/etc", os.path.join(deep, "link"))
        raise ZeroDivisionError
    assert os.listdir(store.at("staging")) == []
    assert os.path.isdir("/etc")


def test_publishing_is_once(store: home.Store) -> None:
    final = store.at("trees", "x")
    for number, expected in ((1, True), (2, False)):
        with store.stage() as stage:
            staged = os.path.join(stage.path, "tree")
            os.mkdir(staged)
            Path(staged, "who").write_text(str(number))
            assert store.publish(staged, final) is expected
    assert Path(final, "who").read_text() == "1"
    assert os.listdir(store.at("staging")) == []


def test_leftovers_of_the_dead_go_and_work_of_the_living_stays(store: home.Store) -> None:
    code = f"""
import os, signal, sys
sys.path[:] = {sys.path!r}
from lxc_oci.kernel import syscalls
from lxc_oci.store import home
with home.open_store({store.path!r}).stage() as stage:
    open(stage.path + "/half", "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    dead = os.listdir(store.at("staging"))
    assert len(dead) == 1
    with store.stage() as living:
        store.clear_leftovers()
        assert os.listdir(store.at("staging")) == [os.path.basename(living.path)]


def test_removing_what_is_published_leaves_nothing(store: home.Store) -> None:
    os.makedirs(store.at("trees", "x", "rootfs", "deep"))
    store.remove(store.at("trees", "x"))
    store.remove(store.at("trees", "x"))
    assert os.listdir(store.at("trees")) == os.listdir(store.at("staging")) == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LXC_OCI_PY_STORE": "/srv//store/"}, "/srv/store"),
        ({"HOME": "/nonexistent"}, home.SYSTEM_STORE),
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="the default of root")
def test_default_path_of_root(environment: dict[str, str], expected: str) -> None:
    assert home.default_path(environment) == expected


def test_a_relative_store_is_refused() -> None:
    with pytest.raises(UsageError, match="absolute"):
        home.default_path({"LXC_OCI_PY_STORE": "here"})


# --- replacing what is damaged ---------------------------------------------------------------------------------


def published(store: home.Store, content: str) -> bool:
    with store.stage() as stage:
        staged = os.path.join(stage.path, "tree")
        os.mkdir(staged)
        Path(staged, "who").write_text(content)
        return store.publish(staged, store.at("trees", "x"))


@pytest.mark.parametrize("refused", [None, 22, 38])
def test_what_is_damaged_is_replaced_and_stays_beside(
    store: home.Store, monkeypatch: pytest.MonkeyPatch, refused: int | None
) -> None:
    # EINVAL and ENOSYS are what file systems without RENAME_EXCHANGE say (NFS, some FUSE, old kernels).
    def without(*arguments: object) -> None:
        raise OSError(refused, "refused")

    if refused is not None:
        monkeypatch.setattr(syscalls, "renameat2", without)
    published(store, "old")
    Path(store.at("trees", "x", home.DAMAGED)).touch()
    assert published(store, "new")
    assert Path(store.at("trees", "x", "who")).read_text() == "new"
    (aside,) = [name for name in os.listdir(store.at("trees")) if name != "x"]
    assert aside.startswith("x" + home.REPLACED)
    assert Path(store.at("trees", aside, "who")).read_text() == "old"
    assert not published(store, "newer")


def test_f01_a_kill_while_replacing_leaves_what_containers_mount(
    store: home.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    published(store, "old")
    Path(store.at("trees", "x", home.DAMAGED)).touch()
    monkeypatch.setattr(syscalls, "renameat2", killed)
    with pytest.raises(KeyboardInterrupt):
        published(store, "new")
    store.clear_leftovers()
    assert Path(store.at("trees", "x", "who")).read_text() == "old"
    monkeypatch.undo()
    assert published(store, "newer")
    assert Path(store.at("trees", "x", "who")).read_text() == "newer"


def test_a_stage_that_another_process_takes_for_a_leftover_is_made_again(
    store: home.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def and_cleared(path: str, mode: int = 0o777) -> None:
        mkdir(path, mode)
        monkeypatch.undo()
        store.clear_leftovers()

    monkeypatch.setattr(os, "mkdir", and_cleared)
    with store.stage() as stage:
        assert os.listdir(store.at("staging")) == [os.path.basename(stage.path)]


def test_a_leftover_that_cannot_be_removed_hinders_nobody(store: home.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    os.makedirs(store.at("staging", "of-another-id-map", "x"))

    def refused(fd: int, name: bytes) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(home, "remove_tree", refused)
    store.clear_leftovers()
    assert os.listdir(store.at("staging")) == ["of-another-id-map"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another user")
def test_p18_a_link_in_another_user_s_directory_is_refused(tmp_path: Path) -> None:
    for name in ("loose", "good"):
        (tmp_path / name).mkdir()
    (tmp_path / "loose/link").symlink_to(tmp_path / "good")
    home.open_store(str(tmp_path / "loose/link/store"))
    os.chown(tmp_path / "loose", 12345, 0)
    with pytest.raises(UsageError, match="another user can change"):
        home.open_store(str(tmp_path / "loose/link/store"))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another user")
def test_p18_what_another_user_makes_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o1777)
    mkdir = os.mkdir

    def others_first(path: str, mode: int = 0o777) -> None:
        mkdir(path, mode)
        if os.path.basename(path) == "between":
            os.chown(path, 12345, 0)
            raise FileExistsError(17, "exists")

    monkeypatch.setattr(os, "mkdir", others_first)
    with pytest.raises(UsageError, match="another user can change"):
        home.open_store(str(tmp_path / "between/store"))
