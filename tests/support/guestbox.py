# SPDX-License-Identifier: LGPL-2.1-or-later
"""A container made by hand from a rootfs of busybox and an image's configuration, without an image or a store.

What container.guest plans is written, read back by the real liblxc, and run by the real LXC.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lxc_oci.container import guest, lxcconfig
from lxc_oci.container.overrides import Overrides
from lxc_oci.image.config import ImageConfig
from lxc_oci.image.platform import host as host_platform
from lxc_oci.kernel.root import Root
from lxc_oci.limits import Limits
from tests.support import need

TIMEOUT = 60
APPLETS = ("sh", "cat", "env", "id", "ls", "mkdir", "mount", "pwd", "sleep", "stat", "touch", "wget")
# Run by `sh /dump ARGUMENT…`: leaves its argv, its environment, its directory and its ids in /out.
DUMP = """\
cat /proc/$$/cmdline > /out/argv
cat /proc/$$/environ > /out/environ
pwd -P > /out/cwd
id > /out/id
"""


def image_config(**members: object) -> ImageConfig:
    """An image configuration for this machine."""
    return ImageConfig(host_platform())._replace(**members)  # type: ignore[arg-type]


def make_rootfs(rootfs: Path) -> None:
    """Fill `rootfs` with busybox, /dump and a directory /out that everyone may write to."""
    busybox = need.program("busybox")
    (rootfs / "bin").mkdir(parents=True)
    shutil.copy(busybox, rootfs / "bin/busybox")
    for applet in APPLETS:
        (rootfs / "bin" / applet).symlink_to("busybox")
    (rootfs / "out").mkdir()
    (rootfs / "out").chmod(0o777)
    (rootfs / "dump").write_text(DUMP)


@dataclass
class Box:
    """One container `name` in an lxcpath of its own."""

    lxcpath: Path
    name: str = "box"
    header: Sequence[str] = ()  # lines that lxc-create would have written
    warnings: list[str] = field(default_factory=list)
    network: str = "lxc.net.0.type = empty"

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.rootfs.mkdir(exist_ok=True)

    @property
    def directory(self) -> Path:
        return self.lxcpath / self.name

    @property
    def rootfs(self) -> Path:
        return self.directory / "rootfs"

    def facts(self, **changes: object) -> guest.HostFacts:
        text = "".join(f"{line}\n" for line in (*self.header, self.network)).encode()
        facts = guest.host_facts(str(self.directory), self.name, lxcconfig.parse(text))
        return facts._replace(**changes)  # type: ignore[arg-type]

    def plan(
        self, config: ImageConfig, overrides: Overrides | None = None, limits: Limits | None = None, **changes: object
    ) -> guest.Guest:
        with Root.at(str(self.rootfs)) as root:
            return guest.plan_guest(
                config, overrides or Overrides(), root, self.facts(**changes), limits or Limits(), self.warnings.append
            )

    def make(
        self, config: ImageConfig, overrides: Overrides | None = None, limits: Limits | None = None, **changes: object
    ) -> guest.Guest:
        """Plan and write the guest, and the container's configuration."""
        planned = self.plan(config, overrides, limits, **changes)
        with Root.at(str(self.rootfs)) as root:
            guest.write_guest(planned, root, self.facts(**changes))
        lines = [*self.header, f"lxc.rootfs.path = dir:{self.rootfs}", self.network]
        if os.path.isdir("/sys/kernel/security/apparmor"):
            lines.append("lxc.apparmor.profile = generated")
        text = "".join(f"{line}\n" for line in lines).encode()
        (self.directory / "config").write_bytes(text + planned.text())
        return planned

    def effective(self, key: str) -> list[str]:
        """The values of `key` as liblxc reads the configuration."""
        lxc_info = need.program("lxc-info")
        argv = [lxc_info, "-n", self.name, "-P", str(self.lxcpath), "-c", key]
        done = subprocess.run(argv, capture_output=True, timeout=TIMEOUT, check=False)
        assert done.returncode == 0, done.stderr.decode()
        lines = done.stdout.removesuffix(b"\n").split(b"\n")
        name, _, first = lines[0].partition(b" =")
        assert name == key.encode()
        values = [first[1:], *lines[1:]]
        return [os.fsdecode(value) for value in values if value]

    def run(self, verb: str = "lxc-start", *arguments: str, status: int | None = 0) -> "Ran":
        """Run the container to its end by lxc-start or lxc-execute."""
        log = self.directory / "log"
        argv = [need.program(verb), "-n", self.name, "-P", str(self.lxcpath), "-o", str(log), "-l", "INFO"]
        if verb == "lxc-start":
            argv.append("-F")
        elif arguments:
            argv += ["--", *arguments]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
        done = subprocess.run(
            argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT, env=environment, check=False
        )
        if status is not None:
            assert done.returncode == status, f"{done.stderr.decode()}\n{log.read_text(errors='replace')}"
        return Ran(done.returncode, done.stdout, done.stderr, self.rootfs / "out")


@dataclass(frozen=True)
class Ran:
    """What a container left behind."""

    status: int
    output: bytes
    errors: bytes
    out: Path

    @property
    def argv(self) -> list[bytes]:
        return (self.out / "argv").read_bytes().split(b"\0")[:-1]

    @property
    def environment(self) -> dict[bytes, bytes]:
        entries = (self.out / "environ").read_bytes().split(b"\0")[:-1]
        found = dict(entry.partition(b"=")[::2] for entry in entries)
        assert len(found) == len(entries), "a variable came twice"
        return found

    @property
    def cwd(self) -> str:
        return (self.out / "cwd").read_text().removesuffix("\n")

    @property
    def id(self) -> str:
        return (self.out / "id").read_text().strip()
