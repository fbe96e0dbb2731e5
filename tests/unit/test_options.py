# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.options"""

import argparse
import io
import re
from pathlib import Path

import pytest

from lxc_oci import options
from lxc_oci.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM = ("--url", "--username", "--password", "--no-cache", "--dhcp", "--mount-helper", "--help")
LXCS = ("--name", "--path", "--rootfs", "--mapped-uid", "--mapped-gid")


def long_options(parser: argparse.ArgumentParser) -> set[str]:
    return {word for action in parser._actions for word in action.option_strings if word.startswith("--")}


def verbs() -> dict[str, argparse.ArgumentParser]:
    (choices,) = [
        action.choices for action in options.command_parser()._actions if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(choices)


def test_everything_that_upstreams_template_takes() -> None:
    assert set(UPSTREAM) | set(LXCS) <= long_options(options.template_parser())
    parsed = options.template_parser().parse_args(["-u", "dir:/x", "-n", "a", "-p", "/p", "--rootfs", "/r"])
    assert (parsed.url, parsed.name, parsed.path, parsed.rootfs) == ("dir:/x", "a", "/p", "/r")


def test_what_lxc_create_passes() -> None:
    words = ["--path=/lxc/web", "--name=web", "--rootfs=/lxc/web/rootfs", "--url", "dir:/x"]
    parsed = options.template_parser().parse_args([*words, "--mapped-uid", "65536", "--mapped-gid", "65536"])
    assert (parsed.path, parsed.mapped_uid, parsed.mapped_gid) == ("/lxc/web", 65536, 65536)


def test_defaults() -> None:
    parsed = options.template_parser().parse_args([])
    assert parsed.storage == "auto" and parsed.env == [] and parsed.volume == [] and parsed.entrypoint is None
    assert not any((parsed.no_cache, parsed.insecure, parsed.dhcp, parsed.no_dhcp, parsed.quiet, parsed.verbose))


def test_options_that_may_be_given_often() -> None:
    words = [
        "-e",
        "A=1",
        "--env",
        "B=2",
        "--volume",
        "/a:/b",
        "--volume",
        "/c:/d",
        "--dns",
        "192.0.2.1",
        "--dns",
        "::1",
    ]
    parsed = options.template_parser().parse_args(words)
    assert parsed.env == ["A=1", "B=2"] and parsed.volume == ["/a:/b", "/c:/d"] and len(parsed.dns) == 2


@pytest.mark.parametrize(
    "words", [("--verb",), ("--pass", "x"), ("--storage", "tree"), ("--mapped-uid", "x"), ("extra",), ("--url",)]
)
def test_mistakes_are_ours_to_report(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        options.template_parser().parse_args(words)
    assert caught.value.hint == "see lxc-create --help" or "--help" in caught.value.hint


def test_help_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    for parser in (options.template_parser(), options.command_parser(), *verbs().values()):
        with pytest.raises(SystemExit) as caught:
            parser.parse_args(["--help"])
        assert caught.value.code == 0
        shown = capsys.readouterr()
        assert shown.out.startswith("usage: ") and shown.err == ""


def test_every_option_is_in_the_page() -> None:
    page = (ROOT / "man/lxc-oci-py.1").read_text().replace("\\-", "-")
    for option in long_options(options.template_parser()) - set(LXCS):
        assert re.search(rf"{option}\b", page), option
    for name, parser in verbs().items():
        assert f"lxc-oci-py {name}" in page, name
        for option in long_options(parser):
            assert option in page, (name, option)


# --- passwords -------------------------------------------------------------------------------------------------


def parsed(*words: str) -> argparse.Namespace:
    return options.template_parser().parse_args(words)


def test_no_password() -> None:
    assert options.read_password(parsed()) is None


def test_a_password_by_each_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_bytes("pass wörd \r\nsecond\n".encode())
    assert options.read_password(parsed("--username", "u", "--password-file", str(file))) == "pass wörd "
    assert options.read_password(parsed("--username", "u", "--password", "")) == ""
    monkeypatch.setattr("sys.stdin", io.StringIO("secret\nsecond\n"))
    assert options.read_password(parsed("--username", "u", "--password-stdin")) == "secret"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--password", "a"), "without a user"),
        (("--password-stdin",), "without a user"),
        (("--username", "u"), "needs a password"),
        (("--username", "u", "--password", "a", "--password-stdin"), "only one of"),
        (("--username", "u", "--password-file", "/nonexistent"), "/nonexistent"),
    ],
)
def test_passwords_that_cannot_be(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options.read_password(parsed(*words))


@pytest.mark.parametrize("stdin", [None, io.StringIO("")], ids=["closed", "empty"])
def test_standard_input_without_a_password(monkeypatch: pytest.MonkeyPatch, stdin: io.StringIO | None) -> None:
    monkeypatch.setattr("sys.stdin", stdin)
    with pytest.raises(UsageError, match="standard input"):
        options.read_password(parsed("--username", "u", "--password-stdin"))


def test_a_password_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot read the password"):
        options.read_password(parsed("--username", "u", "--password-file", str(tmp_path / "password")))
