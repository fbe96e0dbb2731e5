#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Build a bootable disk of a stock Debian release, once, into the cache.

The disk holds Debian's own kernel, systemd, AppArmor and LXC, what our packages depend on and recommend (so that
apt can install them inside without a network), and what the tests need.  Nothing of ours is in it but the agent
(agent.py) that takes the host's commands, and an OCI image of a Debian with systemd.  Booting it is box.py's business.

An image is a directory ``RELEASE-KEY`` with ``disk.raw``, ``vmlinuz``, ``initrd`` and ``packages``; KEY is a hash of
this file, the agent and the host's apt options, so a changed package list makes a new image.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support import image as oci

HERE = Path(__file__).resolve().parent
AGENT = HERE / "agent.py"
DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DISK_BYTES = 6 << 30  # sparse: what the guest can fill, not what it takes here
ROOT_LABEL = "box"
USER = "user"  # the unprivileged user of the box, uid 1000

RELEASES = ("bookworm", "trixie")

PACKAGES = [
    # The machine.
    *("linux-image-amd64", "initramfs-tools", "zstd", "systemd-sysv", "udev", "kmod", "procps", "less", "nano"),
    *("dbus", "dbus-user-session", "libpam-systemd"),  # a user's own cgroup comes from her systemd
    # LXC as an administrator has it.
    *("lxc", "lxc-templates", "lxcfs", "apparmor", "uidmap", "iproute2", "iputils-ping", "dnsmasq-base", "nftables"),
    # Depends, Recommends and Suggests of our package.
    *("python3", "python3-zstandard", "python3-cryptography", "erofs-utils", "squashfs-tools-ng", "squashfuse"),
    *("fuse3", "rsync", "skopeo"),
    # What tests build images with and look with.
    *("python3-pytest", "busybox-static", "squashfs-tools", "cryptsetup-bin", "btrfs-progs", "docker-registry"),
    *("umoci", "jq", "attr", "acl", "strace", "openssl", "xz-utils", "dmsetup", "e2fsprogs"),
    # What debian/tests/control depends on, and what autopkgtest needs to hand in packages.
    *("apt-utils", "man-db", "python3-hypothesis"),
]
PACKAGES_OF: dict[str, list[str]] = {
    "bookworm": [],  # python3-orjson and python3-isal are not in this release: they come with our packages
    "trixie": ["python3-orjson", "python3-isal", "erofsfuse"],
}

# An OCI image that boots, without what no test reads: it is unpacked under emulation.
SYSTEM_IMAGE = "/srv/images/system"  # a layout; its tag is latest
SYSTEM_PACKAGES = ["systemd-sysv", "dbus"]
SYSTEM_LEFT_OUT = """
cd "$1"
rm -rf usr/share/doc usr/share/locale usr/share/man usr/share/zoneinfo usr/share/i18n usr/share/perl \
    usr/lib/*/gconv usr/lib/*/perl usr/lib/*/libperl* usr/lib/*/perl-base/unicore var/cache/* var/log/*
"""

# Only the modules that find the root disk: a small initrd is seconds of boot time without KVM.
INITRD_MODULES = ["virtio_pci", "virtio_blk", "ext4"]

# Timers would use the cores at moments of their own, the registry the port that a test may want; the others only cost
# time at boot.
MASKED = [
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("man-db.timer", "systemd-tmpfiles-clean.timer", "docker-registry.service", "e2scrub_reap.service"),
    *("cni-dhcp.service", "cni-dhcp.socket", "getty@tty1.service", "modprobe@drm.service", "nftables.service"),
    *("systemd-networkd.service", "systemd-networkd.socket"),
]

FILES = {
    "/etc/fstab": f"LABEL={ROOT_LABEL} / ext4 defaults 0 1\n",
    "/etc/hostname": "box\n",
    "/etc/hosts": "127.0.0.1 localhost\n127.0.1.1 box\n::1 localhost\n",
    # Without auditd the kernel prints its audit records, and drops what exceeds this limit: a denial must not be lost.
    "/etc/sysctl.d/90-box.conf": "kernel.printk_ratelimit = 0\nkernel.printk = 1 4 1 7\n",
    "/etc/systemd/system/box-agent.service": r"""
[Unit]
Description=Commands from the host of the box
# udev names the port some time after the service could start.
BindsTo=dev-virtio\x2dports-box.agent.device
After=dbus.service dev-virtio\x2dports-box.agent.device

[Service]
ExecStart=/usr/bin/python3 /usr/local/sbin/box-agent
StandardError=journal+console
KillMode=process
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
""",
    "/etc/systemd/system/serial-getty@ttyS0.service.d/login.conf": """\
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 - $TERM
""",
    # Where Debian's autopkgtest finds its root shell (the console it takes for booted is ttyS0's).
    "/etc/systemd/system/autopkgtest.service": """\
[Unit]
ConditionPathExists=/dev/hvc1

[Service]
ExecStart=/bin/sh
StandardInput=tty-fail
StandardOutput=tty
StandardError=tty
TTYPath=/dev/hvc1
SendSIGHUP=yes

[Install]
WantedBy=multi-user.target
""",
    "/etc/lxc/lxc-usernet": f"{USER} veth lxcbr0 10\n",
    f"/home/{USER}/.config/lxc/default.conf": """\
lxc.include = /etc/lxc/default.conf
lxc.idmap = u 0 100000 65536
lxc.idmap = g 0 100000 65536
lxc.mount.auto = proc:mixed sys:ro cgroup:mixed
# A user may not load the profile that the default asks for.
lxc.apparmor.profile = unconfined
lxc.apparmor.allow_nesting = 0
""",
}

# Runs in the tree with root's rights ($1 is the tree): what is easier said to a shell than to apt.
CUSTOMISE = f"""
set -eu
tree=$1
chroot "$tree" useradd --no-log-init --uid 1000 --shell /bin/bash {USER}
printf '{USER}:100000:65536\\n' >"$tree/etc/subuid"
printf '{USER}:100000:65536\\n' >"$tree/etc/subgid"
chroot "$tree" chown -R {USER}: /home/{USER}
# Containers of the user have mapped ids, and their root must be able to walk to the rootfs.
chmod 0711 "$tree/home/{USER}"
chroot "$tree" passwd --quiet --delete root
install -D -m 0644 /dev/null "$tree/var/lib/systemd/linger/{USER}"
systemctl --quiet --root="$tree" enable box-agent.service autopkgtest.service
systemctl --quiet --root="$tree" mask {" ".join(MASKED)}
: >"$tree/etc/machine-id" # empty: a new one each time, but no "first boot", which enables every service
"""

# mmdebstrap has mounted /proc, /sys and /dev in the tree: a plain bind shows it without them.
MAKE_DISK = f"""
set -eu
tree=$1 out=$2
rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/*.bin "$tree"/var/cache/apt/archives/*.deb
chroot "$tree" dpkg-query -W >"$out/packages"
cp -L "$tree"/boot/vmlinuz-* "$out/vmlinuz"
cp -L "$tree"/boot/initrd.img-* "$out/initrd"
mkdir "$out/tree"
mount --bind "$tree" "$out/tree"
truncate -s {DISK_BYTES} "$out/disk.raw"
PATH=$PATH:/sbin:/usr/sbin mkfs.ext4 -q -L {ROOT_LABEL} -d "$out/tree" "$out/disk.raw" || failed=1
umount "$out/tree"
rmdir "$out/tree"
exit "${{failed:-0}}"
"""


class Image(NamedTuple):
    """One built image; the paths are absolute."""

    release: str
    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "disk.raw"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd"


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "lxc-oci-py" / "vm"


def _host_apt() -> tuple[str, list[str]]:
    """The mirror of this machine, and those of its apt options that decide whether a mirror can be reached."""
    wanted = re.compile(r"(Acquire::(Check-Valid-Until|Check-Date|https?::Proxy) .*);")
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    options = [match[1] for line in dump.splitlines() if (match := wanted.fullmatch(line)) and '""' not in line]
    uris = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True)
    for uri in uris.stdout.split():
        if re.fullmatch(r"https?://\S+/debian/?", uri):
            return uri.rstrip("/"), options
    return DEFAULT_MIRROR, options


def _key(release: str, options: list[str]) -> str:
    told = [release, *options]
    sources = [Path(__file__).read_bytes(), AGENT.read_bytes()]
    return hashlib.sha256(b"\0".join([*sources, *(text.encode() for text in told)])).hexdigest()[:16]


def _sources(release: str, mirror: str) -> str:
    security = mirror.removesuffix("/debian") + "/debian-security"
    return "\n".join(
        [
            f"deb [signed-by={KEYRING}] {mirror} {release} main",
            f"deb [signed-by={KEYRING}] {mirror} {release}-updates main",
            f"deb [signed-by={KEYRING}] {security} {release}-security main",
        ]
    )


def _hook(script: str, *arguments: str) -> str:
    return " ".join(["sh", "-c", shlex.quote(script), "hook", '"$1"', *map(shlex.quote, arguments)])


def _install_files(stage: Path) -> str:
    """The files of ours, laid out below *stage*, and the hook that copies them into the tree."""
    contents = {**FILES, "/usr/local/sbin/box-agent": AGENT.read_text()}
    for name, text in contents.items():
        path = stage / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return _hook('cp -RT --no-preserve=ownership "$2" "$1"', str(stage))


def _make_system_image(release: str, mirror: str, options: list[str], work: Path) -> Path:
    """An OCI layout of a Debian whose entrypoint is systemd."""
    tar = work / "system.tar"
    argv = [
        *("mmdebstrap", "--quiet", "--variant=essential", "--format=tar", "--architectures=amd64"),
        *(f"--aptopt={option}" for option in [*options, 'Apt::Install-Recommends "false"']),
        f"--customize-hook={_hook(SYSTEM_LEFT_OUT)}",
        f"--include={','.join(SYSTEM_PACKAGES)}",
        *(release, str(tar), _sources(release, mirror)),
    ]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    layer = oci.layer(tar.read_bytes(), compression="zstd")
    tar.unlink()
    layout = work / "system"
    oci.write_layout(layout, {"latest": oci.Image([layer], {"Entrypoint": ["/sbin/init"]})})
    return layout


def _mmdebstrap(release: str, mirror: str, options: list[str], stage: Path, out: Path) -> None:
    modules = _hook(
        'mkdir -p "$1/etc/initramfs-tools/conf.d"; echo MODULES=list >"$1/etc/initramfs-tools/conf.d/box"; '
        'printf "%s\\n" "$2" >"$1/etc/initramfs-tools/modules"',
        "\n".join(INITRD_MODULES),
    )
    argv = [
        *("mmdebstrap", "--quiet", "--variant=apt", "--format=null", "--architectures=amd64"),
        *(f"--aptopt={option}" for option in [*options, 'Apt::Install-Recommends "false"']),
        f"--include={','.join(PACKAGES + PACKAGES_OF[release])}",
        f"--essential-hook={modules}",
        f"--customize-hook={_install_files(stage)}",
        f"--customize-hook={_hook(CUSTOMISE)}",
        f"--customize-hook={_hook(MAKE_DISK, str(out))}",
        *(release, "/dev/null", _sources(release, mirror)),
    ]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


@contextlib.contextmanager
def locked(path: Path, operation: int) -> Iterator[bool]:
    """Hold a lock on *path* (made if it is not there); false where *operation* is non-blocking and it is taken."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, operation)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _remove_outdated(cache: Path, release: str, keep: Path) -> None:
    """Drop other images of this release, unless a box runs from one (it holds a lock on the directory)."""
    for other in cache.glob(f"{release}-*"):
        if other != keep:
            with locked(other, fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
                if free:
                    shutil.rmtree(other)


def build(release: str, *, rebuild: bool = False) -> Image:
    """The image of *release*, from the cache or built now (a minute, needs root and the Debian mirror).

    Raises subprocess.CalledProcessError when a tool of the build fails; the cache then is as it was.
    """
    if release not in RELEASES:
        raise ValueError(f"unknown release {release!r}: one of {', '.join(RELEASES)}")
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    mirror, options = _host_apt()
    final = cache / f"{release}-{_key(release, options)}"
    with locked(cache / f"lock.{release}", fcntl.LOCK_EX):
        if final.is_dir() and not rebuild:
            return Image(release, final)
        print(f"building {final}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="partial.") as work:
            stage, out = Path(work, "stage"), Path(work, "image")
            stage.mkdir()
            out.mkdir()
            system = stage / SYSTEM_IMAGE.lstrip("/")
            system.parent.mkdir(parents=True)
            _make_system_image(release, mirror, options, Path(work)).rename(system)
            _mmdebstrap(release, mirror, options, stage, out)
            if final.is_dir():
                final.rename(Path(work, "old"))
            out.rename(final)
        _remove_outdated(cache, release, final)
    return Image(release, final)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="build the bootable images of tests/vm")
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help=f"of {', '.join(RELEASES)}; without one, all")
    parser.add_argument("--rebuild", action="store_true", help="even if the cache has it (newer packages)")
    options = parser.parse_args(argv)
    for release in options.releases or RELEASES:
        print(build(release, rebuild=options.rebuild).directory)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
