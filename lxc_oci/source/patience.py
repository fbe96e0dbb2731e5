# SPDX-License-Identifier: LGPL-2.1-or-later
"""When to try again: exponential back-off with jitter, Retry-After within reason, and an end."""

import os
import time
from collections.abc import Callable

from lxc_oci.errors import UnavailableError
from lxc_oci.limits import Limits

_FIRST_DELAY = 0.5  # seconds
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


class Patience:
    """Counts the failures of one piece of work, and waits between them."""

    def __init__(self, limits: Limits, sleep: Callable[[float], object] = time.sleep) -> None:
        self._limits = limits
        self._sleep = sleep
        self._failures = 0

    def progress(self) -> None:
        """Forget the failures so far."""
        self._failures = 0

    def wait(self, failure: UnavailableError, after: float | None = None) -> None:
        """Wait before the next attempt, or raise `failure` when there will be none.

        `after` is the server's own wish in seconds (Retry-After).  One that is longer than limits.retry_delay ends
        the work at once: waiting less would only be refused again.
        """
        if self._failures >= self._limits.retries or (after is not None and after > self._limits.retry_delay):
            raise failure
        delay = min(_FIRST_DELAY * 2.0**self._failures, float(self._limits.retry_delay))
        if after is not None:
            delay = max(delay, after)
        self._failures += 1
        # Jitter upwards only: never earlier than the server asked for.
        self._sleep(delay * (1 + os.urandom(1)[0] / 1024))


def retry_after(header: str, now: float | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks to wait; None when it is missing or makes no sense.

    A date in the past is 0.  `now` is a POSIX time.
    """
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    from datetime import UTC
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    try:
        return max(date.timestamp() - (time.time() if now is None else now), 0.0)
    except (OverflowError, ValueError):
        return None


def when(seconds: float) -> str:
    """Say a moment in the future for people: `at 14:05` or `on 2026-01-31 at 14:05`."""
    from datetime import datetime

    try:
        moment = datetime.fromtimestamp(time.time() + seconds).astimezone()
    except (OverflowError, ValueError, OSError):
        return "much later"
    today = datetime.now().astimezone().date() == moment.date()
    return moment.strftime("at %H:%M:%S" if today else "on %Y-%m-%d at %H:%M")


def span(seconds: int) -> str:
    """Say a length of time for people, rounded up: `6 hours`, `90 seconds`."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{-(-seconds // length)} {unit}"
    return f"{seconds} seconds"
