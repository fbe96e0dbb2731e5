# SPDX-License-Identifier: LGPL-2.1-or-later
"""F01: a create of a whole Debian killed at fifty random moments."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxc_oci.store import health, home
from tests.support import direct, need, tree
from tests.support import image as images
from tests.support.host import Host, host

pytestmark = [pytest.mark.long, pytest.mark.root]

MOMENTS = 50


@pytest.fixture
def memory_host(place: Path) -> Iterator[Host]:
    """LXC's root on a file system in memory: two gigabytes are written here."""
    with direct.memory(place) as memory:
        (memory / "host").mkdir(mode=0o755)
        with host(memory / "host") as made:
            yield made


@pytest.fixture
def debian(place: Path) -> str:
    """The URL of an image of a small Debian."""
    tar = place / "debian.tar"
    command = [need.program("mmdebstrap"), "--quiet", "--variant=minbase", "bookworm", str(tar)]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
    made = subprocess.run(command, check=False, capture_output=True, env=environment, timeout=600)
    if made.returncode:
        need.missing(f"mmdebstrap failed: {made.stderr.decode()[-300:]}")
    image = images.Image([images.layer(tar.read_bytes(), compression="gzip")], {"Cmd": ["/bin/sh"]},
                         platform=images.busybox_image().platform)  # fmt: skip
    return f"oci:{images.write_layout(place / 'image', {'latest': image})}:latest"


def test_f01_a_create_of_debian_killed_at_random_moments(memory_host: Host, debian: str) -> None:
    begin = time.monotonic()
    memory_host.create("first", debian)
    length = time.monotonic() - begin
    (name,) = os.listdir(memory_host.store / "trees")
    wanted = tree.facts(memory_host.store / "trees" / name / "rootfs")
    moments = random.Random(5)
    died = 0
    for _ in range(MOMENTS):
        for part in ("trees", "prefixes", "images", "containers"):
            shutil.rmtree(memory_host.store / part)
            (memory_host.store / part).mkdir(mode=0o700)
        direct.prepare(memory_host, "victim")
        moment = moments.uniform(0.05, 1.1 * length)
        command = direct.command(memory_host, "victim", "--url", debian, "--quiet")
        process = subprocess.Popen(command, env=memory_host._environment(), stdin=subprocess.DEVNULL)
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            died += 1
        process.wait()
        direct.discard(memory_host, "victim")
        assert os.listdir(memory_host.store / "trees") in ([], [name])
        store = home.open_store(str(memory_host.store))
        if os.listdir(memory_host.store / "trees"):  # published, so whole
            assert list(health.check(store)) == [], moment
    # And after the last of them.
    memory_host.create("next", debian)
    assert tree.facts(memory_host.store / "trees" / name / "rootfs") == wanted
    assert json.loads(memory_host.oci("verify", "--json").stdout) == {"damaged": {}}
    assert os.listdir(memory_host.store / "staging") == []
    assert memory_host.execute("next", "/bin/cat", "/etc/debian_version")
    assert died > MOMENTS // 2
