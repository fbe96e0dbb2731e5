# SPDX-License-Identifier: LGPL-2.1-or-later
"""What http.client gets for a socket: a stream whose every wait is bounded, and which says why it ended."""

import http.client
import io
import socket
import time

from lxc_oci.errors import UnavailableError
from lxc_oci.limits import Limits

HEAD_BYTES = 1 << 20  # status line and headers, interim responses included (http.client bounds each line and count)
BUFFER = 64 * 1024
_NO_END = "the answer's headers do not end"


class ConnectionFailed(UnavailableError):
    """No answer, or only a part of one.  `secure` tells that TLS was what failed, `fresh` that nothing was ever
    connected: trying again at once is pointless then."""

    def __init__(self, message: str, hint: str = "", *, secure: bool = False, fresh: bool = False) -> None:
        super().__init__(message, hint)
        self.secure = secure
        self.fresh = fresh


class Stream(io.RawIOBase):
    """The receiving side of a connection, with its clocks.

    An error is kept in `failure` and shown as an end of file, so that the buffer above hands out what came
    before it.
    """

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        self._sock = sock
        self._limits = limits
        self.failure: Exception | None = None
        self.body()

    def head(self) -> None:
        """Begin to wait for a status line and headers: a deadline for all of them (slow headers, endless 1xx)."""
        self._deadline = time.monotonic() + self._limits.rate_window
        self._left = HEAD_BYTES
        self._in_head = True

    def body(self) -> None:
        """Begin to read a body: a minimum rate, counted only while we wait, because our reader may be the slow one."""
        self._in_head = False
        self._waited = 0.0
        self._received = 0
        self._left = 0
        self._sock.settimeout(self._limits.idle_timeout)

    def allow(self, count: int) -> None:
        """Let `count` more bytes come before the next call of this: chunk extensions and trailers have no end of
        their own."""
        self._left = count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        if self.failure is not None:
            return 0
        started = time.monotonic()
        try:
            if self._in_head:
                left = self._deadline - started
                if left <= 0:
                    raise TimeoutError(_NO_END)
                self._sock.settimeout(min(left, self._limits.idle_timeout))
            count = self._sock.recv_into(buffer)
            self._left -= count
            if self._left < 0:
                raise TimeoutError("the answer has more headers or framing than content")
        except (OSError, ValueError) as error:
            self.failure = error
            if self._in_head and self._left < HEAD_BYTES and time.monotonic() >= self._deadline:
                self.failure = TimeoutError(_NO_END)
            return 0
        if self._in_head:
            if count == 0:
                # http.client takes headers that end with the connection for complete ones.
                self.failure = ConnectionResetError()
            return count
        self._waited += time.monotonic() - started
        self._received += count
        if self._waited > self._limits.rate_window:
            if self._received < self._limits.minimum_rate * self._waited:
                rate = self._received / self._waited
                self.failure = TimeoutError(f"only {rate:.0f} bytes per second in {self._waited:.0f} seconds")
                return 0
            self._waited, self._received = 0.0, 0
        return count


class Wire:
    """What http.client takes for a socket.  Its close() does nothing: the response may still be read then, and the
    `Response` is who ends a connection."""

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        self._sock = sock
        self._limits = limits
        self.stream = Stream(sock, limits)
        self._reader = io.BufferedReader(self.stream, BUFFER)

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._limits.idle_timeout)
        self._sock.sendall(data)

    def makefile(self, mode: str) -> "_Reader":
        return _Reader(self._reader)

    def close(self) -> None:
        pass

    def stop(self) -> None:
        """Make reads of another thread end.  Closing would let the kernel give the descriptor's number away."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def end(self) -> None:
        self._sock.close()


class _Reader:
    """One response's view of the connection's buffer; closing it leaves the buffer to the next response."""

    def __init__(self, reader: io.BufferedReader) -> None:
        self.read = reader.read
        self.read1 = reader.read1
        self.readinto = reader.readinto
        self.readline = reader.readline
        self.peek = reader.peek

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class Connection(http.client.HTTPConnection):
    """An http.client connection over a socket that this module has opened."""

    def __init__(self, wire: Wire, authority: str) -> None:
        super().__init__(authority)
        self.wire = wire
        self.sock = wire
        self.auto_open = 0


def words(error: BaseException | None) -> str:
    """Say what happened to a connection."""
    if isinstance(error, TimeoutError):
        said = str(error) if len(error.args) == 1 else ""
        return "no answer in time" if said in ("", "timed out") else said
    if error is None or isinstance(error, ConnectionResetError):  # RemoteDisconnected is one
        return "the connection was cut"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"not an HTTP answer ({error})" if isinstance(error, http.client.HTTPException) else str(error)
