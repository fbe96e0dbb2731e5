# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real registry for one test: Debian's docker-registry on a loopback port of its own.

authority = Authority(tmp_path / "ca")
with serve(tmp_path / "registry", authority=authority, users={"me": "secret"}) as made:
    made.push("team/app", "1", image.busybox_image())
    ... f"docker://{made.host}/team/app:1" ...
    assert made.requests("GET", "/blobs/") == 3
"""

import base64
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.support import image as images
from tests.support import need

_START = 60  # seconds
_ACCESS = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/[0-9.]+" (?P<status>\d{3}) ')


class Authority:
    """A certificate authority of the test's own, and server and client certificates by it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.certificate = directory / "ca.crt"
        self._key = directory / "ca.key"
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
            "-subj", "/CN=test authority", "-keyout", self._key, "-out", self.certificate,
        )  # fmt: skip

    def issue(self, name: str, *names: str, start: str = "", end: str = "") -> tuple[Path, Path]:
        """Return certificate and key of a server or client `name`; `start` and `end` are YYMMDDHHMMSSZ."""
        names = names or ("DNS:localhost", "IP:127.0.0.1", "IP:127.0.0.2")
        key, request, certificate = (self.directory / f"{name}.{kind}" for kind in ("key", "csr", "crt"))
        extensions = self.directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={','.join(names)}\nextendedKeyUsage=serverAuth,clientAuth\n")
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", f"/CN={name}", "-keyout", key, "-out", request,
        )  # fmt: skip
        if not start:
            self._openssl(
                "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial",
                "-days", "30", "-extfile", extensions, "-out", certificate,
            )  # fmt: skip
            return certificate, key
        # Only `openssl ca` sets arbitrary dates everywhere.
        for file, content in (("index.txt", ""), ("serial", "1000")):
            (self.directory / file).write_text(content)
        configuration = self.directory / "ca.cnf"
        configuration.write_text(
            "[ca]\ndefault_ca=d\n[d]\npolicy=p\ndefault_md=sha256\nunique_subject=no\n"
            f"database={self.directory}/index.txt\nserial={self.directory}/serial\nnew_certs_dir={self.directory}\n"
            "[p]\ncommonName=supplied\n"
        )
        self._openssl(
            "ca", "-batch", "-config", configuration, "-in", request, "-cert", self.certificate, "-keyfile", self._key,
            "-startdate", start, "-enddate", end, "-extfile", extensions, "-notext", "-out", certificate,
        )  # fmt: skip
        return certificate, key

    def install(self, certs_d: Path, host: str) -> None:
        """Make this authority trusted for `host` in a containers-certs.d(5) directory."""
        (certs_d / host).mkdir(parents=True, exist_ok=True)
        (certs_d / host / "ca.crt").write_bytes(self.certificate.read_bytes())

    def server_context(self, name: str = "server", *names: str, **dates: str) -> ssl.SSLContext:
        """A context for a server of a test's own."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(name, *names, **dates))
        return context

    def _openssl(self, *arguments: str | Path) -> None:
        subprocess.run([need.program("openssl"), *map(str, arguments)], check=True, capture_output=True)


class Registry:
    """A running docker-registry."""

    def __init__(self, host: str, authority: Authority | None, users: Mapping[str, str]) -> None:
        self.host = host
        self._authority = authority
        self._users = users
        self._log: list[str] = []

    def push(self, repository: str, tag: str, made: images.Image | images.Index) -> str:
        """Store an image or index under a tag, with everything that it needs; returns its digest."""
        connection = self._connect()
        try:
            self._push(connection, repository, made)
            self._put_manifest(connection, repository, tag, made.media_type, made.manifest)
        finally:
            connection.close()
        return made.digest

    def push_manifest(self, repository: str, tag: str, media_type: str, raw: bytes, *blobs: bytes) -> None:
        """Store raw manifest bytes, and the blobs before them."""
        connection = self._connect()
        try:
            for content in blobs:
                self._put_blob(connection, repository, content)
            self._put_manifest(connection, repository, tag, media_type, raw)
        finally:
            connection.close()

    def requests(self, method: str, part: str = "") -> int:
        """How many requests with this method, and `part` in their path, were answered with success."""
        found = [match for line in self._log if (match := _ACCESS.search(line))]
        return sum(
            1 for match in found if match["method"] == method and part in match["path"] and match["status"] < "400"
        )

    def _push(self, connection: http.client.HTTPConnection, repository: str, made: images.Image | images.Index) -> None:
        if isinstance(made, images.Index):
            for item in made.manifests:
                self._push(connection, repository, item)
                self._put_manifest(connection, repository, item.digest, item.media_type, item.manifest)
            return
        for content in (made.configuration, *(layer.blob for layer in made.layers)):
            self._put_blob(connection, repository, content)

    def _put_blob(self, connection: http.client.HTTPConnection, repository: str, content: bytes) -> None:
        headers = self._request(connection, "POST", f"/v2/{repository}/blobs/uploads/", b"", {}, 202)
        location = urlsplit(headers["Location"])
        path = f"{location.path}?{location.query}&digest={images.digest(content)}"
        self._request(connection, "PUT", path, content, {"Content-Type": "application/octet-stream"}, 201)

    def _put_manifest(
        self, connection: http.client.HTTPConnection, repository: str, tag: str, media_type: str, raw: bytes
    ) -> None:
        self._request(connection, "PUT", f"/v2/{repository}/manifests/{tag}", raw, {"Content-Type": media_type}, 201)

    def _connect(self) -> http.client.HTTPConnection:
        if self._authority is None:
            return http.client.HTTPConnection(self.host, timeout=_START)
        context = ssl.create_default_context(cafile=str(self._authority.certificate))
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        return http.client.HTTPSConnection(self.host, timeout=_START, context=context)

    def _request(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes,
        headers: dict[str, str],
        status: int,
    ) -> http.client.HTTPMessage:
        for user, password in self._users.items():
            headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
            break
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        assert response.status == status, f"{method} {path}: {response.status} {answer!r:.500}"
        return response.headers


@contextmanager
def serve(
    directory: Path,
    *,
    authority: Authority | None = None,
    users: Mapping[str, str] | None = None,
    upstream: str | None = None,
    name: str = "127.0.0.1",
) -> Iterator[Registry]:
    """Run a registry that keeps its files in `directory`; `upstream` (a URL) makes it a pull-through cache of that.

    `name` is what clients call it: 127.0.0.1, or localhost.
    """
    program = need.program("docker-registry")
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    http_settings: dict[str, object] = {"addr": f"127.0.0.1:{port}", "secret": "of the test"}
    if authority is not None:
        certificate, key = authority.issue(f"registry-{port}")
        http_settings["tls"] = {"certificate": str(certificate), "key": str(key)}
    settings: dict[str, object] = {
        "version": "0.1",
        "log": {"accesslog": {"disabled": False}, "level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}, "delete": {"enabled": True}},
        "http": http_settings,
    }
    if users:
        file = directory / "htpasswd"
        lines = []
        for user, password in users.items():
            done = subprocess.run(
                [need.program("htpasswd"), "-niB", "-C", "4", user],
                input=password.encode(),
                capture_output=True,
                check=True,
            )
            lines.append(done.stdout.decode().strip())
        file.write_text("\n".join(lines) + "\n")
        settings["auth"] = {"htpasswd": {"realm": "test", "path": str(file)}}
    if upstream is not None:
        settings["proxy"] = {"remoteurl": upstream}
    configuration = directory / "config.yml"
    configuration.write_text(json.dumps(settings))  # JSON is YAML
    made = Registry(f"{name}:{port}", authority, users or {})
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(directory), "OTEL_TRACES_EXPORTER": "none"}
    if authority is not None:
        environment["SSL_CERT_FILE"] = str(authority.certificate)
    process = subprocess.Popen(
        [program, "serve", str(configuration)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    listening = threading.Event()
    reader = threading.Thread(target=_read, args=(process, made, listening), daemon=True)
    reader.start()
    try:
        assert listening.wait(_START) and process.poll() is None, "".join(made._log)
        yield made
    finally:
        process.terminate()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


def _read(process: "subprocess.Popen[bytes]", made: Registry, listening: threading.Event) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        made._log.append(line.decode("utf-8", "replace"))
        if b"listening on" in line:
            listening.set()
    listening.set()  # it has ended


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
