# SPDX-License-Identifier: LGPL-2.1-or-later
"""StopSignal → `lxc.signal.halt`, by a fixed table: nothing of the image's text is written."""

import re

from lxc_oci.errors import RefusedError

DEFAULT = "SIGTERM"
# Linux's numbers on every architecture that images are made for; all names are in LXC's own table (confile_utils.c).
_NUMBERS = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    4: "SIGILL",
    5: "SIGTRAP",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    10: "SIGUSR1",
    11: "SIGSEGV",
    12: "SIGUSR2",
    13: "SIGPIPE",
    14: "SIGALRM",
    15: "SIGTERM",
    16: "SIGSTKFLT",
    17: "SIGCHLD",
    18: "SIGCONT",
    19: "SIGSTOP",
    20: "SIGTSTP",
    21: "SIGTTIN",
    22: "SIGTTOU",
    23: "SIGURG",
    24: "SIGXCPU",
    25: "SIGXFSZ",
    26: "SIGVTALRM",
    27: "SIGPROF",
    28: "SIGWINCH",
    29: "SIGIO",
    30: "SIGPWR",
    31: "SIGSYS",
}
_ALIASES = {"SIGIOT": "SIGABRT", "SIGCLD": "SIGCHLD", "SIGPOLL": "SIGIO"}
_NAMES = {name: name for name in _NUMBERS.values()} | _ALIASES
_REAL_TIME = re.compile(r"SIGRT(?:MIN(?:\+([0-9]{1,2}))?|MAX(?:-([0-9]{1,2}))?)\Z")
_SPAN = 30  # SIGRTMAX 64 - SIGRTMIN 34 of the C libraries


def halt_signal(text: str) -> str:
    """Return LXC's name for an image's StopSignal: `SIGQUIT`, `quit`, `3`, `SIGRTMIN+3`, `37` are understood.

    Raises RefusedError for any other text.
    """
    if text.isascii() and text.isdigit() and len(text) <= 3:
        number = int(text)
        if number in _NUMBERS:
            return _NUMBERS[number]
        if 34 <= number <= 34 + _SPAN:
            return f"SIGRTMIN+{number - 34}"
    name = text.upper() if text.isascii() else ""
    name = name if name.startswith("SIG") else "SIG" + name
    if name in _NAMES:
        return _NAMES[name]
    match = _REAL_TIME.match(name)
    if match:
        up, down = int(match[1] or 0), int(match[2] or 0)
        if up <= _SPAN and down <= _SPAN:
            return f"SIGRTMIN+{_SPAN - down if name.startswith('SIGRTMAX') else up}"
    raise RefusedError(f"the image's StopSignal {text!r:.50} is no signal", "ask the image's author to correct it")
