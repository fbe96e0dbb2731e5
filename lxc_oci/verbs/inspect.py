# SPDX-License-Identifier: LGPL-2.1-or-later
"""`lxc-oci-py inspect`: what an image is, or what a container was made of and what of that still holds.

Of an image only its documents are read, never a layer, and the store has no part in it.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

from lxc_oci import jsonio
from lxc_oci import limits as limit
from lxc_oci.container import lxcconfig, provenance
from lxc_oci.container.lxcconfig import Line
from lxc_oci.errors import AccessError, UsageError
from lxc_oci.image import config as configs
from lxc_oci.image import manifest as manifests
from lxc_oci.image.config import ImageConfig
from lxc_oci.image.manifest import Descriptor, Index, Manifest
from lxc_oci.limits import Limits
from lxc_oci.log import Log, escape
from lxc_oci.progress import size
from lxc_oci.source import resolve
from lxc_oci.source.open import open_source, parse_url
from lxc_oci.verbs import default_lxcpath, source_options

# What an image or the user's options decide of a container; the last value of the first list counts, all values
# of the second.
_ONE = (
    "lxc.rootfs.path",
    "lxc.rootfs.options",
    "lxc.uts.name",
    "lxc.init.cmd",
    "lxc.execute.cmd",
    "lxc.init.uid",
    "lxc.init.gid",
    "lxc.init.groups",
    "lxc.init.cwd",
    "lxc.signal.halt",
)
_ALL = ("lxc.environment", "lxc.environment.runtime", "lxc.mount.entry", "lxc.hook.pre-mount")


def run(arguments: argparse.Namespace, log: Log) -> int:
    """Print what was asked for; return 0.  A colon is in every URL and in no container's name."""
    if ":" in arguments.subject or "/" in arguments.subject:
        return _image(arguments, log)
    if arguments.raw:
        raise UsageError("--raw is for an image", "give its URL")
    return _container(arguments)


# --- an image --------------------------------------------------------------------------------------------------


def _image(arguments: argparse.Namespace, log: Log) -> int:
    limits = limit.load()
    reference = parse_url(arguments.subject)
    with tempfile.TemporaryDirectory(prefix="lxc-oci-py-", dir="/var/tmp") as temporary:
        options = source_options(arguments, temporary)
        source = open_source(reference, options, limits, log.warn)
        try:
            root, raw = source.root(limits)
            if arguments.raw and options.platform is None:
                sys.stdout.buffer.write(raw)
                return 0
            image = resolve.resolve(source, options.platform, limits, log.warn)
        finally:
            source.close()
    if arguments.raw:
        sys.stdout.buffer.write(image.raw_manifest)
        return 0
    found: dict[str, Any] = {
        "reference": reference.text,
        "digest": image.digest,
        "indexDigest": image.index_digest,
        "platforms": _platforms(manifests.parse(raw, root.media_type, limits)),
        **_configuration(image.config),
        "layers": [_layer(layer) for layer in image.layers],
    }
    _print(found, arguments.json)
    return 0


def _platforms(document: Manifest | Index) -> list[str]:
    return manifests.offered(document) if isinstance(document, Index) else []


def _layer(layer: Descriptor) -> dict[str, object]:
    return {"digest": layer.digest, "mediaType": layer.media_type, "bytes": layer.size}


def _configuration(config: ImageConfig) -> dict[str, object]:
    return {
        "platform": str(config.platform),
        "created": config.created,
        "author": config.author,
        "entrypoint": list(config.entrypoint),
        "cmd": list(config.cmd),
        "environment": list(config.env),
        "user": config.user,
        "workingDirectory": config.working_dir,
        "stopSignal": config.stop_signal,
        "volumes": list(config.volumes),
        "ports": list(config.exposed_ports),
        "healthcheck": list(config.healthcheck),
        "labels": dict(config.labels),
    }


# --- a container -----------------------------------------------------------------------------------------------


def _container(arguments: argparse.Namespace) -> int:
    lxcpath = os.path.abspath(arguments.lxcpath or default_lxcpath())
    directory = os.path.join(lxcpath, arguments.subject)
    path = os.path.join(directory, "config")
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        raise AccessError(
            f"there is no container {arguments.subject!r:.100} in {lxcpath}", "say where it is with -P, or give a URL"
        ) from None
    facts = provenance.read(directory)
    if facts is None:
        raise UsageError(f"the container {arguments.subject} was not made by lxc-oci-py")
    raw_manifest, raw_config = provenance.documents(directory)
    found: dict[str, Any] = {
        "container": directory,
        "reference": facts.reference,
        "digest": facts.digest,
        "indexDigest": facts.index_digest,
        "storage": facts.form,
        "store": facts.store,
        "parts": list(facts.uses),
        "made": facts.created,
        "image": _stored_configuration(raw_manifest, raw_config, facts.platform),
        "options": _lines(lxcconfig.block_lines(text, lxcconfig.OPTIONS_BLOCK)),
        "now": _in_force(lxcconfig.parse(text)),
    }
    _print(found, arguments.json)
    return 0


def _stored_configuration(raw_manifest: bytes, raw_config: bytes, platform: str) -> dict[str, object]:
    """Return what the image said; it was checked when the container was made."""
    manifest = manifests.parse(raw_manifest, "", Limits())
    if isinstance(manifest, Index) or configs.is_empty(manifest.config):
        return {"platform": platform}
    return _configuration(configs.parse(raw_config))


def _lines(lines: Iterable[Line]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        found.setdefault(line.key, []).append(_shown(line.value))
    return found


def _shown(value: str) -> str:
    """Return a value of the configuration as text that JSON can carry: LXC takes any bytes."""
    return lxcconfig.encode(value).decode("utf-8", "replace")


def _in_force(lines: Sequence[Line]) -> dict[str, list[str]]:
    """Return what the configuration says now, the user's later changes included."""
    found = {key: lxcconfig.values(lines, key)[-1:] for key in _ONE}
    found.update((key, lxcconfig.values(lines, key)) for key in _ALL)
    return {key: [_shown(value) for value in values] for key, values in found.items() if values}


# --- printing --------------------------------------------------------------------------------------------------

_TITLES = {
    "indexDigest": "index",
    "workingDirectory": "directory",
    "stopSignal": "stop signal",
    "image": "from the image",
    "options": "from the options",
    "now": "LXC's configuration now",
}


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.buffer.write(jsonio.dump(found))
        return
    for line in _text(found, ""):
        print(line)


def _text(found: dict[str, Any], indent: str) -> Iterable[str]:
    """Yield the lines of a document; empty values are left out, and nothing that a terminal would obey is in them."""
    for key, value in found.items():
        title = indent + escape(_TITLES.get(key, key)) + ":"
        if not value:
            continue
        if key in ("entrypoint", "cmd", "healthcheck"):
            yield f"{title} {escape(jsonio.compact(value).decode())}"
        elif isinstance(value, dict):
            yield title
            yield from _text(value, indent + "  ")
        elif isinstance(value, list):
            yield title
            for item in value:
                if isinstance(item, dict):
                    item = f"{item['digest']} {size(item['bytes'])} {item['mediaType']}"
                yield f"{indent}  {escape(item)}"
        else:
            yield f"{title} {escape(value)}"
