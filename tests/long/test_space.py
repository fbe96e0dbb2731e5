# SPDX-License-Identifier: LGPL-2.1-or-later
"""F03: creates that run out of space or inodes at every step."""

from pathlib import Path

import pytest

from tests.support import direct
from tests.support import scene as scenes

pytestmark = [pytest.mark.long, pytest.mark.root]


@pytest.mark.parametrize("form", ["flat", "tree", "mounted"])
def test_f03_any_amount_of_space(place: Path, form: str) -> None:
    with direct.file_system(place, 16, ["mkfs.ext4", "-q", "-m", "0"]) as disk:
        statuses = scenes.starve(scenes.scene(disk, form), range(0, 300 << 10, 8 << 10), inodes=False)
    assert statuses[0] == 6 and statuses[-1] == 0


@pytest.mark.parametrize("form", ["flat", "tree", "mounted"])
def test_f03_any_number_of_inodes(place: Path, form: str) -> None:
    with direct.file_system(place, 16, ["mkfs.ext4", "-q", "-m", "0", "-N", "300"]) as disk:
        statuses = scenes.starve(scenes.scene(disk, form), range(0, 120, 3), inodes=True)
    assert statuses[0] == 6 and statuses[-1] == 0
