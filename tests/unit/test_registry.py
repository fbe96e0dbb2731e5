# SPDX-License-Identifier: LGPL-2.1-or-later
"""The registry client with registries that behave: a real one, and one in memory that counts."""

import base64
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from lxc_oci.errors import AccessError, RefusedError, UnavailableError, UnsupportedError, UsageError
from lxc_oci.image import digest as digests
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from lxc_oci.source import patience
from lxc_oci.source import url as urls
from lxc_oci.source.proxy import Proxies
from lxc_oci.source.source import blob
from tests.support import image as images
from tests.support.faultregistry import Answer, FaultRegistry, FaultServer, Request, json_answer
from tests.support.pull import QUICK, pull, source
from tests.support.registry import Authority, Registry, serve

PUZZLEFS_CHUNK = "application/vnd.puzzlefs.image.filedata.v1+zstd"
SMALL = images.Image([images.layer(images.file("small"))])
LARGE = images.Image([images.layer(images.file("large", os.urandom(3 << 20)), compression="")])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Registry]:
    """Debian's registry, with TLS and a login."""
    with serve(tmp_path_factory.mktemp("registry"), authority=authority, users={"me": "se:cret"}) as made:
        made.push("team/app", "1", images.Index([LARGE, images.Image([SMALL.layers[0]], platform="linux/arm64/v8")]))
        made.push("team/app", "docker", images.Image([images.layer(images.file("x"), docker=True)], docker=True))
        yield made


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    with FaultRegistry() as made:
        made.add("team/app", "1", SMALL)
        yield made


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_real_registry(real: Registry, authority: Authority, home: Path) -> None:
    authority.install(home / ".config/containers/certs.d", real.host)
    pulled = pull(f"docker://{real.host}/team/app:1", username="me", password="se:cret")
    assert pulled.image.digest == LARGE.digest and pulled.layers == [LARGE.layers[0].blob] and not pulled.warnings
    assert pull(f"docker://{real.host}/team/app:docker", username="me", password="se:cret").image.digest
    with pytest.raises(AccessError, match="user 'me'"):
        pull(f"docker://{real.host}/team/app:1", username="me", password="wrong")
    with pytest.raises(AccessError, match="needs a login") as caught:
        pull(f"docker://{real.host}/team/app:1")
    assert "podman login" in caught.value.hint and "--authfile" in caught.value.hint
    with pytest.raises(AccessError, match="tag 'none'"):
        pull(f"docker://{real.host}/team/app:none", username="me", password="se:cret")


def wait_for_copy(directory: Path, digest: str) -> None:
    """Wait until a registry that is a cache has its own copy of a blob, which it makes in the background."""
    end = time.monotonic() + 60
    while not list(directory.glob(f"storage/**/_layers/{digest.replace(':', '/')}/link")):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_pull_through_cache(tmp_path: Path, authority: Authority, home: Path) -> None:
    """Debian's registry as a cache of another: the second pull asks only the cache."""
    layer = images.digest(LARGE.layers[0].blob)
    with serve(tmp_path / "far") as far:
        far.push("team/app", "1", LARGE)
        with serve(tmp_path / "near", upstream=f"http://{far.host}") as near:
            for _ in range(2):
                assert pull(f"docker://{near.host}/team/app:1", insecure=True).layers == [LARGE.layers[0].blob]
                wait_for_copy(tmp_path / "near", layer)
        assert far.requests("GET", layer) <= 1 + 1  # its own look, and one copy


def test_head_names_the_tag(real: Registry, authority: Authority, home: Path) -> None:
    authority.install(home / ".config/containers/certs.d", real.host)
    before = real.requests("GET")
    with source(f"docker://{real.host}/team/app:1", username="me", password="se:cret") as opened:
        announced = opened.head()
        assert real.requests("GET") == before
        root, _ = opened.root(QUICK)
        assert len(opened._transport._all) == 1  # one connection for both
        assert announced == root.digest


def test_head_of_a_digest_asks_nobody(registry: FaultRegistry) -> None:
    with source(f"docker://{registry.host}/team/app@{SMALL.digest}", insecure=True) as opened:
        assert opened.head() == SMALL.digest
    assert registry.requests == []


@pytest.mark.parametrize("announced", ["", "sha256:abc", "md5:x", "sha256:" + "A" * 64])
def test_head_without_a_digest(registry: FaultRegistry, announced: str) -> None:
    headers = {"Docker-Content-Digest": announced} if announced else {}
    registry.faults.append(lambda request: Answer(200, headers) if request.method == "HEAD" else None)
    with source(f"docker://{registry.host}/team/app:1", insecure=True) as opened:
        assert opened.head() is None


@pytest.mark.parametrize("status", [400, 403, 404, 405, 500, 501, 503])
def test_head_is_not_needed(registry: FaultRegistry, status: int) -> None:
    registry.faults.append(lambda request: Answer(status) if request.method == "HEAD" else None)
    with source(f"docker://{registry.host}/team/app:1", insecure=True) as opened:
        assert opened.head() is None
        assert opened.root(QUICK)[0].digest == SMALL.digest


def test_mirror_that_fails_at_head_is_still_the_first(registry: FaultRegistry, home: Path) -> None:
    with FaultRegistry() as mirror:
        mirror.add("team/app", "1", SMALL)
        mirror.faults.append(lambda request: Answer(404) if request.method == "HEAD" else None)
        configure_mirror(home, registry, mirror)
        with source(f"docker://{registry.host}/team/app:1") as opened:
            assert opened.head() == SMALL.digest  # the registry's word
            assert opened.root(QUICK)[0].digest == SMALL.digest
        assert len(mirror.seen(method="GET")) >= 1
        assert not registry.seen("/team/app/", method="GET")


def test_head_that_nobody_answers(registry: FaultRegistry, home: Path) -> None:
    registry.faults.append(lambda request: Answer(429) if request.method == "HEAD" else None)
    with (
        source(f"docker://{registry.host}/team/app:1", insecure=True) as opened,
        pytest.raises(UnavailableError, match="more requests"),
    ):
        opened.head()


def configure_mirror(home: Path, registry: FaultRegistry, mirror: FaultRegistry) -> None:
    """Let the user's registries.conf name a mirror, both of them without TLS."""
    path = home / ".config/containers/registries.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'[[registry]]\nlocation = "{registry.host}"\ninsecure = true\n'
        f'[[registry.mirror]]\nlocation = "{mirror.host}"\ninsecure = true\n'
    )


def test_opening_a_source_asks_nobody(registry: FaultRegistry) -> None:
    with source(f"docker://{registry.host}/team/app:1", insecure=True):
        pass
    assert registry.connections == 0


def test_connections_are_kept(registry: FaultRegistry) -> None:
    layers = [images.layer(images.file(f"f{number}")) for number in range(5)]
    registry.add("team/app", "many", images.Image(layers))
    assert len(pull(f"docker://{registry.host}/team/app:many", insecure=True).layers) == 5
    assert len({request.connection for request in registry.requests}) == 1


def test_closed_idle_connection_is_no_failure(registry: FaultRegistry) -> None:
    """Each answer ends its connection although it does not say so."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {images.MANIFEST}\r\nContent-Length: {len(SMALL.manifest)}\r\n\r\n"
    raw = [head.encode() + SMALL.manifest]
    registry.faults.append(lambda request: Answer(raw=raw) if "/manifests/" in request.target else None)
    assert pull(f"docker://{registry.host}/team/app:1", insecure=True).image.digest == SMALL.digest


def test_parallel_reads(real: Registry, authority: Authority, home: Path) -> None:
    authority.install(home / ".config/containers/certs.d", real.host)
    blob = LARGE.layers[0].blob
    descriptor = Descriptor("application/octet-stream", digests.sha256(blob), len(blob))
    found: list[bytes] = []
    with source(f"docker://{real.host}/team/app:1", username="me", password="se:cret") as opened:

        def read() -> None:
            reader = opened.open(descriptor)
            found.append(b"".join(iter(lambda: reader.read(1 << 20), b"")))
            reader.close()

        threads = [threading.Thread(target=read) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [blob] * 6


def test_close_ends_a_read_in_another_thread(registry: FaultRegistry) -> None:
    started = threading.Event()

    def hang(request: Request) -> Answer | None:
        if "/blobs/" not in request.target:
            return None

        def parts() -> Iterator[bytes]:
            yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx"
            started.set()
            registry.stopped.wait(60)

        return Answer(raw=parts())

    registry.faults.append(hang)
    opened = source(f"docker://{registry.host}/team/app:1", insecure=True)
    failures: list[Exception] = []

    def read() -> None:
        try:
            reader = opened.open(Descriptor("x/y", Digest("sha256:" + "a" * 64), 1000))
            while reader.read(100):
                pass
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert started.wait(30)
    begin = time.monotonic()
    opened.close()
    thread.join()
    assert len(failures) == 1 and isinstance(failures[0], UnavailableError)
    assert time.monotonic() - begin < QUICK.idle_timeout


def test_transfer_has_an_end(registry: FaultRegistry) -> None:
    """Slow enough to take for ever, and fast enough for every other limit."""
    content = os.urandom(1000)
    descriptor = Descriptor("application/octet-stream", Digest(images.digest(content)), len(content))

    def slow() -> Iterator[bytes]:
        yield content[:500]
        time.sleep(1.1)
        yield content[500:]

    registry.faults.append(
        lambda request: Answer(200, {}, slow(), length=1000) if "/blobs/" in request.target else None
    )
    url = f"docker://{registry.host}/team/app:1"
    limits = QUICK._replace(transfer_seconds=1)
    with source(url, limits=limits, insecure=True) as opened, blob(opened, descriptor, "the layer") as reader:
        with pytest.raises(UnavailableError, match="longer than the limit of 1 seconds") as caught:
            while reader.read(100):
                pass
        assert "transfer_seconds" in caught.value.hint
        with pytest.raises(UnavailableError, match="longer than"):
            opened.root(QUICK)


def test_chunk_may_be_shorter_than_its_descriptor(registry: FaultRegistry) -> None:
    """puzzlefs 0.2.0 writes the uncompressed size; the digest is right."""
    chunk = os.urandom(3000)
    registry.blobs["team/app", images.digest(chunk)] = chunk
    with source(f"docker://{registry.host}/team/app:1", insecure=True) as opened:
        for media_type, size in ((PUZZLEFS_CHUNK, 5000), (PUZZLEFS_CHUNK, 3000)):
            with blob(opened, Descriptor(media_type, Digest(images.digest(chunk)), size), "a chunk") as reader:
                assert b"".join(iter(lambda: reader.read(1 << 20), b"")) == chunk
        for media_type, size in (("application/octet-stream", 5000), (PUZZLEFS_CHUNK, 2999)):
            with pytest.raises(RefusedError, match="descriptor"):
                opened.open(Descriptor(media_type, Digest(images.digest(chunk)), size))


def test_identity_token_is_exchanged(registry: FaultRegistry, home: Path) -> None:
    """OAuth2: the refresh token goes into the body of a POST, not into a URL."""
    registry.bearer = True
    (home / ".config/containers").mkdir(parents=True)
    (home / ".config/containers/auth.json").write_text(
        f'{{"auths": {{"{registry.host}": {{"identitytoken": "refresh&me"}}}}}}'
    )

    def answer(request: Request) -> Answer | None:
        if request.path != "/token":
            return None
        registry.tokens["access"] = 100
        return json_answer({"access_token": "access", "expires_in": 300})

    registry.faults.append(answer)
    assert pull(f"docker://{registry.host}/team/app:1", insecure=True).image.digest == SMALL.digest
    [asked] = registry.seen("/token")
    assert asked.method == "POST" and "refresh" not in asked.target and asked.authorization == ""
    assert b"refresh_token=refresh%26me" in asked.body and b"grant_type=refresh_token" in asked.body
    assert b"scope=repository%3Ateam%2Fapp%3Apull" in asked.body


def test_token_server_at_an_internal_address_is_refused_with_insecure_too(registry: FaultRegistry) -> None:
    registry.bearer = True
    for address in ("10.0.0.1", "127.0.0.2", "169.254.169.254"):
        registry.realm = f"http://{address}/token"
        with pytest.raises(RefusedError, match="internal address"):
            pull(f"docker://{registry.host}/team/app:1", insecure=True)


def test_token_server_that_refuses(registry: FaultRegistry) -> None:
    registry.bearer, registry.login = True, {"me": "secret"}
    with pytest.raises(AccessError, match="user 'me'") as caught:
        pull(f"docker://{registry.host}/team/app:1", insecure=True, username="me", password="wrong")
    assert "log in" in caught.value.hint
    with pytest.raises(AccessError, match="without a login"):
        pull(f"docker://{registry.host}/team/app:1", insecure=True)
    registry.faults.append(lambda request: Answer(418) if request.path == "/token" else None)
    with pytest.raises(UnavailableError, match="418"):
        pull(f"docker://{registry.host}/team/app:1", insecure=True)


def test_token_server_that_is_busy(registry: FaultRegistry) -> None:
    registry.bearer = True
    registry.faults.append(
        lambda request: Answer(503, {"Retry-After": "1"}) if request.path == "/token" and request.count == 1 else None
    )
    assert pull(f"docker://{registry.host}/team/app:1", insecure=True).image.digest == SMALL.digest


def test_login_that_changes_its_kind(registry: FaultRegistry) -> None:
    """First tokens, then Basic: a registry behind two front ends."""
    registry.bearer, registry.login = True, {"me": "secret"}

    def basic(request: Request) -> Answer | None:
        registry.bearer = registry.bearer and "/blobs/" not in request.target
        return None

    registry.faults.append(basic)
    pulled = pull(f"docker://{registry.host}/team/app:1", insecure=True, username="me", password="secret")
    assert pulled.image.digest == SMALL.digest


def test_rate_limit_is_explained(registry: FaultRegistry) -> None:
    body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}'
    registry.faults.append(lambda request: Answer(429, {"RateLimit-Remaining": "0;w=21600"}, body))
    with pytest.raises(UnavailableError, match="pull rate limit") as caught:
        pull(f"docker://{registry.host}/team/app:1", insecure=True)
    assert "try again within 6 hours" in caught.value.hint and "login" in caught.value.hint
    assert len(registry.seen("/manifests/")) == 1  # hours are not waited for


@pytest.mark.parametrize("remaining", ["", "0", "0;w=x", "0;w=0", "0;w=" + "9" * 50, "0;w=1;x"])
def test_rate_limit_without_a_window(registry: FaultRegistry, remaining: str) -> None:
    registry.faults.append(lambda request: Answer(429, {"RateLimit-Remaining": remaining}))
    with pytest.raises(UnavailableError) as caught:
        pull(f"docker://{registry.host}/team/app:1", insecure=True)
    assert "try again later" in caught.value.hint


def test_unreachable_hosts_are_told_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=f"connect to {host}.*refused"):
            pull(f"docker://{host}/team/app:1")
    with pytest.raises(UnavailableError, match=r"resolve nothing\.invalid"):
        pull("docker://nothing.invalid/team/app:1")


def test_origin_has_no_secrets(registry: FaultRegistry) -> None:
    descriptor = Descriptor("application/octet-stream", Digest("sha256:" + "a" * 64), 1)
    with source(f"docker://{registry.host}/team/app:1", username="me", password="secret") as opened:
        assert opened.origin(descriptor) == f"https://{registry.host}/v2/team/app/blobs/{descriptor.digest}"
    with source("docker://nginx") as opened:
        assert opened.origin(descriptor).startswith("https://registry-1.docker.io/v2/library/nginx/blobs/")


# --- proxies ----------------------------------------------------------------------------------------------------


class Forwarder(FaultServer):
    """An HTTP proxy: CONNECT is a tunnel to `target`, everything else is answered by its registry."""

    def __init__(self, target: FaultRegistry) -> None:
        super().__init__()
        self.target = target
        self.refuse = 0

    def answer(self, request: Request) -> Answer:
        if self.refuse:
            return Answer(self.refuse)
        request.target = "/" + request.target.split("/", 3)[3]
        return self.target.answer(request)

    def _one(self, sock: socket.socket, reader: object, number: int) -> bool:
        if sock.recv(7, socket.MSG_PEEK) != b"CONNECT" or self.refuse:
            return super()._one(sock, reader, number)
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(1)
        lines = head.decode().splitlines()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self.requests.append(Request("CONNECT", lines[0].split()[1], headers, b"", 1, 1, number))
        with socket.create_connection(("127.0.0.1", self.target.port)) as other:
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_copy, args=(other, sock))
            back.start()
            _copy(sock, other)
            back.join()
        return False


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name that only the proxy can reach: loopback is never proxied."""
    return "registry.example.com"


def test_https_goes_through_the_proxy(
    authority: Authority, home: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.install(home / ".config/containers/certs.d", named)
    with FaultRegistry(authority.server_context("named", f"DNS:{named}")) as registry, Forwarder(registry) as proxy:
        registry.add("team/app", "1", SMALL)
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:p%40ss@{proxy.host}")
        assert pull(f"docker://{named}/team/app:1").image.digest == SMALL.digest
        assert {request.target for request in proxy.requests} == {f"{named}:443"}
        expected = "Basic " + base64.b64encode(b"user:p@ss").decode()
        assert {request.headers["proxy-authorization"] for request in proxy.requests} == {expected}
        assert all("proxy-authorization" not in request.headers for request in registry.requests)
        proxy.refuse = 403
        with pytest.raises(UnavailableError, match="403") as caught:
            pull(f"docker://{named}/team/app:1")
        assert "p@ss" not in caught.value.message and "p%40ss" not in caught.value.message


@pytest.mark.parametrize(
    "written, server, wrong",
    [
        ("docker.io", "registry-1.docker.io", "registry-1.docker.io"),
        ("registry.example.com:443", "registry.example.com", "registry.example.com"),
    ],
)
def test_certificates_are_found_by_the_name_that_is_written(
    authority: Authority, home: Path, monkeypatch: pytest.MonkeyPatch, written: str, server: str, wrong: str
) -> None:
    """Authorities and client certificates, as with skopeo; the hint names the same directory."""
    context = authority.server_context(server, f"DNS:{server}")
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(authority.certificate)
    certs = home / ".config/containers/certs.d"
    certificate, key = authority.issue("client")
    with FaultRegistry(context) as registry, Forwarder(registry) as proxy:
        registry.add("team/app", "1", SMALL)
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.host}")
        authority.install(certs, wrong)
        with pytest.raises(UnavailableError, match="certificate") as caught:
            pull(f"docker://{written}/team/app:1")
        assert f"certs.d/{written}/ca.crt" in caught.value.hint
        authority.install(certs, written)
        (certs / written / "me.cert").write_bytes(certificate.read_bytes())
        (certs / written / "me.key").write_bytes(key.read_bytes())
        assert pull(f"docker://{written}/team/app:1").image.digest == SMALL.digest
        assert {request.certificate for request in registry.requests} == {True}


def test_http_goes_through_the_proxy(home: Path, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultRegistry() as registry, Forwarder(registry) as proxy:
        registry.add("team/app", "1", SMALL)
        monkeypatch.setenv("HTTP_PROXY", f"http://user:pass@{proxy.host}")
        with socket.socket() as unused:  # the attempt with TLS fails here
            unused.bind(("127.0.0.1", 0))
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{unused.getsockname()[1]}")
            assert pull(f"docker://{named}/team/app:1", insecure=True).image.digest == SMALL.digest
        assert all(request.headers["host"] == named for request in proxy.requests)
        assert all(request.headers["proxy-authorization"].startswith("Basic ") for request in proxy.requests)


@pytest.mark.parametrize(
    "no_proxy, url, direct",
    [
        ("", "https://a.example", False),
        ("*", "https://a.example", True),
        ("a.example", "https://a.example", True),
        ("example", "https://a.example", True),
        (".example", "https://a.example", True),
        (".a.example", "https://a.example", False),
        ("*.example", "https://a.example", True),
        ("xa.example", "https://a.example", False),
        ("A.Example , other", "https://a.example", True),
        ("a.example:443", "https://a.example", True),
        ("a.example:5000", "https://a.example", False),
        ("a.example:5000", "https://a.example:5000", True),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3", "https://10.1.2.3:5000", True),
        ("10.1.2.3:5000", "https://10.1.2.3", False),
        ("[2001:db8::1]:5000", "https://[2001:db8::1]:5000", True),
        ("2001:db8::/32", "https://[2001:db8::1]", True),
        ("", "https://localhost:5000", True),
        ("", "https://127.0.0.1", True),
        ("", "https://[::1]", True),
    ],
)
def test_no_proxy(no_proxy: str, url: str, direct: bool) -> None:
    proxies = Proxies({"https_proxy": "proxy.example:3128", "NO_PROXY": no_proxy})
    assert (proxies.find(urls.parse(url)) is None) == direct
    assert proxies.find(urls.parse("http://a.example")) is None


def test_proxy_settings() -> None:
    assert Proxies({"HTTP_PROXY": "http://p", "REQUEST_METHOD": "GET"}).find(urls.parse("http://a.example")) is None
    found = Proxies({"HTTPS_PROXY": "http://u:secret@p:1", "https_proxy": "http://q"}).find(
        urls.parse("https://a.example")
    )
    assert found is not None and (found.host, found.port) == ("p", 1) and "secret" not in repr(found)
    for value, kind in (
        ("socks5://p", UnsupportedError),
        ("https://p", UnsupportedError),
        ("http://", UsageError),
        ("http://p:x", UsageError),
    ):
        with pytest.raises(kind, match="HTTPS_PROXY"):
            Proxies({"HTTPS_PROXY": value}).find(urls.parse("https://a.example"))


@pytest.mark.parametrize("value", ["socks5://p", "https://p", "http://"])
def test_proxy_that_cannot_be_used_ends_only_what_goes_through_it(
    registry: FaultRegistry, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    assert pull(f"docker://{registry.host}/team/app:1", insecure=True).image.digest == SMALL.digest
    proxies = Proxies({"HTTPS_PROXY": value, "NO_PROXY": "a.example"})
    assert proxies.find(urls.parse("https://a.example")) is None
    assert proxies.find(urls.parse("http://b.example")) is None
    with pytest.raises((UnsupportedError, UsageError)):
        pull("docker://registry.example.com/team/app:1")


# --- words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header, seconds",
    [
        ("0", 0),
        ("120", 120),
        (" 5 ", 5),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("x", None),
        ("9" * 40, 999999999999.0),
        ("٣", None),
    ],
)
def test_retry_after_in_seconds(header: str, seconds: float | None) -> None:
    assert patience.retry_after(header) == seconds


@pytest.mark.parametrize("offset, seconds", [(100, 100), (0, 0), (-5000, 0)])
def test_retry_after_as_a_date(offset: int, seconds: float) -> None:
    now = 1_800_000_000
    assert patience.retry_after(formatdate(now + offset, usegmt=True), now) == seconds
    for broken in ("Fri, 99 Foo 2026 00:00:00 GMT", "Fri, 31 Dec 99999 23:59:59 GMT"):
        assert patience.retry_after(broken, now) is None


@pytest.mark.parametrize(
    "seconds, said",
    [(21600, "6 hours"), (7201, "3 hours"), (7199, "120 minutes"), (120, "2 minutes"), (119, "119 seconds")],
)
def test_lengths_of_time_for_people(seconds: int, said: str) -> None:
    assert patience.span(seconds) == said


def test_moments_for_people() -> None:
    assert patience.when(10).startswith(("at ", "on "))
    assert patience.when(10 * 86400).startswith("on ")
    assert patience.when(1e30) == "much later"


@pytest.mark.parametrize(
    "text, origin, target",
    [
        ("https://a.example", ("https", "a.example", 443), "/"),
        ("HTTPS://A.Example:8443/x?y=z#frag", ("https", "a.example", 8443), "/x?y=z"),
        ("http://[2001:db8::1]:5000/x", ("http", "2001:db8::1", 5000), "/x"),
        ("https://a.example/a b\u00e4?q=\u00fc", ("https", "a.example", 443), "/a%20b%C3%A4?q=%C3%BC"),
        ("https://a.example/%2e%2e/x", ("https", "a.example", 443), "/%2e%2e/x"),
    ],
)
def test_urls(text: str, origin: tuple[str, str, int], target: str) -> None:
    found = urls.parse(text)
    assert (found.origin, found.target) == (origin, target)
    assert "?" not in found.shown


@pytest.mark.parametrize(
    "text",
    ["", "/x", "//a.example/x", "ftp://a.example", "file:///etc/passwd", "https://", "https://a:b@c.example", "https://a.example:99999",
     "https://\u30a2.example", "https://a_b!.example", "https://[::1", "https://a.example:x", "javascript:alert(1)", "https://[fe80::1%25eth0]/"],
)  # fmt: skip
def test_urls_that_are_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        urls.parse(text)


def test_relative_locations() -> None:
    base = urls.parse("https://a.example/v2/x/manifests/1?q=1")
    assert str(base.join("/y?z")) == "https://a.example/y?z"
    assert str(base.join("2")) == "https://a.example/v2/x/manifests/2"
    assert str(base.join("//b.example/c")) == "https://b.example/c"


@pytest.mark.parametrize(
    "host, internal",
    [
        ("127.0.0.1", True), ("10.1.1.1", True), ("169.254.169.254", True), ("2852039166", True), ("0x7f.1", True),
        ("::1", True), ("fe80::1", True), ("::ffff:10.0.0.1", True), ("0.0.0.0", True), ("224.0.0.1", True),
        ("8.8.8.8", False), ("2606:4700::1111", False), ("a.example", False), ("localhost", False),
    ],
)  # fmt: skip
def test_internal_addresses(host: str, internal: bool) -> None:
    assert urls.is_internal(host) == internal
