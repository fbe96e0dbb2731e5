# SPDX-License-Identifier: LGPL-2.1-or-later
"""container.generation and container.running: the numbers, the configuration's lines, and what runs."""

import os
import socket
from pathlib import Path

import pytest

from lxc_oci.container import generation, lxcconfig
from lxc_oci.container.lxcconfig import IMAGE_BLOCK, Line
from lxc_oci.container.running import running
from lxc_oci.errors import UnsupportedError

HOOK = "/usr/share/lxc/hooks/oci-py-mount"
CONFIG = b"""\
# Template used
lxc.rootfs.path = dir:/x/rootfs
lxc.hook.pre-mount = /bin/true
lxc.hook.pre-mount = /usr/share/lxc/hooks/oci-py-mount
lxc.rootfs.path = overlay:/s/trees/a/rootfs:/x/overlay/delta
# lxc-oci-py: begin image block
lxc.environment = A=b
# lxc-oci-py: end image block
# the user's
lxc.environment = MINE=1
"""


@pytest.mark.parametrize("number", [1, 2, 17])
def test_the_number_is_in_the_image_block(number: int) -> None:
    text = lxcconfig.replace_block(CONFIG, IMAGE_BLOCK, [Line("lxc.environment", "B=c")], generation.note(number))
    assert generation.of(text) == number
    assert text.endswith(b"# the user's\nlxc.environment = MINE=1\n")
    assert lxcconfig.block_lines(text, IMAGE_BLOCK) == [Line("lxc.environment", "B=c")]
    assert lxcconfig.outside_blocks(text) == lxcconfig.outside_blocks(CONFIG)
    assert b"A=b" not in lxcconfig.outside_blocks(CONFIG)


def test_a_container_without_a_number_is_of_the_first(tmp_path: Path) -> None:
    assert generation.of(CONFIG) == generation.FIRST
    assert generation.current(str(tmp_path)) == generation.FIRST
    assert generation.directory(1) == "oci-py" and generation.guest_directory(3) == "oci-py/g3/guest"


def test_the_hook_s_line_and_no_other_names_the_generation() -> None:
    text = generation.replace_hook(CONFIG, 3)
    assert text == CONFIG.replace(HOOK.encode(), f"{HOOK} --generation=3".encode())
    assert generation.replace_hook(text, 4) == CONFIG.replace(HOOK.encode(), f"{HOOK} --generation=4".encode())
    assert generation.replace_hook(text, 1) == CONFIG


def test_the_last_rootfs_is_the_one_that_is_replaced() -> None:
    assert generation.overlay_of(CONFIG) == ("/s/trees/a/rootfs", "/x/overlay/delta")
    text = generation.replace_rootfs(CONFIG, "overlay:/s/trees/b/rootfs:/x/overlay/delta")
    assert text == CONFIG.replace(b"trees/a", b"trees/b")
    assert generation.overlay_of(b"lxc.rootfs.path = dir:/x\n") is None
    with pytest.raises(UnsupportedError, match="not one lower"):
        generation.overlay_of(b"lxc.rootfs.path = overlay:/a:/b:/c\n")
    assert generation.replace_rootfs(b"lxc.uts.name = x", "dir:/y") == b"lxc.uts.name = x\nlxc.rootfs.path = dir:/y\n"


def test_a_hook_comes_and_goes_and_the_users_stay() -> None:
    without = generation.set_hook(CONFIG, "")
    assert HOOK.encode() not in without and b"lxc.hook.pre-mount = /bin/true\n" in without
    back = generation.set_hook(without, HOOK)
    assert [line.value for line in lxcconfig.parse(back) if line.key == "lxc.hook.pre-mount"] == ["/bin/true", HOOK]
    assert back.index(HOOK.encode()) < back.index(b"begin image block")


def test_options_of_an_overlay_come_and_go() -> None:
    text = generation.set_rootfs(CONFIG, "overlay:/a:/b", "userxattr")
    assert b"lxc.rootfs.path = overlay:/a:/b\nlxc.rootfs.options = userxattr\n" in text
    assert b"userxattr" not in generation.set_rootfs(text, "dir:/x/rootfs", "")
    own = CONFIG + b"lxc.rootfs.options = noatime\n"
    assert b"noatime" in generation.set_rootfs(own, "dir:/x/rootfs", "")


def test_a_configuration_without_a_last_line_end() -> None:
    text = b"lxc.uts.name = x\nlxc.rootfs.path = dir:/x\n# about lxc.rootfs.path"
    made = generation.set_rootfs(text, "overlay:/a:/b", "userxattr")
    assert made.splitlines()[1:] == [
        b"lxc.rootfs.path = overlay:/a:/b", b"lxc.rootfs.options = userxattr", b"# about lxc.rootfs.path",
    ]  # fmt: skip
    hooked = generation.set_hook(b"lxc.uts.name = x", HOOK)
    assert hooked == f"lxc.uts.name = x\nlxc.hook.pre-mount = {HOOK}\n".encode()


def test_what_is_not_kept_is_removed(tmp_path: Path) -> None:
    ours = tmp_path / "oci-py"
    for name in ("guest", "volumes/data", "g2", "g3/guest", "g10"):
        (ours / name).mkdir(parents=True)
    for name in ("image.json", "plan.json", "options.json", "id"):
        (ours / name).touch()
    for name in (".config.123.tmp", "config", ".config.mine"):
        (tmp_path / name).touch()
    generation.discard(str(tmp_path), [2, 10])
    assert sorted(os.listdir(ours)) == ["g10", "g2", "id", "options.json", "volumes"]
    assert sorted(os.listdir(tmp_path)) == [".config.mine", "config", "oci-py"]
    generation.discard(str(tmp_path), [1, 2])
    assert "g10" not in os.listdir(ours)


def test_the_configuration_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("old")
    (tmp_path / "config").chmod(0o640)
    generation.write_config(str(tmp_path), b"new")
    assert (tmp_path / "config").read_text() == "new" and (tmp_path / "config").stat().st_mode & 0o7777 == 0o640


@pytest.mark.parametrize(
    ("lxcpath", "name"),
    [
        (f"/nonexistent/{os.getpid()}", "web"),
        # Too long for an address: hashed, as lxc/HASH/command.
        (f"/nonexistent/{os.getpid()}/" + "x" * 120, "web"),
    ],
)
def test_a_container_runs_while_its_monitor_listens(lxcpath: str, name: str) -> None:
    assert not running(lxcpath, name)
    value = 0xCBF29CE484222325
    for byte in f"{lxcpath}/{name}".encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    address = f"{lxcpath}/{name}/command" if len(lxcpath) < 90 else f"lxc/{value:016x}/command"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as monitor:
        monitor.bind("\0" + address)
        monitor.listen()
        assert running(lxcpath, name)
        assert not running(lxcpath, name + "2")
