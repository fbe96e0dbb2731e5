# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which form a container's rootfs takes, from facts about the host, LXC and the image.

Nothing is made here: the decision and its reason are data that --verbose prints.  `auto` never chooses what
would not start; what cannot be known from outside is tried by the form itself before anything is written.
"""

import os
import re
import stat
from enum import Enum
from typing import NamedTuple

from lxc_oci.errors import UnsupportedError
from lxc_oci.image.mediatype import LayerKind
from lxc_oci.kernel import run, userns

HOOK = "/usr/share/lxc/hooks/oci-py-mount"
SYSTEM_LXCPATH = "/var/lib/lxc"
_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_PROFILES = "/sys/kernel/security/apparmor/profiles"


class Form(Enum):
    """What a rootfs is made of."""

    FLAT = "flat"  # the files themselves, in the container's own directory
    OVERLAY = "overlay"  # LXC's own overlay store over an unpacked tree of the store
    TREE = "tree"  # our hook's overlay over such a tree
    INDEX = "index"  # our hook's overlay over EROFS indexes of the layers' tar files
    MOUNTED = "mounted"  # our hook's overlay over the image's own squashfs or EROFS layers
    HELPER = "helper"  # an external mount helper's


class Facts(NamedTuple):
    """What the choice depends on."""

    backend: str  # LXC's rootfs type: dir, btrfs, loop, …
    own_rootfs: bool  # the rootfs is CONTAINER/rootfs
    container: str  # the container's directory
    store: str | None
    user_namespace: bool
    confined: bool  # AppArmor confines lxc-start
    store_type: str  # file system that the store lies on, "" where that cannot be told
    kernel: tuple[int, int]
    indexer: bool  # mkfs.erofs can index tar files
    hook: bool
    elsewhere: bool = False  # the container lies outside of LXC's own lxcpath, all links followed
    closed: str = ""  # a directory above the store that the container cannot enter


class Choice(NamedTuple):
    """A form, and why it is the one."""

    form: Form
    reason: str


def gather(rootfs_path: str, container: str, rootfs: str, store: str | None) -> Facts:
    """Look at the host.  `rootfs_path` is the value of lxc.rootfs.path that LXC chose ("" when it is not known)."""
    backend, separator, target = rootfs_path.partition(":")
    if not separator or "/" in backend:
        backend, target = "dir", rootfs_path or rootfs
    own = os.path.normpath(target) == os.path.join(os.path.normpath(container), "rootfs")
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return Facts(
        backend=backend,
        own_rootfs=own and os.path.normpath(rootfs) == os.path.normpath(target),
        container=os.path.normpath(container),
        elsewhere=not os.path.realpath(container).startswith(SYSTEM_LXCPATH + "/"),
        store=store,
        user_namespace=not userns.current().initial,
        confined=apparmor_confines_lxc(),
        store_type=_file_system(store) if store else "",
        kernel=(int(release[1]), int(release[2])) if release else (0, 0),
        indexer=_indexes_tar(),
        hook=os.access(HOOK, os.X_OK),
        closed=_closed(store) if store and not userns.current().initial else "",
    )


def choose(wanted: str, kind: LayerKind, facts: Facts, *, helper: str | None, kernel_mount: bool) -> Choice:
    """Decide.  `wanted` is --storage.  Raises UnsupportedError when what was asked for cannot work here."""
    obstacle = _layered_obstacle(facts)
    if helper is not None:
        obstacle = obstacle or _hook_obstacle(facts)
        if obstacle or wanted == "flat":
            raise UnsupportedError(
                f"the mount helper {helper} cannot be used: {obstacle or '--storage flat leaves nothing to mount'}",
                "leave out --mount-helper to have the image unpacked",
            )
        return Choice(Form.HELPER, f"--mount-helper {helper}")
    if wanted == "flat":
        return Choice(Form.FLAT, "--storage flat")
    if obstacle:
        if wanted == "layered":
            raise UnsupportedError(f"--storage layered is not possible: {obstacle}", "use --storage auto or flat")
        return Choice(Form.FLAT, obstacle)
    # Over a tree LXC's own overlay would do, but LXC can neither copy nor rename such a container.
    hook_obstacle = _hook_obstacle(facts)
    unpacked = Form.OVERLAY if hook_obstacle else Form.TREE
    if kind in (LayerKind.SQUASHFS, LayerKind.EROFS):
        reason = hook_obstacle or _mount_obstacle(facts, kernel_mount)
        if reason:
            return Choice(unpacked, f"the image is unpacked because {reason}")
        return Choice(Form.MOUNTED, f"the image's {kind.value} layers can be mounted")
    if kind is LayerKind.TAR:
        reason = hook_obstacle or _index_obstacle(facts, kernel_mount)
        if not reason:
            return Choice(Form.INDEX, "the kernel mounts indexed tar files")
        return Choice(unpacked, f"an unpacked tree because {reason}")
    return Choice(unpacked, f"{kind.value} images are unpacked into the store")


def _layered_obstacle(facts: Facts) -> str:
    """Say why no overlay can be used, or ""."""
    if facts.store is None:
        return "there is no store (--no-cache, or a container with an idmap made by root)"
    if facts.backend != "dir" or not facts.own_rootfs:
        return f"LXC's backing store is {facts.backend!r}, or --dir was given"
    for path in (facts.store, facts.container):
        for char in ",\\:":
            if char in path:
                # LXC hands both paths to overlayfs as options, and splits its own value at colons.
                return f"the path {path} contains {char!r}, which overlay options cannot carry"
    if facts.closed:
        return f"the container's root cannot enter {facts.closed}, where the store lies (chmod o+x would let it)"
    if facts.user_namespace and facts.kernel < (5, 11):
        return "overlayfs in a user namespace needs Linux 5.11"
    return ""


def _hook_obstacle(facts: Facts) -> str:
    """Say why our pre-mount hook could not mount, or ""."""
    if not facts.hook:
        return f"{HOOK} is not installed"
    if facts.confined and facts.elsewhere:
        return f"AppArmor lets lxc-start's hooks mount below {SYSTEM_LXCPATH} only"
    if facts.confined and facts.user_namespace:
        return "AppArmor does not let a user's containers mount by a hook"
    return ""


def _mount_obstacle(facts: Facts, kernel_mount: bool) -> str:
    """Say why the kernel cannot mount an image's own file systems at every start, or "".

    FUSE is no way round: its process would be a child of the container's init, and lxc-execute's waits for all of its
    children before it ends.
    """
    if facts.user_namespace:
        return "only root can mount a file system image"
    if not kernel_mount:
        return "--no-kernel-mount was given"
    return ""


def _index_obstacle(facts: Facts, kernel_mount: bool) -> str:
    """Say why tar layers cannot be indexed and mounted, or ""."""
    obstacle = _mount_obstacle(facts, kernel_mount)
    if obstacle:
        return obstacle
    if facts.kernel < (6, 12):
        return "mounting EROFS from a file needs Linux 6.12"
    if facts.store_type in ("tmpfs", "ramfs", "overlay"):
        return f"the store lies on {facts.store_type}, where EROFS cannot mount a file"
    if not facts.indexer:
        return "mkfs.erofs 1.7 or newer (erofs-utils) is not installed"
    return ""


def apparmor_confines_lxc() -> bool:
    """Tell whether AppArmor enforces a profile on lxc-start; where that cannot be read, whether AppArmor is on."""
    try:
        with open(_APPARMOR, encoding="ascii") as file:
            if file.read(1) != "Y":
                return False
    except FileNotFoundError:
        return False
    try:
        with open(_PROFILES, encoding="utf-8", errors="replace") as file:
            return any("lxc-start (enforce)" in line for line in file)
    except OSError:
        return True


def _closed(store: str) -> str:
    """Return the directory above `store` that a user's container cannot enter, "" where there is none.

    Here the calling user's files can be entered; at a start the user has no id in the container's namespace.
    """
    path = os.path.realpath(store)
    while path != "/":
        path = os.path.dirname(path)
        status = os.stat(path)
        if not (status.st_mode & stat.S_IXOTH or (status.st_uid == 0 and status.st_mode & stat.S_IXUSR)):
            return path
    return ""


def _file_system(path: str) -> str:
    """Return the type of the file system that `path` lies on, as the mount table has it."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
        for line in table:
            fields = line.split()
            if fields[2] == wanted:
                return fields[fields.index("-", 6) + 1]
    return ""


def _indexes_tar() -> bool:
    """Tell whether the installed mkfs.erofs is at least 1.7, the first whose --tar=i we use.

    The program's text is searched for an option that came with that version: running it would cost every create.
    """
    path = run.find("mkfs.erofs")
    if path is None:
        return False
    with open(path, "rb") as file:
        return b"--ovlfs-strip" in file.read(4 << 20)
