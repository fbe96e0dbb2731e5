# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images written to files: an OCI layout (image-spec image-layout.md), and the archive of one.

What a layout has already stays; a name that is given anew moves.  Registries are source.push's.
"""

import os
from collections.abc import Callable
from typing import Protocol

from lxc_oci import jsonio
from lxc_oci.errors import OciError, RefusedError, UsageError
from lxc_oci.image import mediatype
from lxc_oci.image.digest import Digest
from lxc_oci.kernel import durable
from lxc_oci.layer import tarwriter
from lxc_oci.layer.tarwriter import Facts, TarWriter

_REF_NAME = "org.opencontainers.image.ref.name"


class Writer(Protocol):
    """Where an image goes: blobs first, then the manifest that names them."""

    def has(self, digest: Digest) -> bool: ...
    def put_blob(self, digest: Digest, path: str, on_bytes: Callable[[int], None]) -> None: ...
    def put_manifest(self, selector: str, media_type: str, raw: bytes, digest: Digest) -> None: ...


class LayoutWriter:
    """An OCI layout in the directory `path`, made if need be, for `owner` if there is one.

    Raises UsageError where something else is there.
    """

    def __init__(self, path: str, owner: tuple[int, int] | None = None) -> None:
        self._path = path
        self._owner = owner
        try:
            names = os.listdir(path) if os.path.lexists(path) else []
            # One that was begun and not finished has blobs and no index.
            if names and names != ["blobs"] and "index.json" not in names:
                raise UsageError(f"{path} is not empty and no OCI layout", "name another directory")
            os.makedirs(path, 0o755, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write the layout {path}: {error.strerror}", "name another directory") from error

    def has(self, digest: Digest) -> bool:
        """Tell whether the layout has the blob."""
        return os.path.exists(self._blob(digest))

    def put_blob(self, digest: Digest, path: str, on_bytes: Callable[[int], None]) -> None:
        """Copy the file `path`, whose digest is `digest`.  Raises RefusedError when it has another, and OSError."""
        target = self._blob(digest)
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        temporary = f"{target}.{os.getpid()}.tmp"
        hasher = digest.hasher()

        def passed(data: bytes) -> None:
            hasher.update(data)
            on_bytes(len(data))

        try:
            with open(path, "rb") as source, open(temporary, "wb") as file:
                durable.copy(source.fileno(), file.fileno(), passed)
                os.fsync(file.fileno())
            if hasher.hexdigest() != digest.hex:
                raise RefusedError(f"{path} has not the digest {digest}", "run lxc-oci-py verify, then try again")
            os.rename(temporary, target)
            durable.sync_directory(os.path.dirname(target))
        except BaseException:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise

    def put_manifest(self, selector: str, media_type: str, raw: bytes, digest: Digest) -> None:
        """Put the manifest into the index, as `selector`, without a name where that is "".  Raises RefusedError."""
        os.makedirs(os.path.dirname(self._blob(digest)), 0o755, exist_ok=True)
        durable.write_file(self._blob(digest), raw)
        durable.write_file(os.path.join(self._path, "oci-layout"), b'{"imageLayoutVersion":"1.0.0"}')
        entry: dict[str, object] = {"mediaType": media_type, "digest": digest, "size": len(raw)}
        if selector:
            entry["annotations"] = {_REF_NAME: selector}
        path = os.path.join(self._path, "index.json")
        try:
            with open(path, "rb") as file:
                index = jsonio.parse(file.read(), path)
            kept = [one for one in index["manifests"] if not selector or _name(one) != selector]
        except FileNotFoundError:
            index, kept = {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX}, []
        except (KeyError, TypeError, AttributeError) as error:
            raise RefusedError(
                f"{path} is not the index of an OCI layout", "name another directory, or repair that file"
            ) from error
        index["manifests"] = [*kept, entry]
        durable.write_file(path, jsonio.compact(index))
        if self._owner is not None:
            for directory, names, files in os.walk(self._path):
                for name in ("", *names, *files):
                    os.chown(os.path.join(directory, name), *self._owner, follow_symlinks=False)

    def _blob(self, digest: Digest) -> str:
        return os.path.join(self._path, "blobs", digest.algorithm, digest.hex)


def _name(entry: dict[str, dict[str, str]]) -> str | None:
    return (entry.get("annotations") or {}).get(_REF_NAME)


class ArchiveWriter(LayoutWriter):
    """The tar of a layout that is made in `stage`; there is nothing at `path` before the manifest is put."""

    def __init__(self, path: str, stage: str, owner: tuple[int, int] | None = None) -> None:
        if os.path.lexists(path):
            raise UsageError(f"{path} exists already", "name another file, or remove it")
        if not os.path.isdir(os.path.dirname(path)):
            raise UsageError(f"{os.path.dirname(path)} is not a directory", "create it first")
        super().__init__(stage)
        self._archive = path
        self._archive_owner = owner

    def put_manifest(self, selector: str, media_type: str, raw: bytes, digest: Digest) -> None:
        """Finish the layout and write the archive.  Raises OciError and OSError."""
        super().put_manifest(selector, media_type, raw, digest)
        temporary = f"{self._archive}.{os.getpid()}.tmp"
        try:
            with open(temporary, "xb") as file:
                self._write(TarWriter(file.write))
                if self._archive_owner is not None:
                    os.fchown(file.fileno(), *self._archive_owner)
                file.flush()
                os.fsync(file.fileno())
            # Never over a file that came meanwhile.
            os.link(temporary, self._archive, follow_symlinks=False)
        except FileExistsError as error:
            raise OciError(f"{self._archive} exists already", "name another file, or remove it") from error
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)
        durable.sync_directory(os.path.dirname(self._archive))

    def _write(self, tar: TarWriter) -> None:
        for directory, names, files in os.walk(self._path):
            names.sort()
            inside = os.path.relpath(directory, self._path)
            if inside != ".":
                tar.add(os.fsencode(inside) + b"/", tarwriter.DIRECTORY, Facts(0o755))
            for name in sorted(files):
                path = os.path.join(directory, name)
                with open(path, "rb") as content:
                    size = os.fstat(content.fileno()).st_size
                    shown = os.fsencode(os.path.normpath(os.path.join(inside, name)))
                    tar.add(shown, tarwriter.FILE, Facts(), size=size, content=content)
        tar.end()
