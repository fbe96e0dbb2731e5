# SPDX-License-Identifier: LGPL-2.1-or-later
"""Attacks and faults on the way from a registry to us, named by their row in the threat model.

Everything runs over real sockets.  What a test waits for is bounded by `limits`; a pause between attempts is
noted and not waited for.
"""

import base64
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from lxc_oci.acquire import acquired
from lxc_oci.errors import AccessError, OciError, RefusedError, UnavailableError, UsageError
from lxc_oci.image import digest as digests
from lxc_oci.image import mediatype
from lxc_oci.image import reference as references
from lxc_oci.image.config import Image
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from lxc_oci.image.platform import parse as parse_platform
from lxc_oci.source import source as sources
from lxc_oci.source.open import SourceOptions
from lxc_oci.source.token import may_know
from lxc_oci.store import blobs
from lxc_oci.store.home import Store, open_store
from tests.support import image as images
from tests.support.faultregistry import Answer, FaultRegistry, FaultServer, Request, json_answer, serve_blob
from tests.support.pull import QUICK, Sleeps, pull, source
from tests.support.registry import Authority

PAYLOAD = images.layer(images.file("data", bytes(range(256)) * 16), compression="")
SMALL = images.Image([PAYLOAD])
URL = "docker://{}/team/app:1"
IMPATIENT = QUICK._replace(connect_timeout=1, idle_timeout=1, rate_window=1, retries=1)


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    """A registry without TLS that has SMALL as team/app:1."""
    with FaultRegistry() as made:
        made.add("team/app", "1", SMALL)
        yield made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config/containers").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def secure(authority: Authority, home: Path) -> Iterator[FaultRegistry]:
    """A registry with TLS, whose authority is trusted, and that has SMALL as team/app:1."""
    with FaultRegistry(authority.server_context()) as made:
        made.add("team/app", "1", SMALL)
        trust(authority, home, made)
        yield made


def trust(authority: Authority, home: Path, server: FaultServer) -> None:
    authority.install(home / ".config/containers/certs.d", server.host)


def url(server: FaultServer) -> str:
    return URL.format(server.host)


def log_in(home: Path, **users: str) -> None:
    """Write an auth.json: keys are host (or host/path), values user:password."""
    entries = {key: {"auth": base64.b64encode(value.encode()).decode()} for key, value in users.items()}
    (home / ".config/containers/auth.json").write_text(json.dumps({"auths": entries}))


def once(part: str, answer: Callable[[Request], Answer]) -> Callable[[Request], Answer | None]:
    """A fault for the first request for what has `part` in its target."""
    return lambda request: answer(request) if part in request.target and request.count == 1 else None


def always(part: str, answer: Callable[[Request], Answer]) -> Callable[[Request], Answer | None]:
    """A fault for every request for what has `part` in its target."""
    return lambda request: answer(request) if part in request.target else None


def manifest(**members: Any) -> bytes:
    """SMALL's manifest with other members."""
    return images.dump({**json.loads(SMALL.manifest), **members})


# --- P01 – P07: documents ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw, media_type",
    [
        (manifest(manifests=[]), images.MANIFEST),
        (manifest(Manifests=[]), images.MANIFEST),
        (SMALL.manifest[:-1] + b',"layers":[]}', images.MANIFEST),
        (manifest(mediaType=images.INDEX), images.MANIFEST),
        (SMALL.manifest, images.INDEX),
        (SMALL.manifest, images.DOCKER_MANIFEST),
    ],
    ids=["both kinds", "both kinds by case", "duplicate key", "other media type", "as an index", "as Docker's"],
)
def test_p01_ambiguous_document_is_refused(registry: FaultRegistry, raw: bytes, media_type: str) -> None:
    registry.put("team/app", "1", media_type, raw)
    with pytest.raises(RefusedError):
        pull(url(registry), insecure=True)
    assert not registry.seen("/blobs/")


@pytest.mark.parametrize(
    "text",
    [
        "sha256:../../etc/passwd",
        "sha256:abc",
        "sha256:" + "A" * 64,
        "md5:" + "0" * 32,
        "sha256:" + "0" * 128,
        "",
        7,
        None,
    ],
)
def test_p02_digest_is_checked_before_it_goes_into_a_url(registry: FaultRegistry, text: object) -> None:
    layer = {**PAYLOAD.descriptor(), "digest": text}
    config = {**json.loads(SMALL.manifest)["config"], "digest": text}
    index = images.Index(entries=[{**SMALL.entry(), "digest": text}])
    for media_type, raw in (
        (images.MANIFEST, manifest(layers=[layer])),
        (images.MANIFEST, manifest(config=config)),
        (images.INDEX, index.manifest),
    ):
        registry.put("team/app", "1", media_type, raw)
        with pytest.raises(RefusedError, match="digest"):
            pull(url(registry), insecure=True)
    assert {request.path for request in registry.requests} <= {"/v2/", "/v2/team/app/manifests/1"}


def test_p02_diff_id_is_checked(registry: FaultRegistry) -> None:
    bad = images.Image([PAYLOAD], document={"rootfs": {"type": "layers", "diff_ids": ["sha256:../x"]}})
    registry.add("team/app", "1", bad)
    with pytest.raises(RefusedError, match="DiffID"):
        pull(url(registry), insecure=True)


@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
def test_p03_flipped_byte_is_noticed(registry: FaultRegistry, which: str) -> None:
    part = {"manifest": SMALL.manifest, "config": SMALL.configuration, "layer": PAYLOAD.blob}[which]
    flipped = bytes([part[0] ^ 1]) + part[1:]
    media_type = images.MANIFEST if which == "manifest" else "application/octet-stream"
    registry.faults.append(
        always(images.digest(part), lambda request: Answer(200, {"Content-Type": media_type}, flipped))
    )
    with pytest.raises(RefusedError, match="digest"):
        pull(f"docker://{registry.host}/team/app@{SMALL.digest}", insecure=True)


def test_p03_tag_is_read_once(registry: FaultRegistry) -> None:
    """A tag that moves while we pull gives one of the two images, never a mixture."""
    other = images.Image([images.layer(images.file("other"))])

    def move(request: Request) -> Answer | None:
        if request.path.endswith("/manifests/1"):
            registry.add("team/app", "1", other)
            return Answer(200, {"Content-Type": images.MANIFEST}, SMALL.manifest)
        return None

    registry.faults.append(move)
    pulled = pull(url(registry), insecure=True)
    assert pulled.image.digest == SMALL.digest and pulled.layers == [PAYLOAD.blob]
    assert len(registry.seen("/manifests/")) == 1


def test_p04_size_says_where_reading_ends(registry: FaultRegistry) -> None:
    def endless() -> Iterator[bytes]:
        while not registry.stopped.is_set():
            yield b"x" * 65536

    part = images.digest(PAYLOAD.blob)
    for answer in (
        Answer(200, {}, PAYLOAD.blob[:-1]),
        Answer(200, {}, PAYLOAD.blob + b"x"),
        Answer(200, {}, [PAYLOAD.blob[:-1]], chunked=True),
        Answer(200, {}, [PAYLOAD.blob, b"x"], chunked=True),
        Answer(200, {}, endless(), chunked=True),
        Answer(200, {}, endless(), length=-1),
        Answer(200, {}, endless(), length=1 << 62),
    ):
        registry.faults[:] = [always(part, lambda request, answer=answer: answer)]  # type: ignore[misc]
        with pytest.raises(RefusedError):
            pull(url(registry), insecure=True)


@pytest.mark.parametrize("size", [-1, 1.5, "10", None, 2**63, True])
def test_p04_size_of_a_descriptor_is_a_number(registry: FaultRegistry, size: object) -> None:
    registry.put("team/app", "1", images.MANIFEST, manifest(layers=[{**PAYLOAD.descriptor(), "size": size}]))
    with pytest.raises(RefusedError, match="size"):
        pull(url(registry), insecure=True)


def test_p05_large_documents_are_refused(registry: FaultRegistry) -> None:
    huge = b'{"a":"' + b"x" * (5 << 20) + b'"}'
    many = manifest(layers=[PAYLOAD.descriptor()] * 501)
    for raw in (huge, b"[" * 100_000, many):
        registry.put("team/app", "1", images.MANIFEST, raw)
        with pytest.raises(RefusedError):
            pull(url(registry), insecure=True)
    config = images.Image([PAYLOAD], raw_config=huge)
    registry.add("team/app", "1", config)
    with pytest.raises(RefusedError, match="limit"):
        pull(url(registry), insecure=True)


def test_p05_large_token_and_error_are_not_read() -> None:
    with FaultRegistry(bearer=True) as registry:
        registry.add("team/app", "1", SMALL)
        registry.faults.append(always("/token", lambda request: json_answer({"token": "x" * (2 << 20)})))
        with pytest.raises(RefusedError, match="limit"):
            pull(url(registry), insecure=True)

    def endless() -> Iterator[bytes]:
        while not registry.stopped.is_set():
            yield b"x" * 65536

    with FaultRegistry() as registry:
        registry.faults.append(always("/manifests/", lambda request: Answer(404, {}, endless(), chunked=True)))
        with pytest.raises(AccessError):
            pull(url(registry), insecure=True)


def test_p06_nested_indexes_have_an_end(registry: FaultRegistry) -> None:
    nested: images.Image | images.Index = SMALL
    for depth in range(1, 6):
        nested = images.Index([nested])
        registry.add("team/app", "1", nested)
        if depth <= QUICK.index_depth:
            assert pull(url(registry), insecure=True).layers == [PAYLOAD.blob]
        else:
            with pytest.raises(RefusedError, match="nested"):
                pull(url(registry), insecure=True)


def test_p06_wide_index_of_indexes_has_an_end(registry: FaultRegistry) -> None:
    wide = images.Index([images.Index(members={"annotations": {"number": str(number)}}) for number in range(100)])
    registry.add("team/app", "1", wide)
    with pytest.raises(RefusedError, match="documents"):
        pull(url(registry), insecure=True)
    assert len(registry.seen("/manifests/")) <= QUICK.index_documents + 1


def test_p07_no_silent_other_platform(registry: FaultRegistry) -> None:
    arm = images.Image([PAYLOAD], platform="linux/arm64/v8")
    attestation = {**SMALL.entry(), "platform": {"os": "unknown", "architecture": "unknown"}}
    registry.add("team/app", "1", images.Index([arm], entries=[attestation, arm.entry()]))
    with pytest.raises(AccessError, match="linux/amd64") as caught:
        pull(url(registry), insecure=True)
    assert "linux/arm64/v8" in caught.value.hint
    assert not registry.seen("/blobs/")


# --- P08 – P12: where requests go, and with what ----------------------------------------------------------------


def test_p08_urls_of_a_descriptor_are_not_fetched(registry: FaultRegistry) -> None:
    with FaultServer() as other:
        layer = {**PAYLOAD.descriptor(), "urls": [f"{other.url}/layer", "http://169.254.169.254/"]}
        registry.put("team/app", "1", images.MANIFEST, manifest(layers=[layer]))
        assert pull(url(registry), insecure=True).layers == [PAYLOAD.blob]
        assert other.requests == []


def test_p09_redirect_to_another_host_carries_no_credentials(
    secure: FaultRegistry, authority: Authority, home: Path
) -> None:
    """Neither there, nor when that host sends us back."""
    secure.login = {"me": "secret"}
    log_in(home, **{secure.host: "me:secret"})
    layer = images.digest(PAYLOAD.blob)
    with FaultRegistry(authority.server_context("other", "DNS:localhost"), name="localhost") as other:
        trust(authority, home, other)
        there = {"Location": f"{other.url}/somewhere?signature=abc"}
        back = {"Location": f"{secure.url}/back"}
        secure.faults.append(always(layer, lambda request: Answer(307, there)))
        secure.faults.append(always("/back", lambda request: serve_blob(request, PAYLOAD.blob)))
        other.faults.append(always("/somewhere", lambda request: Answer(307, back)))
        assert pull(url(secure)).layers == [PAYLOAD.blob]
        assert secure.seen(layer)[0].authorization.startswith("Basic ")
        assert [request.authorization for request in other.requests] == [""]
        assert [request.authorization for request in secure.seen("/back")] == [""]
        assert not any("cookie" in request.headers for request in other.requests)


def test_p09_client_certificate_stays_with_its_host(authority: Authority, home: Path) -> None:
    contexts = [authority.server_context(f"asks-{number}") for number in range(2)]
    for context in contexts:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(authority.certificate)
    with FaultRegistry(contexts[0]) as registry, FaultRegistry(contexts[1]) as other:
        registry.add("team/app", "1", SMALL)
        trust(authority, home, registry)
        certificate, key = authority.issue("client")
        directory = home / ".config/containers/certs.d" / registry.host
        (directory / "me.cert").write_bytes(certificate.read_bytes())
        (directory / "me.key").write_bytes(key.read_bytes())
        other.faults.append(always("/there", lambda request: serve_blob(request, PAYLOAD.blob)))
        location = {"Location": f"{other.url}/there"}
        registry.faults.append(always(images.digest(PAYLOAD.blob), lambda request: Answer(302, location)))
        assert pull(url(registry)).layers == [PAYLOAD.blob]
        assert {request.certificate for request in registry.requests} == {True}
        assert [request.certificate for request in other.requests] == [False]


def test_p09_other_port_is_another_host(secure: FaultRegistry, authority: Authority, home: Path) -> None:
    secure.login = {"me": "secret"}
    log_in(home, **{secure.host: "me:secret"})
    with FaultRegistry(authority.server_context()) as other:
        other.faults.append(always("/there", lambda request: serve_blob(request, PAYLOAD.blob)))
        location = {"Location": f"{other.url}/there"}
        secure.faults.append(always(images.digest(PAYLOAD.blob), lambda request: Answer(302, location)))
        assert pull(url(secure)).layers == [PAYLOAD.blob]
        assert [request.authorization for request in other.requests] == [""]


@pytest.mark.parametrize(
    "where", ["http://127.0.0.1:{port}/x", "file:///etc/passwd", "ftp://127.0.0.1/x", "https://a:b@c/", ""]
)
def test_p09_redirect_elsewhere_is_refused(secure: FaultRegistry, where: str) -> None:
    with FaultServer() as plain:
        location = {"Location": where.format(port=plain.port)}
        secure.faults.append(always("/manifests/", lambda request: Answer(302, location)))
        with pytest.raises(RefusedError):
            pull(url(secure))
        assert plain.connections == 0


@pytest.mark.parametrize("location", ["https://[::1/x", "//[x]/", "https://a\u2100b/", "//[::1", "https://x:y/"])
def test_p09_redirect_to_what_is_no_url_is_refused(registry: FaultRegistry, location: str) -> None:
    raw = location.encode().decode("latin-1")
    registry.faults.append(always("/manifests/", lambda request: Answer(302, {"Location": raw})))
    with pytest.raises(RefusedError):
        pull(url(registry), insecure=True)


def test_p09_redirects_have_an_end(registry: FaultRegistry) -> None:
    registry.faults.append(
        lambda request: Answer(302, {"Location": f"/loop{request.total}"}) if "1" in request.target[-3:] else None
    )
    registry.faults.append(always("/loop", lambda request: Answer(302, {"Location": f"/loop{request.total}"})))
    with pytest.raises(RefusedError, match="redirects"):
        pull(url(registry), insecure=True)
    assert len(registry.seen("/loop")) <= QUICK.redirects


@pytest.mark.parametrize(
    "realm",
    [
        "http://127.0.0.1:{port}/token",
        "https://169.254.169.254/token",
        "https://2852039166/token",
        "https://0xA9.0xFE.0xA9.0xFE/token",
        "https://[::ffff:169.254.169.254]/token",
        "https://[fe80::1]/token",
        "https://169。254。169。254/token",
        "https://127.0.0.2:{port}/token",
        "https://10.0.0.1/token",
        "https://[64:ff9b::a9fe:a9fe]/token",
        "https://[64:ff9b::10.0.0.1]/token",
        "https://[2002:a9fe:a9fe::]/token",
        "https://user:pass@127.0.0.1:{port}/token",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "/token",
        "",
    ],
)
def test_p10_realm_that_steals_is_refused(secure: FaultRegistry, home: Path, realm: str) -> None:
    secure.bearer, secure.login = True, {"me": "secret"}
    log_in(home, **{secure.host: "me:secret"})
    with FaultServer() as other:
        secure.realm = realm.format(port=other.port)
        with pytest.raises(RefusedError):
            pull(url(secure))
        assert other.connections == 0
    assert all("Basic" not in request.authorization for request in secure.requests)


@pytest.mark.parametrize("entry", [{"auth": "bWU6c2VjcmV0"}, {"identitytoken": "refresh-me"}], ids=["user", "token"])
def test_p10_a_login_stays_with_the_domain_of_its_registry(registry: FaultRegistry, home: Path, entry: Any) -> None:
    """Who answers for an insecure registry, or has a realm of its own to name, could have it sent anywhere."""
    auth = home / ".config/containers/auth.json"
    with FaultRegistry(name="localhost") as other:
        registry.bearer, registry.realm, registry.tokens = True, other.realm, other.tokens
        auth.write_text(json.dumps({"auths": {registry.host: entry}}))
        assert pull(url(registry), insecure=True).layers == [PAYLOAD.blob], "as nobody, who may"
        other.login = {"us": "ours"}
        with pytest.raises(AccessError, match=f"wants its login to be sent to {other.host}") as caught:
            pull(url(registry), insecure=True)
        assert "--authfile" in caught.value.hint and other.host in caught.value.hint
        assert {request.method for request in other.requests} == {"GET"}
        assert not any(request.authorization or "secret" in request.target for request in other.requests)
        # A token for nobody may be worth nothing, which only the registry tells.
        other.login = {}
        registry.tokens = {}
        with pytest.raises(AccessError, match="wants its login to be sent to"):
            pull(url(registry), insecure=True)
        registry.tokens = other.tokens
        # What the user has for the other host is meant for it.
        other.login = {"us": "ours"}
        theirs = {"auth": base64.b64encode(b"us:ours").decode()}
        auth.write_text(json.dumps({"auths": {registry.host: entry, other.host: theirs}}))
        assert pull(url(registry), insecure=True).layers == [PAYLOAD.blob]


@pytest.mark.parametrize(
    "realm, registry, may",
    [
        ("auth.docker.io", "registry-1.docker.io", True),
        ("gitlab.com", "registry.gitlab.com", True),
        ("api.scaleway.com", "rg.fr-par.scw.cloud", True),
        ("ghcr.io", "ghcr.io", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("localhost", "localhost", True),
        ("a.example.co.uk", "b.example.co.uk", True),
        ("evil.co.uk", "registry.co.uk", False),
        ("a.evil.co.uk", "b.example.co.uk", False),
        ("docker.io.evil.com", "registry-1.docker.io", False),
        ("evildocker.io", "docker.io", False),
        ("localhost", "127.0.0.1", False),
        ("1.0.0.1", "2.0.0.1", False),
        ("com", "com.", False),
        ("io", "ghcr.io", False),
    ],
)
def test_p10_hosts_of_one_domain(realm: str, registry: str, may: bool) -> None:
    assert may_know(realm, registry) is may


def test_p10_name_of_the_metadata_service_is_refused(secure: FaultRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to a link-local address: the check is on what is connected to."""
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *more: Any, **words: Any) -> Any:
        if host == "metadata.example.com":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", port))]
        return real(host, port, *more, **words)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    secure.bearer, secure.realm = True, "https://metadata.example.com/token"
    with pytest.raises(RefusedError, match="link-local"):
        pull(url(secure))


def test_p10_token_of_the_wrong_form_is_refused(registry: FaultRegistry) -> None:
    registry.bearer = True
    for token in ("a b", "a\r\nX: y", "ü", "", 5, None, ["x"]):
        registry.faults[:] = [always("/token", lambda request, token=token: json_answer({"token": token}))]  # type: ignore[misc]
        with pytest.raises(RefusedError):
            pull(url(registry), insecure=True)
    registry.faults[:] = [always("/token", lambda request: Answer(200, {}, b"<html>secret</html>"))]
    with pytest.raises(RefusedError) as caught:
        pull(url(registry), insecure=True)
    assert "secret" not in caught.value.message


def test_p11_nothing_is_sent_before_it_is_asked_for(secure: FaultRegistry, home: Path) -> None:
    log_in(home, **{secure.host: "me:secret"})
    assert pull(url(secure)).layers == [PAYLOAD.blob]
    assert all(request.authorization == "" for request in secure.requests)


def test_p11_token_stays_with_its_repository_and_host(secure: FaultRegistry, authority: Authority, home: Path) -> None:
    secure.bearer = True
    secure.add("team/other", "1", SMALL)
    for repository in ("team/app", "team/other"):
        pull(f"docker://{secure.host}/{repository}:1")
    scopes = [request.query["scope"] for request in secure.seen("/token")]
    assert scopes == [["repository:team/app:pull"], ["repository:team/other:pull"]]
    used = {
        repository: {r.authorization for r in secure.seen(f"/v2/{repository}/")} - {""}
        for repository in ("team/app", "team/other")
    }
    assert not used["team/app"] & used["team/other"]


def test_p11_scope_of_the_challenge_is_not_ours(registry: FaultRegistry) -> None:
    """A registry cannot have us fetch a token for more than pulling this repository."""
    challenge = f'Bearer realm="{registry.url}/token",scope="registry:catalog:* repository:other/secret:pull,push"'
    registry.bearer = True
    registry.faults.append(once("/manifests/1", lambda request: Answer(401, {"WWW-Authenticate": challenge})))
    pull(url(registry), insecure=True)
    assert [request.query["scope"] for request in registry.seen("/token")] == [["repository:team/app:pull"]]


@pytest.mark.parametrize(
    "key", ["{host}1", "x{host}", "{host}/tea", "{host}/team/ap", "{host}/team/app/x", "127.0.0.1"]
)
def test_p11_credentials_of_a_similar_name_are_not_used(secure: FaultRegistry, home: Path, key: str) -> None:
    secure.login = {"me": "secret"}
    log_in(home, **{key.format(host=secure.host): "me:secret"})
    with pytest.raises(AccessError, match="login"):
        pull(url(secure))
    assert all(request.authorization == "" for request in secure.requests)


def test_p12_no_plain_http_when_tls_fails(authority: Authority, home: Path) -> None:
    """A server without TLS, an unknown authority, a wrong name: nothing is asked in the clear."""
    with FaultRegistry() as plain, pytest.raises(UnavailableError, match="TLS") as caught:
        pull(url(plain))
    assert "--insecure" in caught.value.hint
    assert plain.requests == []
    with FaultRegistry(authority.server_context()) as unknown:
        with pytest.raises(UnavailableError, match="certificate"):
            pull(url(unknown))
        assert unknown.requests == []
    with FaultRegistry(authority.server_context("wrong", "DNS:example.com")) as wrong:
        trust(authority, home, wrong)
        with pytest.raises(UnavailableError, match="certificate"):
            pull(url(wrong))
        assert wrong.requests == []


def test_p12_insecure_is_for_one_registry(registry: FaultRegistry, home: Path) -> None:
    (home / ".config/containers/registries.conf").write_text(
        f'[[registry]]\nlocation = "example.invalid"\n[[registry.mirror]]\nlocation = "{registry.host}"\n'
    )
    with pytest.raises(UnavailableError, match="TLS"):
        pull("docker://example.invalid/team/app:1", insecure=True)
    assert registry.requests == []


# --- P13 – P19: names, and who may have what --------------------------------------------------------------------


@pytest.mark.parametrize("media_type", sorted(mediatype.DOCKER_SCHEMA_1) + ["application/json", images.MANIFEST])
def test_p13_schema_1_is_refused(registry: FaultRegistry, media_type: str) -> None:
    raw = images.dump(
        {"schemaVersion": 1, "name": "team/app", "tag": "1", "fsLayers": [], "history": [], "signatures": []}
    )
    registry.put("team/app", "1", media_type, raw)
    with pytest.raises(RefusedError, match="schema 1"):
        pull(url(registry), insecure=True)


def test_p14_announced_digest_is_not_believed(registry: FaultRegistry) -> None:
    other = "sha256:" + "0" * 64
    headers = {"Content-Type": images.MANIFEST, "Docker-Content-Digest": other}
    registry.faults.append(always("/manifests/1", lambda request: Answer(200, headers, SMALL.manifest)))
    pulled = pull(url(registry), insecure=True)
    assert pulled.image.digest == SMALL.digest
    assert any(other in warning for warning in pulled.warnings)


@pytest.mark.parametrize(
    "name",
    [
        "h.example/a/../b:1", "h.example/a/./b", "h.example/-a", "h.example/a//b", "h.example/a:-1", "h.example/a:..",
        "h.example/a:1/../../x", "h.example/a%2f..:1", "h.example/a:1?x=y", "h.example/a:1#x", "h.example/a b",
        "h.example/a:1\r\nHost: x", "h.example/a\x1b[0m", "h.example/" + "a" * 256, "user:secret@h.example/a",
        "h.example:99999/a", "h.example:80x/a", "h.exämple/a", "h.example/Ä", "-h.example/a",
    ],
)  # fmt: skip
def test_p15_names_are_checked_before_they_go_into_a_url(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        references.parse(f"docker://{name}")
    assert "secret" not in caught.value.message


def test_p16_digest_wins_over_the_tag(registry: FaultRegistry) -> None:
    other = images.Image([images.layer(images.file("other"))])
    registry.add("team/app", "2", other)
    pulled = pull(f"docker://{registry.host}/team/app:2@{SMALL.digest}", insecure=True)
    assert pulled.image.digest == SMALL.digest
    assert not registry.seen("/manifests/2")


def test_p16_digest_of_another_repository_is_not_found(registry: FaultRegistry) -> None:
    other = images.Image([images.layer(images.file("other"))])
    registry.add("team/other", "1", other)
    with pytest.raises(AccessError, match=other.digest):
        pull(f"docker://{registry.host}/team/app@{other.digest}", insecure=True)
    assert all("/team/other/" not in request.target for request in registry.requests)


# --- the store between a registry and us (P18 is in tests/unit/test_store_home.py) ---------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def acquire(name: str, store: Store) -> Image:
    """Resolve an image as a create does, the store before the registry."""
    options = SourceOptions(temporary="/nonexistent", insecure=True, platform=parse_platform("linux/amd64"))
    with acquired(references.parse(name), options, store, QUICK, lambda warning: None) as found:
        return found.image


def test_p14_image_is_kept_under_the_name_it_was_pulled_by(registry: FaultRegistry, store: Store) -> None:
    """Another registry's image of the same name, tag, annotation and announced digest changes nothing."""
    name = {"org.opencontainers.image.ref.name": f"{registry.host}/team/app:1"}
    mine = images.Image([PAYLOAD], annotations=name)
    other = images.Image([images.layer(images.file("other"))], annotations=name)
    registry.add("team/app", "1", mine)
    with FaultRegistry() as evil:
        evil.add("team/app", "1", other)
        headers = {"Content-Type": images.MANIFEST, "Docker-Content-Digest": mine.digest}
        evil.faults.append(lambda request: Answer(200, headers, other.manifest) if request.method == "GET" else None)
        evil.faults.insert(0, always("/blobs/", lambda request: evil_blob(request, other)))
        for _ in range(2):
            assert acquire(url(evil), store).digest == other.digest
            assert acquire(url(registry), store).digest == mine.digest


def evil_blob(request: Request, made: images.Image) -> Answer:
    return serve_blob(request, made.blobs()[request.path.rpartition("/")[2]])


def test_p17_blob_is_read_and_verified_through_one_descriptor(registry: FaultRegistry, store: Store) -> None:
    """A file that is replaced after it was opened is not read, and one that was replaced before is refused."""
    content = os.urandom(1 << 20)
    descriptor = Descriptor("application/vnd.oci.image.layer.v1.tar", digests.sha256(content), len(content))
    registry.blobs["team/app", str(descriptor.digest)] = content
    caching = blobs.CachingSource(store, lambda: source(url(registry), insecure=True))
    path = Path(blobs.fetch(store, caching, descriptor, "the layer", lambda count: None))
    with sources.blob(caching, descriptor, "the layer") as reader:
        read = reader.read(1000)
        swapped = path.with_name("swapped")
        swapped.write_bytes(bytes(len(content)))
        swapped.rename(path)
        assert read + b"".join(iter(lambda: reader.read(1 << 16), b"")) == content
    with sources.blob(caching, descriptor, "the layer") as reader, pytest.raises(RefusedError, match="digest"):
        while reader.read(1 << 16):
            pass
    caching.close()


def test_p19_stored_image_opens_for_its_own_name_only(registry: FaultRegistry, store: Store) -> None:
    """Who may not read an image in a registry does not get it from the store by naming its digest there."""
    registry.add("team/private", "1", SMALL)
    assert acquire(f"docker://{registry.host}/team/private:1", store).digest == SMALL.digest
    registry.documents = {key: value for key, value in registry.documents.items() if key[0] == "team/private"}
    with pytest.raises(AccessError):
        acquire(f"docker://{registry.host}/team/app@{SMALL.digest}", store)
    with FaultRegistry() as other, pytest.raises(AccessError):
        acquire(f"docker://{other.host}/team/private@{SMALL.digest}", store)


def test_p19_layer_of_another_repository_is_not_found(registry: FaultRegistry) -> None:
    """A manifest that names a private layer: it is asked for in the repository that we may read, and nowhere else."""
    private = images.Image([images.layer(images.file("private"))])
    registry.add("team/private", "1", private)
    registry.put("team/app", "1", images.MANIFEST, private.manifest)
    registry.blobs["team/app", images.digest(private.configuration)] = private.configuration
    with pytest.raises(AccessError, match=images.digest(private.layers[0].blob)):
        pull(url(registry), insecure=True)
    assert all("/team/private/" not in request.target for request in registry.requests)


# --- P20 – P25: the bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["/manifests/1", images.digest(PAYLOAD.blob)], ids=["manifest", "layer"])
def test_p20_content_encoding_is_refused(registry: FaultRegistry, part: str) -> None:
    def encode(request: Request) -> Answer:
        content = SMALL.manifest if "manifests" in request.target else PAYLOAD.blob
        return Answer(200, {"Content-Encoding": "gzip"}, images.compress(content, "gzip"))

    registry.faults.append(always(part, encode))
    with pytest.raises(RefusedError, match="Content-Encoding"):
        pull(url(registry), insecure=True)
    assert all(
        request.headers["accept-encoding"] == "identity" for request in registry.requests if request.path != "/v2/"
    )


def _wrong_range(kind: str) -> Callable[[Request], Answer | None]:
    blob = PAYLOAD.blob
    size = len(blob)

    def fault(request: Request) -> Answer | None:
        if images.digest(blob) not in request.target:
            return None
        if "range" not in request.headers:
            return Answer(200, {}, blob, cut=1000) if request.count == 1 else None
        wrong = {
            "200": Answer(200, {}, blob),
            "wrong start": Answer(206, {"Content-Range": f"bytes 0-{size - 1}/{size}"}, blob),
            "overlap": Answer(206, {"Content-Range": f"bytes 990-{size - 1}/{size}"}, blob[990:]),
            "wrong total": Answer(206, {"Content-Range": f"bytes 1000-{size - 1}/{size + 1}"}, blob[1000:]),
            "wrong end": Answer(206, {"Content-Range": f"bytes 1000-{size - 2}/{size}"}, blob[1000:-1]),
            "no header": Answer(206, {}, blob[1000:]),
            "multipart": Answer(206, {"Content-Type": "multipart/byteranges; boundary=x"}, blob[1000:]),
            "416": Answer(416, {"Content-Range": f"bytes */{size}"}),
        }
        return wrong[kind]

    return fault


@pytest.mark.parametrize(
    "kind", ["200", "wrong start", "overlap", "wrong total", "wrong end", "no header", "multipart", "416"]
)
def test_p21_wrong_range_means_the_whole_blob_again(registry: FaultRegistry, kind: str) -> None:
    registry.faults.append(_wrong_range(kind))
    assert pull(url(registry), insecure=True).layers == [PAYLOAD.blob]


def test_p21_lying_range_is_noticed_by_the_digest(registry: FaultRegistry) -> None:
    blob = PAYLOAD.blob

    def lie(request: Request) -> Answer | None:
        if images.digest(blob) not in request.target:
            return None
        if "range" not in request.headers:
            return Answer(200, {}, blob, cut=1000)
        return Answer(206, {"Content-Range": f"bytes 1000-{len(blob) - 1}/{len(blob)}"}, bytes(len(blob) - 1000))

    registry.faults.append(lie)
    with pytest.raises(RefusedError, match="digest"):
        pull(url(registry), insecure=True)


@pytest.mark.parametrize(
    "raw",
    [
        [b"HTTP/1.1 200 OK\r\n"] + [b"X-%d: y\r\n" % number for number in range(1000)],
        [b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000],
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 200_000],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"] + [b"1;" + b"x" * 60_000 + b"\r\n{\r\n"] * 200,
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"] + [b"X: " + b"y" * 60_000 + b"\r\n"] * 2000,
        [b"not HTTP at all\r\n\r\n"],
        [b""],
    ],
    ids=["many headers", "long header", "endless 1xx", "chunk extensions", "endless trailer", "no HTTP", "nothing"],
)
def test_p22_flood_of_framing_ends(registry: FaultRegistry, raw: list[bytes]) -> None:
    registry.faults.append(always("/manifests/", lambda request: Answer(raw=raw)))
    with pytest.raises((UnavailableError, RefusedError)):
        pull(url(registry), insecure=True)


def test_p22_slow_headers_end(registry: FaultRegistry) -> None:
    def slow() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nX: "
        while not registry.stopped.wait(0.05):
            yield b"y"

    registry.faults.append(always("/manifests/", lambda request: Answer(raw=slow())))
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="headers"):
        pull(url(registry), insecure=True, limits=IMPATIENT)
    assert time.monotonic() - started < 30


def test_p22_two_locations_are_refused(registry: FaultRegistry) -> None:
    pairs = [("Location", "/a"), ("Location", "/b")]
    registry.faults.append(always("/manifests/", lambda request: Answer(302, pairs)))
    with pytest.raises(RefusedError, match="Location"):
        pull(url(registry), insecure=True)


def test_p23_environment_steers_by_the_documented_names_only(
    registry: FaultRegistry, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    with FaultServer() as proxy:
        for name in ("ALL_PROXY", "all_proxy", "FTP_PROXY", "ftp_proxy", "SOCKS_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        registry.login = {"me": "secret"}
        with pytest.raises(AccessError):
            pull(url(registry), insecure=True)
        assert proxy.connections == 0
    assert all(request.authorization == "" for request in registry.requests)


def test_p24_data_of_a_descriptor_is_ignored_and_encryption_refused(registry: FaultRegistry) -> None:
    config = json.loads(SMALL.manifest)["config"]
    evil = base64.b64encode(b'{"config":{"User":"evil"}}').decode()
    registry.put("team/app", "1", images.MANIFEST, manifest(config={**config, "data": evil}))
    assert pull(url(registry), insecure=True).image.config.user == ""
    layer = {**PAYLOAD.descriptor(), "mediaType": images.TAR + "+gzip+encrypted"}
    registry.put("team/app", "1", images.MANIFEST, manifest(layers=[layer]))
    with pytest.raises(RefusedError, match="encrypted"):
        pull(url(registry), insecure=True)


@pytest.mark.parametrize(
    "rootfs",
    [
        {"type": "other", "diff_ids": [PAYLOAD.diff_id]},
        {"type": "layers", "diff_ids": []},
        {"type": "layers", "diff_ids": [PAYLOAD.diff_id] * 2},
        {"type": "layers", "diff_ids": "x"},
    ],
)
def test_p25_rootfs_of_the_configuration_must_fit(registry: FaultRegistry, rootfs: dict[str, object]) -> None:
    registry.add("team/app", "1", images.Image([PAYLOAD], document={"rootfs": rootfs}))
    with pytest.raises(RefusedError):
        pull(url(registry), insecure=True)
    assert not registry.seen(images.digest(PAYLOAD.blob))


# --- faults -----------------------------------------------------------------------------------------------------

BIG = images.layer(images.file("big", os.urandom(1 << 20) * 4), compression="")
BIG_IMAGE = images.Image([BIG])


@pytest.mark.parametrize("at", [0, 1, 1 << 20, len(BIG.blob) - 1])
def test_f06_cut_blob_is_resumed(registry: FaultRegistry, at: int) -> None:
    registry.add("team/app", "1", BIG_IMAGE)
    part = images.digest(BIG.blob)
    registry.faults.append(once(part, lambda request: Answer(200, {}, BIG.blob, cut=at)))
    assert pull(url(registry), insecure=True).layers == [BIG.blob]
    ranges = [request.headers.get("range") for request in registry.seen(part)]
    assert ranges == [None, f"bytes={at}-" if at else None]


def test_f06_cut_after_every_mebibyte_is_resumed(registry: FaultRegistry) -> None:
    registry.add("team/app", "1", BIG_IMAGE)
    part = images.digest(BIG.blob)

    def cut(request: Request) -> Answer:
        answer = serve_blob(request, BIG.blob)
        answer.cut = 1 << 20
        return answer

    registry.faults.append(always(part, cut))
    assert pull(url(registry), insecure=True, limits=QUICK._replace(retries=1)).layers == [BIG.blob]
    assert len(registry.seen(part)) == 1 + len(BIG.blob) // (1 << 20)


def test_f06_no_progress_ends(registry: FaultRegistry) -> None:
    """One byte for each connection is not progress."""
    part = images.digest(PAYLOAD.blob)

    def one(request: Request) -> Answer:
        answer = serve_blob(request, PAYLOAD.blob)
        answer.cut = 1
        return answer

    registry.faults.append(always(part, one))
    with pytest.raises(UnavailableError, match="cut"):
        pull(url(registry), insecure=True)
    assert len(registry.seen(part)) == 1 + QUICK.retries


def test_f06_resume_across_runs(registry: FaultRegistry) -> None:
    descriptor = Descriptor("application/octet-stream", Digest(images.digest(PAYLOAD.blob)), len(PAYLOAD.blob))
    with source(url(registry), insecure=True) as opened:
        reader = opened.open(descriptor, offset=1000)
        assert b"".join(iter(lambda: reader.read(1 << 16), b"")) == PAYLOAD.blob[1000:]
        reader.close()
        asked = len(registry.requests)
        reader = opened.open(descriptor, offset=len(PAYLOAD.blob))
        assert reader.read(1) == b"" and len(registry.requests) == asked
        reader.close()


def test_f06_cut_manifest_is_asked_for_again(registry: FaultRegistry) -> None:
    headers = {"Content-Type": images.MANIFEST}
    registry.faults.append(once("/manifests/1", lambda request: Answer(200, headers, SMALL.manifest, cut=10)))
    assert pull(url(registry), insecure=True).image.digest == SMALL.digest


def test_f06_mirror_that_stops_is_replaced(registry: FaultRegistry, home: Path) -> None:
    """The rest of a blob comes from the next place."""
    registry.add("team/app", "1", BIG_IMAGE)
    part = images.digest(BIG.blob)
    with FaultRegistry() as mirror:
        mirror.add("copy/app", "1", BIG_IMAGE)
        mirror.faults.append(
            lambda request: (
                Answer(200, {}, BIG.blob, cut=1 << 19) if part in request.target and request.count == 1 else None
            )
        )
        mirror.faults.append(always(part, lambda request: Answer(raw=[b""])))
        (home / ".config/containers/registries.conf").write_text(
            f'[[registry]]\nlocation = "{registry.host}/team"\ninsecure = true\n'
            f'[[registry.mirror]]\nlocation = "{mirror.host}/copy"\ninsecure = true\n'
        )
        assert pull(url(registry)).layers == [BIG.blob]
        assert [request.headers.get("range") for request in registry.seen(part)] == [f"bytes={1 << 19}-"]
        assert not registry.seen("/manifests/")


def test_f07_silent_and_slow_servers_are_left(registry: FaultRegistry) -> None:
    def silence() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        registry.stopped.wait(60)

    def slow() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
        while not registry.stopped.wait(0.05):
            yield b"x"

    for stream in (silence, slow):
        registry.faults[:] = [always("/manifests/", lambda request, stream=stream: Answer(raw=stream()))]  # type: ignore[misc]
        started = time.monotonic()
        with pytest.raises(UnavailableError):
            pull(url(registry), insecure=True, limits=IMPATIENT)
        assert time.monotonic() - started < 30


def test_f07_connection_that_is_not_accepted_ends() -> None:
    """A full backlog: the connection is neither accepted nor refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        started = time.monotonic()
        with pytest.raises(UnavailableError):
            pull(URL.format(host), limits=IMPATIENT)
        assert time.monotonic() - started < 30
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "value, least, most",
    [
        ("2", 2, 3),
        ("0", 0.5, 1),
        ("-5", 0.5, 1),
        ("soon", 0.5, 1),
        ("", 0.5, 1),
        ("date-past", 0.5, 1),
        ("date", 8, 14),
    ],
)
def test_f08_retry_after_is_obeyed(registry: FaultRegistry, status: int, value: str, least: float, most: float) -> None:
    if value.startswith("date"):
        value = formatdate(time.time() + (-3600 if value == "date-past" else 10), usegmt=True)
    sleeps = Sleeps()
    registry.faults.append(once("/manifests/1", lambda request: Answer(status, {"Retry-After": value})))
    assert pull(url(registry), insecure=True, sleep=sleeps).layers == [PAYLOAD.blob]
    assert len(sleeps.seconds) == 1 and least <= sleeps.seconds[0] <= most


@pytest.mark.parametrize("value", ["3600", "1000000000", "date"])
def test_f08_long_retry_after_is_told_and_not_waited_for(registry: FaultRegistry, value: str) -> None:
    if value == "date":
        value = formatdate(time.time() + 86400, usegmt=True)
    sleeps = Sleeps()
    registry.faults.append(always("/manifests/", lambda request: Answer(429, {"Retry-After": value})))
    with pytest.raises(UnavailableError, match="more requests") as caught:
        pull(url(registry), insecure=True, sleep=sleeps)
    assert "try again" in caught.value.hint
    assert sleeps.seconds == [] and len(registry.seen("/manifests/")) == 1


def test_f08_attempts_end(registry: FaultRegistry) -> None:
    sleeps = Sleeps()
    registry.faults.append(always("/manifests/", lambda request: Answer(429)))
    with pytest.raises(UnavailableError):
        pull(url(registry), insecure=True, sleep=sleeps)
    assert len(registry.seen("/manifests/")) == 1 + QUICK.retries
    assert sleeps.seconds == sorted(sleeps.seconds)


@pytest.mark.parametrize("status", [500, 502, 504, 408])
def test_f09_passing_failure_is_tried_again(registry: FaultRegistry, status: int) -> None:
    for part in ("/manifests/1", images.digest(PAYLOAD.blob)):
        registry.faults.append(once(part, lambda request: Answer(status)))
    assert pull(url(registry), insecure=True).layers == [PAYLOAD.blob]


@pytest.mark.parametrize("status", [400, 405, 410, 501])
def test_f09_lasting_failure_is_not(registry: FaultRegistry, status: int) -> None:
    registry.faults.append(always("/manifests/", lambda request: Answer(status)))
    with pytest.raises(UnavailableError, match=str(status)):
        pull(url(registry), insecure=True)
    assert len(registry.seen("/manifests/")) == 1


def test_f09_not_found_on_one_mirror(registry: FaultRegistry, home: Path) -> None:
    with FaultRegistry() as mirror:
        (home / ".config/containers/registries.conf").write_text(
            f'[[registry]]\nlocation = "{registry.host}"\ninsecure = true\n'
            f'[[registry.mirror]]\nlocation = "{mirror.host}"\ninsecure = true\n'
        )
        assert pull(url(registry)).layers == [PAYLOAD.blob]
        assert len(mirror.seen("/manifests/")) == 1


@pytest.mark.parametrize(
    "members", [{}, {"expires_in": 0}, {"expires_in": 10**12}, {"expires_in": -1}, {"expires_in": "x"}]
)
def test_f10_token_that_dies_is_fetched_again(registry: FaultRegistry, members: dict[str, object]) -> None:
    registry.bearer, registry.token_uses, registry.token_members = True, 2, members
    registry.add("team/app", "1", images.Image([images.layer(images.file(f"f{n}"), compression="") for n in range(7)]))
    assert len(pull(url(registry), insecure=True).layers) == 7
    assert len(registry.seen("/token")) == 5  # nine requests, two for each token


def test_f10_registry_that_never_is_content_ends(registry: FaultRegistry) -> None:
    registry.bearer, registry.token_uses = True, 0
    with pytest.raises(AccessError):
        pull(url(registry), insecure=True)
    assert len(registry.seen("/manifests/")) == 2 and len(registry.seen("/token")) == 1


def test_f10_parallel_reads_share_a_token(registry: FaultRegistry) -> None:
    layers = [images.layer(images.file(f"f{number}", os.urandom(1 << 16)), compression="") for number in range(8)]
    registry.bearer = True
    registry.add("team/app", "1", images.Image(layers))
    found: dict[int, bytes] = {}
    with source(url(registry), insecure=True) as opened:

        def read(number: int) -> None:
            blob = layers[number].blob
            descriptor = Descriptor("application/octet-stream", digests.sha256(blob), len(blob))
            with sources.blob(opened, descriptor, "layer") as reader:
                found[number] = b"".join(iter(lambda: reader.read(4096), b""))

        threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found.get(number) for number in range(8)] == [layer.blob for layer in layers]
    assert len(registry.seen("/token")) == 1


@pytest.mark.parametrize(
    "dates", [("200101000000Z", "210101000000Z"), ("480101000000Z", "490101000000Z")], ids=["past", "future"]
)
def test_f11_wrong_clock_is_named(authority: Authority, home: Path, dates: tuple[str, str]) -> None:
    context = authority.server_context("dated", "IP:127.0.0.1", start=dates[0], end=dates[1])
    with FaultRegistry(context) as registry:
        trust(authority, home, registry)
        with pytest.raises(UnavailableError, match="certificate") as caught:
            pull(url(registry))
    assert "clock" in caught.value.hint


@pytest.mark.parametrize("years", [-100, -10, 10])
def test_f11_timeouts_do_not_follow_the_clock(
    registry: FaultRegistry, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    registry.bearer = True
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + years * 365 * 86400)
    assert pull(url(registry), insecure=True).layers == [PAYLOAD.blob]


@pytest.mark.parametrize(
    "answer, words",
    [
        (Answer(200, {"Content-Type": "text/html"}, b"<html>Log in to the WiFi</html>"), "web page"),
        (Answer(200, {"Content-Type": images.MANIFEST}, b""), "nothing"),
        (Answer(200, {"Content-Type": images.MANIFEST}, b"<html>"), "JSON"),
    ],
)
def test_f21_captive_portal_is_named(registry: FaultRegistry, answer: Answer, words: str) -> None:
    registry.faults.append(always("/manifests/", lambda request: answer))
    with pytest.raises(OciError, match=words):
        pull(url(registry), insecure=True)


def test_f21_wrong_content_length(registry: FaultRegistry) -> None:
    registry.faults.append(
        always(images.digest(PAYLOAD.blob), lambda request: Answer(200, {"Content-Type": "text/html"}, b"<html>"))
    )
    with pytest.raises(UnavailableError, match=f"{registry.host}.*web page"):
        pull(url(registry), insecure=True)
    registry.faults[:] = [always("/manifests/", lambda request: Answer(200, {}, SMALL.manifest, length=10_000))]
    with pytest.raises(UnavailableError):
        pull(url(registry), insecure=True, limits=IMPATIENT)


def test_secrets_are_in_no_message(registry: FaultRegistry) -> None:
    """Also not when the server says them back."""
    registry.bearer, registry.login = True, {"me": "right"}

    def echo(request: Request) -> Answer | None:
        if "/token" in request.target:
            return json_answer({"token": "the-token"})
        if request.authorization == "Bearer the-token":
            words = f"{request.authorization} hunter2 {base64.b64encode(b'me:hunter2').decode()} \x1b[31m"
            return json_answer({"errors": [{"code": "DENIED", "message": words}]}, 403)
        return None

    registry.faults.append(echo)
    with pytest.raises(AccessError) as caught:
        pull(url(registry), insecure=True, username="me", password="hunter2")
    text = caught.value.message + caught.value.hint + repr(caught.value)
    assert "DENIED" in text
    assert "the-token" not in text and "hunter2" not in text and "\x1b" not in text
