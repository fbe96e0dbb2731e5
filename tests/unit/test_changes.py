# SPDX-License-Identifier: LGPL-2.1-or-later
"""changes and sametree: what images say otherwise, and which files differ."""

import os
from pathlib import Path

import pytest

from lxc_oci import changes, sametree
from lxc_oci.changes import Entries, Value
from lxc_oci.errors import RefusedError
from lxc_oci.image.config import Image
from lxc_oci.kernel.root import Root
from lxc_oci.limits import Limits
from lxc_oci.source.resolve import resolve_manifest
from tests.support import image as images
from tests.support import need


def image(config: dict[str, object], *layers: images.Layer) -> Image:
    made = images.Image(list(layers), config)
    return resolve_manifest(made.manifest, made.configuration, None, Limits(), lambda message: None)


LAYERS = [images.layer(images.file(name, name)) for name in "abc"]


def test_what_images_say_otherwise() -> None:
    before = image({"Env": ["A=1", "B=2"], "User": "app", "ExposedPorts": {"80/tcp": {}}}, LAYERS[0], LAYERS[1])
    after = image(
        {"Env": ["A=1", "B=3"], "Entrypoint": ["/x", "y z"], "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}}},
        LAYERS[0],
        LAYERS[2],
    )
    found = changes.compare(before, after)
    assert (found.shared_layers, found.new_layers, found.new_bytes) == (1, 1, len(LAYERS[2].blob))
    assert found.values == (Value("entrypoint", "", '["/x","y z"]'), Value("user", "app", ""))
    assert found.entries == (Entries("environment", ("B=3",), ("B=2",)), Entries("volumes", ("/data",), ()))
    assert changes.compare(after, after).values == changes.compare(after, after).entries == ()


def test_a_layer_is_the_same_whatever_compressed_it() -> None:
    plain = images.layer(images.file("a", "a"), compression="")
    assert changes.compare(image({}, LAYERS[0]), image({}, plain)).new_layers == 0


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path, Path]:
    """An upper directory, an old and a new image; the images are equal at first."""
    found = tmp_path / "upper", tmp_path / "old", tmp_path / "new"
    for path in found:
        (path / "etc").mkdir(parents=True)
    for path in found[1:]:
        for name in ("same", "other", "gone"):
            (path / "etc" / name).write_text("from the image")
        (path / "lib").mkdir()
        (path / "lib/x").write_text("x")
    return found


def conflicts(found: tuple[Path, Path, Path]) -> list[tuple[str, bool]]:
    upper, old, new = (Root.at(str(path)) for path in found)
    with upper, old, new:
        return sorted((one.path, one.removed) for one in changes.conflicts(upper, old, new))


def test_only_what_both_changed_is_a_conflict(trees: tuple[Path, Path, Path]) -> None:
    upper, _, new = trees
    for name in ("same", "other", "mine", "hosts"):
        (upper / "etc" / name).write_text("of the user")
    assert conflicts(trees) == []
    (new / "etc/other").write_text("from the IMAGE")
    (new / "etc/hosts").write_text("every container has its own")
    (new / "etc/unrelated").write_text("new")
    assert conflicts(trees) == [("/etc/other", False)]
    (new / "etc/same").unlink()
    (new / "etc/same").symlink_to("other")
    assert conflicts(trees) == [("/etc/other", False), ("/etc/same", False)]


def test_what_was_removed(trees: tuple[Path, Path, Path]) -> None:
    need.root()
    upper, _, new = trees
    os.mknod(upper / "etc/gone", 0o020000, os.makedev(0, 0))
    os.mknod(upper / "lib", 0o020000, os.makedev(0, 0))
    assert conflicts(trees) == []
    (new / "etc/gone").chmod(0o600)
    (new / "lib/y").write_text("y")
    assert conflicts(trees) == [("/etc/gone", True), ("/lib", True)]


def test_an_opaque_directory_hides_all_of_the_image_s(trees: tuple[Path, Path, Path]) -> None:
    need.root()
    upper, _, new = trees
    (upper / "lib").mkdir()
    os.setxattr(upper / "lib", "trusted.overlay.opaque", b"y")
    assert conflicts(trees) == []
    (new / "lib/x").write_text("X")
    assert conflicts(trees) == [("/lib", False)]


@pytest.mark.parametrize("feature", ["redirect", "metacopy"])
def test_what_depends_on_the_old_image_is_refused(trees: tuple[Path, Path, Path], feature: str) -> None:
    need.root()
    (trees[0] / "etc/x").write_text("x")
    os.setxattr(trees[0] / "etc/x", f"trusted.overlay.{feature}", b"/y")
    with pytest.raises(RefusedError, match=feature):
        conflicts(trees)


def test_a_link_in_the_upper_directory_leads_nowhere(trees: tuple[Path, Path, Path], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("x")
    (trees[0] / "etc/link").symlink_to(secret)
    assert conflicts(trees) == []


# --- equal trees ---------------------------------------------------------------------------------------------------


def differences(one: Path, other: Path) -> list[str]:
    with Root.at(str(one)) as left, Root.at(str(other)) as right:
        return list(sametree.differences(left, right))


CHANGES = {
    "content": lambda path: (path / "f").write_text("jkl"),
    "mode": lambda path: (path / "f").chmod(0o600),
    "mtime": lambda path: os.utime(path / "f", ns=(1, 5)),
    "target": lambda path: ((path / "l").unlink(), (path / "l").symlink_to("g")),
    "type": lambda path: ((path / "l").unlink(), (path / "l").mkdir()),
    "only in one": lambda path: (path / "d/new").touch(),
    "a link": lambda path: ((path / "h").unlink(), (path / "h").write_text("abc")),
    "attributes": lambda path: os.setxattr(path / "f", "user.x", b"y"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_difference_is_seen(tmp_path: Path, what: str) -> None:
    for name in ("one", "other"):
        path = tmp_path / name
        (path / "d").mkdir(parents=True)
        (path / "f").write_text("abc")
        os.link(path / "f", path / "h")
        (path / "l").symlink_to("f")
        for entry in (path / "f", path / "l", path / "d", path):
            os.utime(entry, ns=(1, 1), follow_symlinks=False)
    assert differences(tmp_path / "one", tmp_path / "other") == []
    CHANGES[what](tmp_path / "other")
    for name in ("f", "h", "l", "d", "."):  # the times say too much
        if what != "mtime":
            os.utime(tmp_path / "other" / name, ns=(1, 1), follow_symlinks=False)
    found = differences(tmp_path / "one", tmp_path / "other")
    assert found and any(what.split()[-1] in line or what in line for line in found), (what, found)
