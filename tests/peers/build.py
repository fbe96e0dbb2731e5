#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build the real mount helpers that the tests compare with, once, into the cache.

By the ordinary clients of their languages, at pinned versions, into
``${XDG_CACHE_HOME:-~/.cache}/lxc-oci-py/peers/NAME-VERSION/bin/NAME``.  What is there already is left alone.
atomfs is built only when it is named: not every module proxy serves it, and its tests are skipped without it.

puzzlefs 0.2.0 is the newest release; `mount --persist` and `umount` are in its development version only.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Taken when this is imported: the tests themselves run with a HOME that is nobody's.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


@dataclass(frozen=True)
class Peer:
    """A program to build: who builds it, and what that needs (program or pkg-config module: Debian package)."""

    name: str
    version: str
    client: str
    programs: dict[str, str]
    libraries: dict[str, str]


PEERS = {
    "puzzlefs": Peer(
        "puzzlefs",
        "0.2.0",
        "cargo",
        {"cargo": "cargo", "capnp": "capnproto", "cc": "gcc", "pkg-config": "pkg-config"},
        {"openssl": "libssl-dev", "zlib": "zlib1g-dev"},
    ),
    "atomfs": Peer(
        "atomfs",
        "1.2.1",
        "go",
        {"go": "golang-go", "cc": "gcc", "pkg-config": "pkg-config"},
        {"libcryptsetup": "libcryptsetup-dev"},
    ),
}


def home(peer: Peer) -> Path:
    """Where that version of a peer is kept."""
    return CACHE / "lxc-oci-py" / "peers" / f"{peer.name}-{peer.version}"


def find(name: str) -> Path | None:
    """The program of a peer that has been built, or None."""
    path = home(PEERS[name]) / "bin" / name
    return path if path.is_file() and os.access(path, os.X_OK) else None


def missing(peer: Peer) -> list[str]:
    """The Debian packages that building a peer lacks."""
    lacking = [package for program, package in peer.programs.items() if shutil.which(program) is None]
    if "pkg-config" not in lacking:
        for module, package in peer.libraries.items():
            if subprocess.run(["pkg-config", "--exists", module]).returncode:
                lacking.append(package)
    return lacking


def command(peer: Peer, place: Path) -> tuple[list[str], dict[str, str]]:
    """The client's call that puts the program into `place`/bin: argv, environment to add."""
    if peer.name == "puzzlefs":
        argv = ["cargo", "install", "--locked", "--root", str(place), "--version", peer.version, peer.name]
        # Its error type uses error_generic_member_access, which a stable compiler takes only like this.
        return argv, {"RUSTC_BOOTSTRAP": "1"}
    return ["go", "install", f"machinerun.io/atomfs/cmd/atomfs@v{peer.version}"], {"GOBIN": str(place / "bin")}


@contextlib.contextmanager
def locked(place: Path) -> Iterator[None]:
    """One build of a peer at a time."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.parent / f"{place.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(peer: Peer) -> str:
    """Build a peer unless it is there; return why it cannot be, or ""."""
    with locked(home(peer)):
        if find(peer.name):
            return ""
        if lacking := missing(peer):
            return f"building it needs: apt install {' '.join(lacking)}"
        staging = home(peer).with_name(f".{peer.name}-{peer.version}")
        shutil.rmtree(staging, ignore_errors=True)
        (staging / "bin").mkdir(parents=True)
        argv, environment = command(peer, staging)
        print("+", *argv, flush=True)
        status = subprocess.run(argv, env={**os.environ, **environment}).returncode
        if status or not (staging / "bin" / peer.name).is_file():
            shutil.rmtree(staging)
            return f"{peer.client} failed with status {status}"
        shutil.rmtree(home(peer), ignore_errors=True)
        staging.rename(home(peer))
        return ""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Build the real mount helpers for tests/peers.")
    parser.add_argument("name", nargs="*", metavar="NAME", help=f"{' or '.join(PEERS)}; puzzlefs by default")
    names = parser.parse_args(arguments).name or ["puzzlefs"]
    if unknown := set(names) - set(PEERS):
        parser.error(f"unknown: {' '.join(sorted(unknown))}")
    failed = False
    for name in names:
        why = build(PEERS[name])
        print(f"{name} {PEERS[name].version}: {why or find(name)}", flush=True)
        failed = failed or bool(why)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
