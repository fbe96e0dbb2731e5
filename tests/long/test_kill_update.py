# SPDX-License-Identifier: LGPL-2.1-or-later
"""F01: updates killed at every system call that changes something."""

from pathlib import Path

import pytest

from tests.lxc.test_update import kill_updates
from tests.support.host import Host

pytestmark = [pytest.mark.long, pytest.mark.root]


@pytest.mark.parametrize("kind", ["tree", "mounted"])
def test_f01_an_update_killed_anywhere_leaves_the_old_image_or_the_new(root_host: Host, place: Path, kind: str) -> None:
    calls = kill_updates(root_host, place, kind, None)
    assert {"rename", "mkdir", "fsync", "syncfs"} <= set(calls)
