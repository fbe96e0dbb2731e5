# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a reboot and a loss of power leave."""

from collections.abc import Iterator

import pytest

from tests.vm.box import SUITE, Box, BoxError

pytestmark = pytest.mark.box


@pytest.fixture
def autostarted(box: Box) -> Iterator[str]:
    """A stock container that LXC starts at boot."""
    box.check(["lxc-create", "-n", "auto", "-t", f"{SUITE}/tests/vm/guest/lxc-tiny"])
    box.check("echo lxc.start.auto = 1 >>/var/lib/lxc/auto/config")
    yield "auto"
    box.check(["lxc-destroy", "-f", "-n", "auto"])


def test_container_is_started_after_a_reboot(box: Box, autostarted: str) -> None:
    before = box.check(["cat", "/proc/sys/kernel/random/boot_id"])
    box.check("echo kept >/var/lib/lxc/auto/rootfs/root/note")
    box.reboot()
    assert box.check(["cat", "/proc/sys/kernel/random/boot_id"]) != before
    box.check(["lxc-wait", "-n", autostarted, "-s", "RUNNING", "-t", "60"])
    assert box.check(["lxc-attach", "-n", autostarted, "--", "cat", "/root/note"]) == "kept\n"


def test_power_cut_keeps_what_was_flushed_and_nothing_runs_on(box: Box) -> None:
    """The tool of power-loss tests: it does lose what was not flushed, and does keep what was."""
    script = """
        echo flushed >/root/flushed; sync /root/flushed
        echo not flushed >/root/unflushed
        echo now; exec sleep 1000
    """
    writer = box.start(script)
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
