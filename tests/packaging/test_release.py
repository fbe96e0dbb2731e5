# SPDX-License-Identifier: LGPL-2.1-or-later
"""make release: what it refuses, and that it tags after the checks, not before."""

import shutil
import subprocess
from pathlib import Path

import pytest

import lxc_oci
from tests.packaging.conftest import SYSTEM
from tests.support import need

VERSION = lxc_oci.__version__


class Checkout:
    """A repository with one commit, and programs in PATH that say what they were called with."""

    def __init__(self, directory: Path, sources: Path) -> None:
        self.path = directory / "checkout"
        shutil.copytree(sources, self.path)
        self.calls = directory / "calls"
        fake = directory / "bin"
        fake.mkdir()
        for name in ("make", "lintian"):
            program = fake / name
            program.write_text(f'#!/bin/sh\necho "${{CI:+CI=$CI }}{name} $*" >>{self.calls}\n')
            program.chmod(0o755)
        self.environment = {
            **SYSTEM,
            "PATH": f"{fake}:{SYSTEM['PATH']}",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            **{
                f"GIT_{role}_{part}": "tester@localhost"
                for role in ("AUTHOR", "COMMITTER")
                for part in ("NAME", "EMAIL")
            },
        }
        self.git("init", "--quiet")
        self.commit()

    def git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=self.path, env=self.environment, check=True, capture_output=True, text=True
        ).stdout

    def commit(self) -> None:
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--message", "all")

    def release(self, version: str) -> subprocess.CompletedProcess[str]:
        command = [self.path / "packaging/release", version]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True)

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def checkout(tmp_path: Path, sources: Path) -> Checkout:
    need.program("git")
    need.program("dpkg-parsechangelog")
    return Checkout(tmp_path, sources)


def test_a_release_is_checked_then_tagged(checkout: Checkout) -> None:
    done = checkout.release(VERSION)
    assert done.returncode == 0, done.stderr
    assert checkout.called()[0] == "CI=true make lint peers check check-long check-vm check-autopkgtest deb source"
    assert checkout.called()[1].startswith("CI=true lintian ")
    assert checkout.git("tag", "--list").split() == [f"v{VERSION}"]
    again = checkout.release(VERSION)
    assert again.returncode == 1 and "is tagged already" in again.stderr


def test_a_failing_check_leaves_no_tag(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "bin/make").write_text("#!/bin/sh\nexit 2\n")
    assert checkout.release(VERSION).returncode != 0
    assert checkout.git("tag", "--list") == ""


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("lxc_oci/__init__.py", VERSION, "9.9.9", "lxc_oci/__init__.py has another version"),
        ("NEWS.md", f"## {VERSION}", "## 9.9.9", "NEWS.md begins with 9.9.9"),
        ("debian/changelog", f"({VERSION}-1)", "(9.9.9-1)", "debian/changelog begins with 9.9.9-1"),
        ("debian/changelog", "unstable", "UNRELEASED", "debian/changelog is not for unstable"),
        ("man/lxc-oci-py.1", f"lxc-oci-py {VERSION}", "lxc-oci-py 9.9.9", "man/lxc-oci-py.1 names another version"),
    ],
)
def test_every_place_names_the_version(checkout: Checkout, file: str, old: str, new: str, complaint: str) -> None:
    path = checkout.path / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    checkout.commit()
    done = checkout.release(VERSION)
    assert done.returncode == 1 and complaint in done.stderr
    assert checkout.called() == [] and checkout.git("tag", "--list") == ""


def test_changes_that_are_not_committed_are_no_release(checkout: Checkout) -> None:
    (checkout.path / "NEWS.md").write_text("more")
    assert "has changes" in checkout.release(VERSION).stderr


@pytest.mark.parametrize("version", ["", "1", "v1.2.3", "1.2.3-1", "1.2.3 "])
def test_what_is_no_version(checkout: Checkout, version: str) -> None:
    assert "is no version" in checkout.release(version).stderr
