# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hooks as modules and as programs, and containers made by hand to try them on, without create."""

import json
import os
import pwd
import shutil
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.support import launch
from tests.support.host import Host

INSTALLED = Path("/usr/share/lxc/hooks")


def module(name: str) -> ModuleType:
    """Import a hook, so that its functions can be called."""
    loader = SourceFileLoader(name.replace("-", "_"), str(launch.CHECKOUT / "hooks" / name))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    made = module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(made)
    finally:
        sys.dont_write_bytecode = before
    return made


def program(directory: Path, name: str) -> Path:
    """The path of a hook that LXC can run: the installed one's where that is tested, else a copy in `directory`."""
    if launch.INSTALLED:
        return INSTALLED / name
    path = directory / name
    if not path.exists():
        shutil.copy(launch.CHECKOUT / "hooks" / name, path)
        path.chmod(0o755)
    return path


def owner(host: Host) -> tuple[int, int]:
    """The ids on the host of the root of this host's containers."""
    if host.user is None:
        return 0, 0
    text = host.configuration.read_text().splitlines()
    first = {line.split()[2]: int(line.split()[4]) for line in text if line.startswith("lxc.idmap")}
    return first["u"], first["g"]


def user(host: Host) -> tuple[int, int]:
    """The ids of who runs LXC."""
    found = pwd.getpwnam(host.user) if host.user else pwd.getpwuid(0)
    return found.pw_uid, found.pw_gid


def container(
    host: Host,
    name: str,
    plan: dict[str, Any],
    *,
    rootfs: str = "",
    lines: Sequence[str] = (),
    init: str = "/bin/sleep 1000",
) -> Path:
    """Make a container of which everything but the image is there, as create would: directories of its own, an
    fstab with a file and a volume, the three hooks.  `plan` may be empty (no pre-mount hook); `rootfs` is the value
    of lxc.rootfs.path."""
    path = host.lxcpath / name
    uid, gid = owner(host)
    for part in ("", "rootfs", "oci-py", "volumes", "volumes/data", "upper", "upper/etc", "work"):
        (path / part).mkdir(mode=0o755)
    files = {
        "oci-py/id": f"{'0' * 24}{os.urandom(4).hex()}\n",
        "oci-py/init": f"init of {name}\n",
        "volumes/data/who": f"{name}\n",
        "upper/etc/hostname": f"{name}\n",
        "upper/etc/hosts": f"127.0.0.1\tlocalhost\n127.0.1.1\t{name} {name}.example\n",
    }
    if plan:
        files["rootfs/.oci-py-id"] = files["oci-py/id"]
        files["oci-py/plan.json"] = json.dumps({"version": 1, **plan})
    for file, content in files.items():
        (path / file).write_text(content)
    for directory, names, inner in os.walk(path):
        for one in ["", *names, *inner]:
            os.chown(os.path.join(directory, one), uid, gid)
    path.chmod(0o770)
    os.chown(path, uid, user(host)[1])
    (path / "fstab").write_text(
        f"{path}/oci-py/init .init none bind,ro,create=file 0 0\n{path}/volumes/data data none bind,create=dir 0 0\n"
    )
    config = [
        "lxc.include = /usr/share/lxc/config/common.conf",
        *(["lxc.include = /usr/share/lxc/config/userns.conf"] if host.user else []),
        *host.configuration.read_text().splitlines(),
        f"lxc.init.cmd = {init}",
        "# lxc-oci-py: begin image block",
        *([f"lxc.hook.pre-mount = {program(host.directory, 'oci-py-mount')}"] if plan else []),
        f"lxc.hook.clone = {program(host.directory, 'oci-py-clone')}",
        f"lxc.hook.destroy = {program(host.directory, 'oci-py-destroy')}",
        f"lxc.console.logfile = {path}/console.log",
        f"lxc.uts.name = {name}",
        "# lxc-oci-py: end image block",
        *lines,
        f"lxc.mount.fstab = {path}/fstab",
        f"lxc.rootfs.path = {rootfs or f'dir:{path}/rootfs'}",
    ]
    (path / "config").write_text("\n".join(config) + "\n")
    for file in ("fstab", "config"):
        os.chown(path / file, *user(host))
    return path


def layers(*lowers: dict[str, Any], userxattr: bool = False, **more: Any) -> dict[str, Any]:
    """A plan of `lowers`, bottom first, with the container's own overlay above."""
    plan: dict[str, Any] = {"lowers": list(lowers), "upper": "upper", "work": "work", **more}
    if userxattr:
        plan["userxattr"] = True
    return plan
