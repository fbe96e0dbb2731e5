# SPDX-License-Identifier: LGPL-2.1-or-later
"""make check-autopkgtest: Debian's own autopkgtest runs debian/tests against our packages in each Debian.

    python3 -m tests.vm.autopkgtest [RELEASE ...] [-- OPTION ...]

Its QEMU server boots our image, where a root shell waits on the console that it looks at.  What it leaves is in
.cache/vm/autopkgtest-RELEASE.  OPTIONs are autopkgtest's own: --test-name=life, --shell-fail.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.vm import image
from tests.vm.box import CORES, KERNEL_ARGUMENTS, MEMORY_MIB, PROJECT
from tests.vm.prepare import packages_for
from tests.vm.run import RESULTS

# Without the agent's port its service would wait for it; autopkgtest gives the first 9p mount ten seconds.
ARGUMENTS = [*KERNEL_ARGUMENTS, "systemd.mask=box-agent.service", "modules_load=9p,9pnet_virtio"]

# autopkgtest asks for KVM where there is a /dev/kvm, working or not, and gives options as one string of words.
QEMU = """\
#!/bin/bash
options=()
while [ $# -gt 0 ]; do
    case $1 in
    -enable-kvm) ;;
    -cpu) shift ;;
    *) options+=("$1") ;;
    esac
    shift
done
exec qemu-system-x86_64 -accel tcg,thread=multi \\
    -kernel {kernel} -initrd {initrd} -append '{arguments}' "${{options[@]}}"
"""


def source_tree(directory: Path) -> Path:
    """What a Debian source package of this checkout has, with what is not committed."""
    tree = directory / "source"
    tree.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], stdout=subprocess.PIPE, check=True)
    names = b"\0".join(name for name in listed.stdout.split(b"\0") if name and os.path.lexists(name))
    packed = subprocess.run(["tar", "-c", "--null", "-T", "-"], input=names, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x", "-C", tree], input=packed.stdout, check=True)
    (tree / "debian/files").touch()  # a tree that is built already, for which the testbed needs no dpkg-dev
    return tree


def check(release: str, options: list[str]) -> bool:
    """Run debian/tests in one release; autopkgtest tells of each test on standard output."""
    made = image.build(release)
    results = RESULTS / f"autopkgtest-{release}"
    with image.locked(made.directory, fcntl.LOCK_SH), tempfile.TemporaryDirectory(prefix="autopkgtest-") as work:
        qemu = Path(work, "qemu")
        qemu.write_text(QEMU.format(kernel=made.kernel, initrd=made.initrd, arguments=" ".join(ARGUMENTS)))
        qemu.chmod(0o755)
        subprocess.run(["rm", "-rf", results], check=True)
        argv = [
            *("autopkgtest", "--no-built-binaries", f"--output-dir={results}", "--timeout-factor=2", *options),
            *map(str, packages_for(release)),
            *(str(source_tree(Path(work))), "--", "qemu", f"--qemu-command={qemu}", "--timeout-reboot=300"),
            *(f"--cpus={CORES}", f"--ram-size={MEMORY_MIB}", str(made.disk)),
        ]
        status = subprocess.run(argv, stdin=subprocess.DEVNULL, check=False).returncode
    summary = results / "summary"
    print(f"{release}: status {status}\n{summary.read_text() if summary.exists() else ''}", end="", flush=True)
    return status == 0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.vm.autopkgtest", description=__doc__.partition("\n")[0])
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help=f"of {', '.join(image.RELEASES)}")
    split = argv.index("--") if "--" in argv else len(argv)
    options = argv[split + 1 :]
    releases = parser.parse_args(argv[:split]).releases or list(image.RELEASES)
    if not set(releases) <= set(image.RELEASES):
        parser.error(f"there are {', '.join(image.RELEASES)}")
    os.chdir(PROJECT)
    # One after the other: two of it want the same port, and it has no patience with a busy machine.
    statuses = [check(release, options) for release in releases]
    return 0 if all(statuses) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
