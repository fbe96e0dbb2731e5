# SPDX-License-Identifier: LGPL-2.1-or-later
"""The few files that a container gets beside its image's: host name, hosts, resolv.conf.

All are written through Root as new regular files in the place of whatever the image had there.  Links are not
kept: LXC itself writes etc/hostname through one, on the host, when it copies a container.
"""

import os
import re
import stat
from typing import NamedTuple

from lxc_oci.container import paths
from lxc_oci.errors import OciError, RefusedError, UsageError
from lxc_oci.kernel import run
from lxc_oci.kernel.root import Root, remove_tree

# RFC 1123 and the underscore that compose projects have in their names; the kernel takes 64 bytes.
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9_])?\Z")
_RESOLV_CONF = "/etc/resolv.conf"
_UPSTREAM_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"
_RESOLV_BYTES = 65536
_COPY_TIME = 600


class GuestFile(NamedTuple):
    """A regular file for the container, root's, mode 0644."""

    name: str  # below the root
    content: bytes


def check_hostname(name: str, option: str) -> str:
    """Return `name` if it can be a host name.  Raises UsageError."""
    if not _HOSTNAME.match(name):
        raise UsageError(
            f"{option} {name!r:.100} is no host name",
            "letters, digits, '-', '_' and '.', at most 63, beginning with a letter or a digit",
        )
    return name


def identity_files(hostname: str) -> tuple[GuestFile, ...]:
    """Return etc/hostname and etc/hosts."""
    hosts = (
        "127.0.0.1\tlocalhost\n"
        f"127.0.1.1\t{hostname}\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "ff02::1\tip6-allnodes\n"
        "ff02::2\tip6-allrouters\n"
    )
    return GuestFile("etc/hostname", f"{hostname}\n".encode()), GuestFile("etc/hosts", hosts.encode())


def host_resolv_conf() -> bytes:
    """Return the host's resolv.conf with servers that a container can reach, or b"" when there is none.

    systemd-resolved writes its stub on 127.0.0.53 into the usual file and the real servers into its own.
    """
    content = _read(_RESOLV_CONF)
    if _servers(content) and all(server.startswith(b"127.") or server == b"::1" for server in _servers(content)):
        return _read(_UPSTREAM_RESOLV_CONF) or content
    return content


def resolv_conf(
    root: Root, dns: tuple[str, ...], host: bytes, *, system: bool, needed: bool = False
) -> tuple[GuestFile, ...]:
    """Return the resolv.conf that the container needs: with `dns` servers, else the host's, unless the image has one.

    `needed` asks for a regular file in any case: another is mounted on it.  An empty file is what image builders
    leave behind and counts as none; a link that leads nowhere is the image's own only where an init (`system`) will
    make its target.
    """
    name = "etc/resolv.conf"
    if dns:
        return (GuestFile(name, "".join(f"nameserver {server}\n" for server in dns).encode()),)
    try:
        status = root.lstat(name.encode())
        if needed:
            return () if stat.S_ISREG(status.st_mode) else (GuestFile(name, host),)
        if stat.S_ISLNK(status.st_mode):
            if system:
                return ()
            status = root.stat(name.encode())
        if not stat.S_ISREG(status.st_mode) or status.st_size:
            return ()
    except OSError:
        pass  # missing, or a link to nowhere
    return (GuestFile(name, host),) if host or needed else ()


def write(root: Root, files: tuple[GuestFile, ...]) -> None:
    """Put `files` into the root.  Raises OSError."""
    real_etc(root)
    for file in files:
        name = file.name.encode()
        os.close(root.make_directories(os.path.dirname(name)))
        try:
            root.replace_file(name, file.content)
        except IsADirectoryError:
            directory, base = root.parent(name)
            try:
                remove_tree(directory, base)
            finally:
                os.close(directory)
            root.replace_file(name, file.content)


def real_etc(root: Root) -> None:
    """Make `etc` a directory of the root itself; one that it linked to is copied, for LXC writes there by path."""
    try:
        status = root.lstat(b"etc")
    except FileNotFoundError:
        os.close(root.make_directories(b"etc"))
        return
    if stat.S_ISDIR(status.st_mode):
        return
    source = None
    if stat.S_ISLNK(status.st_mode):
        try:
            real = paths.real(root, "/etc", "the image's")
            source = root.open(real.encode("utf-8", "surrogateescape"), os.O_RDONLY | os.O_DIRECTORY)
        except (OSError, RefusedError):
            source = None
    try:
        os.unlink(b"etc", dir_fd=root.fd)
        os.close(root.make_directories(b"etc"))
        if source is not None:
            target = root.open(b"etc", os.O_RDONLY | os.O_DIRECTORY)
            try:
                copy_directory(source, target)
            finally:
                os.close(target)
    finally:
        if source is not None:
            os.close(source)


def copy_directory(source: int, target: int, seconds: float = _COPY_TIME) -> None:
    """Copy what is in the directory `source` into the directory `target`, and its own attributes, links as links.

    Both are descriptors of directories that no one changes meanwhile; it may take so many `seconds`.  Raises OciError.
    """
    cp = run.require("cp", "coreutils")
    argv = [cp, "-a", "--reflink=auto", "--one-file-system", "-T", "--"]
    argv += [f"/proc/self/fd/{source}/.", f"/proc/self/fd/{target}/."]
    result = run.run(argv, timeout=seconds, pass_fds=(source, target))
    if result.status:
        raise OciError(f"cannot copy a directory of the image: {result.message()}")


def _servers(content: bytes) -> list[bytes]:
    words = (line.split() for line in content.split(b"\n"))
    return [word[1] for word in words if len(word) > 1 and word[0] == b"nameserver"]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_RESOLV_BYTES)
    except OSError:
        return b""
