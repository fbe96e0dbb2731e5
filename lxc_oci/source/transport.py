# SPDX-License-Identifier: LGPL-2.1-or-later
"""HTTP/1.1 over TCP and TLS: one exchange at a time, connections kept alive, every wait bounded.

It knows nothing of registries: no redirects, no retries, no credentials.
"""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import BinaryIO, Protocol

from lxc_oci.errors import RefusedError, UnavailableError
from lxc_oci.limits import Limits
from lxc_oci.source import patience
from lxc_oci.source import url as urls
from lxc_oci.source.connection import BUFFER, HEAD_BYTES, Connection, ConnectionFailed, Wire, words
from lxc_oci.source.proxy import Proxies, Proxy
from lxc_oci.source.url import Url

_IDLE_CONNECTIONS = 16


class Response:
    """An answer.  Reading it to its end keeps the connection; closing it earlier ends the connection."""

    def __init__(
        self, transport: "Transport", key: object, connection: Connection, response: http.client.HTTPResponse, url: Url
    ) -> None:
        self._transport = transport
        self._key = key
        self._connection = connection
        self._response = response
        self._open = True
        self._cut = False
        self.url = url
        self.status = response.status

    def header(self, name: str) -> str:
        """Return a header that may stand only once, "" when it is missing.  Raises RefusedError for two that differ."""
        values = self._response.headers.get_all(name) or []
        if len({value.strip() for value in values}) > 1:
            raise RefusedError(f"{self.url.shown} answers with {len(values)} different {name} headers")
        return str(values[0]).strip() if values else ""

    def headers(self, name: str) -> list[str]:
        """Return all values of a header."""
        return [str(value) for value in self._response.headers.get_all(name) or []]

    @property
    def length(self) -> int | None:
        """What is left of the body in bytes, None where the server does not tell."""
        return self._response.length

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes of the body, b"" at its end.

        Raises ConnectionFailed when it was cut; what came before the cut has been returned first.
        """
        if not self._open:
            return b""
        self._transport.check_time(self.url)
        stream = self._connection.wire.stream
        # A chunk of one byte has five bytes of framing.
        stream.allow(8 * size + HEAD_BYTES)
        try:
            data = b"" if self._cut else self._response.read(size)
        except http.client.IncompleteRead as error:
            data = bytes(error.partial)
            self._cut = True
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise ConnectionFailed(f"{self.url.shown}: {words(error)}") from error
        if data:
            return data
        if self._cut or stream.failure is not None or (self._response.length or 0) > 0:
            self.close()
            raise ConnectionFailed(f"{self.url.shown}: {words(stream.failure)}") from stream.failure
        self._open = False
        keep = self._response.isclosed() and not self._response.will_close
        self._transport.give_back(self._key, self._connection, keep)
        return b""

    def drain(self) -> None:
        """Read and drop a small body so that the connection can be kept; end the connection of a larger one."""
        limit = BUFFER
        try:
            while limit > 0 and (data := self.read(min(limit, BUFFER))):
                limit -= len(data)
        except ConnectionFailed:
            pass
        self.close()

    def close(self) -> None:
        """End the connection, unless the body was read to its end.  May be called twice."""
        if self._open:
            self._open = False
            self._transport.give_back(self._key, self._connection, False)


class Upload(Protocol):
    """A body that is too large for memory: `length` bytes, read anew by each `open`."""

    @property
    def length(self) -> int: ...
    def open(self) -> BinaryIO: ...


class Transport:
    """Connections to all hosts.  Safe to use from several threads; each connection belongs to one exchange."""

    def __init__(self, limits: Limits, proxies: Proxies) -> None:
        self._limits = limits
        self._proxies = proxies
        self._idle: dict[object, list[Connection]] = {}
        self._all: set[Connection] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._end: float | None = None  # when all must be over; counted from the first request

    def exchange(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        context: ssl.SSLContext | None,
        *,
        body: bytes | Upload | None = None,
        named: bool = True,
        known: str = "",
    ) -> Response:
        """Send one request and return the answer, its body unread.

        `context` is what https is verified with; `named` says that the administrator or the user named the host,
        and not a server: a stranger's host must not resolve to a link-local address (metadata services).
        `known` is what the host's directory in certs.d is called, for a hint.
        Raises ConnectionFailed.
        """
        key = (url.origin, context, named)
        while True:
            if self._closed:
                raise self._was_closed(url)
            self.check_time(url)
            connection = self._take(key)
            reused = connection is not None
            if connection is None:
                connection = self._connect(url, context, named, known or url.authority)
            try:
                return self._exchange(key, connection, method, url, headers, body)
            except ConnectionFailed:
                # A server may close an idle connection at any time; that says nothing about the server.
                if not reused:
                    raise

    def _exchange(
        self,
        key: object,
        connection: Connection,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        body: bytes | Upload | None,
    ) -> Response:
        stream = connection.wire.stream
        stream.head()
        try:
            proxy = self._proxies.find(url)
            target = url.target if proxy is None or url.scheme == "https" else f"http://{url.authority}{url.target}"
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", url.authority)
            if proxy is not None and url.scheme == "http" and proxy.authorization:
                connection.putheader("Proxy-Authorization", proxy.authorization)
            for name, value in headers.items():
                connection.putheader(name, value)
            if isinstance(body, bytes):
                connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body)
            elif body is not None:
                connection.putheader("Content-Length", str(body.length))
                connection.endheaders()
                with body.open() as file:
                    while piece := file.read(BUFFER):
                        connection.send(piece)
                stream.head()  # the answer's time begins now
            else:
                connection.endheaders()
            response = connection.getresponse()
            if stream.failure is not None:
                raise stream.failure
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.give_back(key, connection, False)
            failure = stream.failure or error
            # An alert, such as that a client certificate is missing, comes only now with TLS 1.3.
            raise ConnectionFailed(f"{url.shown}: {words(failure)}", fresh=isinstance(failure, ssl.SSLError)) from error
        except BaseException:
            self.give_back(key, connection, False)
            raise
        stream.body()
        return Response(self, key, connection, response, url)

    def check_time(self, url: Url) -> None:
        """Raise UnavailableError when everything together has taken too long."""
        now, seconds = time.monotonic(), self._limits.transfer_seconds
        if self._end is None:
            self._end = now + seconds
        if now > self._end:
            raise UnavailableError(
                f"the transfer with {url.authority} takes longer than the limit of {patience.span(seconds)}",
                "what came is kept, so that the next try goes on from there; the limit is transfer_seconds",
            )

    def _take(self, key: object) -> Connection | None:
        with self._lock:
            idle = self._idle.get(key)
            return idle.pop() if idle else None

    def give_back(self, key: object, connection: Connection, keep: bool) -> None:
        """Called by a Response that is done with its connection."""
        with self._lock:
            if keep and not self._closed and sum(map(len, self._idle.values())) < _IDLE_CONNECTIONS:
                self._idle.setdefault(key, []).append(connection)
                return
            self._all.discard(connection)
        connection.wire.end()

    def close(self) -> None:
        """End all connections, also those that other threads are reading from: their reads fail."""
        with self._lock:
            self._closed = True
            idle = {connection for connections in self._idle.values() for connection in connections}
            busy = self._all - idle
            self._all, self._idle = set(), {}
        for connection in idle:
            connection.wire.end()
        for connection in busy:
            connection.wire.stop()

    def _connect(self, url: Url, context: ssl.SSLContext | None, named: bool, known: str) -> Connection:
        proxy = self._proxies.find(url)
        if proxy is None:
            sock = self._dial(url.host, url.port, url.authority, named)
        else:
            sock = self._dial(proxy.host, proxy.port, f"the proxy {proxy.host}:{proxy.port}", True)
        try:
            if url.scheme == "https":
                if proxy is not None:
                    self._tunnel(sock, url, proxy)
                sock = self._secure(sock, url, context, known)
            connection = Connection(Wire(sock, self._limits), url.authority)
        except BaseException:
            sock.close()
            raise
        with self._lock:
            if not self._closed:
                self._all.add(connection)
                return connection
        connection.wire.end()
        raise self._was_closed(url)

    def _was_closed(self, url: Url) -> UnavailableError:
        return UnavailableError(f"{url.authority} is not asked any more: the transfer was given up")

    def _dial(self, host: str, port: int, shown: str, named: bool) -> socket.socket:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConnectionFailed(
                f"cannot resolve {host}: {getattr(error, 'strerror', None) or error}",
                "is the name right, and is the network up?",
                fresh=True,
            ) from error
        failure: OSError | None = None
        for family, kind, protocol, _, address in found:
            resolved = urls.address(str(address[0]).partition("%")[0])
            if not named and resolved is not None and resolved.is_link_local:
                raise RefusedError(f"{shown} is the link-local address {resolved}, to which no registry may send us")
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self._limits.connect_timeout)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            except OSError as error:
                sock.close()
                failure = error
        raise ConnectionFailed(
            f"cannot connect to {shown}: {words(failure)}",
            "is the registry running, and is a proxy needed (HTTPS_PROXY)?",
            fresh=True,
        ) from failure

    def _tunnel(self, sock: socket.socket, url: Url, proxy: Proxy) -> None:
        target = f"[{url.host}]:{url.port}" if ":" in url.host else f"{url.host}:{url.port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if proxy.authorization:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        answer = b""
        deadline = time.monotonic() + self._limits.idle_timeout
        try:
            sock.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
            # Nothing follows the head until we speak, so what is read past it is an error.
            while b"\r\n\r\n" not in answer:
                sock.settimeout(max(deadline - time.monotonic(), 0.001))
                data = sock.recv(4096)
                if not data or len(answer) > BUFFER:
                    raise ConnectionResetError("the proxy closed the connection")
                answer += data
        except OSError as error:
            raise ConnectionFailed(f"proxy {proxy.host}:{proxy.port}: {words(error)}", fresh=True) from error
        status = answer.split(b"\r\n", 1)[0].split(None, 2)
        if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or status[1] != b"200":
            said = b" ".join(status[1:]).decode("ascii", "replace")
            raise ConnectionFailed(
                f"the proxy {proxy.host}:{proxy.port} does not connect to {target}: {said:.100}",
                "NO_PROXY names the hosts that need none",
                fresh=True,
            )

    def _secure(self, sock: socket.socket, url: Url, context: ssl.SSLContext | None, known: str) -> socket.socket:
        if context is None:
            raise ValueError("https without a TLS context")
        sock.settimeout(self._limits.connect_timeout)
        try:
            return context.wrap_socket(sock, server_hostname=url.host)
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message or str(error)
            hint = f"put the CA's certificate into /etc/containers/certs.d/{known}/ca.crt"
            if "not yet valid" in reason or "expired" in reason:
                hint = f"is the clock right? It says {time.strftime('%Y-%m-%d %H:%M:%S %Z')}"
            raise ConnectionFailed(
                f"the certificate of {url.authority} is not accepted: {reason}", hint, secure=True, fresh=True
            ) from error
        except (ssl.SSLError, OSError, ValueError) as error:
            cut = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
            reason = "the connection was cut" if cut else getattr(error, "reason", None) or words(error)
            hint = "a registry without TLS needs --insecure, or `insecure = true` in registries.conf"
            raise ConnectionFailed(
                f"{url.authority} does not speak TLS with us: {reason}", hint, secure=True, fresh=True
            ) from error
