# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signatures as cosign writes them: a payload, a signature over it, and the manifest that carries both."""

import base64
from collections.abc import Sequence
from typing import Any

from tests.support import image as images
from tests.support import need

try:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
except ImportError:
    ec = None  # type: ignore[assignment]

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"


class Key:
    """A private key: `ecdsa` (P-256), `ed25519` or `rsa`."""

    def __init__(self, kind: str = "ecdsa") -> None:
        if ec is None:
            need.missing("python3-cryptography is not installed")
        self._key: Any
        if kind == "ed25519":
            self._key = ed25519.Ed25519PrivateKey.generate()
        elif kind == "rsa":
            self._key = rsa.generate_private_key(65537, 2048)
        else:
            self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def public(self) -> bytes:
        """The public key in PEM form."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        pem: bytes = self._key.public_key().public_bytes(serialization.Encoding.PEM, form)
        return pem

    def sign(self, content: bytes) -> bytes:
        """A signature as sigstore makes it."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(content)
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(content, padding.PKCS1v15(), hashes.SHA256())
        signature: bytes = self._key.sign(content, ec.ECDSA(hashes.SHA256()))
        return signature


def payload(digest: str, name: str, **changes: Any) -> bytes:
    """A payload that says: the manifest `digest` is called `name`; `changes` replace members of `critical`."""
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
        **changes,
    }
    return images.dump({"critical": critical, "optional": None})


def layer(content: bytes, signature: bytes | str) -> images.Layer:
    """The layer that carries a payload and its signature."""
    text = signature if isinstance(signature, str) else base64.b64encode(signature).decode()
    return images.Layer(content, PAYLOAD, images.digest(content), {ANNOTATION: text})


def attachment(layers: Sequence[images.Layer], subject: images.Image | images.Index | None = None) -> images.Image:
    """The manifest of signatures; with `subject`, one that the referrers API lists for it."""
    members = {}
    if subject is not None:
        members = {"subject": images.descriptor(subject.media_type, subject.manifest), "artifactType": ARTIFACT}
    return images.Image(layers, members=members)


def signed(key: Key, made: images.Image | images.Index, name: str) -> images.Image:
    """The attachment with one right signature of `made`."""
    content = payload(made.digest, name)
    return attachment([layer(content, key.sign(content))])


def tag(made: images.Image | images.Index) -> str:
    """The tag under which signatures of `made` are looked for."""
    return made.digest.replace(":", "-") + ".sig"
