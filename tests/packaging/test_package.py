# SPDX-License-Identifier: LGPL-2.1-or-later
"""The package: what is in it, what lintian says, that it can be built again bit by bit, and stdeb's."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.packaging.conftest import ROOT, SYSTEM
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


def scripts(package: Path, directory: Path) -> dict[str, bytes]:
    """Return the maintainer scripts of a package."""
    subprocess.run(["dpkg-deb", "-e", package, directory], check=True)
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name.endswith(("inst", "rm"))}


def test_it_has_every_part(sources: Path, package: Path, tmp_path: Path) -> None:
    found = listing(package)
    programs = ["./usr/bin/lxc-oci-py", "./usr/share/lxc/templates/lxc-oci-py"]
    programs += [f"./usr/share/lxc/hooks/{path.name}" for path in (sources / "hooks").glob("oci-py-*")]
    for program in programs:
        assert found[program] == "-rwxr-xr-x root/root"
    # Byte by byte: dh_python3 would drop what keeps the command isolated from PYTHONPATH.
    assert content(package, tmp_path)["usr/bin/lxc-oci-py"] == (sources / "bin/lxc-oci-py").read_bytes()
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


def test_its_documents_link_to_what_is_there(package: Path, tmp_path: Path) -> None:
    files = content(package, tmp_path)
    documents = [name for name in files if name.endswith(".md")]
    links = {
        os.path.normpath(os.path.join(os.path.dirname(name), link))
        for name in documents
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", files[name].decode())
        if "://" not in link
    }
    assert len(links) > 5 and links - set(files) == set()


def lint(package: Path) -> tuple[int, str]:
    """Return lintian's status and what it says."""
    need.program("lintian")
    command = [ROOT / "packaging/lint-package", package]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=SYSTEM)
    return done.returncode, done.stdout


def test_lintian_says_nothing(package: Path) -> None:
    assert lint(package) == (0, "")


def test_lintian_says_nothing_of_the_source(tmp_path: Path) -> None:
    if not os.path.exists(ROOT / ".git"):
        need.missing("this is no checkout")
    (tmp_path / "lxc-oci-py_0.0.1-1.dsc").write_text("of an earlier version")
    subprocess.run([ROOT / "packaging/build-source", tmp_path], check=True, stdout=subprocess.DEVNULL)
    (source,) = tmp_path.glob("*.dsc")
    assert lint(source) == (0, "")


def test_a_second_build_is_bit_identical(sources: Path, package: Path, tmp_path: Path) -> None:
    """Another path, umask, time zone, locale, home, file times, order of files, and the clock two years ahead; and a
    machine on which dh_python3 finds no package of orjson.
    """
    faketime = need.program("faketime")
    need.root()
    need.module("orjson", "python3-orjson")
    hide = 'mount --bind /dev/null /var/lib/dpkg/info/python3-orjson.list; exec "$@"'
    hidden = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-euc", hide, "hide"]
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
        [*hidden, faketime, "+2 years", "dpkg-buildpackage", "-us", "-uc", "-b"],
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
    assert listing(package) == listing(other)
    ours, theirs = content(package, tmp_path / "ours"), content(other, tmp_path / "theirs")
    # stdeb writes a changelog of its own.
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
    assert scripts(package, tmp_path / "our control") == scripts(other, tmp_path / "their control")
