# SPDX-License-Identifier: LGPL-2.1-or-later
"""Digests of large files, computed in a thread of their own while the files are written.

Small ones are not worth the way there and back.
"""

import threading
from hashlib import sha256
from queue import Queue

from lxc_oci.kernel import threads

_WAITING = 16  # pieces that may wait to be hashed; they keep the layer's buffers in memory


class LateDigest:
    """The sha256 of a file that is still being hashed."""

    def __init__(self) -> None:
        self._hasher = sha256()
        self._done = threading.Event()

    def digest(self) -> bytes:
        """Return the digest; waits until all of the file is hashed."""
        self._done.wait()
        return self._hasher.digest()

    def take(self, piece: bytes | memoryview) -> None:
        """Hash the next piece; an empty one is the end.  For the thread."""
        if piece:
            self._hasher.update(piece)
        else:
            self._done.set()


class Hashing:
    """The thread; it starts with the first file and ends with `close`."""

    def __init__(self) -> None:
        self._queue: Queue[tuple[LateDigest, bytes | memoryview] | None] = Queue(_WAITING)
        self._thread: threading.Thread | None = None

    def begin(self) -> LateDigest:
        """Start a file."""
        if self._thread is None:
            self._thread = threads.start(_work, self._queue)
        return LateDigest()

    def update(self, late: LateDigest, piece: bytes | memoryview) -> None:
        """Add the next piece of a file, an empty one at its end."""
        self._queue.put((late, piece))

    def close(self) -> None:
        """Finish what was given and end the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None


def _work(queue: "Queue[tuple[LateDigest, bytes | memoryview] | None]") -> None:
    while (job := queue.get()) is not None:
        late, piece = job
        late.take(piece)
