# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images in registries: the distribution specification's pull, over every endpoint that may have the image."""

import os
import re
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import urlencode

from lxc_oci.errors import AccessError, OciError, RefusedError, UnavailableError
from lxc_oci.image import manifest as manifests
from lxc_oci.image import mediatype
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from lxc_oci.limits import Limits
from lxc_oci.source import auth, registriesconf
from lxc_oci.source.auth import Keyring
from lxc_oci.source.certs import Trust
from lxc_oci.source.connection import ConnectionFailed
from lxc_oci.source.endpoint import RegistryEndpoint
from lxc_oci.source.patience import Patience
from lxc_oci.source.proxy import Proxies
from lxc_oci.source.resume import ResumedReader, combined
from lxc_oci.source.source import checked_root, read_limited
from lxc_oci.source.transport import Response, Transport

if TYPE_CHECKING:
    from lxc_oci.image.reference import Reference
    from lxc_oci.source.open import SourceOptions

_T = TypeVar("_T")

_DOCUMENTS = mediatype.MANIFESTS | mediatype.INDEXES
# Schema 1 is not asked for: a registry that has nothing else says so, and image.manifest refuses it.
_ACCEPT = ", ".join((mediatype.OCI_MANIFEST, mediatype.OCI_INDEX, mediatype.DOCKER_MANIFEST, mediatype.DOCKER_INDEX))
# Not 401 and 429: what they ask for holds for the GET too.
_HEAD_ANSWERS = frozenset(range(200, 600)) - {401, 429}
# Of referrers, which came late: registries and what stands before them say in many ways that they do not know it.
_NO_SUCH_API = tuple(sorted({*range(400, 500), 501} - {401, 403, 408, 429}))
_NEXT = re.compile(r'<([^<>]+)>\s*;\s*rel="?next"?', re.IGNORECASE)
# Content types that say nothing: then the document's own mediaType counts.
_UNTYPED = frozenset({"", "application/json", "application/octet-stream", "text/plain"})


class RegistrySource:
    """A Source: one image of a registry, or of its mirrors.  Safe to use from several threads.

    Nothing is contacted before the first call of `root`, `head` or `open`.
    """

    def __init__(
        self,
        reference: "Reference",
        options: "SourceOptions",
        limits: Limits,
        warn: Callable[[str], None],
        *,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """`sleep` takes the place of waiting between two attempts."""
        self._reference = reference
        self._selector = reference.digest or reference.tag
        self._limits = limits
        self._warn = warn
        self._ended = threading.Event()
        self._sleep = sleep = sleep or self._ended.wait
        environment = os.environ
        configured = registriesconf.load(environment)
        self._keyring = Keyring(options.authfile, environment, limits, warn, configured.helpers)
        self._transport = Transport(limits, Proxies(environment))
        trust = Trust(environment)
        self._endpoints = [
            RegistryEndpoint(
                place,
                self._transport,
                trust,
                auth.chooser(self._keyring, reference, place, options.username, options.password),
                limits,
                sleep,
            )
            for place in configured.places(reference, options.insecure)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """See Source."""
        self.cut()

    def cut(self) -> None:
        """End all connections, and waiting for the next: whatever other threads read fails at once, and ever after."""
        self._transport.close()
        self._ended.set()

    def head(self) -> Digest | None:
        """Return the digest that the registry announces for the reference, None where it announces none.

        One request without a body, which Docker Hub does not count.  The answer is only a name: a store that holds
        a manifest under it has computed that digest from the bytes that it holds, so a lying registry can at most
        choose among manifests that were verified before, as it could by answering the GET with one of them.
        A registry that answers a HEAD badly may still answer the GET, which decides: it announces nothing.  So does a
        mirror, and it is still the first to be asked for the image.
        Raises AccessError and UnavailableError when nobody answers, or only to ask for a login or for less requests.
        """
        if self._reference.digest is not None:
            return self._reference.digest
        failures: list[OciError] = []
        for endpoint in self._endpoints:
            try:
                announced = self._announced(endpoint)
            except OciError as error:
                failures.append(error)
                continue
            if announced is not None:
                return announced
        if len(failures) == len(self._endpoints):
            raise combined(failures) from failures[-1]
        return None

    def root(self, limits: Limits) -> tuple[Descriptor, bytes]:
        """Return the manifest or index that the reference names, checked against the reference's digest.

        Raises AccessError when there is none, UnavailableError, RefusedError.
        """
        return self._first(lambda endpoint: self._manifest(endpoint, self._selector, self._reference.digest, limits))

    def open(self, descriptor: Descriptor, offset: int = 0) -> ResumedReader:
        """Open a blob or a nested manifest from byte `offset` on; the caller has verified, or will, what is before.

        Raises AccessError when no endpoint has it, UnavailableError, RefusedError.
        """
        document = descriptor.media_type in _DOCUMENTS
        return ResumedReader(
            self._endpoints,
            f"{'manifests' if document else 'blobs'}/{descriptor.digest}",
            descriptor.media_type if document else "*/*",
            descriptor,
            offset,
            self._limits,
            self._sleep,
        )

    def neighbour(self, selector: str, limits: Limits) -> tuple[Descriptor, bytes] | None:
        """Return another manifest of the repository, by tag or digest; None when there is none."""
        try:
            return self._first(lambda endpoint: self._manifest(endpoint, selector, None, limits), prefer=False)
        except AccessError:
            return None

    def referrers(self, image: Digest, artifact_type: str, limits: Limits) -> tuple[Descriptor, ...]:
        """Return the descriptors of the manifests that refer to `image` and have that artifact type.

        The first endpoint that has some counts: a mirror's empty list says nothing of the registry's.
        Raises UnavailableError and RefusedError when no endpoint gives a list, be it an empty one.
        """
        failures: list[OciError] = []
        for endpoint in self._endpoints:
            try:
                found = self._referrers(endpoint, image, artifact_type, limits)
            except OciError as error:
                failures.append(error)
                continue
            if found:
                return found
        if len(failures) == len(self._endpoints):
            raise combined(failures) from failures[-1]
        return ()

    def origin(self, descriptor: Descriptor) -> str:
        """Return the URL of a blob at the endpoint that the image came from."""
        kind = "manifests" if descriptor.media_type in _DOCUMENTS else "blobs"
        return str(self._endpoints[0].url(f"{kind}/{descriptor.digest}"))

    def _announced(self, endpoint: RegistryEndpoint) -> Digest | None:
        response = endpoint.request("HEAD", f"manifests/{self._selector}", {"Accept": _ACCEPT}, _HEAD_ANSWERS)
        try:
            return Digest(response.header("Docker-Content-Digest")) if response.status == 200 else None
        except RefusedError:
            return None
        finally:
            response.drain()

    def _first(self, work: Callable[[RegistryEndpoint], _T], prefer: bool = True) -> _T:
        """Return what the first endpoint gives for which `work` succeeds; `prefer` that one from now on."""
        failures: list[OciError] = []
        for endpoint in self._endpoints:
            try:
                result = work(endpoint)
            except OciError as error:
                failures.append(error)
                continue
            # A new list: readers in other threads iterate over the old one.
            if prefer:
                self._endpoints = [endpoint, *(other for other in self._endpoints if other is not endpoint)]
            return result
        raise combined(failures) from failures[-1]

    def _manifest(
        self, endpoint: RegistryEndpoint, selector: str, pinned: Digest | None, limits: Limits
    ) -> tuple[Descriptor, bytes]:
        waiting = Patience(self._limits, self._sleep)
        while True:
            response = endpoint.request("GET", f"manifests/{selector}", {"Accept": _ACCEPT})
            try:
                return self._document(response, selector, pinned, limits)
            except ConnectionFailed as error:
                waiting.wait(error)
            finally:
                response.close()

    def _referrers(
        self, endpoint: RegistryEndpoint, image: Digest, artifact_type: str, limits: Limits
    ) -> tuple[Descriptor, ...]:
        """Return what one endpoint lists (distribution-spec, "Listing Referrers"), be it on several pages."""
        path = f"referrers/{image}?{urlencode({'artifactType': artifact_type})}"
        found: list[Descriptor] = []
        for _ in range(limits.index_documents):
            try:
                page = self._page(endpoint, path, limits)
            except AccessError:
                page = None
            if page is None:
                # distribution-spec, "Unavailable Referrers API": the index then has a tag.
                try:
                    tagged, raw = self._manifest(endpoint, f"{image.algorithm}-{image.hex}", None, limits)
                except AccessError:
                    break
                found += _listed(raw, tagged.media_type, artifact_type, limits)
                break
            raw, path = page
            found += _listed(raw, mediatype.OCI_INDEX, artifact_type, limits)
            if not path:
                break
        return tuple(found)

    def _page(self, endpoint: RegistryEndpoint, path: str, limits: Limits) -> tuple[bytes, str] | None:
        """Return a page of a list and the path of the next, "" for the last; None where there is no such API."""
        response = endpoint.request("GET", path, {"Accept": mediatype.OCI_INDEX}, (200, *_NO_SUCH_API))
        try:
            if response.status != 200:
                return None
            raw = read_limited(response.read, limits.document_bytes, f"the list of referrers of {endpoint.place}")
        finally:
            response.close()
        match = _NEXT.search(", ".join(response.headers("Link")))
        if match is None:
            return raw, ""
        base, target = endpoint.url(""), response.url.join(match[1])
        if target.origin != base.origin or not target.target.startswith(f"{base.target}referrers/"):
            self._warn(f"{endpoint.place.host} lists more referrers at {target.shown}, which is not looked at")
            return raw, ""
        return raw, target.target.removeprefix(base.target)

    def _document(
        self, response: Response, selector: str, pinned: Digest | None, limits: Limits
    ) -> tuple[Descriptor, bytes]:
        host = response.url.authority
        what = f"the manifest {selector} of {self._reference.name}"
        media_type = response.header("Content-Type").partition(";")[0].strip().lower()
        encoding = response.header("Content-Encoding").lower()
        if encoding not in ("", "identity"):
            raise RefusedError(f"{host} sends {what} with Content-Encoding {encoding!r:.50}")
        if media_type == "text/html":
            raise UnavailableError(
                f"{host} answers with a web page instead of {what}",
                "is there a captive portal or a proxy in between, and is the host name right?",
            )
        raw = read_limited(response.read, limits.document_bytes, what)
        if not raw:
            raise UnavailableError(f"{host} answers with nothing instead of {what}")
        descriptor = checked_root(raw, "" if media_type in _UNTYPED else media_type, pinned, what)
        announced = response.header("Docker-Content-Digest")
        # Only a hint: the digest of what has come counts, as everything else is checked from there.
        if announced.startswith("sha256:") and pinned is None and announced != descriptor.digest:
            self._warn(f"{host} announces {announced:.80} but sends {descriptor.digest}")
        return descriptor, raw


def _listed(raw: bytes, media_type: str, artifact_type: str, limits: Limits) -> list[Descriptor]:
    """Return what an index lists of one type; registries need not filter."""
    found = manifests.parse(raw, media_type, limits)
    if not isinstance(found, manifests.Index):
        return []
    return [entry for entry in found.manifests if entry.artifact_type == artifact_type]
