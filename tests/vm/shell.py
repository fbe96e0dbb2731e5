# SPDX-License-Identifier: LGPL-2.1-or-later
"""make vm-shell: a root shell on the console of a throw-away box, our package installed and the tests in /srv/suite.

python3 -m tests.vm.shell [RELEASE] [--bare]
"""

from __future__ import annotations

import argparse
import sys
import termios
import tty

from tests.vm import image
from tests.vm.box import SUITE, Box
from tests.vm.prepare import GUEST_ENVIRONMENT, prepare

HINT = f"""\

{{release}}: `poweroff` ends it, and everything in it is gone.  Tests: cd {SUITE}; {{environment}} \\
  python3 -m pytest -p tests.vm.guest.denials tests/lxc
"""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm.shell", description=__doc__.partition("\n")[0])
    parser.add_argument("release", nargs="?", default="trixie", choices=image.RELEASES)
    parser.add_argument("--bare", action="store_true", help="without our package")
    options = parser.parse_args(argv)
    if not sys.stdin.isatty():
        parser.error("standard input is not a terminal")
    before = termios.tcgetattr(sys.stdin)
    try:
        # Every key, ^C included, is for the box.
        tty.setraw(sys.stdin)
        with Box(options.release, console=True) as box:
            if not options.bare:
                prepare(box)
            environment = " ".join(f"{name}={value}" for name, value in GUEST_ENVIRONMENT.items())
            hint = HINT.format(release=options.release, environment=environment)
            print(hint.replace("\n", "\r\n"), end="", flush=True)
            box.wait_until_off()
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
