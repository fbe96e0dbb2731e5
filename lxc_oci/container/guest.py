# SPDX-License-Identifier: LGPL-2.1-or-later
"""An image's configuration and the user's options → everything that makes the rootfs a container.

`plan_guest` decides and changes nothing; its result is data that can be printed and compared.  `write_guest` then
makes the files.  What the configuration cannot carry on this LXC is put into the wrapper, and what nothing can
carry is refused.
"""

import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lxc_oci.container import (
    command,
    environment,
    generation,
    guestfiles,
    idmap,
    lxcconfig,
    lxcversion,
    network,
    paths,
    stopsignal,
    users,
    volumes,
    wrapper,
)
from lxc_oci.container.guestfiles import GuestFile
from lxc_oci.container.lxcconfig import Line, encode
from lxc_oci.container.overrides import Overrides
from lxc_oci.errors import RefusedError, UnsupportedError
from lxc_oci.image.config import ImageConfig
from lxc_oci.kernel import durable, userns
from lxc_oci.kernel.root import Root
from lxc_oci.limits import Limits

SHARE = "/usr/share/lxc/config"
GUEST_DIRECTORY = generation.guest_directory(generation.FIRST)
AUTOMATIC_MOUNTS = "proc:mixed sys:mixed cgroup:mixed"
MOUNT_POINT = ".oci-py"
WRAPPER = f"/{MOUNT_POINT}/init"
CONSOLE_LOG = "console.log"
_GROUPS_WITH_IDMAP_SINCE = 7
# execve(2): arguments and environment together take at most a quarter of the stack's limit, 8 MiB by default.
_EXEC_BYTES = 2 * 1024 * 1024 - 65536
_SYSTEM_INIT = re.compile(r"(?:/usr)?/s?bin/init|(?:.*/)?systemd\Z")


class HostFacts(NamedTuple):
    """What the plan must know of this host and of the container as lxc-create made it."""

    name: str
    directory: str  # the container's, absolute
    lxc_major: int
    idmap: idmap.ContainerMap | None
    configuration: tuple[Line, ...]  # what lxc-create wrote, includes followed
    resolv_conf: bytes
    paths: environment.Paths
    share: str = SHARE
    fstab: bool = True  # whether the container may have an fstab of ours
    guest_directory: str = GUEST_DIRECTORY  # of the generation that is planned


class Guest(NamedTuple):
    """A container's configuration and files.

    `base` are LXC's usual lines, for the user to change; `image` follow from the image and `options` from the
    user's options, each in a marked block that an update replaces.
    """

    base: tuple[Line, ...]
    image: tuple[Line, ...]
    options: tuple[Line, ...]
    files: tuple[GuestFile, ...]
    mounts: volumes.Mounts
    working_directory: str
    wrapper: bytes = b""  # empty: none is needed
    wrapper_mode: int = 0o711  # a static program is run without being read, and may hold secrets
    resolv_conf: bytes | None = None  # the first content of the file that the DHCP hook writes; None without DHCP

    @property
    def lines(self) -> tuple[Line, ...]:
        """Return all lines in their order."""
        return (*self.base, *self.image, *self.options)

    def text(self, storage: Sequence[tuple[str, str]] = ()) -> bytes:
        """Return what is appended to the container's configuration; `storage` are the lines of the rootfs's form."""
        base = (*self.base, *(Line(key, value) for key, value in storage))
        return b"".join(lxcconfig.render(line) for line in base) + self.blocks()

    def blocks(self) -> bytes:
        """Return the marked blocks."""
        parts = [lxcconfig.block(lxcconfig.IMAGE_BLOCK, self.image)]
        if self.options:
            parts.append(lxcconfig.block(lxcconfig.OPTIONS_BLOCK, self.options))
        return b"".join(parts)


def host_facts(
    directory: str,
    name: str,
    configuration: Sequence[Line],
    forbidden: Sequence[str] = (),
    share: str = SHARE,
    *,
    confined: bool = False,
) -> HostFacts:
    """Gather the facts; `forbidden` are directories that hold what images bring, such as the store.

    A `confined` process has read the image and serves the host's root, who reads no file of its making: no fstab.
    """
    places = (os.path.dirname(directory), "/var/lib/lxc", "/var/lib/lxc-oci-py", *forbidden)
    return HostFacts(
        name,
        directory,
        lxcversion.major(),
        idmap.from_config(configuration),
        tuple(configuration),
        guestfiles.host_resolv_conf(),
        environment.HostPaths(places, initial_namespace=userns.current().initial),
        share,
        not confined and not lxcconfig.last(configuration, "lxc.mount.fstab"),
    )


def plan_guest(
    config: ImageConfig,
    overrides: Overrides,
    root: Root,
    host: HostFacts,
    limits: Limits,
    warn: Callable[[str], None],
) -> Guest:
    """Decide how `config`, changed by `overrides`, becomes a container over the image below `root`.

    Raises RefusedError for what the image asks and cannot have, UsageError for the user's mistakes and
    UnsupportedError for what this host cannot carry.
    """
    hostname = guestfiles.check_hostname(
        overrides.hostname or host.name, "--hostname" if overrides.hostname else "the container's name"
    )
    identity = _identity(config, overrides, root, host, limits, warn)
    if len(config.volumes) > limits.volumes:
        raise RefusedError(
            f"the image has {len(config.volumes)} volumes, more than the limit of {limits.volumes}",
            "if that is right, raise volumes in /etc/lxc-oci-py/limits.conf",
        )
    mounts = volumes.plan(config.volumes, overrides.volumes, overrides.tmpfs, root, host.directory, warn)
    variables = environment.plan(config.env, overrides.env, identity.home, host.lxc_major, host.paths, limits, warn)
    arguments = _arguments(config, overrides, root, limits)
    system = _is_system_init(arguments[0])
    net = network.plan(overrides, host.configuration, host.directory, system=system)
    directory, inside = _working_directory(config, overrides, root, identity, host)
    if command.find(arguments[0], variables.path, directory, root) is None:
        warn(f"the image has no program {arguments[0]!r:.200} that can be run")

    image: list[Line] = []
    options: list[Line] = []
    by_option = options if overrides.entrypoint is not None or overrides.cmd is not None else image
    values = command.values(arguments, host.lxc_major)
    if variables.wrapped or inside or values.init is None or values.execute is None:
        binary = _build(arguments, variables, directory if inside else "", config, host)
        source = os.path.join(host.directory, host.guest_directory)
        image.append(lxcconfig.mount_entry(source, MOUNT_POINT, "none", "bind,ro,nosuid,nodev,create=dir"))
        values = command.Values(WRAPPER, WRAPPER)
    else:
        binary = b""
    assert values.init is not None and values.execute is not None
    by_option += [Line("lxc.init.cmd", values.init), Line("lxc.execute.cmd", values.execute)]
    (options if overrides.user else image).extend(_identity_lines(identity))
    (options if overrides.workdir else image).append(Line("lxc.init.cwd", "/" if inside else directory))
    signal = _halt_signal(config, system, arguments[0], root)
    if signal:
        image.append(Line("lxc.signal.halt", signal))
    image += variables.image
    image += mounts.image
    if mounts.fstab and not host.fstab:
        image += [Line("lxc.mount.entry", entry) for entry in mounts.fstab]
        mounts = mounts._replace(fstab=())
    elif mounts.fstab:
        image.append(Line("lxc.mount.fstab", os.path.join(host.directory, volumes.FSTAB)))
    image += net.image
    image += _console_lines(host)
    options += variables.user
    options += mounts.options
    options += net.options
    _check_exec(arguments, variables, limits)
    return Guest(
        _base_lines(host, hostname),
        tuple(image),
        tuple(options),
        (
            *guestfiles.identity_files(hostname),
            *guestfiles.resolv_conf(root, net.dns, host.resolv_conf, system=system, needed=net.dhcp_dns),
        ),
        mounts,
        directory,
        binary,
        0o711 if wrapper.is_binary(config.platform.architecture) else 0o755,
        host.resolv_conf if net.dhcp_dns else None,
    )


def write_guest(guest: Guest, root: Root, host: HostFacts) -> None:
    """Make what `guest` says: files in the root, the wrapper and the volumes in the container's directory.

    Raises OciError and OSError; what is done twice is the same as once.
    """
    guestfiles.write(root, guest.files)
    volumes.write(guest.mounts, root, host.directory)
    paths.make_directory(root, guest.working_directory)
    if guest.resolv_conf is not None:
        path = os.path.join(host.directory, network.RESOLV_CONF)
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        durable.replace_file(path, guest.resolv_conf)
    if not guest.wrapper:
        return
    _make_mount_point(root)
    home = os.path.join(host.directory, host.guest_directory)
    os.makedirs(home, mode=0o755, exist_ok=True)
    os.chmod(home, 0o755)  # the umask is undone: in the guest any user enters it
    durable.replace_file(os.path.join(home, os.path.basename(WRAPPER)), guest.wrapper, guest.wrapper_mode)


def _make_mount_point(root: Root) -> None:
    """Make /.oci-py a directory: LXC refuses to mount on a link, and the image has no use for the name."""
    name = MOUNT_POINT.encode()
    try:
        os.unlink(name, dir_fd=root.fd)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):  # POSIX lets unlink of a directory give EPERM
        return
    os.mkdir(name, 0o755, dir_fd=root.fd)
    os.chmod(name, 0o755, dir_fd=root.fd)  # just made by us, so no link: the umask is undone


def _base_lines(host: HostFacts, hostname: str) -> tuple[Line, ...]:
    """Return what upstream's template writes too: the includes carry capabilities, seccomp, devices and hooks."""
    lines = [Line("lxc.mount.auto", AUTOMATIC_MOUNTS)]
    names = ["common.conf", *(["userns.conf"] if host.idmap else []), "oci.common.conf"]
    for name in names:
        path = os.path.join(host.share, name)
        if os.path.exists(path):
            lines.append(Line("lxc.include", path))
    lines.append(Line("lxc.uts.name", hostname))
    return tuple(lines)


def _identity(
    config: ImageConfig,
    overrides: Overrides,
    root: Root,
    host: HostFacts,
    limits: Limits,
    warn: Callable[[str], None],
) -> users.Identity:
    text = overrides.user or config.user
    identity = users.identify(text, root, host.idmap, limits)
    if identity.groups and host.idmap and host.lxc_major < _GROUPS_WITH_IDMAP_SINCE:
        warn(
            f"the user {text or 'root'!r:.100} is in further groups of the image, "
            f"which LXC before {_GROUPS_WITH_IDMAP_SINCE} does not set in a container with an id map"
        )
    return identity


def _identity_lines(identity: users.Identity) -> list[Line]:
    lines = [Line("lxc.init.uid", str(identity.uid)), Line("lxc.init.gid", str(identity.gid))]
    if identity.groups:
        lines.append(Line("lxc.init.groups", ",".join(map(str, identity.groups))))
    return lines


def _arguments(config: ImageConfig, overrides: Overrides, root: Root, limits: Limits) -> tuple[str, ...]:
    arguments = command.combine(config, overrides, limits)
    if arguments:
        return arguments
    if command.find("/bin/sh", "", "/", root) is None:
        raise RefusedError("the image names no command and has no /bin/sh", "choose one with --entrypoint")
    return ("/bin/sh",)


def _is_system_init(program: str) -> bool:
    return bool(_SYSTEM_INIT.fullmatch(program))


def _halt_signal(config: ImageConfig, system: bool, program: str, root: Root) -> str:
    """Return the value of `lxc.signal.halt`; `` leaves it to LXC, which asks PID 1 only when the key is unset."""
    if config.stop_signal:
        return stopsignal.halt_signal(config.stop_signal)
    if not system:
        return stopsignal.DEFAULT
    try:
        target = paths.real(root, program, "the image's init")
    except (OSError, RefusedError):
        return ""
    return "SIGUSR1" if os.path.basename(target) == "busybox" else ""  # busybox init ignores SIGPWR


def _working_directory(
    config: ImageConfig, overrides: Overrides, root: Root, identity: users.Identity, host: HostFacts
) -> tuple[str, bool]:
    """Return the directory, and whether the wrapper must enter it instead of LXC.

    LXC enters lxc.init.cwd while it still holds descriptors of the host's directories: a link to
    /proc/self/fd/N there leads out of the container (CVE-2024-21626 in runc; seen with LXC 5.0.2).  A directory
    whose path the container's processes could change before the next start is therefore not given to LXC: where
    they may rename a component, and where they run as the root of a container that an id map confines.
    """
    what = "--workdir" if overrides.workdir else "the image's WorkingDir"
    path = overrides.workdir or config.working_dir or "/"
    directory = paths.real(root, paths.plain(path, what), what)
    if directory == "/" or not wrapper.is_binary(config.platform.architecture):
        return directory, False
    confined = identity.uid != 0 or host.idmap is None
    return directory, not (confined and paths.only_roots_to_change(root, directory))


def _build(
    arguments: tuple[str, ...], variables: environment.Environment, directory: str, config: ImageConfig, host: HostFacts
) -> bytes:
    if os.statvfs(host.directory).f_flag & os.ST_NOEXEC:
        raise UnsupportedError(
            f"{host.directory} lies on a file system mounted noexec, and this image's command needs a program there",
            "use another lxcpath",
        )
    programs = command.candidates(arguments[0], variables.path)
    return wrapper.build(wrapper.Job(programs, arguments, variables.wrapped, directory), config.platform.architecture)


def _console_lines(host: HostFacts) -> list[Line]:
    """Return the log of what the application writes: two files of at most 4 MiB, unless the user set a console."""
    if any(line.key.startswith("lxc.console.") for line in host.configuration):
        return []
    return [
        Line("lxc.console.logfile", os.path.join(host.directory, CONSOLE_LOG)),
        Line("lxc.console.size", "4MB"),
        Line("lxc.console.rotate", "1"),
    ]


def _check_exec(arguments: Sequence[str], variables: environment.Environment, limits: Limits) -> None:
    strings = [*arguments, *(line.value for line in (*variables.image, *variables.user))]
    strings += [f"{name}={value}" for name, value in variables.wrapped]
    total = sum(len(encode(text)) + 9 for text in strings)  # its NUL and its pointer
    if total > _EXEC_BYTES:
        raise RefusedError(
            f"the command and its environment have {total} bytes, more than the {_EXEC_BYTES} that the kernel takes",
            "give the program its data in a file",
        )
