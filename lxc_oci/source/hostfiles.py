# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of the host that steer a pull: where they are, for whom, and how they are read.

Inside the user namespace of lxc-create the environment is still the calling user's, so these are the user's files.
"""

import os
import pwd
from collections.abc import Mapping, Sequence

from lxc_oci.errors import UsageError
from lxc_oci.kernel import userns

_MAXIMUM = 4 << 20


def home(environment: Mapping[str, str]) -> str:
    """Return the user's home directory, `/` when there is none."""
    found = environment.get("HOME", "")
    if os.path.isabs(found):
        return found
    try:
        return pwd.getpwuid(os.getuid()).pw_dir or "/"
    except KeyError:
        return "/"


def policies(environment: Mapping[str, str], system: str = "/etc/containers") -> tuple[str, str]:
    """Return the paths of the user's and of the system's policy.json; the first that exists counts."""
    return f"{home(environment)}/.config/containers/policy.json", f"{system}/policy.json"


def config_home(environment: Mapping[str, str]) -> str:
    """Return $XDG_CONFIG_HOME or its default."""
    found = environment.get("XDG_CONFIG_HOME", "")
    return found if os.path.isabs(found) else os.path.join(home(environment), ".config")


def runtime(environment: Mapping[str, str]) -> str:
    """Return the directory of the auth.json that `podman login` writes: below $XDG_RUNTIME_DIR or its default."""
    found = environment.get("XDG_RUNTIME_DIR", "")
    return os.path.join(found, "containers") if found else f"/run/containers/{_caller(environment)}"


def _caller(environment: Mapping[str, str]) -> int:
    """Return the host's id of the user: inside a namespace, of whom the home directory belongs to."""
    idmap = userns.current()
    try:
        owner = os.getuid() if idmap.initial else os.stat(home(environment)).st_uid
    except OSError:
        owner = os.getuid()
    for extent in idmap.uids:
        if extent.inside <= owner < extent.inside + extent.count:
            return extent.outside + owner - extent.inside
    return owner


def read(path: str) -> bytes:
    """Return what `path` holds.  Raises OSError, and UsageError for a file that cannot be a configuration."""
    # A FIFO must not hang us.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        content = file.read(_MAXIMUM + 1)
    if content is None or len(content) > _MAXIMUM:
        raise UsageError(f"{path} is too large for a configuration file")
    return content


CERTIFICATES = ("/etc/containers/certs.d", "/etc/docker/certs.d")  # after the user's own
_OWN = ("policy.json", "registries.conf", "registries.conf.d", "certs.d", "auth.json")  # in a `containers` directory


def copy_own(
    environment: Mapping[str, str],
    authfile: str | None,
    directory: str,
    certificates: Sequence[str] = CERTIFICATES,
) -> dict[str, str]:
    """Copy the user's own files below `directory`, and return the variables that lead to them there.

    For a process that cannot read the user's home, in which a policy must not seem to be missing, nor the host's
    private keys for registries.  `authfile` is what stands for REGISTRY_AUTH_FILE, if anything does.  Raises OSError.
    """
    own, settings = home(environment), config_home(environment)
    named = authfile or environment.get("REGISTRY_AUTH_FILE", "")
    docker = environment.get("DOCKER_CONFIG", "") or os.path.join(own, ".docker")
    for name in _OWN:
        _copy(os.path.join(own, ".config/containers", name), os.path.join(directory, ".config/containers", name))
        _copy(os.path.join(settings, "containers", name), os.path.join(directory, "config/containers", name))
    for parent in certificates:
        for host in os.listdir(parent) if os.path.isdir(parent) else ():
            # The first directory that a host has is the one that counts.
            target = os.path.join(directory, ".config/containers/certs.d", host)
            if not os.path.exists(target):
                _copy(os.path.join(parent, host), target)
    _copy(os.path.join(runtime(environment), "auth.json"), os.path.join(directory, "run/containers/auth.json"))
    _copy(os.path.join(docker, "config.json"), os.path.join(directory, ".docker/config.json"))
    _copy(os.path.join(own, ".dockercfg"), os.path.join(directory, ".dockercfg"))
    found = {
        "HOME": directory,
        "XDG_CONFIG_HOME": os.path.join(directory, "config"),
        "XDG_RUNTIME_DIR": os.path.join(directory, "run"),
        "DOCKER_CONFIG": os.path.join(directory, ".docker"),
    }
    if named:
        copy = os.path.join(directory, "named.json")
        _copy(os.path.abspath(named), copy)
        found["REGISTRY_AUTH_FILE"] = copy if os.path.exists(copy) else named
    return found


def _copy(source: str, target: str) -> None:
    """Copy a file or a directory with what links in it lead to; what is missing is left out."""
    import shutil

    if not os.path.exists(source):
        return
    os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
    if os.path.isdir(source):
        shutil.copytree(source, target, ignore_dangling_symlinks=True)
    else:
        shutil.copyfile(source, target)
