# SPDX-License-Identifier: LGPL-2.1-or-later
"""The store's home: where it is, who may touch it, its locks, and how something gets its final name.

What a tree, an index or an image is, is beyond this module.  What has its final name here is
complete and verified; everything else lies in `staging` or `partial` and goes when its lock is free.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Self

from lxc_oci.errors import NoSpaceError, OciError, UsageError
from lxc_oci.kernel import durable, syscalls, userns
from lxc_oci.kernel.root import remove_tree

FORMAT = 1
SYSTEM_STORE = "/var/lib/lxc-oci-py"
DAMAGED = "damaged"  # a file in a tree or an index that verify found wrong
REPLACED = "-replaced-"  # in the name of what stood there before; running containers may still use it
_EXCHANGE = syscalls.RENAME_EXCHANGE
_PARTS = ("images", "resolutions", "trees", "prefixes", "indexes", "blobs", "partial", "staging", "locks", "containers")


def default_path(environment: Mapping[str, str]) -> str:
    """Return where the store is: LXC_OCI_PY_STORE, the system's for root, else below XDG_DATA_HOME.

    Inside a user namespace it is the calling user's: lxc-create keeps HOME.  Raises UsageError.
    """
    chosen = environment.get("LXC_OCI_PY_STORE", "")
    if not chosen and userns.current().initial and os.geteuid() == 0:
        chosen = SYSTEM_STORE
    if not chosen:
        data = environment.get("XDG_DATA_HOME", "")
        home = environment.get("HOME", "")
        if not data.startswith("/"):
            if not home.startswith("/"):
                raise UsageError("cannot tell where the store is: HOME is not set", "set HOME or give --store DIR")
            data = os.path.join(home, ".local/share")
        chosen = os.path.join(data, "lxc-oci-py")
    if not chosen.startswith("/"):
        raise UsageError(f"the store must be an absolute path, not {chosen!r}", "give --store /DIR")
    return os.path.normpath(chosen)


class Store:
    """A store that was opened: its paths, its locks, its staging places."""

    def __init__(self, path: str, caller: tuple[int, int] | None = None) -> None:
        """`caller` are the ids that lxc-create's own user has in here, which no file of a container has."""
        self.path = path
        self._uses = 0  # how often in_use is held
        self.idmap = userns.current() if caller is None else userns.current().without(*caller)

    def at(self, *names: str) -> str:
        """Return the path of `names` below the store."""
        return os.path.join(self.path, *names)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the store against prune, together with others, for as long as something is being made of it."""
        with durable.lock(self.at("locks", "store"), shared=True):
            self._uses += 1
            try:
                yield
            finally:
                self._uses -= 1

    @contextmanager
    def alone(self, *, wait: bool = True) -> Iterator[None]:
        """Hold the store against everyone: only prune and repair do."""
        with durable.lock(self.at("locks", "store"), wait=wait):
            yield

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Hold the lock of one digest, so that ten creates of one image make it once.

        Only while the store is in use: who holds it alone may take lock files away.
        """
        with nullcontext() if self._uses else self.in_use(), durable.lock(self.at("locks", key)):
            yield

    def stage(self) -> "Stage":
        """Return a new private place for something unfinished; a context manager."""
        return Stage(self.at("staging"))

    def publish(self, staged: str, final: str) -> bool:
        """Give the directory `staged` (inside a Stage, and not empty) its final name, everything flushed before.

        Returns False, and leaves `staged`, when the name is taken by something sound: whoever was first made the same.
        What is marked as damaged is replaced; the old one stays beside it for containers that have it mounted.
        """
        fd = os.open(os.path.dirname(staged), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.syncfs(fd)
        finally:
            os.close(fd)
        try:
            os.rename(staged, final)  # onto a directory that is not empty: fails, on every file system
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            if not os.path.exists(os.path.join(final, DAMAGED)):
                return False
            _replace(staged, final)
        durable.sync_directory(os.path.dirname(final))
        return True

    def has(self, *names: str) -> bool:
        """Tell whether the store has something published under this name that is not known to be damaged."""
        path = self.at(*names)
        return os.path.isdir(path) and not os.path.exists(os.path.join(path, DAMAGED))

    def remove(self, path: str) -> None:
        """Take away something published: renamed into staging first, so that no half of it keeps its name."""
        with self.stage() as stage:
            try:
                os.rename(path, os.path.join(stage.path, "removed"))
            except FileNotFoundError:
                return
            durable.sync_directory(os.path.dirname(path))

    def clear_leftovers(self) -> None:
        """Remove staging places whose owner is dead.  What cannot be removed stays: it is in nobody's way."""
        staging = self.at("staging")
        for name in os.listdir(staging):
            try:
                fd = os.open(os.path.join(staging, name), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(staging, name)
            except OSError:  # locked by the living, or made in a user namespace with other ids
                pass
            finally:
                os.close(fd)


def _replace(staged: str, final: str) -> None:
    """Put `staged` in the place of `final`, which stays beside it under another name.

    It never lies in `staging`, not for a moment: containers may have it mounted, and leftovers are removed.
    """
    aside = final + REPLACED + os.urandom(8).hex()
    os.rename(staged, aside)
    try:
        syscalls.renameat2(syscalls.AT_FDCWD, os.fsencode(aside), syscalls.AT_FDCWD, os.fsencode(final), _EXCHANGE)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):  # a file system that cannot
            raise
        os.rename(final, final + REPLACED + os.urandom(8).hex())
        os.rename(aside, final)


class Stage:
    """A directory in `staging` that is locked while its owner lives and removed when it is left."""

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self.fd = -1
        self.path = ""

    def __enter__(self) -> Self:
        while True:
            name = os.urandom(8).hex()
            path = os.path.join(self._parent, name)
            os.mkdir(path, 0o700)
            # Before it is locked another process may take it for a leftover.
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink and os.path.exists(path):
                self.fd, self.path = fd, path
                return self
            os.close(fd)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            _remove(self._parent, os.path.basename(self.path))
        finally:
            os.close(self.fd)
            self.fd = -1


def _remove(parent: str, name: str) -> None:
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(fd, os.fsencode(name))
    finally:
        os.close(fd)


def open_store(path: str, *, create: bool = True, caller: tuple[int, int] | None = None) -> Store:
    """Open the store at `path`, after checking that nobody else could have prepared it.

    Raises UsageError when it does not exist and create=False, when it or an ancestor could be changed by
    another user, or when a newer program wrote it; NoSpaceError when it cannot be created for want of space.
    """
    store = Store(path, caller)
    try:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            if not create:
                raise UsageError(f"there is no store at {path}", "nothing has been pulled yet") from None
            _check_ancestors(path)
            _make_ancestors(os.path.dirname(path))
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:  # another create was faster
                pass
            status = os.lstat(path)
        # Also after making it: what was missing before may have been made by somebody else meanwhile.
        _check_ancestors(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise UsageError(
                f"the store {path} is not a directory of this user that nobody else can enter",
                "it may have been prepared by someone else; remove it, or choose another place with --store",
            )
        _prepare(store)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(f"no space left for the store {path}", "free some space, then try again") from error
        raise UsageError(
            f"cannot use the store {path}: {error.strerror} ({os.fsdecode(error.filename or path)})",
            "choose another place with --store DIR",
        ) from error
    return store


def _make_ancestors(path: str) -> None:
    """Create the missing directories of `path`, each owned as its parent is: ~/.local must be the user's, although
    root of a user namespace makes it."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_ancestors(parent)
    owner = os.stat(parent)
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return
    if owner.st_uid != os.geteuid() and owner.st_uid != userns.overflow_uid():
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _prepare(store: Store) -> None:
    """Check the format of the store, and create what is missing of it."""
    version = store.at("version")
    try:
        with open(version, encoding="ascii") as file:
            written = file.read().strip()
    except FileNotFoundError:
        written = ""
    if not written:
        for part in _PARTS:
            os.makedirs(store.at(part), 0o700, exist_ok=True)
        durable.write_file(version, b"%d\n" % FORMAT)
    elif written != str(FORMAT):
        raise UsageError(
            f"the store {store.path} has format {written!r:.20}, this program knows format {FORMAT}",
            "upgrade lxc-oci-py, or choose another place with --store DIR",
        )


def _check_ancestors(path: str) -> None:
    """Refuse a path that another user could have redirected or could redirect later (CVE-2021-41091)."""
    # The last component is judged by the caller.  Those before may be links of root's: the directories that hold
    # the links count, and where they lead.
    above = os.path.dirname(path)
    trusted = {0, os.geteuid()}
    if not userns.current().initial:
        # Ids of the host are shown as the overflow id in here, and the calling user's as what lxc-create mapped
        # it to: the owner of the home directory.
        trusted.add(userns.overflow_uid())
        try:
            trusted.add(os.stat(os.environ.get("HOME", "/")).st_uid)
        except OSError:
            pass
    for ancestor in _upwards(above) | _upwards(os.path.realpath(above)):
        try:
            status = os.stat(ancestor)
        except FileNotFoundError:
            continue
        loose = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
        if status.st_uid not in trusted or loose:
            raise UsageError(
                f"the store {path} would lie in {ancestor}, which another user can change",
                "choose a place below directories of root's with --store DIR",
            )


def _upwards(path: str) -> set[str]:
    """Return `path` and all directories above it."""
    found = {path}
    while path != "/":
        path = os.path.dirname(path)
        found.add(path)
    return found


def touch(path: str) -> None:
    """Note that a part is in use now: its own modification time says when it was last."""
    try:
        os.utime(path, follow_symlinks=False)
    except FileNotFoundError:
        pass


def no_space(error: OSError, what: str) -> OciError:
    """Return what to raise for an OSError met while writing `what`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(f"no space left while writing {what}", "free some space (lxc-oci-py prune), then try again")
    return OciError(f"cannot write {what}: {error.strerror}")
