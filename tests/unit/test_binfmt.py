# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.source.binfmt"""

from pathlib import Path

import pytest

from lxc_oci.source.binfmt import obstacle

# As the kernel shows what Debian's qemu-user-static registers.
AARCH64 = """enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""
S390X = """enabled
interpreter /usr/bin/qemu-s390x-static
flags: OCF
offset 0
magic 7f454c4602020100000000000000000000020016
mask ffffffffffffff00fffffffffffffffffffeffff
"""
JAR = "enabled\ninterpreter /usr/bin/jexec\nflags: \noffset 0\nmagic 504b0304\n"
BY_EXTENSION = "enabled\ninterpreter /usr/bin/x\nflags: F\nextension .x\n"


@pytest.fixture
def registered(tmp_path: Path) -> str:
    for name, text in {
        "status": "enabled\n",
        "register": "",
        "jar": JAR,
        "x": BY_EXTENSION,
        "arm": AARCH64,
        "z": S390X,
        "odd": "enabled\nflags: F\nmagic zz\n",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "directory").mkdir()
    return str(tmp_path)


@pytest.mark.parametrize("architecture", ["arm64", "s390x", "amd64", "386"])
def test_what_runs(architecture: str, registered: str) -> None:
    assert obstacle(architecture, "amd64", registered) == ""


@pytest.mark.parametrize("architecture", ["riscv64", "arm", "ppc64le", "vax"])
def test_what_has_no_handler(architecture: str, registered: str) -> None:
    assert "no handler for its programs" in obstacle(architecture, "amd64", registered)


def test_arm_runs_on_arm64_by_itself(tmp_path: Path) -> None:
    assert obstacle("arm", "arm64", str(tmp_path)) == ""
    assert obstacle("386", "arm64", str(tmp_path)) != ""


def test_without_the_flag_f_the_interpreter_is_not_found_in_a_container(tmp_path: Path) -> None:
    (tmp_path / "arm").write_text(AARCH64.replace("POCF", "POC"))
    assert "without the flag F" in obstacle("arm64", "amd64", str(tmp_path))


def test_a_disabled_handler_is_none(tmp_path: Path) -> None:
    (tmp_path / "arm").write_text(AARCH64.replace("enabled", "disabled"))
    assert "no handler" in obstacle("arm64", "amd64", str(tmp_path))


def test_no_binfmt_misc(tmp_path: Path) -> None:
    assert "no handler" in obstacle("arm64", "amd64", str(tmp_path / "nope"))
