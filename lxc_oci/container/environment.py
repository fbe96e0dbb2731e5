# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which variables the guest gets, and by which way each of them goes.

Before LXC 7, `lxc.environment` is set in a process of the host before root's hooks run in it (start.c do_start):
an image's LD_PRELOAD or PATH would steer them.  So there a variable that can steer a host process goes to the
guest only, by the wrapper: by its name, or because its value names a file that others than the host's root may have
filled, such as one of the image's own in the store.  LXC 7 has `lxc.environment.runtime`, which is set after the last
hook.
"""

import os
import re
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from lxc_oci.container.lxcconfig import Line, encode, representable
from lxc_oci.errors import RefusedError
from lxc_oci.limits import Limits

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RUNTIME_KEY_SINCE = 7

# The dynamic loader and libc (glibc sysdeps/generic/unsecvars.h, ld.so(8), musl), shells, interpreters, and what
# the tools that hooks run read from the environment.
_STEERING_PREFIXES = (
    "AWK",
    "BASH",
    "DBUS_",
    "GCONV",
    "GETCONF",
    "GCOV_",
    "GIO_",
    "GIT_",
    "GLIBC_",
    "JAVA_",
    "JDK_",
    "LD_",
    "LESS",
    "LIBMOUNT_",
    "LIBBLKID_",
    "LISTEN_",
    "LLVM_",
    "LUA_",
    "LXC_",
    "MALLOC_",
    "NODE_",
    "NOTIFY_",
    "OPENSSL_",
    "PERL",
    "PHP_INI_SCAN_",
    "PYTHON",
    "RES_",
    "RESOLV_",
    "RUBY",
    "SSH_",
    "SYSTEMD_",
    "TCL",
    "TERMINFO",
    "_JAVA",
)
_STEERING_NAMES = frozenset(
    {
        "CDPATH",
        "APT_CONFIG",
        "CLASSPATH",
        "CURL_HOME",
        "ENV",
        "FPATH",
        "GLOBIGNORE",
        "GTK_MODULES",
        "HOSTALIASES",
        "IFS",
        "KRB5_CONFIG",
        "LOCALDOMAIN",
        "LOCPATH",
        "LOCALE_ARCHIVE",
        "MAIL",
        "NIS_PATH",
        "NLSPATH",
        "PAGER",
        "POSIXLY_CORRECT",
        "PROMPT_COMMAND",
        "PS1",
        "PS2",
        "PS3",
        "PS4",
        "SHELL",
        "SHELLOPTS",
        "SSLKEYLOGFILE",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "SUDO_ASKPASS",
        "TERMCAP",
        "TEXTDOMAIN",
        "TEXTDOMAINDIR",
        "TZDIR",
        "VISUAL",
        "EDITOR",
        "ZDOTDIR",
    }
)
# Arguments, modules and commands of whatever tool: TAR_OPTIONS, RSYNC_RSH.
_STEERING_SUFFIXES = (
    "_LOGFILE",
    "_LOG_FILE",
    "_MODULES",
    "_OPTIONS",
    "_OPTS",
    "_PAGER",
    "_PLUGINS",
    "_PRELOAD",
    "_RSH",
    "_SHELL",
)
_LOCALES = re.compile(r"LANG(UAGE)?\Z|LC_")  # gettext opens what LANGUAGE names, "../" and all
# Directories that a host process would read or run from: free where only root can fill them.
_PATH_NAMES = frozenset(
    {
        "HOME",
        "PATH",
        "TEMP",
        "TMP",
        "TMPDIR",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_DIRS",
        "XDG_CONFIG_HOME",
        "XDG_DATA_DIRS",
        "XDG_DATA_HOME",
        "XDG_RUNTIME_DIR",
        "XDG_STATE_HOME",
    }
)
_PATH_SUFFIXES = ("RC", "_LIBDIR", "_LIB_DIR")  # WGETRC, XTABLES_LIBDIR
_WORLD = stat.S_IWGRP | stat.S_IWOTH
_PATH_BYTES = 4095  # PATH_MAX without its NUL
_PATHS = 64  # in one value, that are looked at
_BETWEEN = re.compile(r"[^\w./~-]+")  # what stands between the paths and other words of a value


class Environment(NamedTuple):
    """The guest's variables, each by one way; `home` and the default PATH are in."""

    image: tuple[Line, ...]  # configuration lines for the variables of the image
    user: tuple[Line, ...]  # and for those of the user, which LXC reads later and so prefers
    wrapped: tuple[tuple[str, str], ...]  # what only the wrapper may bring
    path: str  # the guest's PATH


def plan(
    image: Sequence[str],
    user: Sequence[tuple[str, str]],
    home: str,
    lxc_major: int,
    host: "Paths",
    limits: Limits,
    warn: Callable[[str], None],
) -> Environment:
    """Decide the way of every variable.

    Where neither the image nor the user sets them, PATH is the usual one and HOME is `home`.
    Raises RefusedError beyond the limits and for a NUL.
    """
    theirs = _unique(_image_variables(image, warn), limits)
    ours = _unique(list(user), limits)
    if "PATH" not in theirs and "PATH" not in ours:
        theirs["PATH"] = DEFAULT_PATH
    if "HOME" not in theirs and "HOME" not in ours:
        theirs |= _unique([("HOME", home)], limits)  # the image's /etc/passwd has it
    effective = {**theirs, **ours}
    total = sum(len(encode(name)) + len(encode(value)) + 2 for name, value in effective.items())
    if total > limits.environment_bytes:
        raise RefusedError(
            f"the environment has {total} bytes, more than the limit of {limits.environment_bytes}",
            "the limits are listed in lxc-oci-py(1)",
        )
    key = "lxc.environment.runtime" if lxc_major >= RUNTIME_KEY_SINCE else "lxc.environment"
    wrapped: dict[str, str] = {}
    lines: dict[str, list[Line]] = {"image": [], "user": []}
    for origin, variables in (("image", theirs), ("user", ours)):
        for name, value in variables.items():
            if effective[name] != value or (origin == "image" and name in ours):
                continue
            if representable(f"{name}={value}") and (lxc_major >= RUNTIME_KEY_SINCE or harmless(name, value, host)):
                lines[origin].append(Line(key, f"{name}={value}"))
                continue
            wrapped[name] = value
            if name == "PATH":
                rest = ":".join(part for part in value.split(":") if part and host.safe(part))
                if rest and representable(rest):  # so that lxc-attach and lxc-execute find the usual programs
                    lines[origin].append(Line(key, f"PATH={rest}"))
    return Environment(tuple(lines["image"]), tuple(lines["user"]), tuple(wrapped.items()), effective["PATH"])


def harmless(name: str, value: str, host: "Paths") -> bool:
    """Tell whether a process of the host, root's, may have this variable in its environment."""
    if name in _PATH_NAMES:
        return all(host.safe(part) for part in value.split(":"))
    if name == "TZ":  # a name below the system's zoneinfo, or a rule; an absolute path would be opened
        return not value.startswith(("/", ":")) and ".." not in value
    if _LOCALES.match(name):
        return "/" not in value
    if name in _STEERING_NAMES or name.startswith(_STEERING_PREFIXES) or name.endswith(_STEERING_SUFFIXES):
        return False
    if name.endswith(_PATH_SUFFIXES):
        return all(host.safe(part) for part in value.split(":"))
    # An exported shell function is run by name; bash before 2014 ran any value of this form (CVE-2014-6271).
    return not value.startswith("() ") and _names_no_file_of_strangers(value, host)


def _names_no_file_of_strangers(value: str, host: "Paths") -> bool:
    """Tell whether no path in `value` leads to what an image brought, whatever tool reads a file by the variable."""
    words = _BETWEEN.split(value)
    if len(value) <= _PATH_BYTES:
        words.append(value)  # one path with anything in it, such as the name of an lxcpath
    paths = ["/" + word.partition("/")[2] for word in words if "/" in word]
    return "../" not in f"{value}/" and len(paths) <= _PATHS and all(map(host.strange_to_images, paths))


class Paths(Protocol):
    """What a path of the host is, in the eyes of a process that runs hooks."""

    def safe(self, path: str, /) -> bool:
        """Tell whether only root can fill the directory."""

    def strange_to_images(self, path: str, /) -> bool:
        """Tell whether neither images nor every user can have filled it."""


class HostPaths:
    """Which directories of the host only its root can fill, in the eyes of a process that runs hooks.

    `forbidden` are those that hold what images bring: the store, the lxcpath.  In a user namespace, where the
    host's root is an id without a mapping like every other user, only the system's own directories count.
    """

    def __init__(self, forbidden: Sequence[str], *, initial_namespace: bool) -> None:
        self._forbidden = tuple(os.path.realpath(path) for path in forbidden) + ("/proc", "/dev", "/sys", "/run")
        self._initial = initial_namespace
        self._known: dict[tuple[str, bool], bool] = {}

    def safe(self, path: str) -> bool:
        """Tell whether `path`, or its nearest existing ancestor, is only root's to write, links included."""
        return self._judged(path, True)

    def strange_to_images(self, path: str) -> bool:
        """Tell whether nothing that an image brought, and nothing that just anybody may write, is at `path`.

        Directories of other users are none: /var/lib/postgresql is what many images name.
        """
        return self._judged(path, False)

    def _judged(self, path: str, of_root: bool) -> bool:
        key = path, of_root
        if key not in self._known:
            self._known[key] = self._judge(path, of_root)
        return self._known[key]

    def _judge(self, path: str, of_root: bool) -> bool:
        if not path.startswith("/") or "\0" in path or len(path) > _PATH_BYTES or ".." in path.split("/"):
            return False
        real = os.path.realpath(path)
        for place in (os.path.normpath(path), real):
            if any(place == other or place.startswith(other.rstrip("/") + "/") for other in self._forbidden):
                return False
            if not self._chain_is_roots(place, of_root):
                return False
        return True

    def _chain_is_roots(self, path: str, of_root: bool) -> bool:
        """Check every directory from / down to `path`, as far as they exist."""
        place = "/"
        for component in ["", *path.split("/")]:
            place = os.path.join(place, component) if component else place
            try:
                status = os.stat(place)
            except (FileNotFoundError, NotADirectoryError):
                break
            except OSError:
                return False
            if status.st_mode & (_WORLD if of_root and status.st_gid != 0 else stat.S_IWOTH):
                return False
            if of_root and self._initial and status.st_uid != 0:
                return False
        return (
            self._initial or not of_root or path in DEFAULT_PATH.split(":") or place in _SYSTEM_PARENTS or path == "/"
        )


_SYSTEM_PARENTS = frozenset({"/usr", "/usr/local", "/opt", "/root"})


def _image_variables(image: Sequence[str], warn: Callable[[str], None]) -> list[tuple[str, str]]:
    found = []
    for entry in image:
        name, equals, value = entry.partition("=")
        if equals and name:
            found.append((name, value))
        else:
            # `lxc.environment = NAME` imports the variable of the host's process (confile.c).
            warn(f"the image's variable {entry!r:.100} has no name or no value and is left out")
    return found


def _unique(variables: Sequence[tuple[str, str]], limits: Limits) -> dict[str, str]:
    """Return the variables with the last of those that have one name.  Raises RefusedError."""
    if len(variables) > limits.environment_entries:
        raise RefusedError(
            f"the environment has {len(variables)} variables, more than the limit of {limits.environment_entries}",
            "the limits are listed in lxc-oci-py(1)",
        )
    found: dict[str, str] = {}
    for name, value in variables:
        if "\0" in name or "\0" in value:
            raise RefusedError(f"the variable {name!r:.100} has a NUL, which no environment can hold")
        size = len(encode(name)) + len(encode(value)) + 1
        if size > limits.environment_entry_bytes:
            raise RefusedError(
                f"the variable {name!r:.100} has {size} bytes, more than the limit of {limits.environment_entry_bytes}",
                "the kernel takes no longer string",
            )
        found.pop(name, None)
        found[name] = value
    return found
