# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Debian 13 tree on whatever Debian this is: LXC 6, Python 3.13, and an mkfs.erofs that indexes tar files.

The tree is made by mmdebstrap, once, and kept in the cache.  It is entered by pivot_root in a mount namespace of its
own, because LXC pivots again, which a chroot would not let it.  The kernel stays this machine's; a whole machine with
Debian's own is tests/vm's.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support import launch, need

_PACKAGES = (
    *("lxc", "uidmap", "rsync", "busybox-static", "iproute2", "procps", "mount"),
    *("python3", "python3-pytest", "python3-orjson", "python3-isal", "python3-zstandard", "python3-cryptography"),
    *("erofs-utils", "erofsfuse", "squashfs-tools", "squashfs-tools-ng", "squashfuse", "fuse3", "cryptsetup-bin"),
    *("zstd", "attr", "docker-registry", "apache2-utils", "openssl", "libc6-dev", "e2fsprogs", "btrfs-progs", "umoci"),
    *("skopeo", "jq"),
)
_MIRROR = "http://deb.debian.org/debian"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_HOOKS = "/usr/share/lxc/hooks"
_TEMPLATES = "/usr/share/lxc/templates"

# $1 is the tree, $2 the checkout; then the command.
_ENTER = r"""
set -eu
tree=$1 checkout=$2
shift 2
mount --rbind "$tree" "$tree"
cd "$tree"
for place in proc sys dev; do mount --rbind "/$place" "$place"; done
mount -t tmpfs -o mode=755 none run
mount -t tmpfs -o mode=1777 none tmp
mkdir -p ".$checkout" .old
mount --bind -o ro "$checkout" ".$checkout"
for file in "$checkout"/hooks/oci-py-*; do
    touch ".@HOOKS@/${file##*/}"
    mount --bind "$file" ".@HOOKS@/${file##*/}"
done
touch .@TEMPLATES@/lxc-oci-py
mount --bind "$checkout/templates/lxc-oci-py" .@TEMPLATES@/lxc-oci-py
mkdir -p ./usr/lib/python3/dist-packages/lxc_oci
mount --bind "$checkout/lxc_oci" ./usr/lib/python3/dist-packages/lxc_oci
pivot_root . .old
umount -l /.old
cd "$checkout"
exec "$@"
""".replace("@HOOKS@", _HOOKS).replace("@TEMPLATES@", _TEMPLATES)  # fmt: skip


def tree(packages: Sequence[str] = _PACKAGES, name: str = "trixie") -> Path:
    """A tree with `packages`, from the cache or made now (a minute, needs root and the Debian mirror).

    Of those that are called `name` only the last one is kept.
    """
    need.root()
    if Path("/etc/debian_version").read_text().startswith("13"):
        need.missing("this is Debian 13 itself")
    program = need.program("mmdebstrap")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(f"~{os.environ.get('SUDO_USER', 'root')}/.cache")
    cache = Path(base) / "lxc-oci-py"
    mirror, options = _apt()
    key = hashlib.sha256("\n".join([*packages, mirror, *options]).encode()).hexdigest()[:16]
    final = cache / f"{name}-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock.trixie-tree", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if final.is_dir():
            return final
        for old in cache.glob(f"{name}-*"):
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=cache, prefix="partial.") as work:
            argv = [program, "--quiet", "--variant=apt", "--format=directory"]
            argv += [f"--aptopt={option}" for option in (*options, 'Apt::Install-Recommends "false"')]
            argv += [f"--include={','.join(packages)}", "trixie", f"{work}/tree"]
            argv += [f"deb [signed-by={_KEYRING}] {mirror} trixie main"]
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
            os.chmod(f"{work}/tree", 0o755)
            os.rename(f"{work}/tree", final)
    return final


def run(argv: Sequence[str], *, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a program in the tree, in the checkout, as root."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
    environment |= {name: os.environ[name] for name in ("CI",) if name in os.environ}
    enter = ["unshare", "-m", "--propagation", "private", "sh", "-c", _ENTER, "sh", str(tree()), str(launch.CHECKOUT)]
    return subprocess.run(
        [*enter, *argv], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout, env=environment
    )


def _apt() -> tuple[str, list[str]]:
    """The mirror of this machine, and those of its apt options that decide whether a mirror can be reached."""
    wanted = re.compile(r"(Acquire::(Check-Valid-Until|Check-Date|https?::Proxy) .*);")
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    options = [match[1] for line in dump.splitlines() if (match := wanted.fullmatch(line)) and '""' not in line]
    uris = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True)
    for uri in uris.stdout.split():
        if re.fullmatch(r"https?://\S+/debian/?", uri):
            return uri.rstrip("/"), options
    return _MIRROR, options
