# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entrypoint and Cmd: podman's rules, and which key can carry which words."""

from pathlib import Path

import pytest

from lxc_oci.container import command, overrides
from lxc_oci.container.overrides import Overrides
from lxc_oci.errors import RefusedError, UsageError
from lxc_oci.image.config import ImageConfig
from lxc_oci.image.platform import Platform
from lxc_oci.kernel.root import Root
from lxc_oci.limits import Limits

Words = tuple[str, ...]


@pytest.mark.parametrize(
    "entrypoint, cmd, user_entrypoint, user_cmd, expected",
    (
        (("a",), ("b",), None, None, ("a", "b")),
        (("a",), (), None, None, ("a",)),
        ((), ("b",), None, None, ("b",)),
        ((), (), None, None, ()),
        (("a",), ("b",), None, ("c",), ("a", "c")),
        (("a",), ("b",), None, (), ("a",)),
        (("a",), ("b",), ("x",), None, ("x",)),
        (("a",), ("b",), ("x",), ("c",), ("x", "c")),
        (("a",), ("b",), (), ("c",), ("c",)),
        (("a",), ("b",), ("",), None, ()),
        (("",), ("b",), None, None, ("b",)),
    ),
)
def test_combine(entrypoint: Words, cmd: Words, user_entrypoint: Words, user_cmd: Words, expected: Words) -> None:
    config = ImageConfig(Platform("linux", "amd64"), entrypoint=entrypoint, cmd=cmd)
    assert command.combine(config, Overrides(entrypoint=user_entrypoint, cmd=user_cmd), Limits()) == expected


@pytest.mark.parametrize("words", (("a\0b",), ("x" * 131072,), ("", "x"), ("x" * 100_000,) * 11))
def test_words_that_no_kernel_takes(words: Words) -> None:
    config = ImageConfig(Platform("linux", "amd64"), cmd=words)
    with pytest.raises(RefusedError):
        command.combine(config, Overrides(), Limits())


@pytest.mark.parametrize(
    "words, old, quoted",
    (
        (("nginx", "-g", "x"), "nginx -g x", "nginx -g x"),
        (("nginx", "-g", "daemon off;"), None, 'nginx -g "daemon off;"'),
        (("a", ""), None, 'a ""'),
        (("a", "it's"), "a it's", "a it's"),
        (("a", "it's b"), None, 'a "it\'s b"'),
        (("a", 'say "b"'), None, "a 'say \"b\"'"),
        (("a", "\"'"), None, None),
        (("a", "x'y\""), "a x'y\"", "a x'y\""),
        (("a", "'x"), None, 'a "\'x"'),
        (("a", "b\tc"), None, 'a "b\tc"'),
        (("a", "b\nc"), None, None),
        (("a", "\x1b"), None, None),
        (("a", "\u00a0"), "a \u00a0", "a \u00a0"),
    ),
)
def test_what_a_key_can_carry(words: Words, old: str | None, quoted: str | None) -> None:
    assert command.values(words, 5) == command.Values(old, quoted)
    assert command.values(words, 6) == command.Values(quoted, quoted)


def test_lxc_execute_reads_4095_bytes() -> None:
    fits = ("a", "x" * 4093)
    assert command.values(fits, 5).execute is not None
    assert command.values((*fits[:1], "x" * 4094), 5).execute is None
    assert command.values(("a", "ü" * 2047), 5).execute is None, "bytes count, not characters"


def test_candidates_are_those_of_execvp() -> None:
    assert command.candidates("sh", "/a:/b::c") == ("/a/sh", "/b/sh", "sh", "c/sh")
    assert command.candidates("./sh", "/a:/b") == ("./sh",)


def test_find(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "srv").mkdir()
    for name, mode in (("bin/tool", 0o755), ("bin/data", 0o644), ("srv/own", 0o100)):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(mode)
    (tmp_path / "usr").symlink_to("/bin")
    with Root.at(str(tmp_path)) as root:
        assert command.find("tool", "/none:/bin", "/", root) == b"/bin/tool"
        assert command.find("/usr/tool", "", "/", root) == b"/usr/tool"
        assert command.find("./own", "/bin", "/srv", root) == b"/srv/./own"
        assert command.find("data", "/bin", "/", root) is None
        assert command.find("bin", "/", "/", root) is None
        assert command.find("missing", "/bin:/x", "/", root) is None


@pytest.mark.parametrize(
    "text, expected",
    (
        ("/bin/sh", ("/bin/sh",)),
        ('["/bin/sh", "-c", "a b"]', ("/bin/sh", "-c", "a b")),
        ("sh -c 'a b' \"c d\" e\\ f", ("sh", "-c", "a b", "c d", "e f")),
        ("", ()),
        ("[]", ()),
        (' ["a"]', ("a",)),
    ),
)
def test_words_of_an_option(text: str, expected: Words) -> None:
    assert overrides.words(text, "--cmd") == expected


@pytest.mark.parametrize("text", ("[1]", '["a"', '["a", null]', "'open", '[{"a": 1}]'))
def test_words_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--cmd"):
        overrides.words(text, "--cmd")


def test_volumes_and_tmpfs() -> None:
    assert overrides.volume("/a:/b") == overrides.VolumeOption("/a", "/b", False)
    assert overrides.volume("/a/../c:/b:ro") == overrides.VolumeOption("/c", "/b", True)
    assert overrides.volume("/a:/b:rw") == overrides.VolumeOption("/a", "/b", False)
    assert overrides.tmpfs("/t") == overrides.TmpfsOption("/t")
    assert overrides.tmpfs("/t:size=64m") == overrides.TmpfsOption("/t", "64m")


@pytest.mark.parametrize("text", ("a:/b", "/a:b", "/a", "/a:/b:xx", "/a:/b:ro:z", ""))
def test_volumes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        overrides.volume(text)


@pytest.mark.parametrize("text", ("t", "/t:64m", "/t:size=", "/t:size=64m,mode=0", "/t:size=x"))
def test_tmpfs_that_is_none(text: str) -> None:
    with pytest.raises(UsageError):
        overrides.tmpfs(text)
