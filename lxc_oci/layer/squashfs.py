# SPDX-License-Identifier: LGPL-2.1-or-later
"""squashfs layers unpacked: sqfs2tar turns them into a tar stream, and that goes through our own applier.

Where mounting is not allowed.  sqfs2tar reads a hostile image, so it runs without capabilities, where possible
as nobody, under limits of memory and time; it never sees the rootfs.
"""

import os
from collections.abc import Callable

from lxc_oci.errors import RefusedError
from lxc_oci.kernel import run, userns
from lxc_oci.layer.tarstream import TarReader
from lxc_oci.layer.unpack import Unpacker
from lxc_oci.limits import Limits

_NOBODY = (65534, 65534)


def apply_layer(
    unpacker: Unpacker,
    path: str,
    what: str,
    limits: Limits,
    warn: Callable[[str], None],
    on_bytes: Callable[[int], None] = lambda count: None,
) -> None:
    """Apply the verified squashfs image `path` to the tree of `unpacker`, which takes overlay whiteouts.

    Raises UnsupportedError without sqfs2tar, RefusedError for a damaged image.
    """
    program = run.require("sqfs2tar", "squashfs-tools-ng")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        user = None
        if os.geteuid() == 0 and userns.current().initial:
            # It opens the file anew through /proc, as the user that it is.  Others cannot enter the store.
            user = _NOBODY
            os.fchmod(fd, 0o444)
        argv = [program, "--root-becomes", ".", f"/proc/self/fd/{fd}"]
        with run.Stream(
            argv, timeout=limits.helper_timeout, pass_fds=(fd,), memory=limits.helper_memory_bytes, user=user
        ) as stream:
            unpacker.begin_layer()
            try:
                for entry, data in TarReader(_Counted(stream, limits.layer_bytes, what, on_bytes), limits, warn):
                    unpacker.add(entry, data)
            except RefusedError as error:
                if stream.ended and (result := stream.finish()).status:  # then a cut tar is not the reason
                    raise _refusal(what, result) from error
                raise
            result = stream.finish()
            if result.status:
                raise _refusal(what, result)
            if result.errors.strip():
                warn(f"sqfs2tar left something of {what} out: {result.message()}")
            unpacker.end_layer()
    finally:
        os.close(fd)


def unpackable() -> None:
    """Raise UnsupportedError unless squashfs images can be unpacked here."""
    run.require("sqfs2tar", "squashfs-tools-ng")


def _refusal(what: str, result: run.Result) -> RefusedError:
    return RefusedError(f"cannot unpack the squashfs image of {what}: {result.message()}", "the image is damaged")


class _Counted:
    """The tar stream, under the ceiling on what a layer may unpack to."""

    def __init__(self, stream: run.Stream, limit: int, what: str, on_bytes: Callable[[int], None]) -> None:
        self._stream = stream
        self._left = limit
        self._what = what
        self._on_bytes = on_bytes

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise RefusedError(f"{self._what} unpacks to more than the limit", "see layer_bytes in lxc-oci-py(1)")
        self._on_bytes(len(data))
        return data
