# SPDX-License-Identifier: LGPL-2.1-or-later
"""Uploading an image to a registry (distribution-spec, "Push"): blobs that it lacks, then the manifest that names them.

The registry itself is meant, never a mirror.  What it has already, in this repository or in another of the same host,
is not sent.  As skopeo and podman do, what is sent goes where the registry redirects it by 307 or 308, without the
registry's credentials.
"""

import io
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

from lxc_oci.errors import AccessError, OciError, RefusedError, UnavailableError
from lxc_oci.image.digest import Digest
from lxc_oci.image.reference import Reference
from lxc_oci.limits import Limits
from lxc_oci.source import auth, registriesconf
from lxc_oci.source.auth import Keyring
from lxc_oci.source.certs import Trust
from lxc_oci.source.endpoint import RegistryEndpoint
from lxc_oci.source.open import SourceOptions
from lxc_oci.source.patience import Patience
from lxc_oci.source.proxy import Proxies
from lxc_oci.source.transport import Transport
from lxc_oci.source.url import Url


class FileBody:
    """A file as the body of a request; `on_bytes` hears of what was sent."""

    def __init__(self, path: str, on_bytes: Callable[[int], None]) -> None:
        self._path = path
        self._on_bytes = on_bytes

    @property
    def length(self) -> int:
        """Bytes."""
        return os.stat(self._path).st_size

    def open(self) -> io.FileIO:
        """Open the file from its beginning."""
        try:
            return _Counted(self._path, self._on_bytes)
        except OSError as error:
            raise _unreadable(self._path, error) from error


class _Counted(io.FileIO):
    """Tells what is read of it."""

    def __init__(self, path: str, on_bytes: Callable[[int], None]) -> None:
        super().__init__(path)
        self._path = path
        self._on_bytes = on_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            data = super().read(-1 if size is None else size)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        self._on_bytes(len(data))
        return data


def _unreadable(path: str, error: OSError) -> OciError:
    """Our own file's errors are not the network's: nothing is tried again for them."""
    return OciError(f"cannot read {path}: {error.strerror}", "check the store: lxc-oci-py verify")


class Destination:
    """A repository of a registry that is written to.  A context manager."""

    def __init__(
        self,
        reference: Reference,
        origin: str,
        options: SourceOptions,
        limits: Limits,
        warn: Callable[[str], None],
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`origin` is a repository of the same registry that may have the blobs, "" where there is none."""
        self._reference = reference
        self._origin = origin if origin != reference.repository else ""
        self._limits = limits
        self._sleep = sleep
        configured = registriesconf.load(os.environ)
        keyring = Keyring(options.authfile, os.environ, limits, warn, configured.helpers)
        place = configured.own(reference, options.insecure)
        scope = f"repository:{place.repository}:pull,push"
        if self._origin:
            scope += f" repository:{self._origin}:pull"
        self._transport = Transport(limits, Proxies(os.environ))
        self._endpoint = RegistryEndpoint(
            place,
            self._transport,
            Trust(os.environ),
            auth.chooser(keyring, reference, place, options.username, options.password),
            limits,
            sleep,
            scope,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()

    def has(self, digest: Digest) -> bool:
        """Tell whether the repository has the blob, mounted from `origin` if that has it.  Raises OciError."""
        response = self._endpoint.request("HEAD", f"blobs/{digest}", {}, (200, 404))
        response.drain()
        if response.status == 200:
            return True
        if not self._origin:
            return False
        query = urlencode({"mount": digest, "from": self._origin})
        try:
            response = self._endpoint.request("POST", f"blobs/uploads/?{query}", {"Content-Length": "0"}, (201, 202))
        except AccessError:
            return False  # the other repository is not ours to read
        location = response.header("Location")
        response.drain()
        if response.status == 202 and location:  # an upload was begun instead
            self._cancel(self._endpoint.place_of(location, response.url))
        return response.status == 201

    def put_blob(self, digest: Digest, path: str, on_bytes: Callable[[int], None] = lambda count: None) -> None:
        """Upload the file `path`, whose digest is `digest`.  Raises AccessError, UnavailableError, RefusedError."""
        waiting = Patience(self._limits, self._sleep)
        body = FileBody(path, on_bytes)
        while True:
            response = self._endpoint.request("POST", "blobs/uploads/", {"Content-Length": "0"}, (202,))
            location = response.header("Location")
            response.drain()
            if not location:
                raise RefusedError(
                    f"{self._endpoint.place.host} does not say where an upload goes",
                    "it does not follow the distribution specification: push elsewhere, or write to oci-archive:FILE",
                )
            separator = "&" if "?" in location else "?"
            url = self._endpoint.place_of(f"{location}{separator}{urlencode({'digest': digest})}", response.url)
            headers = {"Content-Type": "application/octet-stream"}
            try:
                done = self._endpoint.request("PUT", f"blobs/{digest}", headers, (201, 204), body=body, url=url)
            except UnavailableError as error:
                waiting.wait(error)
                continue
            done.drain()
            return

    def put_manifest(self, selector: str, media_type: str, raw: bytes, digest: Digest) -> None:
        """Give `raw`, whose blobs the repository has, the tag or digest `selector`.  Raises OciError."""
        response = self._endpoint.request(
            "PUT", f"manifests/{selector}", {"Content-Type": media_type}, (201,), body=raw
        )
        announced = response.header("Docker-Content-Digest")
        response.drain()
        if announced and announced != digest:
            raise RefusedError(
                f"{self._endpoint.place.host} stored {announced:.80} instead of {digest}",
                "the registry changed the manifest: do not use that tag, and push elsewhere",
            )

    def _cancel(self, url: Url) -> None:
        try:
            self._endpoint.request("DELETE", "blobs/uploads/", {}, (200, 202, 204), url=url).drain()
        except OciError:
            pass  # registries forget what nobody finishes
