# SPDX-License-Identifier: LGPL-2.1-or-later
"""The directories of a tree that is being unpacked: found inside the root, kept open, and known to be directories.

Each is kept under its resolved path, every component of which is a real directory, so
a symbolic link that appears, changes or goes cannot make one wrong; a directory
that is removed takes with it all below it.  What is put into them is unpack's.
"""

import errno
import os
import resource
import stat
from typing import Protocol

from lxc_oci.errors import RefusedError
from lxc_oci.kernel import syscalls
from lxc_oci.kernel.root import remove_tree
from lxc_oci.layer import attributes
from lxc_oci.layer.displaced import Displaced
from lxc_oci.limits import Limits

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV
_MAXIMUM_LINKS = 40  # as the kernel in one path
_DIRECTORY_BYTES = 750  # of memory for one that is known, beside its path
NAME_BYTES = 80  # of memory for a name in a set or dictionary, beside its letters


class Directory:
    """One directory.  `fd` is -1 while it is not open."""

    __slots__ = ("above", "base", "below", "fd", "mtime_ns", "opaque", "path", "plain", "upper")

    def __init__(self, above: "Directory | None", base: bytes, path: bytes) -> None:
        self.above = above
        self.base = base
        self.path = path  # from the root, without a slash at either end
        self.fd = -1
        self.below: set[Directory] = set()
        self.upper: set[bytes] = set()  # names that this layer put here
        self.opaque = False  # nothing of lower layers is left in it and below
        self.mtime_ns: int | None = None  # what it has, or gets when the layer is complete
        self.plain: bool | None = None  # new files have the mode asked for and our group


class Imply(Protocol):
    """Makes the missing directory `base` in `parent`, in the place of whatever else is there."""

    def __call__(self, parent: Directory, base: bytes, /) -> None: ...


class Directories:
    """All directories that a layer has touched."""

    def __init__(self, root_fd: int, limits: Limits, displaced: Displaced | None = None) -> None:
        self._root_fd = root_fd
        self.displaced = displaced
        self._limits = limits
        self._names_left = limits.names_bytes
        # The caller's other files need some of the descriptors, too.
        self._most = max(4, min(512, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
        self._open: list[Directory] = []
        self.known: dict[bytes, Directory] = {}  # by resolved path
        self.names: dict[bytes, Directory] = {}  # by a name as written in the layer, links in it and all
        self.exact = False
        self.root = self._new_root()

    def _new_root(self) -> Directory:
        root = self.root = Directory(None, b"", b"")
        root.fd = self._root_fd
        self.known[b""] = root
        self._look(root)
        return root

    def start(self, exact: bool) -> None:
        """Forget everything: another layer begins.  Unless `exact`, no directory is plain: the umask changes modes."""
        self.close()
        self.exact = exact
        self.known.clear()
        self.names.clear()
        self._names_left = self._limits.names_bytes
        self._new_root()

    def close(self) -> None:
        """Close all but the root."""
        for directory in self._open:
            if directory.fd >= 0:
                os.close(directory.fd)
                directory.fd = -1
        self._open.clear()

    def fd(self, directory: Directory) -> int:
        """Return a descriptor of `directory`, valid until the next call.  Raises OSError."""
        if directory.fd >= 0:
            return directory.fd
        if len(self._open) >= self._most:
            self.close()
        above = directory.above
        assert above is not None  # the root is always open
        if above.fd >= 0:
            directory.fd = os.open(directory.base, _FLAGS, dir_fd=above.fd)
        else:
            directory.fd = syscalls.openat2(self._root_fd, directory.path, _FLAGS, 0, _RESOLVE)
        self._open.append(directory)
        if directory.plain is None or directory.mtime_ns is None:
            self._look(directory)
        return directory.fd

    def _look(self, directory: Directory) -> None:
        status = os.fstat(directory.fd)
        if directory.mtime_ns is None:
            directory.mtime_ns = status.st_mtime_ns
        directory.plain = self.exact and not status.st_mode & stat.S_ISGID and not attributes.inherits(directory.fd)

    def remove(self, parent: Directory, base: bytes) -> None:
        """Take `base` out of `parent`, a directory with all below it, where it is kept or for good.  Raises OSError."""
        here = self.fd(parent)
        if self.displaced is not None:
            self.displaced.take(here, base)
        else:
            remove_tree(here, base)

    def get(self, parent: Directory, base: bytes) -> Directory | None:
        """Return the directory `base` of `parent` if this layer has touched it."""
        return self.known.get(parent.path + b"/" + base if parent.path else base)

    def child(self, parent: Directory, base: bytes) -> Directory:
        """Return the directory `base` of `parent`, which exists, without opening it.  Raises RefusedError."""
        path = parent.path + b"/" + base if parent.path else base
        directory = self.known.get(path)
        if directory is None:
            if len(path) >= self._limits.path_bytes:  # by links, a path can grow beyond what any name in the layer has
                raise RefusedError(f"a directory in a layer has a path of more than {self._limits.path_bytes} bytes")
            self.hold(len(path) + _DIRECTORY_BYTES)
            directory = self.known[path] = Directory(parent, base, path)
            parent.below.add(directory)
        return directory

    def hold(self, size: int) -> None:
        """Count `size` more bytes of names that are held in memory until the layer ends.  Raises RefusedError."""
        self._names_left -= size
        if self._names_left < 0:
            raise RefusedError(
                f"the names of a layer need more than {self._limits.names_bytes} bytes together",
                "if that is right, raise names_bytes in /etc/lxc-oci-py/limits.conf",
            )

    def forget(self, parent: Directory, base: bytes) -> None:
        """Drop the directory `base` of `parent` and all below it, because it is removed."""
        self.names.clear()
        directory = self.get(parent, base)
        if directory is None:
            return
        parent.below.remove(directory)
        pending = [directory]
        while pending:
            directory = pending.pop()
            pending.extend(directory.below)
            del self.known[directory.path]
            if directory.fd >= 0:
                os.close(directory.fd)
                directory.fd = -1

    def components(self, name: bytes) -> list[bytes]:
        """Return the components of `name` below the root; `..` is taken away lexically, as by umoci and Go.

        Raises RefusedError for a name over the limits.
        """
        if len(name) > self._limits.path_bytes:
            raise RefusedError(f"a name in a layer has {len(name)} bytes, more than {self._limits.path_bytes}")
        components: list[bytes] = []
        for component in name.split(b"/"):
            if component == b"..":
                del components[-1:]
            elif component not in (b"", b"."):
                components.append(component)
        if len(components) > self._limits.path_depth:
            raise RefusedError(f"a name in a layer has more than {self._limits.path_depth} components")
        return components

    def resolve(self, components: list[bytes], imply: Imply | None) -> Directory:
        """Return the directory that `components` lead to from the root, symbolic links followed inside it.

        What is missing, or is no directory, is made by `imply`; without it, raises FileNotFoundError or
        NotADirectoryError.  Raises RefusedError for a loop of links.
        """
        current = self.root
        pending = components[::-1]
        links = 0
        linked = 0  # components that came by links
        while pending:
            base = pending.pop()
            if base in (b"", b"."):
                continue
            if base == b"..":  # `current` has no link in its path, so this is what the kernel would do
                current = current.above or current
                continue
            known = self.get(current, base)
            if known is not None:
                current = known
                continue
            here = self.fd(current)
            try:
                status = os.stat(base, dir_fd=here, follow_symlinks=False)
            except FileNotFoundError:
                if imply is None:
                    raise
                imply(current, base)
                current = self.child(current, base)
                continue
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > _MAXIMUM_LINKS:
                    raise RefusedError("a layer has a loop of symbolic links")
                target = os.readlink(base, dir_fd=here)
                if target.startswith(b"/"):
                    current = self.root
                parts = target.split(b"/")
                linked += len(parts)
                if linked > self._limits.path_depth:  # 40 links of 2000 components, for each entry anew
                    raise RefusedError(f"a name in a layer has more than {self._limits.path_depth} components by links")
                pending += parts[::-1]
                continue
            if not stat.S_ISDIR(status.st_mode):
                if imply is None:
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), base)
                imply(current, base)
            current = self.child(current, base)
        return current

    def keep_upper(self, directory: Directory) -> None:
        """Note that this layer put `directory`, and so all above it, where they are."""
        while (above := directory.above) is not None and directory.base not in above.upper:
            above.upper.add(directory.base)
            directory = above

    def restore_times(self) -> None:
        """Give every directory its time back: putting files into them has changed it.  Raises OSError."""
        for directory in self.known.values():
            if directory.mtime_ns is not None:
                os.utime(self.fd(directory), ns=(directory.mtime_ns, directory.mtime_ns))
