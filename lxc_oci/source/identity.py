# SPDX-License-Identifier: LGPL-2.1-or-later
"""For which name a signature must have been made: signedIdentity of containers-policy.json(5)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lxc_oci.errors import UsageError
from lxc_oci.image import reference as references

if TYPE_CHECKING:
    from lxc_oci.image.reference import Reference

_MEMBERS = {
    "matchExact": (),
    "matchRepoDigestOrExact": (),
    "matchRepository": (),
    "exactReference": ("dockerReference",),
    "exactRepository": ("dockerRepository",),
    "remapIdentity": ("prefix", "signedPrefix"),
}


@dataclass(frozen=True)
class Identity:
    """How the name in a signature is compared with the image's; the default is the file format's."""

    type: str = "matchRepoDigestOrExact"
    first: str = ""  # dockerReference, dockerRepository or prefix
    second: str = ""  # signedPrefix

    def accepts(self, reference: "Reference", signed: str) -> bool:
        """Tell whether a signature for the name `signed` is one for the image `reference`."""
        name = _name(signed)
        if name is None:
            return False
        if self.type in ("exactReference", "exactRepository"):
            expected = _name(self.first)
            if expected is None or expected[0] != name[0]:
                return False
            return self.type == "exactRepository" or (name[1] != "" and expected[1] == name[1])
        if reference.transport != references.DOCKER:
            return False  # an image in a file has no name that could have been signed
        intended = reference.name
        if self.type == "matchRepository":
            return name[0] == intended
        if self.type == "matchExact":
            selector = f"@{reference.digest}" if reference.digest is not None else f":{reference.tag}"
            return name == (intended, selector)
        if self.type == "remapIdentity" and (intended == self.first or intended.startswith(f"{self.first}/")):
            intended = self.second + intended[len(self.first) :]
        if name[1] == "" or name[0] != intended:
            return False
        # A reference with a digest is bound to the image by that.
        return reference.digest is not None or name[1] == f":{reference.tag}"


DEFAULT_IDENTITY = Identity()


def parse_identity(value: Any, path: str) -> Identity:
    """Parse signedIdentity, the default when it is None.  Raises UsageError."""
    if value is None:
        return DEFAULT_IDENTITY
    kind = value.get("type") if isinstance(value, dict) else None
    members = _MEMBERS.get(kind) if isinstance(kind, str) else None
    if not isinstance(kind, str) or members is None or set(value) != {"type", *members}:
        raise UsageError(f"{path}: {kind!r:.50} with such members is not a signedIdentity")
    texts = [value[member] for member in members]
    if not all(isinstance(text, str) and text for text in texts):
        raise UsageError(f"{path}: signedIdentity {kind} has a member that is not a name")
    if kind in ("exactReference", "exactRepository") and _name(texts[0]) is None:
        raise UsageError(f"{path}: {texts[0]!r:.100} is not the name of an image")
    if kind == "remapIdentity":
        for text in texts:
            if not references.is_host_or_name(text):
                raise UsageError(f"{path}: {text!r:.100} is neither a host nor the name of a namespace or repository")
    first, second = (*texts, "", "")[:2]
    return Identity(kind, first, second)


def _name(text: str) -> tuple[str, str] | None:
    """Return the full name in `text` and its selector, "" where it has none; None for what is no name."""
    try:
        found = references.normal(text)
    except UsageError:
        return None
    plain, at, _ = text.partition("@")
    tag = f":{found.tag}" if ":" in plain.rpartition("/")[2] and found.tag else ""
    return found.name, tag + (f"@{found.digest}" if at else "")
