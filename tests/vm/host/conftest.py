# SPDX-License-Identifier: LGPL-2.1-or-later
"""A box for tests that drive it from the host: the one of run.py, or one of BOX_RELEASE (trixie) for this session."""

import os
import shlex
from collections.abc import Iterator

import pytest

from tests.vm.box import SUITE, Box
from tests.vm.prepare import Live, prepare


@pytest.fixture(scope="session")
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    """A running box with our package installed and the tests in it."""
    for plugin in request.config.pluginmanager.get_plugins():
        if isinstance(plugin, Live):
            yield plugin.box
            return
    with Box(os.environ.get("BOX_RELEASE", "trixie")) as made:
        prepare(made)
        yield made


# Confined by the profile that is loaded at boot: a generated one is compiled at each start and stop.
_CONFIGURATION = b"lxc.net.0.type = empty\nlxc.apparmor.profile = lxc-container-default-cgns\n"

# Two layers of which the upper needs some time to be unpacked.
_IMAGE = """
from pathlib import Path
from tests.support import image
if not Path("/srv/images/host").exists():
    files = [image.file(f"etc/file{number}", str(number) * 5000) for number in range(300)]
    config = {"Entrypoint": ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"], "Env": ["PATH=/bin"]}
    made = image.busybox_image(config, image.layer(image.directory("etc"), *files))
    image.write_layout(Path("/srv/images/host"), {"latest": made})
"""


@pytest.fixture
def image(box: Box) -> str:
    """The URL of an image in the box."""
    box.check(["python3", "-c", _IMAGE], directory=SUITE)
    box.check("sync")
    return "oci:/srv/images/host:latest"


@pytest.fixture
def configuration(box: Box) -> str:
    """What `lxc-create -f` gets for containers that start quickly."""
    box.put("/srv/quick.conf", _CONFIGURATION)
    return "/srv/quick.conf"


@pytest.fixture(autouse=True)
def _nothing_denied(box: Box) -> Iterator[None]:
    """AppArmor refused nothing in any of the boots of the test; and the box is on for the next one."""
    cursor = box.check("journalctl -n 0 --show-cursor").split("cursor: ")[1].strip()
    yield
    if not box.is_on:
        box.boot()
    journal = ["journalctl", "--no-pager", "-o", "cat", "_TRANSPORT=kernel", f"--after-cursor={cursor}"]
    status, found = box.run(
        f"journalctl --sync; {shlex.join(journal)} | python3 -m tests.vm.guest.denials", directory=SUITE
    )
    assert status == 0, f"AppArmor denied during this test:\n{found}"
