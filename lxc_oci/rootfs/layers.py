# SPDX-License-Identifier: LGPL-2.1-or-later
"""An image's layers, whatever they are made of, applied to a tree or fetched as files.

Here the kinds of layers meet the store and the progress display; how each kind is read is layer.*'s.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from lxc_oci.acquire import Acquired
from lxc_oci.errors import NoSpaceError, OciError, RefusedError, UnsupportedError
from lxc_oci.image.digest import Digest
from lxc_oci.image.manifest import Descriptor
from lxc_oci.image.mediatype import LayerKind, tar_compression
from lxc_oci.kernel import run, userns
from lxc_oci.kernel.root import Root
from lxc_oci.limits import Limits
from lxc_oci.log import Log
from lxc_oci.progress import Progress, Task
from lxc_oci.rootfs.together import together
from lxc_oci.source.source import Blob, blob
from lxc_oci.store import blobs, inventory
from lxc_oci.store.blobs import CachingSource
from lxc_oci.store.home import Store

if TYPE_CHECKING:  # a create that the store answers reads no layer and imports none of this
    from lxc_oci.layer.displaced import Displaced
    from lxc_oci.layer.pipeline import TarLayer
    from lxc_oci.layer.record import RecordWriter
    from lxc_oci.layer.unpack import Unpacker
    from lxc_oci.store.indexes import Index


class Layers:
    """The layers of one image on their way into a tree."""

    def __init__(
        self,
        found: Acquired,
        store: Store | None,
        limits: Limits,
        log: Log,
        progress: Progress,
        *,
        kernel_mount: bool = True,
        temporary: str = "",
    ) -> None:
        """`temporary` is a directory for files where there is no store to keep them in."""
        self._temporary = temporary
        self._kernel_mount = kernel_mount and userns.current().initial
        self._image = found.image
        self._source = found.source
        self._store = store
        self._limits = limits
        self._log = log
        self._progress = progress
        self._counting = threading.Lock()
        self._output_left = limits.image_bytes

    def fill(
        self, root: Root, first: int = 0, record: "RecordWriter | None" = None, displaced: "Displaced | None" = None
    ) -> None:
        """Apply the layers from number `first` on to what is in `root`.

        Raises RefusedError, NoSpaceError and OciError; blobs of the store that were found wrong are forgotten, so that
        the next try fetches them anew.
        """
        from lxc_oci.layer.unpack import Unpacker

        kind = self._image.kind
        # Only in tar layers do names that begin with `.wh.` mean anything.
        overlay_whiteouts = kind is not LayerKind.TAR
        if first == len(inventory.of_image(self._image)):
            return  # the store had all of them
        # Files take no less than what is compressed of them, whatever of it the store has.
        _check_space(os.fstatvfs(root.fd), self._image.layers[first:])
        self._output_left = self._limits.image_bytes
        with (
            self._damaged_forgotten(),
            Unpacker(
                root,
                self._limits,
                self._log.warn,
                record=record,
                overlay_whiteouts=overlay_whiteouts,
                displaced=displaced,
            ) as unpacker,
        ):
            if kind is LayerKind.TAR:
                self._apply_tar(unpacker, first)
            elif kind is LayerKind.PUZZLEFS:
                self._apply_puzzlefs(unpacker)
            else:
                self._apply_file_systems(unpacker, first, kind)

    def drop_blobs(self) -> None:
        """Forget what was written down of the compressed blobs: their content lies in a tree or an index now."""
        if self._store is not None:
            for layer in self._image.layers:
                blobs.drop(self._store, layer.digest)

    def keep_blobs(self) -> None:
        """Keep the blobs that were just read, for the next flat container."""
        if self._store is not None and isinstance(self._source, CachingSource):
            for layer in self._image.layers:
                self._source.keep(layer)

    @contextmanager
    def fetched_once(self) -> Iterator[None]:
        """Let ten flat containers of one image, made at once, wait for the one that fetches and keeps its blobs."""
        missing = None
        if self._store is not None and isinstance(self._source, CachingSource):
            paths = (blobs.blob_path(self._store, layer.digest) for layer in self._image.layers)
            missing = next((os.path.basename(path) for path in paths if not os.path.exists(path)), None)
        with nullcontext() if self._store is None or missing is None else self._store.locked(f"flat-{missing}"):
            yield

    @contextmanager
    def files(self, *, read: bool = True) -> Iterator[dict[Digest, str]]:
        """Give the verified blobs of all layers as files: of the store, or, without one, temporary.

        Without `read`, what the store has kept is not verified again: they are only mounted.
        """
        with ExitStack() as stack:
            directory = ""
            if self._store is not None:
                stack.enter_context(self._store.in_use())
            else:
                import tempfile

                directory = stack.enter_context(tempfile.TemporaryDirectory(prefix=".lxc-oci-py-", dir=self._temporary))
            layers = self._image.layers
            _check_space(os.statvfs(self._store.path if self._store is not None else directory), self._missing())
            # A PuzzleFS image has hundreds of chunks, and one bar.
            one = self._image.kind is LayerKind.PUZZLEFS
            shared = self._progress.task(f"{len(layers)} blobs", sum(layer.size for layer in layers)) if one else None
            advancing = threading.Lock()

            def fetch(number: int, check: Callable[[], None]) -> str:
                layer = layers[number]
                task = shared or self._progress.task(f"layer {number + 1}", layer.size)

                def on_bytes(count: int) -> None:
                    check()
                    with advancing:
                        task.advance(count)

                path = self._fetch(number, layer, on_bytes, directory, read)
                if shared is None:
                    task.done()
                return path

            paths = together(fetch, len(layers), self._cut)
            if shared is not None:
                shared.done()
            yield {layer.digest: path for layer, path in zip(layers, paths, strict=True)}

    def _missing(self) -> list[Descriptor]:
        """Return the layers whose blobs the store has not."""
        store = self._store
        layers = self._image.layers
        return [layer for layer in layers if store is None or not os.path.exists(blobs.blob_path(store, layer.digest))]

    def _cut(self, failure: BaseException) -> None:
        """End the transfers of other threads, which may be waiting for a registry: nothing is read after a failure."""
        if isinstance(failure, _Dependent):
            return
        getattr(self._source, "cut", lambda: None)()

    def _fetch(
        self, number: int, layer: Descriptor, on_bytes: Callable[[int], None], directory: str, read: bool
    ) -> str:
        what = f"layer {number + 1}"
        if self._store is not None:
            return blobs.fetch(self._store, self._source, layer, what, on_bytes, read=read)
        path = os.path.join(directory, str(number))  # not by digest: two layers may be the same
        with open(path, "xb") as file, blob(self._source, layer, what) as reader:
            while data := reader.read(1 << 20):
                on_bytes(len(data))
                file.write(data)
        return path

    def index(self) -> tuple[list["Index"], str]:
        """Have an EROFS index of every tar layer; return them, or why there cannot be one of each."""
        from lxc_oci.store import indexes

        assert self._store is not None
        store: Store = self._store
        tar_layers: list[tuple[TarLayer, Callable[[], Task]]]

        def made(number: int, check: Callable[[], None]) -> "Index":
            layer, task = tar_layers[number]
            found = indexes.find(store, layer.diff_id)
            if found is not None:
                return found

            def on_bytes(count: int) -> None:
                check()
                layer.on_bytes(count)

            with _numbered(lambda: number + 1):
                found, reason = indexes.make(store, replace(layer, on_bytes=on_bytes), self._limits, self._log.warn)
            if found is None:
                raise _Dependent(reason)
            task().done("indexed")
            return found

        diff_ids = self._image.config.diff_ids
        new = [
            layer
            for layer, diff_id in zip(self._image.layers, diff_ids, strict=True)
            if not indexes.find(store, diff_id)
        ]
        _check_space(os.statvfs(store.path), new)
        with store.in_use(), self._damaged_forgotten(), self._tar_layers(0) as tar_layers:
            try:
                return together(made, len(tar_layers), self._cut), ""
            except _Dependent as error:
                return [], error.reason

    def _apply_tar(self, unpacker: "Unpacker", first: int) -> None:
        from lxc_oci.layer.pipeline import apply_image

        applied = first
        tasks: list[Callable[[], Task]] = []

        def done(number: int) -> None:
            nonlocal applied
            applied = first + number + 1
            tasks[number]().done()

        with self._tar_layers(first) as layers:
            tasks += [task for _, task in layers]
            with _numbered(lambda: applied + 1):
                apply_image(unpacker, [layer for layer, _ in layers], self._limits, self._log.warn, done)

    @contextmanager
    def _tar_layers(self, first: int) -> Iterator[list[tuple["TarLayer", Callable[[], Task]]]]:
        """Give the tar layers, each with its task in the display, which begins when the layer is opened."""
        with ExitStack() as open_blobs:
            yield [self._tar_layer(number, open_blobs) for number in range(first, len(self._image.layers))]

    def _tar_layer(self, number: int, open_blobs: ExitStack) -> tuple["TarLayer", Callable[[], Task]]:
        from lxc_oci.layer.pipeline import TarLayer

        layer = self._image.layers[number]
        tasks: list[Task] = []

        def task() -> Task:
            if not tasks:
                tasks.append(self._progress.task(f"layer {number + 1}", layer.size))
            return tasks[0]

        def opened() -> Blob:
            task()
            return open_blobs.enter_context(blob(self._source, layer, f"layer {number + 1}"))

        compression = tar_compression(layer.media_type)
        diff_id = self._image.config.diff_ids[number]
        return TarLayer(opened, compression, diff_id, lambda count: task().advance(count), self._count_output), task

    def _count_output(self, count: int) -> None:
        """Count bytes that come out of a layer, in whatever thread.  Raises RefusedError."""
        with self._counting:
            self._output_left -= count
            if self._output_left < 0:
                raise RefusedError(
                    f"the image has more than {self._limits.image_bytes} bytes when uncompressed",
                    "if that is right, raise image_bytes in /etc/lxc-oci-py/limits.conf",
                )

    def _apply_file_systems(self, unpacker: "Unpacker", first: int, kind: LayerKind) -> None:
        """Apply squashfs layers from the stream of their own tool, EROFS layers from a mount of each."""
        from lxc_oci.layer import erofs, squashfs, verity
        from lxc_oci.store import mountplan

        with self.files() as files:
            for number, layer in list(enumerate(self._image.layers))[first:]:
                what, path = f"layer {number + 1}", files[layer.digest]
                data = verity.of(layer, path, kind, what)
                if data is not None:
                    verity.check(path, data, what)
                if kind is LayerKind.SQUASHFS:
                    squashfs.apply_layer(unpacker, path, what, self._limits, self._log.warn, self._count_output)
                    continue
                assert self._store is not None
                if not self._kernel_mount and run.find("erofsfuse") is None:
                    raise UnsupportedError(
                        "EROFS layers cannot be unpacked here without the kernel or erofsfuse",
                        "apt install erofsfuse (Debian 13 and newer), or as root leave out --no-kernel-mount",
                    )
                lower = mountplan.Lower(mountplan.EROFS, path, fuse=not self._kernel_mount)
                with self._store.stage() as stage, mountplan.image_mounted(stage.path, lower, self._limits) as mounted:
                    erofs.apply_layer(unpacker, mounted, path, what, self._limits, self._count_output)

    def _apply_puzzlefs(self, unpacker: "Unpacker") -> None:
        from lxc_oci.layer import puzzlefs

        with self.files() as files:
            entries = puzzlefs.entries(
                self._image.manifest, lambda digest: open(files[digest], "rb"), self._limits, self._log.warn
            )
            unpacker.begin_layer()
            for entry, data in entries:
                unpacker.add(entry, data)
            unpacker.end_layer()

    @contextmanager
    def _damaged_forgotten(self) -> Iterator[None]:
        """When something is refused, remove blobs of the store whose bytes are not what their names say."""
        try:
            yield
        except RefusedError:
            if self._store is not None:
                self._forget_damaged(self._store)
            raise

    def _forget_damaged(self, store: Store) -> None:
        for layer in self._image.layers:
            for path in (blobs.blob_path(store, layer.digest), blobs.partial_path(store, layer.digest)):
                if os.path.exists(path) and not _sound(path, layer):
                    blobs.forget(store, layer.digest)
                    self._log.warn(f"the stored blob {layer.digest} was damaged and is removed; try again")


def _check_space(there: os.statvfs_result, layers: Sequence[Descriptor]) -> None:
    """Raise NoSpaceError where `layers` do not fit, before hours are spent to find that out."""
    needed = sum({layer.digest: layer.size for layer in layers}.values())
    left = there.f_bfree * there.f_frsize
    if needed > left and there.f_blocks:  # a file system without a size has no blocks
        raise NoSpaceError(
            f"no space left: the image's layers have {needed} bytes, and {left} are free",
            "free some space (lxc-oci-py prune), then try again",
        )


class _Dependent(Exception):
    """A layer has no index, and so the image has none."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@contextmanager
def _numbered(number: Callable[[], int]) -> Iterator[None]:
    """Put the layer's number into an error: readers and unpacker do not know which layer theirs is."""
    try:
        yield
    except OciError as error:
        if not error.message.startswith("a layer"):
            raise
        raise type(error)(f"layer {number()}{error.message[len('a layer') :]}", error.hint) from error


def _sound(path: str, layer: Descriptor) -> bool:
    """Tell whether a whole blob is what it should be, or a partial one may still become it."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < layer.size:
            return True
        try:
            with Blob(file, layer, "") as blob:
                while blob.read(1 << 20):
                    pass
        except RefusedError:
            return False
    return True
