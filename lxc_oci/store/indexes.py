# SPDX-License-Identifier: LGPL-2.1-or-later
"""Indexes: a layer's verified tar file and a small EROFS index over it, so that nothing is extracted.

Addressed by DiffID, because only a layer that does not depend on those below is indexed (layer.save judges).  The
tar file is what the DiffID says, so it can be checked again at any time; the index is made by mkfs.erofs, which reads a
stranger's bytes and therefore runs as nobody.
"""

import hashlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lxc_oci import jsonio
from lxc_oci.errors import OciError, RefusedError, UnavailableError
from lxc_oci.image.digest import Digest
from lxc_oci.kernel import durable, run
from lxc_oci.layer.pipeline import TarLayer
from lxc_oci.layer.save import save_tar_layer
from lxc_oci.limits import Limits
from lxc_oci.store.home import Store, touch
from lxc_oci.store.images import directory_name

INDEX, TAR = "index.erofs", "layer.tar"  # in an index's directory
_NOBODY = (65534, 65534)


@dataclass(frozen=True)
class RootAttributes:
    """What a layer says of `/`, which the upper directory of an overlay must repeat."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int


@dataclass(frozen=True)
class Index:
    """One indexed layer."""

    part: str  # name below the store
    index: str  # paths
    tar: str
    size: int  # bytes of both
    digest: str  # sha256 of the index, in hexadecimal
    root: RootAttributes | None


def find(store: Store, diff_id: Digest) -> Index | None:
    """Return the index of a layer, if the store has it."""
    return read(store, f"indexes/{directory_name(diff_id)}")


def read(store: Store, part: str) -> Index | None:
    """Return the index of that name below the store, if it is there."""
    path = store.at(part)
    if not store.has(part):
        return None
    try:
        with open(os.path.join(path, "facts.json"), "rb") as file:
            facts = jsonio.parse(file.read(), "facts.json")
        root = RootAttributes(**facts["root"]) if facts["root"] else None
        found = Index(
            part,
            os.path.join(path, INDEX),
            os.path.join(path, TAR),
            facts["size"],
            facts["index"],
            root,
        )
    except (FileNotFoundError, NotADirectoryError, RefusedError, KeyError, TypeError):
        return None
    touch(path)
    return found


def root_attributes(made: Sequence[Index]) -> RootAttributes | None:
    """Return what an image of these layers says of `/`; None where none says it, and mkfs.erofs made up mode 0777."""
    return next((index.root for index in reversed(made) if index.root), None)


def make(store: Store, layer: TarLayer, limits: Limits, warn: Callable[[str], None]) -> tuple[Index | None, str]:
    """Have the index of `layer` in the store.  Returns it, or None and why the layer cannot have one.

    Raises what reading the layer raises, and OSError.
    """
    with store.locked("index-" + directory_name(layer.diff_id)):
        found = find(store, layer.diff_id)
        if found is not None:
            return found, ""
        with store.stage() as stage:
            staged = os.path.join(stage.path, "index")
            os.mkdir(staged, 0o700)
            tar = os.open(os.path.join(staged, TAR), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            index = os.open(os.path.join(staged, INDEX), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with durable.flushed_ahead(staged):
                    saved = save_tar_layer(layer, tar, limits, warn)
                    if not saved.self_contained:
                        return None, saved.dependence
                    reason = _index(tar, index, limits)
                if reason:
                    return None, reason
                with open(index, "rb", closefd=False) as file:
                    file.seek(0)
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = saved.size + os.fstat(index).st_size
            finally:
                os.close(tar)
                os.close(index)
            root = saved.root
            facts = {
                "size": size,
                "entries": saved.entries,
                "index": digest,
                "root": {"mode": root.mode, "uid": root.uid, "gid": root.gid, "mtime_ns": root.mtime_ns}
                if root
                else None,
            }
            with open(os.path.join(staged, "facts.json"), "xb") as file:
                file.write(jsonio.dump(facts))  # flushed with the rest by publish
            store.publish(staged, store.at("indexes", directory_name(layer.diff_id)))
    found = find(store, layer.diff_id)
    if found is None:
        raise OciError(f"the index of layer {layer.diff_id} vanished from the store", "is another program changing it?")
    return found, ""


def _index(tar: int, index: int, limits: Limits) -> str:
    """Write the index of the tar file open as `tar`; return why that cannot be done, or "".

    Raises UnavailableError when the program was killed, as for want of memory: that says nothing of the layer.
    """
    program = run.find("mkfs.erofs")
    if program is None:
        return "mkfs.erofs is not installed"
    user = _NOBODY if os.geteuid() == 0 else None
    if user is not None:
        os.fchown(index, *user)  # it opens it anew through /proc, as the user that it is
    os.lseek(tar, 0, os.SEEK_SET)
    result = run.run(
        # The tar comes as standard input: a name would be resolved to a path in the store, closed to this user.
        [program, "--quiet", "--tar=i", "--aufs", f"/proc/self/fd/{index}"],
        input=tar,
        timeout=limits.helper_timeout,
        memory=limits.helper_memory_bytes,
        user=user,
        pass_fds=(index,),
    )
    os.fchown(index, os.geteuid(), os.getegid())
    if result.status == -signal.SIGKILL:
        raise UnavailableError("mkfs.erofs was killed", "is the machine out of memory? then try again")
    return "" if result.status == 0 else f"mkfs.erofs: {result.message()}"
