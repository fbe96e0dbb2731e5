# SPDX-License-Identifier: LGPL-2.1-or-later
"""The writer and the reader of LXC's configuration: they agree, and the writer refuses what LXC would lose."""

import random
from pathlib import Path

import pytest

from lxc_oci.container import lxcconfig
from lxc_oci.container.lxcconfig import Line
from lxc_oci.errors import RefusedError


def test_round_trip_of_any_value() -> None:
    letters = "ab =#\"'\\\t;$ü\u2028\udcff"
    generator = random.Random(2)
    for _ in range(3000):
        value = "".join(generator.choices(letters, k=generator.randint(1, 6)))
        line = Line("lxc.init.cmd", value)
        assert lxcconfig.parse(lxcconfig.render(line)) == [line]


@pytest.mark.parametrize("byte", [byte for byte in [*range(0x20), 0x7F] if byte != 0x09])
def test_control_bytes_are_refused(byte: int) -> None:
    for value in (f"{chr(byte)}x", f"x{chr(byte)}x", f"x{chr(byte)}"):
        assert not lxcconfig.representable(value)
        with pytest.raises(RefusedError, match=r"lxc\.init\.cwd"):
            lxcconfig.render(Line("lxc.init.cwd", value))


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(RefusedError):
        lxcconfig.render(Line("lxc.init.cwd", "/\ud800"))


@pytest.mark.parametrize("value", ("", "\n"))
def test_empty_values_are_refused(value: str) -> None:
    with pytest.raises(RefusedError):
        lxcconfig.render(Line("lxc.environment", value))


@pytest.mark.parametrize("key", ("lxc.net.0.ipv4.address", "lxc.net.12.ipv6.gateway", "lxc.init.uid"))
def test_keys_that_are_written(key: str) -> None:
    assert lxcconfig.render(Line(key, "x")) == f"{key} = x\n".encode()


@pytest.mark.parametrize("key", ("lxc.net.0.link", "lxc.net.x.ipv4.address", "lxc.prlimit.core", "lxc.init.uid\n", ""))
def test_keys_that_are_not(key: str) -> None:
    with pytest.raises(RefusedError):
        lxcconfig.render(Line(key, "x"))


def test_reading_as_lxc_does() -> None:
    text = (
        b"# comment\n  lxc.a  =  x \t\n\tlxc.b = 'quoted'\rlxc.c = \"it's\"\r\nlxc.d='\nother = 1\n"
        b"lxc.e\nlxc.f = a = b\nlxc.g =\nlxc.h = ' x '\0lxc.i = hidden\n"
    )
    assert [(line.key, line.value) for line in lxcconfig.parse(text)] == [
        ("lxc.a", "x"),
        ("lxc.b", "quoted"),
        ("lxc.c", "it's"),
        ("lxc.d", "'"),
        ("lxc.f", "a = b"),
        ("lxc.g", ""),
        ("lxc.h", " x "),
    ]


def test_an_empty_value_clears() -> None:
    lines = [Line("lxc.a", "1"), Line("lxc.b", "x"), Line("lxc.a", ""), Line("lxc.a", "2"), Line("lxc.a", "3")]
    assert lxcconfig.values(lines, "lxc.a") == ["2", "3"]
    assert lxcconfig.last(lines, "lxc.a") == "3"
    assert lxcconfig.last(lines, "lxc.none") == ""


def test_includes(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/b.conf").write_text("lxc.x = 3\n")
    (tmp_path / "d/a.conf").write_text(f"lxc.x = 2\nlxc.include = {tmp_path}/main\n")
    (tmp_path / "d/other").write_text("lxc.x = no\n")
    (tmp_path / "main").write_text(
        f"lxc.x = 1\nlxc.include = {tmp_path}/d\nlxc.include = {tmp_path}/missing\nlxc.x = 4\n"
    )
    found = lxcconfig.values(lxcconfig.read(str(tmp_path / "main")), "lxc.x")
    assert found[:2] == ["1", "2"] and found[-2:] == ["3", "4"]
    with pytest.raises(FileNotFoundError):
        lxcconfig.read(str(tmp_path / "missing"))


def test_mount_fields_are_escaped() -> None:
    line = lxcconfig.mount_entry("/a b\\c\td", "e f", "none", "bind")
    assert line.value == "/a\\040b\\134c\\011d e\\040f none bind 0 0"


def test_mount_entries_that_lxc_would_cut_off() -> None:
    lxcconfig.mount_entry("/" + "x" * 3900, "y", "none", "bind")
    with pytest.raises(RefusedError, match="longer line"):
        lxcconfig.mount_entry("/" + " " * 1000, "y", "none", "bind")


def test_blocks_are_replaced_and_nothing_else() -> None:
    image = [Line("lxc.init.cmd", "/a")]
    text = b"lxc.x = 1\n# mine\n" + lxcconfig.block(lxcconfig.IMAGE_BLOCK, image) + b"lxc.y = 2\n"
    assert lxcconfig.block_lines(text, lxcconfig.IMAGE_BLOCK) == image
    assert lxcconfig.block_lines(text, lxcconfig.OPTIONS_BLOCK) == []
    changed = lxcconfig.replace_block(text, lxcconfig.IMAGE_BLOCK, [Line("lxc.init.cmd", "/b")])
    assert changed == text.replace(b"= /a", b"= /b")
    assert lxcconfig.replace_block(changed, lxcconfig.IMAGE_BLOCK, image) == text


def test_a_block_that_was_not_there_is_appended() -> None:
    block = lxcconfig.block(lxcconfig.OPTIONS_BLOCK, [])
    assert lxcconfig.replace_block(b"lxc.x = 1", lxcconfig.OPTIONS_BLOCK, []) == b"lxc.x = 1\n" + block
    assert lxcconfig.replace_block(b"", lxcconfig.OPTIONS_BLOCK, []) == block


def test_a_block_without_an_end_is_not_guessed() -> None:
    text = lxcconfig.block(lxcconfig.IMAGE_BLOCK, []).split(b"\n")[0] + b"\nlxc.x = 1\n"
    with pytest.raises(RefusedError, match="not its end"):
        lxcconfig.replace_block(text, lxcconfig.IMAGE_BLOCK, [])


def test_a_marker_inside_a_line_is_no_marker() -> None:
    text = b"lxc.environment = A=# lxc-oci-py: begin image block\n"
    assert lxcconfig.block_lines(text, lxcconfig.IMAGE_BLOCK) == []
