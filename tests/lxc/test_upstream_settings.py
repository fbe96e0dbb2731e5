# SPDX-License-Identifier: LGPL-2.1-or-later
"""What confines a container is the same as with upstream's own template for OCI images."""

import subprocess
from pathlib import Path

import pytest

from tests.support import image as images
from tests.support import need
from tests.support.guestbox import TIMEOUT, Box, image_config, make_rootfs

KEYS = (
    "lxc.cap.drop",
    "lxc.cap.keep",
    "lxc.seccomp.profile",
    "lxc.cgroup.devices.allow",
    "lxc.cgroup.devices.deny",
    "lxc.cgroup2.devices.allow",
    "lxc.cgroup2.devices.deny",
    "lxc.hook.clone",
    "lxc.hook.pre-start",
    "lxc.hook.mount",
    "lxc.hook.post-stop",
    "lxc.mount.auto",
    "lxc.tty.dir",
    "lxc.tty.max",
    "lxc.pty.max",
    "lxc.autodev",
    "lxc.no_new_privs",
    "lxc.uts.name",
    "lxc.init.uid",
    "lxc.init.gid",
    "lxc.init.cwd",
)


@pytest.mark.parametrize("mapped", (False, True), ids=("as-root", "with-an-id-map"))
def test_same_confinement_as_upstreams_template(place: Path, mapped: bool) -> None:
    need.root()
    for program in ("skopeo", "umoci", "jq"):
        need.program(program)
    header = ["lxc.net.0.type = empty"]
    if mapped:
        header += ["lxc.idmap = u 0 100000 65536", "lxc.idmap = g 0 100000 65536"]
    theirs = Box(place / "theirs", header=header)
    ours = Box(place / "ours", header=header)
    make_rootfs(ours.rootfs)
    ours.make(image_config(entrypoint=("/bin/sh",), env=("PATH=/bin",)))
    if mapped:
        # Upstream's template reads the map from its option; the lines are what it writes with one.
        share = "/usr/share/lxc/config"
        lines = [*header, "lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed"]
        lines += [f"lxc.include = {share}/{name}.conf" for name in ("common", "userns", "oci.common")]
        lines += ["lxc.uts.name = box", "lxc.init.uid = 0", "lxc.init.gid = 0", "lxc.init.cwd = /"]
        (theirs.directory / "config").write_text("".join(f"{line}\n" for line in lines))
    else:
        layout = place / "layout"
        made = images.Image(
            [images.busybox_rootfs(), images.layer(images.directory("etc"))],
            {"Entrypoint": ["/bin/sh"], "Env": ["A=b"]},
        )
        images.write_layout(layout, {"latest": made})
        theirs.rootfs.rmdir()
        theirs.directory.rmdir()
        (place / "default.conf").write_text("".join(f"{line}\n" for line in header))
        argv = [need.program("lxc-create"), "-t", "oci", "-n", theirs.name, "-P", theirs.lxcpath]
        argv += ["-f", place / "default.conf", "--", "--url", f"oci:{layout}:latest", "--no-cache"]
        done = subprocess.run(argv, capture_output=True, timeout=TIMEOUT, check=False)
        assert done.returncode == 0, done.stderr.decode()
    for key in KEYS:
        assert ours.effective(key) == theirs.effective(key), key
