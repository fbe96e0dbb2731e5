# SPDX-License-Identifier: LGPL-2.1-or-later
"""F03: creates that run out of space or inodes, at some amounts.  At many: tests/long/test_space.py."""

from pathlib import Path

import pytest

from tests.support import direct
from tests.support import scene as scenes


@pytest.mark.root
@pytest.mark.parametrize("form", ["flat", "tree", "mounted"])
def test_f03_a_full_disk(place: Path, form: str) -> None:
    with direct.file_system(place, 16, ["mkfs.ext4", "-q", "-m", "0"]) as disk:
        statuses = scenes.starve(scenes.scene(disk, form), [4096, 40960, 81920, 1 << 20], inodes=False)
    assert statuses[0] == 6 and statuses[-1] == 0


@pytest.mark.root
def test_f03_no_inodes(place: Path) -> None:
    with direct.file_system(place, 16, ["mkfs.ext4", "-q", "-m", "0", "-N", "300"]) as disk:
        statuses = scenes.starve(scenes.scene(disk, "tree"), [0, 20, 40, 150], inodes=True)
    assert statuses[0] == 6 and statuses[-1] == 0
