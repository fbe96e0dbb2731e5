# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signatures by cosign and skopeo that lie in the registry beside the image, checked with the administrator's keys.

Found by cosign's tag (`sha256-HEX.sig`) and by the referrers API.  Keyless signatures and transparency logs are not
for us; `policy` refuses what asks for them.
"""

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from lxc_oci import jsonio
from lxc_oci.errors import OciError, RefusedError, UnsupportedError, UsageError
from lxc_oci.image import manifest as manifests
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from lxc_oci.limits import Limits
from lxc_oci.source import hostfiles
from lxc_oci.source.identity import Identity
from lxc_oci.source.source import Source, document

if TYPE_CHECKING:
    from lxc_oci.image.reference import Reference

_PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
_SIGNATURE = "dev.cosignproject.cosign/signature"
_TYPE = "cosign container image signature"
_MOST = 64  # signatures of one image that are looked at


class Attachments(Source, Protocol):
    """A source that has other manifests beside the image: a registry."""

    def neighbour(self, selector: str, limits: Limits) -> tuple[Descriptor, bytes] | None:
        """Return the manifest with that tag or digest in the same repository, None when there is none."""

    def referrers(self, image: Digest, artifact_type: str, limits: Limits) -> tuple[Descriptor, ...]:
        """Return the descriptors of manifests whose subject is `image` (distribution-spec, "Listing Referrers")."""


def check(
    reference: "Reference",
    image: Digest,
    source: Attachments,
    keys: Sequence[bytes | str],
    identity: Identity,
    limits: Limits,
) -> None:
    """Check that one of `keys` has signed `image` under a name that `identity` accepts.

    Raises RefusedError when none has, UsageError for keys that cannot be used, and what the source raises.
    """
    verifiers = [_Key(key) for key in keys]
    reasons: list[str] = []
    for count, (payload, signature) in enumerate(_signatures(source, image, limits)):
        if count >= _MOST:
            reasons.append("there are more signatures than are looked at")
            break
        reason = _judge(payload, signature, verifiers, reference, image, identity)
        if not reason:
            return
        reasons.append(reason)
    why = "; ".join(dict.fromkeys(reasons)) or "it has no signature"
    raise RefusedError(f"the policy requires a signature of {reference.text}: {why}")


def _signatures(source: Attachments, image: Digest, limits: Limits) -> Iterator[tuple[bytes, str]]:
    """Yield payloads and their base64 signatures, all of them a stranger's word."""
    for raw, media_type in _manifests(source, image, limits):
        found = manifests.parse(raw, media_type, limits)
        if not isinstance(found, manifests.Manifest):
            continue
        for layer in found.layers:
            signature = layer.annotations.get(_SIGNATURE)
            if layer.media_type == _PAYLOAD and signature is not None:
                yield document(source, layer, "a signature's payload", limits), signature


def _manifests(source: Attachments, image: Digest, limits: Limits) -> Iterator[tuple[bytes, str]]:
    tagged = source.neighbour(f"{image.algorithm}-{image.hex}.sig", limits)
    if tagged is not None:
        yield tagged[1], tagged[0].media_type
    for descriptor in source.referrers(image, _ARTIFACT, limits)[:_MOST]:
        yield document(source, descriptor, "a signature's manifest", limits), descriptor.media_type


def _judge(
    payload: bytes, signature: str, keys: Sequence["_Key"], reference: "Reference", image: Digest, identity: Identity
) -> str:
    """Return "" for a signature that counts, else why it does not.  The payload is parsed only once it is verified."""
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return "a signature is not base64"
    if not any(key.verifies(raw, payload) for key in keys):
        return "a signature is not by the policy's key"
    try:
        signed_digest, signed_name = _parse(payload)
    except OciError as error:
        return error.message
    if signed_digest != image:
        return f"a signature is for {signed_digest}, the image is {image}"
    if not identity.accepts(reference, signed_name):
        return f"a signature is for the name {signed_name!r:.200}"
    return ""


def _parse(payload: bytes) -> tuple[Digest, str]:
    """Parse a "simple signing" payload (containers-signature(5)): its members and no others are understood."""
    body = jsonio.parse(payload, "a signature's payload")
    critical = _exactly(body, "critical", "optional")["critical"]
    if body["optional"] is not None and not isinstance(body["optional"], dict):
        raise RefusedError("a signature's payload has members that it should not have")
    fields = _exactly(critical, "identity", "image", "type")
    if fields["type"] != _TYPE:
        raise RefusedError(f"a signature has type {fields['type']!r:.50}")
    name = _exactly(fields["identity"], "docker-reference")["docker-reference"]
    if not isinstance(name, str):
        raise RefusedError("a signature's name is not a string")
    digest = _exactly(fields["image"], "docker-manifest-digest")["docker-manifest-digest"]
    return Digest(digest, "a signature's digest"), name


def _exactly(value: Any, *members: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(members):
        raise RefusedError("a signature's payload has members that it should not have")
    return value


class _Key:
    """A public key: ECDSA, Ed25519, or RSA with PKCS#1 1.5, over SHA-256, as sigstore uses them."""

    def __init__(self, key: bytes | str) -> None:
        where = key if isinstance(key, str) else "the key in the policy"
        try:
            from cryptography.exceptions import UnsupportedAlgorithm
            from cryptography.hazmat.primitives import serialization
            from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
        except ImportError as error:
            raise UnsupportedError(
                "the policy requires a signature, and the module to check it is not installed",
                "apt install python3-cryptography",
            ) from error
        try:
            pem = key if isinstance(key, bytes) else hostfiles.read(key)
            found = serialization.load_pem_public_key(pem)
        except OSError as error:
            raise UsageError(f"cannot read the policy's key {where}: {error.strerror}") from error
        except ValueError as error:
            raise UsageError(f"{where} is not a public key in PEM form") from error
        except UnsupportedAlgorithm:
            found = None
        if not isinstance(found, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
            raise UsageError(f"{where} is a key of a kind that is not supported")
        self._key = found

    def verifies(self, signature: bytes, payload: bytes) -> bool:
        """Tell whether `signature` over `payload` was made with this key."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

        key = self._key
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
            elif isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
            else:
                key.verify(signature, payload)
        except InvalidSignature:
            return False
        return True
