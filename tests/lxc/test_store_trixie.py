# SPDX-License-Identifier: LGPL-2.1-or-later
"""The store under Debian 13's LXC, Python and mkfs.erofs, in a tree that is entered by pivot_root.

In `make check` these tests run where Debian 13 is the host.
"""

import pytest

from tests.support import trixie

_SECONDS = 1800


def _pass(marks: str, *arguments: str) -> None:
    argv = ["/usr/bin/python3", "-B", "-m", "pytest", "-q", "-rs", "-m", f"not box and {marks}", *arguments]
    done = trixie.run(argv, timeout=_SECONDS)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert "SKIPPED" not in done.stdout, done.stdout[-3000:]


@pytest.mark.root
@pytest.mark.long
def test_layers_are_indexed_and_containers_run_over_them() -> None:
    _pass("not long", "tests/lxc/test_store_index.py")


@pytest.mark.root
@pytest.mark.long
def test_the_rest_about_indexes() -> None:
    _pass("long", "tests/lxc/test_store_index.py")


@pytest.mark.root
@pytest.mark.long
def test_containers_live_are_copied_and_pruned() -> None:
    _pass("not long", "tests/lxc/test_store_containers.py", "tests/lxc/test_create.py", "-k", "not isolation")


@pytest.mark.root
@pytest.mark.long
def test_erofs_images_are_unpacked_by_erofsfuse() -> None:
    _pass("not long", "tests/lxc/test_image_kinds.py", "-k", "erofs or p14")
