# SPDX-License-Identifier: LGPL-2.1-or-later
"""The package: what is in it, what lintian says, that it can be built again bit by bit, and stdeb's."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.packaging.conftest import SYSTEM
from tests.support import need


def listing(package: Path) -> dict[str, str]:
    """Return the names in a package with mode, owner and link target."""
    text = subprocess.run(["dpkg-deb", "-c", package], check=True, capture_output=True, text=True).stdout
    found = {}
    for line in text.splitlines():
        mode, owner, _size, _date, _time, name, *link = line.split(maxsplit=6)
        found[name] = " ".join([mode, owner, *link])
    return found


def content(package: Path, directory: Path) -> dict[str, bytes]:
    """Return the regular files of a package."""
    subprocess.run(["dpkg-deb", "-x", package, directory], check=True)
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_it_has_every_part(sources: Path, package: Path) -> None:
    found = listing(package)
    programs = ["./usr/bin/lxc-oci-py", "./usr/share/lxc/templates/lxc-oci-py"]
    programs += [f"./usr/share/lxc/hooks/{path.name}" for path in (sources / "hooks").glob("oci-py-*")]
    for program in programs:
        assert found[program] == "-rwxr-xr-x root/root"
    files = ["./usr/share/man/man1/lxc-oci-py.1.gz", "./usr/share/man/man8/oci-py-mount.8.gz"]
    files += ["./usr/share/bash-completion/completions/lxc-oci-py"]
    files += [
        f"./usr/lib/python3/dist-packages/{path.relative_to(sources)}"
        for path in (sources / "lxc_oci").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    for file in files:
        assert found[file] == "-rw-r--r-- root/root"
    tops = ("./usr/bin/", "./usr/lib/python3/dist-packages/", "./usr/share/")
    stray = [name for name in found if not name.startswith(tops) and not any(top.startswith(name) for top in tops)]
    assert stray == []
    assert not any("__pycache__" in name for name in found)


def test_lintian_says_nothing(package: Path) -> None:
    lintian = need.program("lintian")
    command = [lintian, "--allow-root", "--display-info", "--pedantic", "--tag-display-limit", "0", package]
    done = subprocess.run(command, capture_output=True, text=True, env=SYSTEM)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_second_build_is_bit_identical(sources: Path, package: Path, tmp_path: Path) -> None:
    """Another path, umask, time zone, locale, home, file times, order of files, and the clock two years ahead."""
    faketime = need.program("faketime")
    tree = tmp_path / "another place" / "with-a-longer-name"
    shutil.copytree(sources, tree)
    for path in [tree, *tree.rglob("*")]:
        path.chmod(path.stat().st_mode & 0o700)
        os.utime(path, (86400, 86400))
    environment = {
        **SYSTEM,
        "LC_ALL": "C",
        "LANGUAGE": "de",
        "TZ": "Pacific/Kiritimati",
        "HOME": str(tmp_path),
        "DEB_BUILD_OPTIONS": "nocheck parallel=2",
        "DEB_BUILD_PROFILES": "nocheck",
    }
    done = subprocess.run(
        [faketime, "+2 years", "dpkg-buildpackage", "-us", "-uc", "-b"],
        cwd=tree,
        env=environment,
        umask=0o077,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    (again,) = tree.parent.glob("*.deb")
    assert again.read_bytes() == package.read_bytes()


def test_stdeb_builds_the_same(sources: Path, package: Path, tmp_path: Path) -> None:
    if not os.path.exists("/usr/lib/python3/dist-packages/stdeb"):
        need.missing("python3-stdeb is not installed")
    subprocess.run([sources / "packaging/build-deb", tmp_path / "out", "stdeb"], check=True, stdout=subprocess.DEVNULL)
    (other,) = (tmp_path / "out").glob("*.deb")
    assert other.name == package.name
    # stdeb writes a changelog of its own, and knows no upstream changelog.
    differ = {"./usr/share/doc/lxc-oci-py/changelog.gz"}
    assert {name: fact for name, fact in listing(package).items() if name not in differ} == listing(other)
    ours, theirs = content(package, tmp_path / "ours"), content(other, tmp_path / "theirs")
    unequal = {name for name in theirs if ours[name] != theirs[name]}
    assert unequal == {"usr/share/doc/lxc-oci-py/changelog.Debian.gz"}
    for field in ("Package", "Version", "Architecture", "Maintainer", "Section", "Recommends", "Suggests"):
        fields = [
            subprocess.run(["dpkg-deb", "-f", path, field], check=True, capture_output=True, text=True).stdout
            for path in (package, other)
        ]
        assert fields[0] == fields[1], field
    depends = [
        subprocess.run(["dpkg-deb", "-f", path, "Depends"], check=True, capture_output=True, text=True).stdout
        for path in (package, other)
    ]
    assert {item.strip() for item in depends[0].split(",")} == {item.strip() for item in depends[1].split(",")}
