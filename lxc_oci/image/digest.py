# SPDX-License-Identifier: LGPL-2.1-or-later
"""Digests of the OCI image specification: checked once, at birth.

A `Digest` that exists is safe in a path and in a URL (CVE-2024-3727).
"""

import hashlib
import re
from typing import TYPE_CHECKING, Self

from lxc_oci.errors import RefusedError

if TYPE_CHECKING:
    from hashlib import _Hash

# image-spec descriptor.md, "Registered algorithms"; \A and \Z because $ would allow a final newline.
_FORM = re.compile(r"\A(?:sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})\Z")


class Digest(str):
    """`algorithm:hex` with a registered algorithm; creating one from anything else raises RefusedError."""

    __slots__ = ()

    def __new__(cls, text: object, what: str = "digest") -> Self:
        if not isinstance(text, str) or not _FORM.match(text):
            raise RefusedError(f"{what} {text!r:.100} is not a sha256 or sha512 digest")
        return super().__new__(cls, text)

    @property
    def algorithm(self) -> str:
        """`sha256` or `sha512`."""
        return self[:6]

    @property
    def hex(self) -> str:
        """The digest without its algorithm, in lower case."""
        return self[7:]

    def hasher(self) -> "_Hash":
        """Return a new hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)


def sha256(content: bytes) -> Digest:
    """Return the sha256 digest of `content`."""
    return Digest("sha256:" + hashlib.sha256(content).hexdigest())


def check(content: bytes, digest: Digest, what: str) -> None:
    """Raise RefusedError unless `content` has `digest`."""
    hasher = digest.hasher()
    hasher.update(content)
    if hasher.hexdigest() != digest.hex:
        raise RefusedError(
            f"{what} has digest {digest.algorithm}:{hasher.hexdigest()}, not {digest} as its descriptor says",
            "the copy is damaged or was changed; pull again, from another mirror if this persists",
        )
