# SPDX-License-Identifier: LGPL-2.1-or-later
"""What looks at every container and part counts each of them, for progress, and reads each once.

With ten thousand containers: tests/long/test_scale.py.
"""

import os
from collections import Counter
from pathlib import Path

import pytest

from lxc_oci.store import home, marks, prune


@pytest.fixture
def store(tmp_path: Path) -> home.Store:
    made = home.open_store(str(tmp_path / "store"))
    for number in range(20):
        os.makedirs(made.at("trees", f"{number:064x}", "rootfs"))
        directory = tmp_path / "lxc" / f"c{number}"
        directory.mkdir(parents=True)
        (directory / "config").write_text(f"lxc.rootfs.path = overlay:/s/trees/{number % 10:064x}/rootfs:/d\n")
    return made


def test_every_container_and_every_part_is_a_step(store: home.Store, tmp_path: Path) -> None:
    steps: list[None] = []
    found = prune.plan(store, [str(tmp_path / "lxc")], lambda: steps.append(None))
    assert len(found.candidates) == 10
    assert len(steps) == 20 + 20 + 10
    steps.clear()
    with store.alone():
        prune.carry_out(store, found, force=True, on_step=lambda: steps.append(None))
    assert len(steps) == 10


def test_every_configuration_is_read_once(store: home.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Counter[str] = Counter()
    real = os.open

    def counted(path: str, flags: int, *more: int, **words: int) -> int:
        opened[os.fspath(path)] += 1
        return real(path, flags, *more, **words)

    monkeypatch.setattr(os, "open", counted)
    marks.collect(store, [str(tmp_path / "lxc")])
    assert {opened[str(tmp_path / "lxc" / f"c{number}/config")] for number in range(20)} == {1}
