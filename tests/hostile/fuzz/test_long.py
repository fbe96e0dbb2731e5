# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every target under atheris, for LXC_OCI_PY_FUZZ_SECONDS together (make check-long); what it finds fails.

atheris comes into a venv below the cache.  Where it cannot be had, hypothesis's way of changing seeds goes on for as
long, without knowing what the code has seen.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lxc_oci.errors import OciError
from tests.hostile.fuzz.targets import TARGETS

pytestmark = pytest.mark.long

ATHERIS = "atheris>=2.3,<4"  # the newest for this Python
HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[2] / ".cache"
ENVIRONMENT = dict(os.environ)  # before tests have another: pip may need its settings
SECONDS = int(os.environ.get("LXC_OCI_PY_FUZZ_SECONDS", "120"))


@pytest.fixture(scope="session")
def interpreter() -> str | None:
    """The Python that has atheris, None where it cannot be installed."""
    venv = CACHE / f"atheris-{sys.version_info[0]}.{sys.version_info[1]}"
    python = venv / "bin/python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", venv], check=True, timeout=120)
        check = [python, "-c", "import atheris"]
        if subprocess.run(check, capture_output=True, timeout=60).returncode:
            subprocess.run([python, "-m", "pip", "-q", "install", ATHERIS], check=True, timeout=300, env=ENVIRONMENT)
            subprocess.run(check, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return str(python)


@pytest.mark.parametrize("name", TARGETS)
def test_fuzzing_finds_nothing(
    name: str, interpreter: str | None, tmp_path: Path, tried: Callable[[int], None]
) -> None:
    seconds = max(2, SECONDS // len(TARGETS))
    if interpreter is None:
        tried(by_chance(name, seconds))
        return
    corpus = tmp_path / "corpus"
    command = [interpreter, str(HERE / "run.py"), name, str(seconds), str(corpus)]
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, timeout=seconds + 240, env=environment, check=False)
    found = [(path.name, path.read_bytes()) for path in corpus.glob("*-*")]
    assert done.returncode == 0 and not found, (found, done.stdout.decode()[-3000:], done.stderr.decode()[-3000:])
    tried(len(list(corpus.iterdir())))


def by_chance(name: str, seconds: float) -> int:
    """Change seeds at random until the time is over; return how often."""
    target = TARGETS[name]
    chance = random.Random(name)
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        data = bytearray(chance.choice(target.seeds))
        for _ in range(chance.randrange(1, 8)):
            place = chance.randrange(len(data) + 1)
            kind = chance.randrange(4)
            if kind == 0 and place < len(data):
                data[place] = chance.choice((0, 1, 9, 10, 13, 34, 47, 92, 127, 128, 255, chance.randrange(256)))
            elif kind == 1:
                data[place:place] = chance.randbytes(chance.randrange(9))
            elif kind == 2:
                del data[place : place + chance.randrange(64)]
            else:
                data[place:place] = data[chance.randrange(len(data) + 1) :][:64]
        try:
            target.run(bytes(data))
        except OciError:
            pass
        count += 1
    return count


def test_chance_tries_much() -> None:
    """The way that is left without atheris."""
    assert by_chance("reference", 1.0) > 100
