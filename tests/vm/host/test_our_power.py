# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our containers over reboots and power cuts: they start again, and nothing half-made is ever used."""

import random

import pytest

from tests.vm.box import Box

pytestmark = pytest.mark.box

IMAGE = r"""
cd /srv/suite && python3 - <<'END'
from pathlib import Path
from tests.support import image
upper = image.layer(*(image.file(f"etc/file{number}", str(number) * 5000) for number in range(300)))
config = {"Entrypoint": ["/bin/sh", "-c", "sleep 100000"], "Env": ["PATH=/bin"]}
if not Path("/root/image").exists():
    image.write_layout(Path("/root/image"), {"latest": image.busybox_image(config, upper)})
END
"""
CREATE = "lxc-create -n {name} -t oci-py -- --url oci:/root/image:latest"
CLEAN = "lxc-destroy -f -n {name} 2>/dev/null; rm -rf /var/lib/lxc/{name}; rm -rf /var/lib/lxc-oci-py"
CUTS = 3


@pytest.fixture
def image(box: Box) -> None:
    box.check(IMAGE)
    box.check("sync")


def test_a_container_starts_after_a_reboot(box: Box, image: None) -> None:
    box.check(CREATE.format(name="kept"))
    box.check("lxc-start -n kept && lxc-wait -n kept -s RUNNING -t 60")
    box.check(["lxc-attach", "-n", "kept", "--", "/bin/sh", "-c", "echo mine > /etc/mine; sync"])
    box.reboot()
    box.check("lxc-start -n kept && lxc-wait -n kept -s RUNNING -t 60")
    assert box.check(["lxc-attach", "-n", "kept", "--", "/bin/cat", "/etc/mine"]) == "mine\n"
    box.check("lxc-stop -k -n kept")
    box.check(CLEAN.format(name="kept"))


def test_a_power_cut_in_a_create_leaves_old_or_new(box: Box, image: None) -> None:
    chance = random.Random(20)
    for number in range(CUTS):
        box.check(CLEAN.format(name="cut"))
        box.check("sync")
        writer = box.start(
            f"echo go; sleep {chance.random() * 3:.2f}; sync -f /root & {CREATE.format(name='cut')}; wait"
        )
        writer.wait_for("go")
        box.run(["sleep", f"{0.5 + chance.random() * 4:.2f}"])
        box.power_cut()
        box.boot()
        box.check("rm -rf /var/lib/lxc/cut")
        box.check(CREATE.format(name="cut"))
        box.check("lxc-oci-py verify")
        assert box.check("ls /var/lib/lxc-oci-py/staging") == "", number
        assert len(box.check(["lxc-execute", "-n", "cut", "--", "/bin/cat", "/etc/file299"])) == 15000
    box.check(CLEAN.format(name="cut"))
