# SPDX-License-Identifier: LGPL-2.1-or-later
"""The story of a commit: a container's image and what the container wrote, as a new image.

The image's own layers keep their digests wherever their bytes can be had; what the container wrote becomes one more
layer.  Where that cannot be, everything becomes one layer, and is said to.
"""

import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from lxc_oci import existing, jsonio
from lxc_oci.acquire import now
from lxc_oci.changes import OURS
from lxc_oci.container import generation
from lxc_oci.errors import NoSpaceError, OciError, RefusedError, UsageError
from lxc_oci.existing import Container
from lxc_oci.image import config as configs
from lxc_oci.image import digest as digests
from lxc_oci.image import mediatype
from lxc_oci.image import reference as references
from lxc_oci.image.config import Image
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from lxc_oci.image.mediatype import LayerKind
from lxc_oci.image.reference import Reference
from lxc_oci.imagewriter import ArchiveWriter, LayoutWriter, Writer
from lxc_oci.kernel.root import Root
from lxc_oci.layer import difflayer
from lxc_oci.limits import Limits
from lxc_oci.log import Log
from lxc_oci.progress import Progress, Task
from lxc_oci.rootfs import base as bases
from lxc_oci.rootfs import overlay
from lxc_oci.rootfs.choose import Form
from lxc_oci.source.open import SourceOptions, open_source
from lxc_oci.store import blobs, indexes
from lxc_oci.store.blobs import CachingSource
from lxc_oci.store.home import Store

_AUTHOR = "lxc-oci-py commit"
_CHUNK = 1 << 20
_GZIP = 31  # zlib: a gzip header, which has no time and no name
_BASE = "org.opencontainers.image.base."


@dataclass(frozen=True)
class Request:
    """What the user asks of a commit; members of `running` take the place of the image's (config.md)."""

    directory: str  # the container's
    destination: Reference
    source: SourceOptions  # for the destination, and for layers that must be fetched
    running: dict[str, Any]
    owner: tuple[int, int] | None = None  # of written files, where it is not the one who runs this


@dataclass(frozen=True)
class Layer:
    """A layer of the new image, and the file that it is to be written from; "" where the destination has it."""

    descriptor: Descriptor
    diff_id: Digest
    path: str = ""


def commit(request: Request, store: Store, limits: Limits, log: Log, progress: Progress) -> Digest:
    """Write the image and return the digest of its manifest.  Raises OciError and OSError.

    The container is stopped, and stays as it is.
    """
    _check(request.destination)
    overlay.private_namespace()
    with (
        existing.locked(request.directory),
        store.in_use(),
        store.stage() as stage,
    ):
        container = existing.read(request.directory, store)
        image = existing.image_of(container, container.number, limits)
        with _writer(request, container, stage.path, limits, log) as writer:
            originals = _originals(container, image, writer, request.source, store, stage.path, limits, log, progress)
            if originals is None:
                layers = [_if_missing(_everything(container, stage.path, limits, log, progress), writer)]
            else:
                layers = [*originals, _if_missing(_difference(container, stage.path, log, progress), writer)]
            raw_config = _configuration(image, layers, flattened=originals is None, running=request.running)
            raw = _manifest(image, layers, raw_config, container.facts.reference)
            digest = digests.sha256(raw)
            for number, layer in enumerate(layers, 1):
                if layer.path:
                    task = progress.task(f"layer {number}", layer.descriptor.size)
                    writer.put_blob(layer.descriptor.digest, layer.path, task.advance)
                    task.done("written")
            _write_configuration(writer, raw_config, stage.path)
            selector = request.destination.tag or ("latest" if _is_docker(request.destination) else "")
            writer.put_manifest(selector, mediatype.OCI_MANIFEST, raw, digest)
        log.info(f"{container.name} is now {request.destination} ({digest})")
        return digest


def _check(destination: Reference) -> None:
    if destination.transport not in (references.DOCKER, references.OCI, references.OCI_ARCHIVE):
        raise UsageError(
            f"{destination.transport}: cannot be written",
            "write to docker://HOST/NAME:TAG, oci:DIR or oci-archive:FILE",
        )
    if destination.digest is not None or destination.tag.startswith("@"):
        raise UsageError(
            f"{destination} names a digest, which is not known before the image is written", "leave the digest out"
        )


def _is_docker(reference: Reference) -> bool:
    return reference.transport == references.DOCKER


@contextmanager
def _writer(request: Request, container: Container, stage: str, limits: Limits, log: Log) -> Iterator[Writer]:
    destination = request.destination
    if _is_docker(destination):
        from lxc_oci.source.push import Destination

        known = references.parse(container.facts.reference)
        origin = known.repository if _is_docker(known) and known.host == destination.host else ""
        with Destination(destination, origin, request.source, limits, log.warn) as opened:
            yield opened
    elif destination.transport == references.OCI:
        yield LayoutWriter(destination.path, request.owner)
    else:
        made = os.path.join(stage, "layout")
        os.mkdir(made, 0o700)
        yield ArchiveWriter(destination.path, made, request.owner)


# --- layers --------------------------------------------------------------------------------------------------------


def _originals(
    container: Container,
    image: Image,
    writer: Writer,
    options: SourceOptions,
    store: Store,
    stage: str,
    limits: Limits,
    log: Log,
    progress: Progress,
) -> list[Layer] | None:
    """Return the image's own layers, None where everything must become one layer, which is said."""
    if container.base.form is Form.FLAT:
        log.info("the container is flat: everything becomes one layer")
        return None
    helper = container.base.plan.helper if container.base.plan else None
    if helper is not None and helper.persist:
        log.info(f"how {helper.program} keeps writes is its own affair: everything becomes one layer")
        return None
    if image.kind is not LayerKind.TAR:
        log.info(
            f"the image has {image.kind.value} layers, over which no tar layer can be: everything becomes one layer"
        )
        return None
    reference = existing.same_image(container.facts)
    source = CachingSource(store, lambda: open_source(reference, options, limits, log.warn))
    found = []
    try:
        for number, (layer, diff_id) in enumerate(zip(image.layers, image.config.diff_ids, strict=True), 1):
            descriptor = _oci(layer)
            path = ""
            if not writer.has(layer.digest):
                try:
                    path = _fetched(store, source, layer, number, progress)
                except NoSpaceError:
                    raise
                except OciError as error:
                    index = indexes.find(store, diff_id)
                    if index is None:
                        log.info(
                            f"layer {number} cannot be had any more ({error.message}): everything becomes one layer"
                        )
                        return None
                    log.info(f"layer {number} is compressed anew, and gets another digest: {error.message}")
                    made = _compress(index.tar, diff_id, os.path.join(stage, f"layer-{number}"))
                    found.append(_if_missing(made, writer))
                    continue
            found.append(Layer(descriptor, diff_id, path))
    finally:
        source.close()
    return found


def _if_missing(layer: Layer, writer: Writer) -> Layer:
    """Return a layer that was made here, to be written only where the destination lacks it."""
    return replace(layer, path="") if writer.has(layer.descriptor.digest) else layer


def _fetched(store: Store, source: CachingSource, layer: Descriptor, number: int, progress: Progress) -> str:
    """Return the path of a layer's verified blob, which the store has or gets."""
    what = f"layer {number}"
    task = progress.task(what, layer.size)
    try:
        path = blobs.fetch(store, source, layer, what, task.advance)
    except RefusedError:  # the store's own was damaged and is forgotten, or the registry's is
        path = blobs.fetch(store, source, layer, what, lambda count: None)
    task.done()
    return path


def _oci(layer: Descriptor) -> Descriptor:
    """Return Docker's descriptor in OCI's words; the bytes are the same."""
    compression = mediatype.tar_compression(layer.media_type)
    kind = mediatype.OCI_LAYER + (f"+{compression}" if compression else "")
    return Descriptor(kind, layer.digest, layer.size, layer.annotations)


class _Gzip:
    """A gzip file that is hashed on both sides while it is written; equal content gives equal bytes."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = open(path, "xb")
        self._deflate = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
        self._plain, self._packed = hashlib.sha256(), hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._plain.update(data)
        self._out(self._deflate.compress(data))

    def close(self) -> None:
        self._file.close()

    def finish(self) -> Layer:
        self._out(self._deflate.flush())
        self._file.flush()
        size = self._file.tell()
        kind = f"{mediatype.OCI_LAYER}+gzip"
        packed, plain = (Digest(f"sha256:{one.hexdigest()}") for one in (self._packed, self._plain))
        return Layer(Descriptor(kind, packed, size), plain, self._path)

    def _out(self, data: bytes) -> None:
        self._packed.update(data)
        self._file.write(data)


def _compress(tar: str, diff_id: Digest, path: str) -> Layer:
    with open(tar, "rb") as file, closing(_Gzip(path)) as output:
        while data := file.read(_CHUNK):
            output.write(data)
        made = output.finish()
    if diff_id.algorithm == "sha256" and made.diff_id != diff_id:
        raise OciError(f"{tar} is not what its DiffID says", "run lxc-oci-py verify, then pull the image again")
    return Layer(made.descriptor, diff_id, path)


def _difference(container: Container, stage: str, log: Log, progress: Progress) -> Layer:
    """Return what the container wrote as a layer."""
    with Root.at(container.upper) as root:
        return _tar(root, stage, "writes", True, log, progress)


def _everything(container: Container, stage: str, limits: Limits, log: Log, progress: Progress) -> Layer:
    """Return the container's whole root as a layer."""
    if container.base.form is Form.FLAT:
        with Root.at(container.upper) as root:
            return _tar(root, stage, "files", False, log, progress)
    directory = generation.directory(container.number)
    with bases.merged(container.base, container.directory, directory, container.upper, limits) as root:
        return _tar(root, stage, "files", False, log, progress)


def _tar(root: Root, stage: str, label: str, upper: bool, log: Log, progress: Progress) -> Layer:
    task: Task = progress.task(label, 0)
    with closing(_Gzip(os.path.join(stage, "written"))) as output:
        difflayer.write(root, output.write, upper=upper, without=OURS, warn=log.warn, on_bytes=task.advance)
        task.done()
        return output.finish()


# --- documents -----------------------------------------------------------------------------------------------------


def _configuration(image: Image, layers: Sequence[Layer], *, flattened: bool, running: dict[str, Any]) -> bytes:
    """Return the image's configuration with the new layers in it; everything else that it says is kept."""
    empty = configs.is_empty(image.manifest.config)
    document: dict[str, Any] = {} if empty else jsonio.parse(image.raw_config, "the image configuration")
    moment = now()
    entry = {"created": moment, "created_by": _AUTHOR}
    history = document.get("history") or []
    if flattened:
        document["history"] = [entry]
    elif history:  # it must have an entry for each layer, or there must be none
        document["history"] = [*history, entry]
    platform = image.config.platform
    document.setdefault("architecture", platform.architecture)
    document.setdefault("os", platform.os)
    document["created"] = moment
    document["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
    # Docker's record of the container that a build ran in.
    for name in ("container", "container_config"):
        document.pop(name, None)
    if running:
        document["config"] = {**(document.get("config") or {}), **running}
    return jsonio.compact(document)


def _manifest(image: Image, layers: Sequence[Layer], raw_config: bytes, reference: str) -> bytes:
    annotations: dict[str, str] = {**image.manifest.annotations, f"{_BASE}digest": image.digest}
    if reference.startswith("docker://"):
        annotations[f"{_BASE}name"] = reference.removeprefix("docker://")
    document = {
        "schemaVersion": 2,
        "mediaType": mediatype.OCI_MANIFEST,
        "config": _descriptor(Descriptor(mediatype.OCI_CONFIG, digests.sha256(raw_config), len(raw_config))),
        "layers": [_descriptor(layer.descriptor) for layer in layers],
        "annotations": annotations,
    }
    return jsonio.compact(document)


def _descriptor(one: Descriptor) -> dict[str, object]:
    found: dict[str, object] = {"mediaType": one.media_type, "digest": one.digest, "size": one.size}
    return {**found, "annotations": dict(one.annotations)} if one.annotations else found


def _write_configuration(writer: Writer, raw: bytes, stage: str) -> None:
    digest = digests.sha256(raw)
    if not writer.has(digest):
        path = os.path.join(stage, "config.json")
        with open(path, "xb") as file:
            file.write(raw)
        writer.put_blob(digest, path, lambda count: None)
