# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fuzz one target with atheris: python run.py TARGET SECONDS CORPUS, in a process of its own.

    python3 -m venv --system-site-packages VENV && VENV/bin/pip install atheris
    VENV/bin/python tests/hostile/fuzz/run.py tar 60 /tmp/corpus

What it finds lies in the corpus as crash-…; libFuzzer prints how to run it again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import atheris  # type: ignore[import]

with atheris.instrument_imports(include=["lxc_oci"]):
    from lxc_oci.errors import OciError
    from tests.hostile.fuzz.targets import TARGETS


def main(name: str, seconds: str, corpus: str) -> None:
    """Fuzz until the time is over; libFuzzer ends the process, with status 77 where something was found."""
    target = TARGETS[name]
    place = Path(corpus)
    place.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (place / f"seed{number}").write_bytes(seed)

    def one(data: bytes) -> None:
        try:
            target.run(data)
        except OciError:
            pass

    options = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=16384", "-verbosity=0", f"-artifact_prefix={corpus}/"]
    atheris.Setup([sys.argv[0], corpus, f"-max_total_time={seconds}", *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:4])
