# SPDX-License-Identifier: LGPL-2.1-or-later
"""Threads that do not keep an interrupted program from ending, and are small."""

import threading
from collections.abc import Callable
from typing import Any

_STACK = 1 << 20  # bytes; the default of 8 MiB would count against a limit on address space


def start(target: Callable[..., object], *arguments: Any) -> threading.Thread:
    """Start a thread and return it.  Raises MemoryError where there is no room for one."""
    threading.stack_size(_STACK)
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # "can't start new thread"
        raise MemoryError(str(error)) from error
    return thread
