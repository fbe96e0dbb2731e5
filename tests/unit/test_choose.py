# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.rootfs.choose: which form, and why."""

from pathlib import Path

import pytest

from lxc_oci.errors import UnsupportedError
from lxc_oci.image.mediatype import LayerKind
from lxc_oci.rootfs import choose as module
from lxc_oci.rootfs.choose import Facts, Form, choose, gather

# A Debian 13 host, root, the system's lxcpath.
BEST = gather("dir:/var/lib/lxc/web/rootfs", "/var/lib/lxc/web", "/var/lib/lxc/web/rootfs", "/")._replace(
    store="/var/lib/lxc-oci-py",
    store_type="ext4",
    user_namespace=False,
    confined=True,
    kernel=(6, 12),
    indexer=True,
    hook=True,
)
TAR, SQUASHFS, EROFS, PUZZLEFS = LayerKind.TAR, LayerKind.SQUASHFS, LayerKind.EROFS, LayerKind.PUZZLEFS


def chosen(kind: LayerKind = TAR, wanted: str = "auto", kernel_mount: bool = True, **facts: object) -> Form:
    changed = BEST._replace(**facts)  # type: ignore[arg-type]
    return choose(wanted, kind, changed, helper=None, kernel_mount=kernel_mount).form


@pytest.mark.parametrize(
    ("kind", "form"),
    [(TAR, Form.INDEX), (SQUASHFS, Form.MOUNTED), (EROFS, Form.MOUNTED), (PUZZLEFS, Form.TREE)],
)
def test_the_best_host(kind: LayerKind, form: Form) -> None:
    assert chosen(kind) is form
    assert chosen(kind, wanted="layered") is form
    assert chosen(kind, wanted="flat") is Form.FLAT


@pytest.mark.parametrize(
    ("facts", "form"),
    [
        ({"kernel": (6, 1)}, Form.TREE),
        ({"indexer": False}, Form.TREE),
        ({"kernel_mount": False}, Form.TREE),
        ({"user_namespace": True, "confined": False}, Form.TREE),
        ({"user_namespace": True}, Form.OVERLAY),
        ({"hook": False}, Form.OVERLAY),
        ({"elsewhere": True}, Form.OVERLAY),
        ({"elsewhere": True, "confined": False}, Form.INDEX),
        ({"store": None}, Form.FLAT),
        ({"backend": "btrfs"}, Form.FLAT),
        ({"own_rootfs": False}, Form.FLAT),
        ({"store": "/srv/a,b"}, Form.FLAT),
        ({"store": "/srv/a\\b"}, Form.FLAT),
        ({"container": "/srv/a:b/web"}, Form.FLAT),
        ({"user_namespace": True, "kernel": (5, 10)}, Form.FLAT),
    ],
)
def test_what_a_tar_image_takes_elsewhere(facts: dict[str, object], form: Form) -> None:
    assert chosen(**facts) is form  # type: ignore[arg-type]


def test_links_in_an_lxcpath_are_followed_as_apparmor_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYSTEM_LXCPATH", str(tmp_path / "lxc"))

    def elsewhere(name: str) -> bool:
        directory = tmp_path / name / "web"
        directory.mkdir(parents=True, exist_ok=True)
        return gather(f"dir:{directory}/rootfs", str(directory), f"{directory}/rootfs", str(tmp_path)).elsewhere

    assert not elsewhere("lxc")
    assert elsewhere("lxc-other") and elsewhere("srv")
    (tmp_path / "lxc").rename(tmp_path / "data")
    (tmp_path / "lxc").symlink_to("data")
    assert elsewhere("lxc")
    (tmp_path / "lxc").unlink()
    (tmp_path / "data").rename(tmp_path / "lxc")
    (tmp_path / "link").symlink_to("lxc")
    assert not elsewhere("link")


@pytest.mark.parametrize("kind", [SQUASHFS, EROFS])
def test_file_systems_are_unpacked_where_they_cannot_be_mounted(kind: LayerKind) -> None:
    assert chosen(kind, hook=False) is Form.OVERLAY
    assert chosen(kind, kernel_mount=False) is Form.TREE
    assert chosen(kind, user_namespace=True, confined=False) is Form.TREE
    assert chosen(kind, store=None) is Form.FLAT


@pytest.mark.parametrize("facts", [{"store": None}, {"backend": "loop"}, {"own_rootfs": False}])
def test_layered_is_refused_where_it_cannot_work(facts: dict[str, object]) -> None:
    with pytest.raises(UnsupportedError, match="--storage layered is not possible") as caught:
        chosen(wanted="layered", **facts)  # type: ignore[arg-type]
    assert "--storage auto" in caught.value.hint


def test_a_mount_helper_gets_every_image_or_none() -> None:
    for kind in (TAR, SQUASHFS, EROFS, PUZZLEFS):
        assert choose("auto", kind, BEST, helper="atomfs", kernel_mount=True).form is Form.HELPER
    for wanted, facts in (("flat", BEST), ("auto", BEST._replace(store=None)), ("auto", BEST._replace(hook=False))):
        with pytest.raises(UnsupportedError, match="mount helper atomfs cannot be used"):
            choose(wanted, SQUASHFS, facts, helper="atomfs", kernel_mount=True)


def test_every_choice_has_a_reason() -> None:
    for facts in (BEST, BEST._replace(hook=False), BEST._replace(store=None), BEST._replace(kernel=(6, 1))):
        for kind in (TAR, SQUASHFS, EROFS, PUZZLEFS):
            assert choose("auto", kind, facts, helper=None, kernel_mount=True).reason


@pytest.mark.parametrize(
    ("value", "rootfs", "backend", "own"),
    [
        ("dir:/l/c/rootfs", "/l/c/rootfs", "dir", True),
        ("/l/c/rootfs", "/l/c/rootfs", "dir", True),
        ("", "/l/c/rootfs", "dir", True),
        ("dir:/l/c/../c/rootfs/", "/l/c/rootfs", "dir", True),
        ("dir:/elsewhere", "/elsewhere", "dir", False),
        ("loop:/l/c/rootdev", "/usr/lib/lxc/rootfs", "loop", False),
        ("btrfs:/l/c/rootfs", "/usr/lib/lxc/rootfs", "btrfs", False),
        ("/l/with:colon/c/rootfs", "/l/with:colon/c/rootfs", "dir", False),
    ],
)
def test_what_lxc_chose(value: str, rootfs: str, backend: str, own: bool) -> None:
    facts = gather(value, "/l/c", rootfs, None)
    assert isinstance(facts, Facts)
    assert (facts.backend, facts.own_rootfs) == (backend, own)
    assert facts.store is None and facts.kernel >= (4, 0)


@pytest.mark.parametrize(
    ("enabled", "profiles", "confined"),
    [
        (None, None, False),
        ("N\n", None, False),
        ("Y\n", "/usr/bin/lxc-start (enforce)\n", True),
        ("Y\n", "/usr/bin/lxc-start (complain)\nlxc-container-default (enforce)\n", False),
        ("Y\n", None, True),  # whoever cannot look must take it as given
    ],
)
def test_apparmor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: str | None, profiles: str | None, confined: bool
) -> None:
    for name, content, variable in (("enabled", enabled, "_APPARMOR"), ("profiles", profiles, "_PROFILES")):
        monkeypatch.setattr(module, variable, str(tmp_path / name))
        if content is not None:
            (tmp_path / name).write_text(content)
    assert module.apparmor_confines_lxc() is confined
