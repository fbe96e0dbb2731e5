# SPDX-License-Identifier: LGPL-2.1-or-later
"""policy.json(5): which requirements apply to an image, what is refused for want of a check, and signatures."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lxc_oci.errors import OciError, RefusedError, UsageError
from lxc_oci.image import reference as references
from lxc_oci.image.digest import Digest
from lxc_oci.limits import Limits
from lxc_oci.source import policy
from lxc_oci.source.identity import Identity
from lxc_oci.source.open import SourceOptions
from lxc_oci.source.policy import Policy
from tests.support import image as images
from tests.support import signature
from tests.support.faultregistry import Answer, FaultRegistry, Request
from tests.support.pull import QUICK

ACCEPT = {"type": "insecureAcceptAnything"}
REJECT = {"type": "reject"}
PIN = "@sha256:" + "a" * 64
OPTIONS = SourceOptions(temporary="/nonexistent", insecure=True)


def parse(document: Any) -> Policy:
    return policy.parse(document if isinstance(document, bytes) else json.dumps(document).encode(), "policy.json")


def verdict(document: Any, url: str) -> str:
    """The type of the requirement that applies."""
    return parse(document).requirements(references.parse(url))[0].type


def check(document: Any, url: str, image: str | None = None) -> None:
    digest = Digest(image) if image else None
    policy.check(parse(document), references.parse(url), digest, OPTIONS, QUICK._replace(retries=1), pytest.fail)


@pytest.mark.parametrize(
    "url, scope, applies",
    [
        ("docker://h.example/a/b:1", "h.example/a/b:1", True),
        ("docker://h.example/a/b:1", "h.example/a/b", True),
        ("docker://h.example/a/b:1", "h.example/a", True),
        ("docker://h.example/a/b:1", "h.example", True),
        ("docker://h.example/a/b:1", "*.example", True),
        ("docker://h.example/a/b:1", "", True),
        ("docker://h.example:5000/a/b:1", "h.example:5000", True),
        ("docker://h.example:5000/a/b:1", "h.example", False),
        ("docker://h.example:5000/a/b:1", "*.example", True),
        ("docker://h.example/a/b:1", "h.example/a/b:2", False),
        ("docker://h.example/a/b:1", "h.example/a/", False),
        ("docker://h.example/a/b:1", "*.h.example", False),
        ("docker://nginx", "docker.io/library/nginx", True),
        ("docker://nginx", "docker.io/library/nginx:latest", True),
        (f"docker://h.example/a{PIN}", f"h.example/a{PIN}", True),
        (f"docker://h.example/a:1{PIN}", f"h.example/a{PIN}", True),
        (f"docker://h.example/a:1{PIN}", "h.example/a:1", False),
        ("docker-archive:/tmp/a.tar:x:1", "", True),
    ],
)
def test_scopes(url: str, scope: str, applies: bool) -> None:
    transport = url.partition(":")[0]
    document = {"default": [REJECT], "transports": {transport: {scope: [ACCEPT]}}}
    assert (verdict(document, url) == "insecureAcceptAnything") == applies


@pytest.mark.parametrize("transport, selector", [("oci", ":latest"), ("oci-archive", ":latest"), ("dir", "")])
def test_scopes_of_paths(tmp_path: Path, transport: str, selector: str) -> None:
    """They are real paths, whatever links led there."""
    (tmp_path / "images/one").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "images")
    url = f"{transport}:{tmp_path}/link/one{selector}"
    real = str((tmp_path / "images/one").resolve())
    scopes = [real + selector, real, str(Path(real).parent), str(tmp_path), "/" + str(tmp_path).split("/")[1], ""]
    for scope in scopes:
        assert verdict({"default": [REJECT], "transports": {transport: {scope: [ACCEPT]}}}, url) == ACCEPT["type"]
    for scope in (f"{tmp_path}/link", f"{tmp_path}/images/on"):
        assert verdict({"default": [REJECT], "transports": {transport: {scope: [ACCEPT]}}}, url) == "reject"


@pytest.mark.parametrize(
    "transport, scope",
    [
        *((transport, scope) for transport in ("oci", "dir") for scope in ("/", "//a", "/a/", "/a/../b", "a", "./a")),
        ("oci-archive", "a.tar"),
        ("docker-archive", "/a.tar"),
    ],
)
def test_scope_that_could_never_apply_makes_the_file_invalid(transport: str, scope: str) -> None:
    """As with containers/image, for pulls of other transports too."""
    with pytest.raises(UsageError, match="not a scope"):
        verdict({"default": [ACCEPT], "transports": {transport: {scope: [REJECT]}}}, "docker://nginx")


@pytest.mark.parametrize("prefix", ["example.com/", "/a", "example.com//a", "a b", "example.com/A", "example.com/a:1"])
def test_prefix_that_is_none_makes_the_file_invalid(prefix: str) -> None:
    for members in ({"prefix": prefix, "signedPrefix": "h.example"}, {"prefix": "h.example", "signedPrefix": prefix}):
        identity = {"type": "remapIdentity", **members}
        with pytest.raises(UsageError, match="neither a host nor"):
            parse({"default": [{"type": "sigstoreSigned", "keyPath": "/x", "signedIdentity": identity}]})


def test_scope_of_a_transport_that_skopeo_reads() -> None:
    """What names an image there only skopeo knows, and it applies the same file."""
    for scope, expected in (("", ACCEPT["type"]), ("docker.io/library/x", REJECT["type"])):
        document = {"default": [REJECT], "transports": {"docker-daemon": {scope: [ACCEPT]}}}
        assert verdict(document, "docker-daemon:docker.io/library/x:1") == expected


def test_all_requirements_must_be_met() -> None:
    check({"default": [ACCEPT, ACCEPT]}, "docker://nginx")
    for pair in ([ACCEPT, REJECT], [REJECT, ACCEPT]):
        with pytest.raises(RefusedError, match=r"forbids docker://docker\.io/library/nginx"):
            check({"default": pair}, "docker://nginx")


@pytest.mark.parametrize(
    "requirement",
    [
        {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/x"},
        {"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}},
        {"type": "sigstoreSigned", "fulcio": {}, "rekorPublicKeyPath": "/x"},
        {"type": "sigstoreSigned", "keyPath": "/x", "rekorPublicKeyPath": "/x"},
        {"type": "sigstoreSigned", "pki": {}},
    ],
)
def test_what_cannot_be_checked_is_refused(requirement: dict[str, Any]) -> None:
    """Before anything is downloaded."""
    with pytest.raises(RefusedError, match="cannot check"):
        check({"default": [requirement]}, "docker://nginx")


def test_file_has_no_signature() -> None:
    document = {"default": [{"type": "sigstoreSigned", "keyPath": "/x"}]}
    check(document, "oci:/nonexistent:latest")
    with pytest.raises(RefusedError, match="can have none"):
        check(document, "oci:/nonexistent:latest", "sha256:" + "a" * 64)


@pytest.mark.parametrize(
    "document",
    [
        b"", b"{", b"[]", {}, {"default": []}, {"default": {}}, {"default": [{}]}, {"default": ["reject"]},
        {"default": [{"type": "future"}]}, {"default": [{"type": 5}]}, {"default": [ACCEPT], "more": 1},
        {"default": [{**ACCEPT, "more": 1}]}, {"default": [ACCEPT], "transports": []},
        {"default": [ACCEPT], "transports": {"docker": []}}, {"default": [ACCEPT], "transports": {"docker": {"": []}}},
        {"default": [{"type": "sigstoreSigned"}]},
        {"default": [{"type": "sigstoreSigned", "keyPath": "/x", "keyData": "eA=="}]},
        {"default": [{"type": "sigstoreSigned", "keyPath": 5}]},
        {"default": [{"type": "sigstoreSigned", "keyPath": ""}]},
        {"default": [{"type": "sigstoreSigned", "keyPaths": []}]},
        {"default": [{"type": "sigstoreSigned", "keyPaths": "/x"}]},
        {"default": [{"type": "sigstoreSigned", "keyData": "%"}]},
        {"default": [{"type": "sigstoreSigned", "keyPath": "/x", "signedIdentity": {"type": "future"}}]},
        {"default": [{"type": "sigstoreSigned", "keyPath": "/x", "signedIdentity": {"type": "matchExact", "x": 1}}]},
        {"default": [{"type": "sigstoreSigned", "keyPath": "/x", "signedIdentity": {"type": "exactReference"}}]},
        {"default": [{"type": "sigstoreSigned", "keyPath": "/x", "signedIdentity": 5}]},
        b'{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}',
    ],
)  # fmt: skip
def test_what_is_not_understood_is_no_policy(document: Any) -> None:
    with pytest.raises(UsageError, match=r"policy\.json"):
        parse(document)


def test_users_policy_replaces_the_systems(tmp_path: Path) -> None:
    system, home = tmp_path / "etc", tmp_path / "home"
    environment = {"HOME": str(home)}
    assert policy.load(environment, str(system)) is None
    policy.check(None, references.parse("docker://nginx"), None, OPTIONS, QUICK, pytest.fail)
    system.mkdir()
    (system / "policy.json").write_text(json.dumps({"default": [REJECT]}))
    found = policy.load(environment, str(system))
    assert found is not None and found.default[0].type == "reject"
    (home / ".config/containers").mkdir(parents=True)
    (home / ".config/containers/policy.json").write_text(json.dumps({"default": [ACCEPT]}))
    found = policy.load(environment, str(system))
    assert found is not None and found.default[0].type == "insecureAcceptAnything"
    (home / ".config/containers/policy.json").unlink()
    (home / ".config/containers/policy.json").mkdir()
    with pytest.raises(UsageError, match="cannot read"):
        policy.load(environment, str(system))


REPO = "h.example/team/app"


@pytest.mark.parametrize(
    "identity, url, name, accepted",
    [
        (Identity(), f"{REPO}:1", f"{REPO}:1", True),
        (Identity(), f"{REPO}:1", f"{REPO}:2", False),
        (Identity(), f"{REPO}:1", REPO, False),
        (Identity(), f"{REPO}:1", f"{REPO}{PIN}", False),
        (Identity(), f"{REPO}{PIN}", f"{REPO}:7", True),
        (Identity(), f"{REPO}{PIN}", REPO, False),
        (Identity(), f"{REPO}{PIN}", "h.example/team/other:1", False),
        (Identity("matchExact"), f"{REPO}:1", f"{REPO}:1", True),
        (Identity("matchExact"), f"{REPO}{PIN}", f"{REPO}:1", False),
        (Identity("matchExact"), f"{REPO}{PIN}", f"{REPO}{PIN}", True),
        (Identity("matchRepository"), f"{REPO}:1", REPO, True),
        (Identity("matchRepository"), f"{REPO}:1", f"{REPO}x", False),
        (Identity("matchRepository"), "docker.io/nginx:1", "nginx", True),
        (Identity("matchRepository"), "docker.io/nginx:1", "index.docker.io/library/nginx", True),
        (Identity("matchRepository"), f"{REPO}:1", "not a name", False),
        (Identity("exactReference", "h.example/x:1"), f"{REPO}:1", "h.example/x:1", True),
        (Identity("exactReference", "h.example/x:1"), f"{REPO}:1", "h.example/x:2", False),
        (Identity("exactReference", "h.example/x"), f"{REPO}:1", "h.example/x", False),
        (Identity("exactRepository", "h.example/x"), f"{REPO}:1", "h.example/x:9", True),
        (Identity("exactRepository", "h.example/x"), f"{REPO}:1", f"{REPO}:1", False),
        (Identity("remapIdentity", "h.example/team", "v.example/t"), f"{REPO}:1", "v.example/t/app:1", True),
        (Identity("remapIdentity", "h.example/team", "v.example/t"), f"{REPO}:1", f"{REPO}:1", False),
        (Identity("remapIdentity", "h.example/tea", "v.example/t"), f"{REPO}:1", "v.example/tm/app:1", False),
        (Identity("remapIdentity", "h.example/tea", "v.example/t"), f"{REPO}:1", f"{REPO}:1", True),
    ],
)
def test_identities(identity: Identity, url: str, name: str, accepted: bool) -> None:
    assert identity.accepts(references.parse(f"docker://{url}"), name) == accepted


# --- signatures, in a registry ----------------------------------------------------------------------------------

SIGNED = images.Image([images.layer(images.file("signed"))])


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    with FaultRegistry() as made:
        made.add("team/app", "1", SIGNED)
        yield made


def required(tmp_path: Path, *keys: bytes, **more: Any) -> dict[str, Any]:
    paths = []
    for number, key in enumerate(keys):
        paths.append(str(tmp_path / f"{number}.pem"))
        Path(paths[-1]).write_bytes(key)
    identity = {"type": "matchRepository"}
    return {"default": [{"type": "sigstoreSigned", "keyPaths": paths, "signedIdentity": identity, **more}]}


def verify(document: Any, registry: FaultRegistry) -> None:
    check(document, f"docker://{registry.host}/team/app:1", SIGNED.digest)


def name(registry: FaultRegistry) -> str:
    return f"{registry.host}/team/app"


@pytest.mark.parametrize("kind", ["ecdsa", "ed25519", "rsa"])
@pytest.mark.parametrize("by", ["tag", "referrers", "referrers tag"])
def test_signature_is_found_and_right(registry: FaultRegistry, tmp_path: Path, kind: str, by: str) -> None:
    key, other = signature.Key(kind), signature.Key(kind)
    content = signature.payload(SIGNED.digest, name(registry))
    subject = None if by == "tag" else SIGNED
    made = signature.attachment([signature.layer(content, key.sign(content))], subject)
    if by == "tag":
        registry.add("team/app", signature.tag(SIGNED), made)
    else:
        registry.add("team/app", "any", made)
        entry = {**made.entry(), "artifactType": signature.ARTIFACT}
        listing = images.Index(entries=[{**made.entry(), "artifactType": "application/x-other"}, entry])
        if by == "referrers":
            headers = {"Content-Type": images.INDEX}
            registry.faults.append(
                lambda request: (
                    Answer(200, headers, listing.manifest) if f"referrers/{SIGNED.digest}" in request.target else None
                )
            )
        else:
            registry.put("team/app", SIGNED.digest.replace(":", "-"), images.INDEX, listing.manifest)
    verify(required(tmp_path, key.public), registry)
    verify(required(tmp_path, other.public, key.public), registry)
    with pytest.raises(RefusedError, match="key"):
        verify(required(tmp_path, other.public), registry)


def signed_with_referrers(registry: FaultRegistry, key: signature.Key) -> tuple[dict[str, Any], images.Image]:
    """A signature that only a list of referrers leads to: its entry there, and the manifest."""
    content = signature.payload(SIGNED.digest, name(registry))
    made = signature.attachment([signature.layer(content, key.sign(content))], SIGNED)
    registry.add("team/app", "any", made)
    return {**made.entry(), "artifactType": signature.ARTIFACT}, made


def list_referrers(registry: FaultRegistry, answer: Callable[[Request], Answer]) -> None:
    registry.faults.append(lambda request: answer(request) if "/referrers/" in request.target else None)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
def test_referrers_tag_counts_where_there_is_no_api(registry: FaultRegistry, tmp_path: Path, status: int) -> None:
    key = signature.Key()
    entry, _ = signed_with_referrers(registry, key)
    registry.put("team/app", SIGNED.digest.replace(":", "-"), images.INDEX, images.Index(entries=[entry]).manifest)
    list_referrers(registry, lambda request: Answer(status))
    verify(required(tmp_path, key.public), registry)


@pytest.mark.parametrize("pages, found", [(1, True), (5, True), (1000, False)])
def test_list_of_referrers_has_pages_and_an_end(
    registry: FaultRegistry, tmp_path: Path, pages: int, found: bool
) -> None:
    key = signature.Key()
    entry, _ = signed_with_referrers(registry, key)

    def answer(request: Request) -> Answer:
        number = int(request.query.get("page", ["0"])[0])
        listed = [entry] if number == pages else [{**entry, "artifactType": "application/x-other"}]
        more = {"Link": f'<{request.path}?page={number + 1}>; rel="next"'} if number < pages else {}
        return Answer(200, {"Content-Type": images.INDEX, **more}, images.Index(entries=listed).manifest)

    list_referrers(registry, answer)
    if found:
        verify(required(tmp_path, key.public), registry)
        return
    with pytest.raises(RefusedError, match="no signature"):
        verify(required(tmp_path, key.public), registry)
    assert len(registry.seen("/referrers/")) == Limits().index_documents


@pytest.mark.parametrize("link", ["https://elsewhere.example/v2/team/app/referrers/x", "/v2/team/other/referrers/x"])
def test_list_of_referrers_goes_on_in_its_own_place_only(registry: FaultRegistry, tmp_path: Path, link: str) -> None:
    empty = images.Index(entries=[]).manifest
    list_referrers(
        registry, lambda request: Answer(200, {"Content-Type": images.INDEX, "Link": f'<{link}>; rel="next"'}, empty)
    )
    warnings: list[str] = []
    reference = references.parse(f"docker://{registry.host}/team/app:1")
    demanded = parse(required(tmp_path, signature.Key().public))
    with pytest.raises(RefusedError, match="no signature"):
        policy.check(demanded, reference, Digest(SIGNED.digest), OPTIONS, QUICK, warnings.append)
    assert len(registry.seen("/referrers/")) == 1
    assert len(warnings) == 1 and "not looked at" in warnings[0]


def test_empty_list_of_a_mirror_does_not_hide_the_registrys(
    registry: FaultRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = signature.Key()
    entry, _ = signed_with_referrers(registry, key)

    def answer(*entries: Any) -> Callable[[Request], Answer]:
        listing = images.Index(entries=entries).manifest
        return lambda request: Answer(200, {"Content-Type": images.INDEX}, listing)

    list_referrers(registry, answer(entry))
    with FaultRegistry() as mirror:
        mirror.add("team/app", "1", SIGNED)
        list_referrers(mirror, answer())
        conf = tmp_path / "registries.conf"
        conf.write_text(
            f'[[registry]]\nlocation = "{registry.host}"\ninsecure = true\n'
            f'[[registry.mirror]]\nlocation = "{mirror.host}"\ninsecure = true\n'
        )
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
        verify(required(tmp_path, key.public), registry)
        assert mirror.seen("/referrers/")


def test_unsigned_image(registry: FaultRegistry, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no signature"):
        verify(required(tmp_path, signature.Key().public), registry)


@pytest.mark.parametrize(
    "where", ["payload", "signature", "digest", "name", "type", "member", "outer", "no JSON", "twice"]
)
def test_signature_that_is_wrong(registry: FaultRegistry, tmp_path: Path, where: str) -> None:
    key = signature.Key()
    right = signature.payload(SIGNED.digest, name(registry))
    content = {
        "digest": signature.payload("sha256:" + "a" * 64, name(registry)),
        "name": signature.payload(SIGNED.digest, "h.example/other"),
        "type": signature.payload(SIGNED.digest, name(registry), type="atomic container signature"),
        "member": signature.payload(SIGNED.digest, name(registry), more="x"),
        "outer": images.dump({**json.loads(right), "more": 1}),
        "no JSON": b"hello",
        "twice": right[:-1] + b',"critical":{}}',
    }.get(where, right)
    made = key.sign(content)
    if where == "payload":
        content = content.replace(b"team/app", b"team/apq")
    if where == "signature":
        made = made[:-1] + bytes([made[-1] ^ 1])
    registry.add("team/app", signature.tag(SIGNED), signature.attachment([signature.layer(content, made)]))
    with pytest.raises(RefusedError, match="requires a signature"):
        verify(required(tmp_path, key.public), registry)


def test_right_signature_among_wrong_ones(registry: FaultRegistry, tmp_path: Path) -> None:
    key, other = signature.Key(), signature.Key()
    content = signature.payload(SIGNED.digest, name(registry))
    layers = [signature.layer(content, text) for text in ("%", other.sign(content), key.sign(content))]
    registry.add("team/app", signature.tag(SIGNED), signature.attachment(layers))
    verify(required(tmp_path, key.public), registry)


def test_number_of_signatures_has_an_end(registry: FaultRegistry, tmp_path: Path) -> None:
    key, other = signature.Key(), signature.Key()
    content = signature.payload(SIGNED.digest, name(registry))
    layers = [signature.layer(content, other.sign(content))] * 100 + [signature.layer(content, key.sign(content))]
    registry.add("team/app", signature.tag(SIGNED), signature.attachment(layers))
    with pytest.raises(RefusedError, match="more signatures"):
        verify(required(tmp_path, key.public), registry)


def test_damaged_payload_blob(registry: FaultRegistry, tmp_path: Path) -> None:
    key = signature.Key()
    made = signature.signed(key, SIGNED, name(registry))
    registry.add("team/app", signature.tag(SIGNED), made)
    registry.blobs["team/app", images.digest(made.layers[0].blob)] = bytes(len(made.layers[0].blob))
    with pytest.raises(RefusedError, match="digest"):
        verify(required(tmp_path, key.public), registry)


@pytest.mark.parametrize("content", [b"hello", b"", signature.PAYLOAD.encode()])
def test_key_that_is_none(registry: FaultRegistry, tmp_path: Path, content: bytes) -> None:
    signature.Key()
    with pytest.raises(UsageError, match="public key"):
        verify(required(tmp_path, content), registry)


# Keys on curves that python3-cryptography does not know, made by openssl.
STRANGE_KEYS = {
    "SM2": "MFkwEwYHKoZIzj0CAQYIKoEcz1UBgi0DQgAE66devlnasVKFpwcitiNmo2n0FGHh\n"
    "7Se89CKsQd/V9G/ShDPGKX1/m7oWVFl1LvgYUjFU62WHokQ3iWuRc1Zceg==",
    "prime239v1": "MFUwEwYHKoZIzj0CAQYIKoZIzj0DAQQDPgAEIdUPu8Ni5kyFA8wQ90gfuQxDycc7\n"
    "seq8pthHax+aHEByeGv2eNyHGe4BsYZempg+u12iP55kKd8SFxZh",
}


@pytest.mark.parametrize("text", STRANGE_KEYS.values(), ids=STRANGE_KEYS)
def test_key_of_a_kind_that_is_not_known(registry: FaultRegistry, tmp_path: Path, text: str) -> None:
    signature.Key()
    pem = f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n".encode()
    with pytest.raises(UsageError, match="kind that is not supported"):
        verify(required(tmp_path, pem), registry)


def test_key_that_is_missing_or_in_the_policy(registry: FaultRegistry, tmp_path: Path) -> None:
    key = signature.Key()
    registry.add("team/app", signature.tag(SIGNED), signature.signed(key, SIGNED, name(registry)))
    document: Any = {"default": [{"type": "sigstoreSigned", "keyPath": str(tmp_path / "none.pem")}]}
    with pytest.raises(UsageError, match=r"none\.pem"):
        verify(document, registry)
    data = base64.b64encode(key.public).decode()
    identity = {"type": "matchRepository"}
    verify({"default": [{"type": "sigstoreSigned", "keyData": data, "signedIdentity": identity}]}, registry)


def test_registry_that_fails_is_no_signature(registry: FaultRegistry, tmp_path: Path) -> None:
    registry.faults.append(lambda request: Answer(500) if "manifests" in request.target else None)
    with pytest.raises(OciError):
        verify(required(tmp_path, signature.Key().public), registry)
