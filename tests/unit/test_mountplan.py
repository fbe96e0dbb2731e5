# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plans: what is written is what is read, by us and by the hook, and nothing else is believed."""

import json
import os
from pathlib import Path
from types import ModuleType

import pytest

from lxc_oci.errors import RefusedError, UnsupportedError, UsageError
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor, Manifest
from lxc_oci.layer import verity
from lxc_oci.layer.verity import Verity
from lxc_oci.limits import Limits
from lxc_oci.store import helper, mountplan
from lxc_oci.store.mountplan import HelperCall, Lower, Plan
from tests.support import hooks

SQUASHFS = "application/vnd.stacker.image.layer.squashfs+zstd"
EROFS = "application/vnd.stacker.image.layer.erofs"


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    return hooks.module("oci-py-mount")


PLANS = [
    Plan((Lower("tree", "/store/trees/1/rootfs"),)),
    Plan((Lower("erofs", "/s/a b,c:d\\e/index.erofs", ("/s/layer.tar",)), Lower("squashfs", "/s/ü")), userxattr=True),
    Plan((Lower("squashfs", "/s/1", (), True, Verity("ab" * 32, 4096)),)),
    Plan((Lower("helper"),), False, HelperCall("/usr/bin/atomfs", True)),
    Plan((Lower("helper"),), False, HelperCall("/usr/bin/puzzlefs", False, seconds=5)),
]


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_survives_being_written(plan: Plan) -> None:
    assert mountplan.parse(mountplan.render(plan)) == plan


@pytest.mark.parametrize("plan", PLANS)
def test_the_hook_reads_what_was_written(tmp_path: Path, hook: ModuleType, plan: Plan) -> None:
    mountplan.write(str(tmp_path), plan)
    found = hook.load_plan(str(tmp_path))
    assert [lower["kind"] for lower in found["lowers"]] == [lower.kind for lower in plan.lowers]
    assert bool(found.get("upper")) == (plan.helper is None or not plan.helper.persist)
    for name in plan.own:
        assert (plan.helper is not None and name == plan.helper.layout) or (tmp_path / name).is_dir()


def test_a_container_without_a_plan_has_none(tmp_path: Path) -> None:
    assert mountplan.load(str(tmp_path)) is None


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"[]", b'{"version":1}', b'{"version":2,"lowers":[]}', b'{"version":1,"lowers":[{}]}', b"\xff",
     b'{"version":1,"lowers":[{"kind":"tree","path":"relative"}]}', b'{"version":1,"lowers":[]}',
     b'{"version":1,"lowers":[{"kind":"ext4","path":"/x"}]}', b'{"version":1,"lowers":"abc"}',
     b'{"version":1,"lowers":[{"kind":"tree","path":"/x"}]} trailing', b'{"version":1,"lowers":[{"kind":"tree"']
)  # fmt: skip
def test_the_hook_refuses_a_damaged_plan(tmp_path: Path, hook: ModuleType, raw: bytes) -> None:
    (tmp_path / "oci-py").mkdir(mode=0o755)
    (tmp_path / "oci-py/plan.json").write_bytes(raw)
    with pytest.raises(hook.Failure, match=r"damaged|another version"):
        hook.load_plan(str(tmp_path))


@pytest.mark.parametrize("what", ["oci-py", "oci-py/plan.json"])
def test_the_hook_refuses_a_plan_that_others_can_write(tmp_path: Path, hook: ModuleType, what: str) -> None:
    mountplan.write(str(tmp_path), PLANS[0])
    (tmp_path / what).chmod(0o775)
    with pytest.raises(hook.Failure, match="could have been changed"):
        hook.load_plan(str(tmp_path))


def test_the_hook_refuses_a_plan_that_is_a_link(tmp_path: Path, hook: ModuleType) -> None:
    mountplan.write(str(tmp_path), PLANS[0])
    os.rename(tmp_path / "oci-py/plan.json", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", tmp_path / "oci-py/plan.json")
    with pytest.raises(hook.Failure, match="could have been changed"):
        hook.load_plan(str(tmp_path))


@pytest.mark.parametrize("name", ["../upper", "/upper", "a//b", ".", "", 1, None, "a/../../b"])
def test_the_hook_keeps_names_in_the_container(hook: ModuleType, name: object) -> None:
    with pytest.raises(hook.Failure, match="bad name"):
        hook.inside("/lxc/c", name)


def test_the_hook_parses_json_as_the_module_does(hook: ModuleType) -> None:
    document = {"a": [1, 2.5, None, True, 'é\n\\ "quoted" \U0001f600'], "b": {"c": "/x y,z"}}
    assert hook.parse_json(json.dumps(document, indent=2).encode()) == document
    assert hook.parse_json(json.dumps(document, ensure_ascii=False).encode()) == document
    assert hook.parse_json(b" {}\n") == {}


def manifest(*media_types: str, **annotations: str) -> Manifest:
    empty = Descriptor("application/vnd.oci.empty.v1+json", Digest("sha256:" + "0" * 64), 2)
    made = [Descriptor(kind, Digest("sha256:" + "1" * 64), 4096, annotations) for kind in media_types]
    return Manifest("application/vnd.oci.image.manifest.v1+json", empty, tuple(made))


def images(path: Path) -> tuple[str, str]:
    """A squashfs and an EROFS image of one block, as far as their superblocks say."""
    (path / "s").write_bytes((b"hsqs" + bytes(36) + (4000).to_bytes(8, "little")).ljust(4096, b"\0"))
    content = bytearray(4096)
    content[1024:1028], content[1036], content[1060] = b"\xe2\xe1\xf5\xe0", 12, 1
    (path / "e").write_bytes(content)
    return str(path / "s"), str(path / "e")


def for_layers(made: Manifest, paths: tuple[str, ...], require_verity: bool = False, kernel: bool = True) -> Plan:
    return mountplan.for_layers(made, paths, kernel=kernel, require_verity=require_verity, userxattr=False)


def test_layers_become_lowers_in_their_order(tmp_path: Path) -> None:
    paths = images(tmp_path)
    plan = for_layers(manifest(SQUASHFS, EROFS), paths, kernel=False)
    assert plan.lowers == (Lower("squashfs", paths[0], fuse=True), Lower("erofs", paths[1], fuse=True))


def test_an_annotated_layer_has_its_verity_data(tmp_path: Path) -> None:
    plan = for_layers(manifest(SQUASHFS, **{verity.ANNOTATIONS[0]: "ab" * 32}), images(tmp_path)[:1], True)
    assert plan.lowers[0].verity == Verity("ab" * 32, 4096)


def test_require_verity_refuses_a_layer_without(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="layer 0 has no verity root hash"):
        for_layers(manifest(SQUASHFS), images(tmp_path)[:1], True)


def test_a_layer_that_is_not_what_it_says_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="not a whole squashfs image"):
        for_layers(manifest(SQUASHFS), images(tmp_path)[1:])
    with pytest.raises(RefusedError, match="cannot be mounted"):
        for_layers(manifest("application/vnd.oci.image.layer.v1.tar"), images(tmp_path)[:1])


# --- helpers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["/nonexistent", "no-such-program", "/etc", "", "atomfs --flag"])
def test_a_helper_is_one_program(command: str) -> None:
    with pytest.raises(UsageError, match="not an executable program"):
        helper.resolve(command)


def test_a_helper_that_others_can_change_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    path = place / "helper"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    assert helper.resolve(str(path)) == str(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    for changed, mode in ((path, 0o777), (path, 0o775), (place, 0o777), (place, 0o775)):
        before = changed.stat().st_mode & 0o7777
        changed.chmod(mode)
        for named in (path, link):
            with pytest.raises(UsageError, match="can be changed by other users") as caught:
                helper.resolve(str(named))
            assert caught.value.hint.startswith(str(changed))
        changed.chmod(before)
    place.chmod(0o1777)  # there nobody replaces a file of another
    assert helper.resolve(str(path)) == str(path)
    if os.geteuid() == 0:
        os.chown(path, 1000, -1)
        with pytest.raises(UsageError, match="can be changed by other users"):
            helper.resolve(str(path))


def test_a_failed_hook_is_reported_with_what_was_said_before(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    hook_program = tmp_path / "hook"
    hook_program.write_text(
        "#!/bin/sh\necho helper: no such image >&2\necho oci-py-mount: the helper failed >&2\nexit 1\n"
    )
    hook_program.chmod(0o755)
    with (
        pytest.raises(UnsupportedError) as caught,
        mountplan.attached(str(tmp_path), Limits(), hook=str(hook_program)),
    ):
        pass
    assert caught.value.message == "the helper failed"
    assert caught.value.hint == "helper: no such image"
