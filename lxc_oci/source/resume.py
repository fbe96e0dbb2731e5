# SPDX-License-Identifier: LGPL-2.1-or-later
"""A blob as one stream of bytes, however often its connection is cut and whichever mirror has the rest.

The bytes are not verified here: `source.Blob` hashes all of them from the first on, so a wrong piece is noticed at
the latest at the end.
"""

import re
import time
from collections.abc import Callable, Sequence

from lxc_oci.errors import AccessError, OciError, RefusedError, UnavailableError
from lxc_oci.image.manifest import Descriptor
from lxc_oci.image.mediatype import size_may_be_less
from lxc_oci.limits import Limits
from lxc_oci.source.connection import ConnectionFailed
from lxc_oci.source.endpoint import RegistryEndpoint
from lxc_oci.source.patience import Patience
from lxc_oci.source.transport import Response

# Less than this between two cuts does not count as progress, or a registry could serve one byte at a time for ever.
_PROGRESS = 1 << 20
_PIECE = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)\Z")


class ResumedReader:
    """A RawReader over the endpoints that have a blob, from byte `offset` on."""

    def __init__(
        self,
        endpoints: Sequence[RegistryEndpoint],
        path: str,
        accept: str,
        descriptor: Descriptor,
        offset: int,
        limits: Limits,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._endpoints = list(endpoints)
        self._path = path
        self._headers = {"Accept": accept}
        self._size = descriptor.size
        self._may_be_less = size_may_be_less(descriptor.media_type)
        self._digest = descriptor.digest
        self._position = offset  # of the next byte that read() returns
        self._mark = offset
        self._patience = Patience(limits, sleep)
        self._ranges = True
        self._response: Response | None = None
        self._closed = False
        if offset == 0 or offset < self._size:
            self._open()

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; b"" at the end of what the registry has."""
        if self._closed:
            raise ValueError("read of a closed blob")
        while True:
            try:
                if self._response is None:
                    if 0 < self._size <= self._position:
                        return b""  # all came before the cut, or in an earlier run
                    self._open()
                    assert self._response is not None
                data = self._response.read(size)
            except ConnectionFailed as error:
                self._cut(error)
                continue
            self._position += len(data)
            return data

    def close(self) -> None:
        """End the transfer."""
        self._closed = True
        if self._response is not None:
            self._response.close()
            self._response = None

    def _cut(self, failure: ConnectionFailed) -> None:
        """Wait, or go on to the next endpoint, or raise."""
        self._response = None
        if self._position - self._mark >= _PROGRESS:
            self._mark = self._position
            self._patience.progress()
        try:
            self._patience.wait(failure)
        except UnavailableError:
            self._endpoints.pop(0)
            if not self._endpoints:
                raise
            self._patience.progress()

    def _open(self) -> None:
        """Ask the endpoints in order for what is missing."""
        failures: list[OciError] = []
        while True:
            try:
                self._response = self._request(self._endpoints[0])
                return
            except OciError as error:
                failures.append(error)
                if len(self._endpoints) == 1:
                    raise combined(failures) from error
                self._endpoints.pop(0)

    def _request(self, endpoint: RegistryEndpoint) -> Response:
        headers = dict(self._headers)
        ranged = self._ranges and self._position > 0
        if ranged:
            headers["Range"] = f"bytes={self._position}-"
        response = endpoint.request("GET", self._path, headers, (200, 206, 416) if ranged else (200,))
        try:
            self._check_encoding(response)
            if response.status == 200:
                self._check_length(response, self._size)
                self._skip(response, self._position)
                return response
            if response.status == 206 and self._right_range(response):
                self._check_length(response, self._size - self._position)
                return response
        except BaseException:
            response.close()
            raise
        # A wrong answer to a range: the whole blob then, and no more ranges (P21).
        response.close()
        self._ranges = False
        return self._request(endpoint)

    def _check_encoding(self, response: Response) -> None:
        """The digest is that of the bytes as they are stored; we asked for these and for nothing else (P20)."""
        encoding = response.header("Content-Encoding").lower()
        if encoding not in ("", "identity"):
            raise RefusedError(f"{response.url.authority} sends {self._digest} with Content-Encoding {encoding!r:.50}")
        if response.header("Content-Type").lower().startswith("text/html"):
            raise UnavailableError(
                f"{response.url.authority} answers with a web page instead of {self._digest}",
                "is there a captive portal or a proxy in between?",
            )

    def _check_length(self, response: Response, expected: int) -> None:
        length = response.length
        if length is None or (self._may_be_less and length < expected):
            return
        if length != expected:
            raise RefusedError(
                f"{response.url.authority} has {length} bytes of {self._digest} where its descriptor says {expected}"
            )

    def _right_range(self, response: Response) -> bool:
        match = _CONTENT_RANGE.match(response.header("Content-Range"))
        if match is None:
            return False
        start, end, total = match.groups()
        return int(start) == self._position and int(end) == self._size - 1 and total in ("*", str(self._size))

    def _skip(self, response: Response, count: int) -> None:
        """Read past what we have: the server does not know ranges."""
        while count > 0:
            data = response.read(min(count, _PIECE))
            if not data:
                raise RefusedError(f"{response.url.authority} has less of {self._digest} than before")
            count -= len(data)


def combined(failures: Sequence[OciError]) -> OciError:
    """Return the last failure, that of the registry itself, which says too how its mirrors have failed."""
    last = failures[-1]
    if len(failures) == 1:
        return last
    others = "; ".join(f"{error.message}" for error in failures[:-1])
    # Where one place answered that it is not there and another did not answer, the image may be there.
    kind = type(last) if isinstance(last, AccessError | RefusedError) else UnavailableError
    return kind(f"{last.message} (before that: {others})", last.hint)
