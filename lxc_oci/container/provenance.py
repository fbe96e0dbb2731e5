# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a container was made of, kept in its own directory: CONTAINER/oci-py/{image,manifest,config}.json, and what
it was updated to, in the same files of a generation.

LXC copies none of it; hooks/oci-py-clone does.  Nothing here decides anything at a start.
"""

import json
import os
from typing import Any, NamedTuple

from lxc_oci import jsonio
from lxc_oci.container import generation
from lxc_oci.container.overrides import Overrides, TmpfsOption, VolumeOption
from lxc_oci.errors import RefusedError
from lxc_oci.image.config import Image
from lxc_oci.image.digest import Digest
from lxc_oci.kernel import durable

DIRECTORY = generation.DIRECTORY
_VERSION = 1


class Provenance(NamedTuple):
    """Facts about a create."""

    identity: str  # random; a copy gets its own in CONTAINER/oci-py/id
    reference: str  # canonical URL
    digest: Digest
    index_digest: Digest | None
    platform: str
    form: str
    uses: tuple[str, ...]  # parts of the store
    store: str
    created: str  # RFC 3339
    previous: int = 0  # the generation that a rollback goes back to; 0 when there is none
    # What was asked for, and holds for images to come:
    wanted_platform: str = ""  # "" for the host's own
    kernel_mount: bool = True
    require_verity: bool = False


def write(container: str, facts: Provenance, image: Image, number: int = generation.FIRST) -> None:
    """Write the facts and the image's documents, verbatim, of generation `number`.  Raises OSError."""
    directory = os.path.join(container, generation.directory(number))
    os.makedirs(directory, 0o755, exist_ok=True)
    if number == generation.FIRST:
        durable.replace_file(os.path.join(directory, "id"), f"{facts.identity}\n".encode())
    durable.replace_file(os.path.join(directory, "manifest.json"), image.raw_manifest)
    durable.replace_file(os.path.join(directory, "config.json"), image.raw_config)
    durable.replace_file(os.path.join(directory, "image.json"), jsonio.dump({"version": _VERSION, **facts._asdict()}))


def write_options(container: str, overrides: Overrides) -> None:
    """Keep the user's options apart from the image's words, for updates.  Raises OSError.

    Readable by the container's root alone: variables may be secrets.  By the json module, which unlike orjson
    carries the bytes of an argument that is not UTF-8.
    """
    path = os.path.join(container, DIRECTORY, "options.json")
    durable.replace_file(path, json.dumps(_options(overrides)).encode("ascii"), 0o600)


def _options(overrides: Overrides) -> dict[str, Any]:
    found = overrides._asdict()
    for name in ("volumes", "tmpfs"):
        found[name] = [item._asdict() for item in found[name]]
    return found


def read_options(container: str) -> Overrides:
    """Return the user's options of the create.  Raises RefusedError, and OSError when they are missing."""
    with open(os.path.join(container, DIRECTORY, "options.json"), "rb") as file:
        raw = file.read()
    try:
        found = json.loads(raw)
        members: dict[str, Any] = {
            **found,
            "entrypoint": None if found["entrypoint"] is None else tuple(found["entrypoint"]),
            "cmd": None if found["cmd"] is None else tuple(found["cmd"]),
            "env": tuple((name, value) for name, value in found["env"]),
            "volumes": tuple(VolumeOption(**item) for item in found["volumes"]),
            "tmpfs": tuple(TmpfsOption(**item) for item in found["tmpfs"]),
            **{name: tuple(found[name]) for name in ("address", "gateway", "dns")},
        }
        return Overrides(**members)
    except (KeyError, TypeError, ValueError) as error:
        raise RefusedError(f"{container}/oci-py/options.json is damaged") from error


def read(container: str, number: int | None = None) -> Provenance | None:
    """Return the facts of generation `number`, else of the one in force, of the container in that directory.

    None when it is none of ours, or has no such generation.  Raises RefusedError.
    """
    number = generation.current(container) if number is None else number
    try:
        with open(os.path.join(container, generation.directory(number), "image.json"), "rb") as file:
            found: dict[str, Any] = jsonio.parse(file.read(), "image.json")
    except FileNotFoundError:
        return None
    try:
        if found.pop("version") != _VERSION:
            raise RefusedError(f"{container} was made by another version of lxc-oci-py", "upgrade the package")
        found["digest"] = Digest(found["digest"])
        found["index_digest"] = Digest(found["index_digest"]) if found["index_digest"] else None
        found["uses"] = tuple(found["uses"])
        return Provenance(**found)
    except (KeyError, TypeError) as error:
        raise RefusedError(f"{container}/oci-py/image.json is damaged") from error


def identity(container: str) -> str:
    """Return the container's own id: a copy has another than the container that it was copied from."""
    with open(os.path.join(container, DIRECTORY, "id"), encoding="ascii") as file:
        return file.read(200).strip()


def history(container: str, number: int) -> list[int]:
    """Return generation `number` and those that rollbacks from it would lead to, newest first.  Raises RefusedError."""
    found: list[int] = []
    while number and number not in found:
        facts = read(container, number)
        if facts is None:
            break
        found.append(number)
        number = facts.previous
    return found


def documents(container: str, number: int | None = None) -> tuple[bytes, bytes]:
    """Return the manifest and the configuration as they came, of generation `number`, else of the one in force.

    Raises OSError.
    """
    directory = generation.directory(generation.current(container) if number is None else number)
    parts = []
    for name in ("manifest.json", "config.json"):
        with open(os.path.join(container, directory, name), "rb") as file:
            parts.append(file.read())
    return parts[0], parts[1]
