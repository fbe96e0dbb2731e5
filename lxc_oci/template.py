# SPDX-License-Identifier: LGPL-2.1-or-later
"""LXC's template: from its arguments to a request, and from a create's answer to the container's configuration.

What a create is, is told in lxc_oci.create.
"""

import argparse
import os
import re
import select
import sys

from lxc_oci import limits as limit
from lxc_oci.container import environment, guest, lxcconfig, overrides, paths
from lxc_oci.container.lxcconfig import Line
from lxc_oci.container.overrides import Overrides
from lxc_oci.create import Request, create
from lxc_oci.errors import RefusedError, UsageError
from lxc_oci.image import platform as platforms
from lxc_oci.kernel import durable, userns
from lxc_oci.kernel.root import Root, remove_tree
from lxc_oci.limits import Limits
from lxc_oci.log import Level, Log
from lxc_oci.options import read_password
from lxc_oci.progress import Progress
from lxc_oci.source.open import SourceOptions, parse_url
from lxc_oci.store import home
from lxc_oci.store.home import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_PARENT_SECONDS = 2.0  # that lxc-create may take to die of the same ^C


def run(arguments: argparse.Namespace, log: Log) -> None:
    """Create the container that lxc-create asks for.  Raises OciError and OSError; then nothing of ours is left."""
    request = _request(arguments, log)
    limits = limit.load()
    parent = os.getppid()
    idmap = userns.current()
    try:
        if idmap.maps_host_root:
            log.info("the image is unpacked into the container: root's store is not for containers with an idmap")
            _append(request.directory, _confined(request, limits, log), arguments)
        else:
            store = None if arguments.no_cache else _open_store(arguments)
            with Progress(sys.stderr, quiet=log.level is Level.QUIET) as progress:
                create(request, store, limits, log, progress, lambda text: _append(request.directory, text, arguments))
    except BaseException as error:
        # A signal may have reached lxc-create too, which is then about to end; nothing else takes it with us.
        _remove_what_lxc_left(request.directory, parent, 0.0 if isinstance(error, Exception) else _PARENT_SECONDS)
        raise


def _request(arguments: argparse.Namespace, log: Log) -> Request:
    """Check the arguments.  Raises UsageError."""
    if not (arguments.name and arguments.path and arguments.rootfs):
        raise UsageError("this is a template of LXC's", "run lxc-create -t oci-py -n NAME -- --url URL")
    if not arguments.url:
        raise UsageError("no image is named", "give --url URL, such as --url docker://docker.io/library/nginx:1.27")
    if not _NAME.match(arguments.name):
        raise UsageError(f"{arguments.name!r:.100} is not a name for a container", "use letters, digits, - _ and .")
    if arguments.dhcp and arguments.no_dhcp:
        raise UsageError("--dhcp and --no-dhcp exclude each other")
    if arguments.password is not None:
        log.warn("LXC writes --password into the container's configuration; --password-file or --authfile do not")
    directory = os.path.abspath(arguments.path)
    return Request(
        reference=parse_url(arguments.url),
        name=arguments.name,
        directory=directory,
        rootfs=os.path.abspath(arguments.rootfs),
        source=SourceOptions(
            temporary=directory,
            authfile=arguments.authfile,
            username=arguments.username,
            password=read_password(arguments),
            insecure=arguments.insecure,
            platform=platforms.parse(arguments.platform) if arguments.platform else None,
        ),
        overrides=_overrides(arguments),
        configuration=tuple(lxcconfig.read(os.path.join(directory, "config"))),
        storage=arguments.storage,
        mount_helper=arguments.mount_helper,
        kernel_mount=not arguments.no_kernel_mount,
        require_verity=arguments.require_verity,
    )


def _overrides(arguments: argparse.Namespace) -> Overrides:
    return Overrides(
        entrypoint=None if arguments.entrypoint is None else overrides.words(arguments.entrypoint, "--entrypoint"),
        cmd=None if arguments.cmd is None else overrides.words(arguments.cmd, "--cmd"),
        env=overrides.environment(arguments.env_file, arguments.env),
        user=arguments.user or "",
        workdir=arguments.workdir or "",
        hostname=arguments.hostname or "",
        volumes=tuple(overrides.volume(text) for text in arguments.volume),
        tmpfs=tuple(overrides.tmpfs(text) for text in arguments.tmpfs),
        dhcp=True if arguments.dhcp else False if arguments.no_dhcp else None,
        address=tuple(arguments.address),
        gateway=tuple(arguments.gateway),
        dns=tuple(arguments.dns),
    )


def _open_store(arguments: argparse.Namespace) -> Store:
    path = os.path.abspath(arguments.store) if arguments.store else home.default_path(os.environ)
    caller = None if arguments.mapped_uid is None else (arguments.mapped_uid, arguments.mapped_gid)
    store = home.open_store(path, caller=caller)
    store.clear_leftovers()
    return store


def _confined(request: Request, limits: Limits, log: Log) -> bytes:
    """Create without a store, in a process for which the host's root does not exist.

    It cannot read root's own policy and logins either, so it gets copies, for as long as it lives.
    """
    import tempfile

    from lxc_oci.kernel.confine import without_host_root
    from lxc_oci.source import hostfiles

    with tempfile.TemporaryDirectory(prefix=".lxc-oci-py-", dir=request.directory) as settings:
        environment = hostfiles.copy_own(os.environ, request.source.authfile, settings)
        source = request.source._replace(authfile=None)

        texts: list[bytes] = []

        def work() -> str:
            os.environ.update(environment)
            with Progress(sys.stderr, quiet=log.level is Level.QUIET) as progress:
                create(request._replace(source=source, confined=True), None, limits, log, progress, texts.append)
            return texts[0].decode("utf-8", "surrogateescape")

        text = str(without_host_root(work)).encode("utf-8", "surrogateescape")
    _check_answer(text, request)
    return text


_HOOK = re.compile(r"/usr/share/lxc/hooks/oci-py-[a-z]+\Z")
_FIXED = {"lxc.mount.auto": guest.AUTOMATIC_MOUNTS, "lxc.console.size": "4MB", "lxc.console.rotate": "1"}
_NEVER = ("lxc.rootfs.path", "lxc.rootfs.options", "lxc.mount.fstab", "lxc.console.buffer.size")
# What a create mounts: (type, options).
_OF_USER = re.compile(r"none rbind(,ro,nosuid,nodev)?\Z")
_OF_CONTAINER = re.compile(r"none bind(,ro,nosuid,nodev,create=dir)?\Z")
_IN_MEMORY = re.compile(r"tmpfs nosuid,nodev,mode=1777(,create=dir)?(,size=[0-9]+[kmgKMG%]?)?\Z")
_OCTAL = re.compile(r"\\([0-7]{3})")


def _check_answer(text: bytes, request: Request) -> None:
    """Refuse lines that no create writes: they come from a process that has read the image."""
    host = guest.host_facts(request.directory, request.name, request.configuration, confined=True)
    for line in lxcconfig.parse(text):
        lxcconfig.render(line)
        if not _is_of_a_create(line, request, host):
            raise RefusedError(f"the confined part of the create answered with {line.key} = {line.value!r:.100}")


def _is_of_a_create(line: Line, request: Request, host: guest.HostFacts) -> bool:
    key, value = line
    if key.startswith("lxc.hook.") or key.endswith(".script.down"):
        return bool(_HOOK.match(value))
    if key == "lxc.include":
        return os.path.dirname(value) == guest.SHARE
    if key == "lxc.mount.entry":
        return _is_mount_of_a_create(value, request)
    if key == "lxc.console.logfile":
        return os.path.dirname(value) == request.directory and not os.path.lexists(value)
    if key == "lxc.environment":
        name, equals, content = value.partition("=")  # a name alone imports the host's variable
        return bool(equals) and environment.harmless(name, content, host.paths)
    if key == "lxc.environment.runtime":
        return "=" in value and host.lxc_major >= environment.RUNTIME_KEY_SINCE
    if key == "lxc.init.cwd":  # which LXC enters with descriptors of the host open
        with Root.at(request.rootfs) as root:
            return paths.real(root, paths.plain(value, key), key) == value
    return key not in _NEVER and value == _FIXED.get(key, value)


def _is_mount_of_a_create(entry: str, request: Request) -> bool:
    words = [_OCTAL.sub(lambda match: chr(int(match[1], 8)), word) for word in entry.split(" ")]
    if len(words) != 6 or words[4:] != ["0", "0"]:
        return False
    source, target, form = words[0], words[1].split("/"), " ".join(words[2:4])
    if not words[1] or {"", ".", ".."} & set(target) or (target[0] in ("proc", "sys", "dev") and words[1] != "dev/shm"):
        return False
    if source == "tmpfs":
        return bool(_IN_MEMORY.match(form))
    if source in {volume.host for volume in request.overrides.volumes}:
        return bool(_OF_USER.match(form))
    # LXC follows links in a source, as the host's root.
    inside = os.path.realpath(source).startswith(os.path.realpath(request.directory) + "/")
    return inside and bool(_OF_CONTAINER.match(form))


def _append(directory: str, block: bytes, arguments: argparse.Namespace) -> None:
    """Put `block` at the end of the configuration, atomically, its owner and mode kept."""
    path = os.path.join(directory, "config")
    with open(path, "rb") as file:
        text = file.read()
        status = os.fstat(file.fileno())
    if text and not text.endswith(b"\n"):
        text += b"\n"
    durable.replace_file(path, text + block, status.st_mode & 0o7777)
    if arguments.mapped_uid is not None and arguments.mapped_gid is not None:
        os.chown(path, arguments.mapped_uid, arguments.mapped_gid)
    else:
        os.chown(path, status.st_uid, status.st_gid)


def _remove_what_lxc_left(directory: str, parent: int, seconds: float) -> None:
    """Remove the half-made container when lxc-create is dead, as it is after ^C: it would be in the way next time.

    LXC's own mark of a container that is not complete is the file `partial`.
    """
    if not os.path.lexists(os.path.join(directory, "partial")) or not _dead(parent, seconds):
        return
    above, name = os.path.split(directory)
    fd = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(fd, os.fsencode(name))
    except OSError:
        pass  # a user namespace may not own the directory itself; its content is gone
    finally:
        os.close(fd)


def _dead(parent: int, seconds: float) -> bool:
    """Tell whether the process that started us has ended, or ends in the next `seconds`."""
    if os.getppid() != parent:
        return True
    try:
        fd = os.pidfd_open(parent)
    except OSError:
        return True
    try:
        readable, _, _ = select.select([fd], [], [], seconds)
        return bool(readable)
    finally:
        os.close(fd)
