#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make python3-orjson and python3-isal packages from PyPI's wheels, for a distribution that has none.

usage: wheel2deb.py DIRECTORY

Debian 12 has neither; Debian 13 has both, and then nothing is made.  The wheels
are pinned by version and hash, and fetched by pip.  The versions are not newer than Debian 13's and
get the revision 0~pypi1, so that an upgrade of the distribution replaces them.
"""

import calendar
import email
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from dataclasses import dataclass
from email.message import Message

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
NEXT_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor + 1}"
MAINTAINER = "lxc-oci-py maintainers <maintainers@lxc-oci-py.invalid>"

# What dh_python3 writes into every Python package.
POSTINST = '#!/bin/sh\nset -e\nif [ "$1" = configure ]; then\n\tpy3compile -p {package}\nfi\n'
PRERM = "#!/bin/sh\nset -e\npy3clean -p {package}\n"


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel: the project's name and version, and the SHA-256 for CPython 3.11 by Debian architecture."""

    name: str
    version: str
    sha256: dict[str, str]
    licence: str
    needed: bool  # or only recommended


WHEELS = (
    Wheel(
        "orjson",
        "3.10.7",
        {
            "amd64": "b58d3795dafa334fc8fd46f7c5dc013e6ad06fd5b9a4cc98cb1456e7d3558bd6",
            "arm64": "480f455222cb7a1dea35c57a67578848537d2602b46c464472c995297117fa09",
        },
        "Apache-2.0 or MIT",
        needed=True,
    ),
    Wheel(
        "isal",
        "1.7.2",
        {
            "amd64": "e39958725f68ba15f430d24fce15a3ad90d41b50af161da86bf98fd72bfff164",
            "arm64": "7bf99fe6e683439d198038f2404c98efd9ec0f7921700c6a26a35fd089ee468d",
        },
        "PSF-2.0 (python-isal) and BSD-3-clause (ISA-L)",
        needed=False,
    ),
)


def output(*argv: str) -> str:
    """Return what a program prints; raises CalledProcessError."""
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL).stdout.strip()


def distribution_has(package: str) -> bool:
    """Tell whether apt knows a version of `package` that is not one of ours."""
    lines = output("apt-cache", "madison", package).splitlines()
    return any("~pypi" not in line.split("|")[1] for line in lines)


def download(wheel: Wheel, architecture: str, directory: pathlib.Path) -> pathlib.Path:
    """Fetch the wheel by pip, which checks its hash, and return its path."""
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256[architecture]}\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        + ["--dest", str(directory), "--requirement", str(requirements)],
        check=True,
    )
    requirements.unlink()
    (path,) = directory.glob("*.whl")
    return path


def unpack(path: pathlib.Path, packages: pathlib.Path) -> int:
    """Unpack the wheel into dist-packages and return its time, in seconds since 1970."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(packages)
        newest = max(item.date_time for item in archive.infolist())
    return calendar.timegm(newest)


def write_copyright(wheel: Wheel, metadata: Message, information: pathlib.Path, documents: pathlib.Path) -> None:
    """Collect the licences that the wheel carries."""
    parts = [
        f"This package is the wheel {wheel.name} {wheel.version} of the Python Package Index, unchanged.",
        f"Upstream: {metadata.get('Home-Page', '')}\nLicence: {wheel.licence}",
    ]
    licences = sorted(item for item in information.parent.rglob("LICENSE*") if item.is_file())
    parts += [f"{item.name}:\n\n{item.read_text()}" for item in licences]
    documents.mkdir(parents=True)
    (documents / "copyright").write_text("\n\n".join(parts))


def build(wheel: Wheel, architecture: str, destination: pathlib.Path, work: pathlib.Path) -> pathlib.Path:
    """Make the package of `wheel` in `destination`, from a tree below `work`."""
    package = f"python3-{wheel.name}"
    tree = work / "tree"
    packages = tree / "usr/lib/python3/dist-packages"
    packages.mkdir(parents=True)
    time = unpack(download(wheel, architecture, work), packages)
    (information,) = packages.glob("*.dist-info")
    metadata = email.message_from_string((information / "METADATA").read_text())
    write_copyright(wheel, metadata, information, tree / "usr/share/doc" / package)
    control = tree / "DEBIAN"
    control.mkdir()
    size = sum(item.stat().st_size for item in tree.rglob("*") if item.is_file()) // 1024 + 1
    summary = textwrap.shorten(metadata["Summary"].rstrip("."), 70, placeholder="")
    fields = {
        "Package": package,
        "Version": f"{wheel.version}-0~pypi1",
        "Architecture": architecture,
        "Maintainer": MAINTAINER,
        "Installed-Size": str(size),
        "Depends": f"python3 (>= {PYTHON}~), python3 (<< {NEXT_PYTHON}~), libc6 (>= 2.17)",
        "Section": "python",
        "Priority": "optional",
        "Homepage": metadata.get("Home-Page", ""),
        "Description": f"{summary}\n This is the wheel of the Python Package Index.",
    }
    (control / "control").write_text("".join(f"{name}: {value}\n" for name, value in fields.items() if value))
    for name, text in (("postinst", POSTINST), ("prerm", PRERM)):
        (control / name).write_text(text.format(package=package))
    for item in [tree, *tree.rglob("*")]:
        item.chmod(0o755 if item.is_dir() or (item.parent == control and item.name != "control") else 0o644)
        os.utime(item, (time, time))
    result = destination / f"{package}_{fields['Version']}_{architecture}.deb"
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(time)}
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(result)],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    return result


def main(argv: list[str]) -> int:
    """Make what is missing; print one line for each package."""
    if len(argv) != 2:
        print("usage: wheel2deb.py DIRECTORY", file=sys.stderr)
        return 2
    destination = pathlib.Path(argv[1]).resolve()
    destination.mkdir(parents=True, exist_ok=True)
    architecture = output("dpkg", "--print-architecture")
    for wheel in WHEELS:
        package = f"python3-{wheel.name}"
        made = destination / f"{package}_{wheel.version}-0~pypi1_{architecture}.deb"
        keep = not distribution_has(package)
        # `apt install ./dist/*.deb` must not meet another version, or one for another distribution.
        for old in destination.glob(f"{package}_*~pypi*.deb"):
            if old != made or not keep:
                old.unlink()
        if not keep:
            print(f"{package}: this distribution has it")
            continue
        if PYTHON != "3.11" or architecture not in wheel.sha256:
            print(f"{package}: no wheel is pinned for Python {PYTHON} on {architecture}", file=sys.stderr)
            if wheel.needed:
                return 1
            continue
        if made.exists():
            print(f"{made.name}: made before")
            continue
        work = pathlib.Path(tempfile.mkdtemp(prefix="wheel2deb."))
        try:
            print(f"{build(wheel, architecture, destination, work).name}: made")
        finally:
            shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv))
    except subprocess.CalledProcessError as error:
        sys.exit(f"wheel2deb: {' '.join(error.cmd[:5])} failed with status {error.returncode}")
