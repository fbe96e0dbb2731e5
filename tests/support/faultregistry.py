# SPDX-License-Identifier: LGPL-2.1-or-later
"""A registry that misbehaves as a test says, on the sockets themselves: what no real registry can be made to do.

    with FaultRegistry() as registry:
        registry.add("team/app", "1", image.Image([...]))
        registry.faults.append(lambda request: Answer(503, {"Retry-After": "1"}) if request.count == 1 else None)

The first fault that returns an Answer decides; without one the registry answers as the distribution specification
says.  Every request that came is in `requests`.
"""

import base64
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.support import image as images

_WAIT = 60  # seconds that a connection of a client may last


@dataclass
class Request:
    """What a client asked."""

    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    count: int  # of requests for this target so far, this one included
    total: int  # of all requests so far, this one included
    connection: int  # which connection it came by
    certificate: bool = False  # whether the client has shown a certificate

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")


@dataclass
class Answer:
    """What it gets.  A list of header pairs may repeat names; `raw` replaces everything."""

    status: int = 200
    headers: Mapping[str, str] | list[tuple[str, str]] = field(default_factory=dict)
    body: bytes | Iterable[bytes] = b""
    length: int | None = None  # what Content-Length says, when not the truth; -1: no such header, closed at the end
    cut: int | None = None  # close the connection after that many bytes of the body
    chunked: bool = False
    raw: Iterable[bytes] | None = None  # the whole answer; the connection is closed behind it


Fault = Callable[[Request], Answer | None]


class FaultServer:
    """An HTTP/1.1 server on a loopback port, which answers with what `answer` returns."""

    def __init__(
        self, context: ssl.SSLContext | None = None, name: str = "127.0.0.1", address: str = "127.0.0.1"
    ) -> None:
        self._context = context
        self._listener = socket.create_server((address, 0))
        self.port: int = self._listener.getsockname()[1]
        self.host = f"{name}:{self.port}"
        self.requests: list[Request] = []
        self.connections = 0
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)

    @property
    def url(self) -> str:
        return f"{'http' if self._context is None else 'https'}://{self.host}"

    def answer(self, request: Request) -> Answer:
        """Decide; for subclasses."""
        return Answer(404)

    def seen(self, part: str = "", method: str = "") -> list[Request]:
        """The requests with `part` in their target."""
        return [item for item in self.requests if part in item.target and method in ("", item.method)]

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        with self._lock:
            for sock in self._open:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock, self.connections))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        raw = sock
        try:
            sock.settimeout(_WAIT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._open.discard(raw)
                    self._open.add(sock)
            reader = sock.makefile("rb")
            with reader:
                while self._one(sock, reader, number):
                    pass
        except (OSError, ValueError):
            pass
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _one(self, sock: socket.socket, reader: Any, number: int) -> bool:
        """Serve one request; whether the connection goes on."""
        line = reader.readline(65536).decode("latin-1")
        words = line.split()
        if len(words) != 3 or not words[0].isalpha():
            return False  # a TLS greeting, or the end
        method, target, _ = words
        headers = {}
        while (header := reader.readline(65536).decode("latin-1").strip()) != "":
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        body = reader.read(int(headers.get("content-length", "0")))
        with self._lock:
            count = 1 + sum(1 for item in self.requests if item.target == target)
            request = Request(method, target, headers, body, count, len(self.requests) + 1, number)
            request.certificate = isinstance(sock, ssl.SSLSocket) and bool(sock.getpeercert())
            self.requests.append(request)
        return self._send(sock, request, self.answer(request))

    def _send(self, sock: socket.socket, request: Request, answer: Answer) -> bool:
        if answer.raw is not None:
            for part in answer.raw:
                sock.sendall(part)
            return False
        pairs = list(answer.headers.items() if isinstance(answer.headers, Mapping) else answer.headers)
        names = {name.lower() for name, _ in pairs}
        if answer.chunked:
            pairs.append(("Transfer-Encoding", "chunked"))
        elif answer.length != -1 and "content-length" not in names:
            size = answer.length
            if size is None:
                assert isinstance(answer.body, bytes), "the length of a stream must be given"
                size = len(answer.body)
            pairs.append(("Content-Length", str(size)))
        head = (
            f"HTTP/1.1 {answer.status} Status\r\n" + "".join(f"{name}: {value}\r\n" for name, value in pairs) + "\r\n"
        )
        sock.sendall(head.encode())
        if request.method == "HEAD":
            return True
        sent = 0
        for part in [answer.body] if isinstance(answer.body, bytes) else answer.body:
            if answer.cut is not None and sent + len(part) >= answer.cut:
                sock.sendall(part[: answer.cut - sent])
                return False
            sent += len(part)
            if part:
                sock.sendall(b"%x\r\n%b\r\n" % (len(part), part) if answer.chunked else part)
        if answer.chunked:
            sock.sendall(b"0\r\n\r\n")
        return answer.length is None or answer.length == sent


class FaultRegistry(FaultServer):
    """A registry in memory, with a token service or Basic login if wanted."""

    def __init__(
        self,
        context: ssl.SSLContext | None = None,
        *,
        name: str = "127.0.0.1",
        address: str = "127.0.0.1",
        login: Mapping[str, str] | None = None,
        bearer: bool = False,
    ) -> None:
        """`login` are the users; with `bearer` tokens are asked for, and given to these users, or to everybody."""
        super().__init__(context, name, address)
        self.documents: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.faults: list[Fault] = []
        self.login = dict(login or {})
        self.bearer = bearer
        self.realm = f"{self.url}/token"
        self.tokens: dict[str, int] = {}  # how often each may still be used
        self.token_uses = 1 << 30
        self.token_members: dict[str, Any] = {"expires_in": 300}
        self.ranges = True

    def add(self, repository: str, tag: str, made: images.Image | images.Index) -> str:
        """Put an image or index under a tag; returns its digest."""
        self.documents[repository, tag] = (made.media_type, made.manifest)
        self._add(repository, made)
        return made.digest

    def _add(self, repository: str, made: images.Image | images.Index) -> None:
        self.documents[repository, made.digest] = (made.media_type, made.manifest)
        if isinstance(made, images.Index):
            for item in made.manifests:
                self._add(repository, item)
        else:
            for key, content in made.blobs().items():
                self.blobs[repository, key] = content

    def put(self, repository: str, reference: str, media_type: str, raw: bytes) -> None:
        """Put raw bytes where a manifest is looked for, under that name and no other."""
        self.documents[repository, reference] = (media_type, raw)

    def answer(self, request: Request) -> Answer:
        for fault in self.faults:
            found = fault(request)
            if found is not None:
                return found
        if request.path == "/token":
            return self._token(request)
        match = re.fullmatch(r"/v2/(?:(.+)/(manifests|blobs|referrers)/([^/]+))?", request.path)
        if match is None:
            return Answer(404)
        refusal = self._refusal(request, match[1] or "")
        if refusal is not None:
            return refusal
        repository, kind, name = match.groups()
        if repository is None:
            return Answer(200)
        if kind == "manifests":
            found_document = self.documents.get((repository, name))
            if found_document is None:
                return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            media_type, raw = found_document
            return Answer(200, {"Content-Type": media_type, "Docker-Content-Digest": images.digest(raw)}, raw)
        blob = self.blobs.get((repository, name)) if kind == "blobs" else None
        if blob is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        return serve_blob(request, blob, self.ranges)

    def _refusal(self, request: Request, repository: str) -> Answer | None:
        if self.bearer:
            token = request.authorization.removeprefix("Bearer ")
            if self.tokens.get(token, 0) > 0:
                self.tokens[token] -= 1
                return None
            challenge = f'Bearer realm="{self.realm}",service="test",scope="repository:{repository}:pull"'
        elif self.login:
            if self._user(request) is not None:
                return None
            challenge = 'Basic realm="test"'
        else:
            return None
        answer = _error(401, "UNAUTHORIZED", "authentication required")
        return Answer(401, {**dict(answer.headers), "WWW-Authenticate": challenge}, answer.body)

    def _user(self, request: Request) -> str | None:
        kind, _, value = request.authorization.partition(" ")
        if kind != "Basic":
            return None
        user, _, password = base64.b64decode(value).decode().partition(":")
        return user if self.login.get(user) == password else None

    def _token(self, request: Request) -> Answer:
        if self.login and request.method == "GET" and self._user(request) is None:
            return _error(401, "UNAUTHORIZED", "wrong user or password")
        token = f"token-{len(self.tokens)}"
        self.tokens[token] = self.token_uses
        return json_answer({"token": token, **self.token_members})


def serve_blob(request: Request, blob: bytes, ranges: bool = True) -> Answer:
    """Answer a request for a blob, a range of it included."""
    match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
    headers = {"Content-Type": "application/octet-stream"}
    if match is None or not ranges:
        return Answer(200, headers, blob)
    start = int(match[1])
    if start >= len(blob):
        return Answer(416, {"Content-Range": f"bytes */{len(blob)}"})
    return Answer(206, {**headers, "Content-Range": f"bytes {start}-{len(blob) - 1}/{len(blob)}"}, blob[start:])


def json_answer(value: Any, status: int = 200) -> Answer:
    """An answer that is a JSON document."""
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(value).encode())


def _error(status: int, code: str, message: str) -> Answer:
    return json_answer({"errors": [{"code": code, "message": message}]}, status)
