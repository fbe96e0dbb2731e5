# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a reboot and a loss of power leave: containers start again, and nothing half-made is ever used."""

import random
import time

import pytest

from tests.vm.box import SUITE, Box, BoxError

pytestmark = pytest.mark.box

CREATE = "lxc-create -n {name} -t oci-py -- --url {url}"
DESTROY = "lxc-destroy -f -n {name}"
MOMENTS = 15  # of a create, in each release


def test_f16_containers_start_after_a_reboot(box: Box, image: str, configuration: str) -> None:
    """Those that run when the machine goes down, and are to start with it: LXC's own and ours."""
    before = box.check(["cat", "/proc/sys/kernel/random/boot_id"])
    box.check(["lxc-create", "-n", "stock", "-f", configuration, "-t", f"{SUITE}/tests/vm/guest/lxc-tiny"])
    box.check(["lxc-create", "-n", "kept", "-f", configuration, "-t", "oci-py", "--", "--url", image])
    for name in ("stock", "kept"):
        box.check(f"echo lxc.start.auto = 1 >>/var/lib/lxc/{name}/config")
        box.check(["lxc-start", "-n", name])
        box.check(["lxc-wait", "-n", name, "-s", "RUNNING", "-t", "60"])
        box.check(["lxc-attach", "-n", name, "--", "/bin/sh", "-c", "echo mine > /mine"])
    box.reboot()
    assert box.check(["cat", "/proc/sys/kernel/random/boot_id"]) != before
    for name in ("stock", "kept"):
        box.check(["lxc-wait", "-n", name, "-s", "RUNNING", "-t", "60"])
        assert box.check(["lxc-attach", "-n", name, "--", "cat", "/mine"]) == "mine\n"
        box.check(DESTROY.format(name=name))


def cut_power_in_a_create(box: Box, url: str, moment: float) -> None:
    """Cut the power *moment* seconds into a create; then boot, and find the next create, verify and a start well."""
    box.check(f"{DESTROY.format(name='cut')} 2>/dev/null; rm -rf /var/lib/lxc/cut; lxc-oci-py prune; sync")
    # The kernel writes out what it likes at moments of its own; this makes it do so in the middle.
    flush = f"(sleep {moment / 2:.2f}; sync) &"
    writer = box.start(f"echo now; {flush} {CREATE.format(name='cut', url=url)}; echo made; exec sleep 1000")
    writer.wait_for("now")
    end = time.monotonic() + moment
    while (left := end - time.monotonic()) > 0:
        time.sleep(left)  # the one wait that is for a time: the moment of the cut
    box.power_cut()
    box.boot()
    box.check("rm -rf /var/lib/lxc/cut")
    box.check(CREATE.format(name="cut", url=url))
    assert box.check("lxc-oci-py verify 2>/dev/null") == ""  # after a second it tells its progress there
    assert box.check(["ls", "/var/lib/lxc-oci-py/staging"]) == ""
    assert len(box.check(["lxc-execute", "-n", "cut", "--", "/bin/cat", "/etc/file299"])) == 15000


def test_power_cut_in_a_create(box: Box, image: str) -> None:
    cut_power_in_a_create(box, image, 2)
    box.check(DESTROY.format(name="cut"))


@pytest.mark.long
def test_power_cut_loses_what_was_not_flushed(box: Box) -> None:
    """The tool of these tests: and it keeps what was flushed, and nothing runs on."""
    box.check("echo flushed >/root/flushed; sync /root/flushed")
    writer = box.start("echo not flushed >/root/unflushed; echo now; exec sleep 1000")
    writer.wait_for("now")
    box.power_cut()
    with pytest.raises(BoxError, match="went down"):
        writer.wait()
    assert not box.is_on
    box.boot()
    assert box.check(["cat", "/root/flushed"]) == "flushed\n"
    # Delayed allocation: the name may be there, the data is not.
    assert box.run(["cat", "/root/unflushed"]).output != "not flushed\n"
    assert "recovery complete" in box.check(["journalctl", "-b", "-k", "--no-pager"])
    box.check("rm -f /root/flushed /root/unflushed")


@pytest.mark.long
def test_power_cuts_all_over_a_create(box: Box, image: str) -> None:
    """At moments spread over a create, and a little behind its end."""
    began = time.monotonic()
    box.check(CREATE.format(name="cut", url=image))
    length = time.monotonic() - began
    chance = random.Random(MOMENTS)
    for number in range(MOMENTS):
        cut_power_in_a_create(box, image, length * 1.2 * (number + chance.random()) / MOMENTS)
    box.check(DESTROY.format(name="cut"))
