# SPDX-License-Identifier: LGPL-2.1-or-later
"""Updates and commits of containers over indexed tar layers, in a Debian 13 tree where this Debian cannot index."""

import pytest

from lxc_oci.rootfs import choose
from tests.support import trixie

_SECONDS = 600


@pytest.mark.root
@pytest.mark.long
def test_containers_over_indexes_are_updated_copied_and_converted() -> None:
    if choose._indexes_tar():
        pytest.skip("test_update and test_update_forms run them here")
    tests = ("tests/lxc/test_update.py", "tests/lxc/test_update_forms.py")
    argv = ["/usr/bin/python3", "-B", "-m", "pytest", "-q", "-rs", "-m", "not box and not long", "-k", "index", *tests]
    done = trixie.run(argv, timeout=_SECONDS)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert "SKIPPED" not in done.stdout, done.stdout[-3000:]
