# SPDX-License-Identifier: LGPL-2.1-or-later
"""Work on an image in a process for which the host's root does not exist.

When root runs lxc-create for a container with an idmap, LXC maps the host's root into the template's user
namespace too; a fault in reading an image there could write files of the host's root.  The work is done in a child
in a further namespace without that id, and only plain data comes back.
"""

import json
import os
import signal
from collections.abc import Callable
from typing import Any

from lxc_oci import errors
from lxc_oci.errors import OciError, UnsupportedError
from lxc_oci.kernel import syscalls, userns
from lxc_oci.kernel.userns import Extent

_CLONE_NEWUSER = 0x10000000
_MAXIMUM_ANSWER = 16 << 20  # bytes; a container's lines have a few thousand


def without_host_root(work: Callable[[], Any]) -> Any:
    """Run `work` in a child whose user namespace lacks the host's root, and return its JSON-able result.

    An OciError of the child is raised here.  What comes back is the word of a process that has read the image: the
    caller checks it like the image.
    """
    idmap = userns.current()
    ask, asked = os.pipe()
    go, gone = os.pipe()
    answer, answered = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            syscalls.set_parent_death_signal(signal.SIGTERM)
            for fd in (ask, gone, answer):
                os.close(fd)
            syscalls.unshare(_CLONE_NEWUSER)
            os.write(asked, b"x")
            os.close(asked)
            if os.read(go, 1) == b"x":  # the parent has written the maps
                os.setgroups([])
                os.setresgid(0, 0, 0)
                os.setresuid(0, 0, 0)
                syscalls.set_parent_death_signal(signal.SIGTERM)  # cleared by the change of ids
                _answer(answered, work)
                status = 0
        finally:
            os._exit(status)
    for fd in (asked, go, answered):
        os.close(fd)
    try:
        ready = os.read(ask, 1) == b"x"
        if ready:
            _write_map(f"/proc/{pid}/uid_map", idmap.uids)
            _write_map(f"/proc/{pid}/gid_map", idmap.gids)
            os.write(gone, b"x")
        os.close(gone)
        text = _read_all(answer)
    except BaseException:
        os.kill(pid, signal.SIGTERM)
        raise
    finally:
        os.close(ask)
        os.close(answer)
        os.waitpid(pid, 0)
    if not text:
        raise UnsupportedError("cannot make a user namespace without the host's root", "see --verbose")
    result = json.loads(text)
    if "bug" in result:
        raise RuntimeError(result["bug"])
    if "error" in result:
        kind, message, hint = result["error"]
        raise _error_class(kind)(message, hint)
    return result["value"]


def _answer(fd: int, work: Callable[[], Any]) -> None:
    """Run `work` and write what came of it."""
    try:
        result: dict[str, Any] = {"value": work()}
    except OciError as error:
        result = {"error": [type(error).__name__, error.message, error.hint]}
    except OSError as error:
        name = f": {os.fsdecode(error.filename)}" if error.filename else ""
        result = {"error": ["OciError", f"{error.strerror}{name}", ""]}
    except Exception as error:  # a bug of ours, for the parent to report
        result = {"bug": f"{type(error).__name__}: {error}"}
    data = json.dumps(result).encode()
    while data:
        data = data[os.write(fd, data) :]


def _write_map(path: str, extents: tuple[Extent, ...]) -> None:
    lines = [f"{extent.inside} {extent.inside} {extent.count}\n" for extent in extents if extent.outside != 0]
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, "".join(lines).encode())  # the kernel takes a map in one write only
    finally:
        os.close(fd)


def _read_all(fd: int) -> bytes:
    parts = []
    total = 0
    while part := os.read(fd, 1 << 16):
        total += len(part)
        if total > _MAXIMUM_ANSWER:
            raise OciError("the confined part of the create answered without end")
        parts.append(part)
    return b"".join(parts)


def _error_class(name: str) -> type[OciError]:
    found = getattr(errors, name, OciError)
    return found if isinstance(found, type) and issubclass(found, OciError) else OciError
