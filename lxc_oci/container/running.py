# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a container runs, as LXC's own list of active containers tells it: by the socket of its monitor.

lxc-info would ask that socket, which a process in a user namespace may not (lxc_abstract_unix_rcv_credential); that
it is there is enough.
"""

from lxc_oci.container.lxcconfig import encode

_SOCKETS = "/proc/net/unix"
_PATH_BYTES = 107  # sun_path without its first NUL
_FNV_OFFSET, _FNV_PRIME, _MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1


def running(lxcpath: str, name: str) -> bool:
    """Tell whether the monitor of that container lives: it runs, starts, stops or is frozen.  Raises OSError."""
    wanted = _socket(encode(f"{lxcpath}/{name}"))
    with open(_SOCKETS, "rb") as table:
        return any(line.rstrip(b"\n").partition(b" @")[2] == wanted for line in table)


def _socket(container: bytes) -> bytes:
    """Return the abstract name of the command socket (commands_utils.c lxc_make_abstract_socket_name)."""
    name = container + b"/command"
    if len(name) < _PATH_BYTES:
        return name
    value = _FNV_OFFSET
    for byte in container:
        value = (value ^ byte) * _FNV_PRIME & _MASK
    return b"lxc/%016x/command" % value
