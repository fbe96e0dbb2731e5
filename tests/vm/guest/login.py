# SPDX-License-Identifier: LGPL-2.1-or-later
"""LXC as an administrator and the user of the box have it: Debian's configuration, the default lxcpath and store."""

import os
import subprocess
from pathlib import Path

USER = "user"


def as_user(*argv: str) -> list[str]:
    """A command as after a login of the user, whose systemd (she lingers) hands out control groups."""
    home, runtime = f"/home/{USER}", f"/run/user/{os.stat(f'/home/{USER}').st_uid}"
    # -i: pytest sets COLUMNS, with which the ps in lxc-unpriv-start cuts off the line that it looks for.
    environment = [f"HOME={home}", f"USER={USER}", f"XDG_RUNTIME_DIR={runtime}", f"PATH={os.environ['PATH']}"]
    bus = f"DBUS_SESSION_BUS_ADDRESS=unix:path={runtime}/bus"
    return ["runuser", "-u", USER, "--", "env", "-i", "-C", home, *environment, bus, *argv]


class Login:
    """LXC's commands, run by root or by the user."""

    def __init__(self, name: str) -> None:
        self.is_user = name == USER
        self._unprivileged = "unpriv-" if self.is_user else ""  # LXC's scripts that ask systemd for a control group

    def run(self, *argv: str, check: bool = True) -> str:
        """What a command printed; that it must succeed is asserted."""
        command = as_user(*argv) if self.is_user else list(argv)
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def create(self, name: str, url: str) -> None:
        self.run("lxc-create", "-n", name, "-t", "oci-py", "--", "--url", url)

    def start(self, name: str) -> None:
        """Start a container and wait until it runs; LXC's log tells why it does not."""
        log = Path(f"/tmp/{name}.log")
        self.run(f"lxc-{self._unprivileged}start", "-n", name, "-o", str(log), "-l", "DEBUG", check=False)
        self.run("lxc-wait", "-n", name, "-s", "RUNNING", "-t", "60", check=False)
        state = self.run("lxc-info", "-n", name, "-s", "-H").strip()
        assert state == "RUNNING", f"{state}\n{log.read_text(errors='replace')[-6000:]}"
        log.unlink()

    def attach(self, name: str, *argv: str, check: bool = True) -> str:
        return self.run(f"lxc-{self._unprivileged}attach", "-n", name, "--clear-env", "--", *argv, check=check)

    def stop(self, name: str) -> None:
        """Ask a container to stop, by the signal that its configuration names; one that must be killed fails."""
        self.run("lxc-stop", "-n", name, "-t", "120", "--nokill")
        self.run("lxc-wait", "-n", name, "-s", "STOPPED", "-t", "60")

    def destroy(self, name: str) -> None:
        self.run("lxc-destroy", "-f", "-n", name)
