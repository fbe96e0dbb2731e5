# SPDX-License-Identifier: LGPL-2.1-or-later
"""source.push against a real registry, and against one that misbehaves."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lxc_oci.errors import AccessError, OciError, RefusedError, UnavailableError
from lxc_oci.image import mediatype
from lxc_oci.image import reference as references
from lxc_oci.image.digest import Digest
from lxc_oci.source import auth
from lxc_oci.source.auth import Keyring
from lxc_oci.source.open import SourceOptions
from lxc_oci.source.push import Destination
from lxc_oci.source.registriesconf import Endpoint
from tests.support import image as images
from tests.support.faultregistry import Answer, FaultRegistry, FaultServer, Request
from tests.support.pull import QUICK, Sleeps, pull
from tests.support.registry import Authority, Registry, serve


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with serve(tmp_path_factory.mktemp("plain")) as made:
        yield made


def destination(host: str, repository: str, origin: str = "", **options: object) -> Destination:
    settings = SourceOptions(temporary="/nonexistent", **options)  # type: ignore[arg-type]
    reference = references.parse(f"docker://{host}/{repository}:x")
    return Destination(reference, origin, settings, QUICK, lambda message: None, sleep=Sleeps())


def push(to: Destination, place: Path, made: images.Image) -> int:
    """Push an image; returns how many bytes of blobs were sent."""
    sent = 0

    def count(number: int) -> None:
        nonlocal sent
        sent += number

    for content in (made.configuration, *(layer.blob for layer in made.layers)):
        digest = Digest(images.digest(content))
        if not to.has(digest):
            (place / "blob").write_bytes(content)
            to.put_blob(digest, str(place / "blob"), count)
    to.put_manifest("x", mediatype.OCI_MANIFEST, made.manifest, Digest(made.digest))
    return sent


@pytest.mark.parametrize(("host", "given"), [("h.example", True), ("elsewhere.example", False)])
def test_a_given_login_is_for_the_registry_that_was_named(tmp_path: Path, host: str, given: bool) -> None:
    keyring = Keyring(None, {"HOME": str(tmp_path)}, QUICK, lambda message: None)
    find = auth.chooser(keyring, references.parse("docker://h.example/a:1"), Endpoint(host, "a"), "me", "secret")
    assert (find() is not None) == given


IMAGE = images.Image([images.layer(images.file("f", bytes(range(256)) * 4000), compression="")], {})


def test_what_was_pushed_can_be_pulled_and_is_sent_once(plain: Registry, tmp_path: Path) -> None:
    with destination(plain.host, "push/one", insecure=True) as to:
        assert push(to, tmp_path, IMAGE) == len(IMAGE.layers[0].blob) + len(IMAGE.configuration)
    with destination(plain.host, "push/one", insecure=True) as to:
        assert push(to, tmp_path, IMAGE) == 0
    found = pull(f"docker://{plain.host}/push/one:x", insecure=True)
    assert found.image.digest == IMAGE.digest and found.layers == [IMAGE.layers[0].blob]


def test_blobs_of_another_repository_are_mounted(plain: Registry, tmp_path: Path) -> None:
    plain.push("push/origin", "1", IMAGE)
    with destination(plain.host, "push/mounted", "push/origin", insecure=True) as to:
        assert push(to, tmp_path, IMAGE) == 0
    assert pull(f"docker://{plain.host}/push/mounted:x", insecure=True).image.digest == IMAGE.digest
    with destination(plain.host, "push/alone", "push/nothing", insecure=True) as to:
        assert push(to, tmp_path, IMAGE) > 0


def test_over_tls_with_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path / "ca")
    with serve(tmp_path / "registry", authority=authority, users={"me": "secret"}) as made:
        with destination(made.host, "team/app", insecure=True) as to, pytest.raises(AccessError, match="needs a login"):
            push(to, tmp_path, IMAGE)
        wrong = destination(made.host, "team/app", insecure=True, username="me", password="wrong")
        with wrong as to, pytest.raises(AccessError, match="does not accept"):
            push(to, tmp_path, IMAGE)
        with destination(made.host, "team/app", insecure=True, username="me", password="secret") as to:
            push(to, tmp_path, IMAGE)
        found = pull(f"docker://{made.host}/team/app:x", insecure=True, username="me", password="secret")
        assert found.image.digest == IMAGE.digest


def test_a_blob_that_is_not_what_it_is_called_is_refused(plain: Registry, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"other")
    with destination(plain.host, "push/wrong", insecure=True) as to:
        with pytest.raises(OciError, match="DIGEST_INVALID"):
            to.put_blob(Digest(images.digest(b"this")), str(tmp_path / "blob"))
        assert not to.has(Digest(images.digest(b"this")))


def test_a_manifest_without_its_blobs_is_refused(plain: Registry) -> None:
    with destination(plain.host, "push/empty", insecure=True) as to, pytest.raises(OciError):
        to.put_manifest("x", mediatype.OCI_MANIFEST, IMAGE.manifest, Digest(IMAGE.digest))


# --- elsewhere -----------------------------------------------------------------------------------------------------


class Uploads(FaultRegistry):
    """A registry that takes what is pushed; `elsewhere` gets the requests whose kind it names, by a redirect."""

    def __init__(self, elsewhere: FaultServer | None = None, kind: str = "", status: int = 307) -> None:
        super().__init__(login={"me": "secret"} if elsewhere else None)
        self.faults.append(self._take)
        self._elsewhere, self._kind, self._status = elsewhere, kind, status

    def _take(self, request: Request) -> Answer | None:
        if self.login and request.authorization == "":
            return None  # answered by a challenge
        kind = "manifest" if "/manifests/" in request.target else request.method
        if self._elsewhere is not None and kind == self._kind:
            return Answer(self._status, {"Location": self._elsewhere.url + request.target})
        if request.method == "POST":
            return Answer(202, {"Location": f"{request.path}one?state=begun"})  # relative to whoever says so
        if request.method != "PUT":
            return None
        if kind == "manifest":
            self.put("team/app", "x", mediatype.OCI_MANIFEST, request.body)
        else:
            assert request.query["state"] == ["begun"]
            self.blobs["team/app", request.query["digest"][0]] = request.body
        return Answer(201)


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("kind", ["POST", "PUT", "manifest"])
def test_what_is_redirected_is_sent_there_without_the_login(tmp_path: Path, kind: str, status: int) -> None:
    with Uploads() as other, Uploads(other, kind, status) as registry:
        with destination(registry.host, "team/app", insecure=True, username="me", password="secret") as to:
            push(to, tmp_path, IMAGE)
        content = [IMAGE.configuration, *(layer.blob for layer in IMAGE.layers)]
        manifests = [place.documents.get(("team/app", "x")) for place in (registry, other)]
        blobs = [sorted(place.blobs.values()) for place in (registry, other)]
        there = kind == "manifest"
        assert manifests[there] == (mediatype.OCI_MANIFEST, IMAGE.manifest) and manifests[not there] is None
        assert blobs[not there] == sorted(content) and blobs[there] == []
        assert other.requests and not [request for request in other.requests if request.authorization]


@pytest.mark.parametrize("kind", ["PUT", "manifest"])
def test_a_redirect_that_would_lose_the_body_is_not_followed(tmp_path: Path, kind: str) -> None:
    with Uploads() as other, Uploads(other, kind, 302) as registry:
        to = destination(registry.host, "team/app", insecure=True, username="me", password="secret")
        with to, pytest.raises(UnavailableError, match="status 302"):
            push(to, tmp_path, IMAGE)
        assert other.requests == []


def test_an_upload_is_not_redirected_for_ever(tmp_path: Path) -> None:
    with Uploads() as registry:
        registry.faults.insert(
            0, lambda request: Answer(307, {"Location": request.target}) if request.method == "PUT" else None
        )
        to = destination(registry.host, "team/app", insecure=True)
        with to, pytest.raises(RefusedError, match="redirects"):
            push(to, tmp_path, IMAGE)
