# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said twice is the same: options and pages, limits and pages, versions, lists of dependencies."""

import argparse
import configparser
import re
import subprocess
from pathlib import Path

import pytest

import lxc_oci
from lxc_oci import options as words
from lxc_oci.errors import OciError
from lxc_oci.limits import Limits

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "man/lxc-oci-py.1"


def plain(page: Path) -> str:
    """Return a page without its macros and font changes."""
    text = re.sub(r"\\f.", "", page.read_text(encoding="utf-8"))
    return text.replace("\\-", "-").replace("\\(aq", "'")


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Return every option of a parser and of its verbs."""
    found: set[str] = set()
    for action in parser._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                found |= options(verb)
    return found


def verbs() -> dict[str, argparse.ArgumentParser]:
    (action,) = [a for a in words.command_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(action.choices)


def long_options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def test_every_option_is_in_the_page_and_the_other_way_round() -> None:
    accepted = options(words.template_parser()) | options(words.command_parser())
    text = plain(PAGE)
    before_examples = text[: text.index(".SH EXAMPLES")]
    described = long_options(before_examples)
    assert {option for option in accepted if option.startswith("--")} - described == set()
    # --dir is lxc-create's.
    assert described - accepted == {"--dir"}
    for option in sorted(accepted - described - {"-t"}):
        assert re.search(rf"(?<![\w-]){option}\b", before_examples), f"{option} is not in the page"


def test_each_verb_has_the_options_that_the_page_gives_it() -> None:
    text = plain(PAGE)
    headings = {
        title: long_options(body) for title, body in re.findall(r"^\.SS (.+)\n((?:(?!\.S[SH]).*\n)+)", text, re.M)
    }
    commands = text[text.index(".SH COMMANDS") : text.index(".SH TRANSPORTS")]
    head, *paragraphs = commands.split("\n.TP\n")
    table = head.partition("option\tcommands\n")[2]
    given: dict[str, set[str]] = {verb: set() for verb in verbs()}
    for name, listed in re.findall(r"^(\S.*)\t(?:T\{\n)?([a-z, ]+)$", table, re.MULTILINE):
        for verb in verbs() if listed == "all" else listed.split(", "):
            given[verb] |= headings.get(name) or long_options(name)
    for paragraph in paragraphs:
        (verb,) = re.findall(r"\A\.BI? \"?([a-z]+)", paragraph)
        given[verb] |= long_options(paragraph)
    accepted = {verb: {option for option in options(parser) if option[:2] == "--"} for verb, parser in verbs().items()}
    assert given == accepted


def test_examples_use_options_that_exist() -> None:
    text = plain(PAGE)
    examples = text[text.index(".SH EXAMPLES") :]
    used = long_options(examples)
    assert used - options(words.template_parser()) - options(words.command_parser()) == {"--once"}


def test_every_verb_is_in_the_synopsis_and_the_completion() -> None:
    text = plain(PAGE)
    assert set(re.findall(r"^\.SY \"lxc-oci-py ([a-z]+)", text, re.MULTILINE)) == set(verbs())
    completion = (ROOT / "completion/lxc-oci-py").read_text(encoding="utf-8")
    (listed,) = re.findall(r"-z \$verb \]\]; then\s+mapfile[^']*'([^']*)'", completion)
    assert listed.split() == sorted(verbs())


def test_limits_are_in_the_page_with_their_defaults() -> None:
    rows = re.findall(r"^([a-z_]+)\t(\d+)\tT\{$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(name, str(value)) for name, value in Limits()._asdict().items()]


def test_exit_statuses_are_in_the_page() -> None:
    def family(kind: type[OciError]) -> set[int]:
        return {kind.status}.union(*(family(child) for child in kind.__subclasses__()))

    rows = re.findall(r"^(\d)\tT\{$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(row) for row in rows] == sorted({0} | family(OciError))


@pytest.mark.parametrize("page", sorted((ROOT / "man").glob("*.[1-8]")), ids=lambda page: page.name)
def test_pages_name_this_version(page: Path) -> None:
    assert f'"lxc-oci-py {lxc_oci.__version__}"' in page.read_text(encoding="utf-8")


def test_changelog_and_news_name_this_version() -> None:
    first = (ROOT / "debian/changelog").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(f"lxc-oci-py ({lxc_oci.__version__}-")
    news = re.findall(r"^## (\S+)", (ROOT / "NEWS.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert news[0] == lxc_oci.__version__


def control(field: str) -> set[str]:
    """Return a list field of the binary package in debian/control, without substitution variables."""
    text = (ROOT / "debian/control").read_text(encoding="utf-8").split("\nPackage: ")[1]
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    (value,) = re.findall(rf"^{field}:(.*\n(?: .*\n)+)", text, re.MULTILINE)
    return {item.strip() for item in value.split(",") if item.strip() and "${" not in item}


@pytest.mark.parametrize("field", ["Depends", "Recommends", "Suggests"])
def test_stdeb_is_told_what_debian_control_says(field: str) -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = {item.strip() for item in setup["sdist_dsc"][f"{field.lower()}3"].split(",")}
    assert listed == control(field)


def test_every_installed_program_names_an_isolated_system_python() -> None:
    programs = [ROOT / "bin/lxc-oci-py", ROOT / "templates/lxc-oci-py", *sorted((ROOT / "hooks").glob("oci-py-*"))]
    for program in programs:
        first = program.read_bytes().splitlines()[0].decode()
        assert re.fullmatch(r"#!/bin/sh|#!/usr/bin/python3 -I[SBE]*(?:Xutf8)?", first), f"{program.name}: {first}"
        assert program.stat().st_mode & 0o111 == 0o111, f"{program.name} is not executable"


def test_bash_reads_the_completion() -> None:
    done = subprocess.run(["/bin/bash", "-n", str(ROOT / "completion/lxc-oci-py")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_hook_s_page_has_its_options_and_verbs() -> None:
    usage = subprocess.run([ROOT / "hooks/oci-py-mount", "--help"], capture_output=True, text=True, check=True).stdout
    text = plain(ROOT / "man/oci-py-mount.8")
    synopsis = text[text.index(".SH SYNOPSIS") : text.index(".SH DESCRIPTION")]
    assert set(re.findall(r"--[a-z-]+", usage)) == set(re.findall(r"--[a-z-]+", synopsis))
    for verb in ("mount", "umount", "attach", "detach"):
        assert re.search(rf"\b{verb}\b", usage) and re.search(rf"\b{verb}\b", synopsis), verb


def test_the_hook_s_page_names_every_hook() -> None:
    text = plain(ROOT / "man/oci-py-mount.8")
    for hook in (ROOT / "hooks").glob("oci-py-*"):
        assert hook.name in text, hook.name


# What bash-completion has, as far as ours uses it: the words as they are, and a word for what it would do.
COMPLETE = r"""
_init_completion() { words=("${line[@]}"); cword=$((${#line[@]} - 1)); cur=${words[cword]}; prev=${words[cword - 1]}; }
_filedir() { COMPREPLY=("files$*"); }
__ltrim_colon_completions() { :; }
compopt() { COMPREPLY+=(nospace); }
lxc-ls() { echo web; }
. "$1"
line=("${@:2}")
_lxc_oci_py "${line[0]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("up", "update"),
        ("update ", "web"),
        ("update -P ", "files-d"),
        ("update --url ", ""),
        ("pull --platform ", ""),
        ("pull --authfile ", "files"),
        ("pull do", "docker:// docker-archive: nospace"),
        ("inspect w", "web"),
        ("convert --storage ", "flat layered"),
        ("commit ", "web"),
        ("commit web ", "docker:// oci: oci-archive: nospace"),
        ("mount ", "files-d"),
        ("mount --persist ", "files-d"),
        *((f"{verb} ", "") for verb in ("list", "outdated", "prune", "verify")),
    ],
)
def test_the_completion_offers_what_is_accepted(line: str, offered: str) -> None:
    command = ["/bin/bash", "-ec", COMPLETE, "bash", ROOT / "completion/lxc-oci-py", "lxc-oci-py", *line.split(" ")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == offered.split(), done.stderr
