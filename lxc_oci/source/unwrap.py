# SPDX-License-Identifier: LGPL-2.1-or-later
"""A compressed archive made readable at any offset: decompressed once into a nameless file.

Layers have a reader of their own, layer.inflate, which streams; this one is for the tar around them.
"""

import errno
import os
from typing import IO, Any, Protocol

from lxc_oci.errors import NoSpaceError, RefusedError, UnavailableError, UnsupportedError
from lxc_oci.kernel import durable
from lxc_oci.limits import Limits

_CHUNK = 1 << 20
_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
)


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


def compression_of(head: bytes) -> str:
    """Return `gzip`, `zstd`, `xz`, `bzip2` or `` as the first bytes of a file say."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "")


def unwrap(fd: int, compression: str, temporary: str, what: str, limits: Limits) -> int:
    """Return a descriptor of a new nameless file in the directory `temporary` with the decompressed content of `fd`.

    Raises RefusedError for damaged data and past the limits, NoSpaceError, UnsupportedError and UnavailableError.
    """
    import tempfile  # only a compressed archive pays for it

    with open(fd, "rb", closefd=False) as file, tempfile.TemporaryFile(dir=temporary, buffering=0) as output:
        reader, damaged = _reader(file, compression, what, limits)
        total = 0
        while data := _read(reader, damaged, what):
            total += len(data)
            if total > limits.archive_bytes:
                raise RefusedError(f"{what} has more than {limits.archive_bytes} bytes when uncompressed")
            # The descriptor's own position: what the decompressor has taken so far.
            if total > max(limits.ratio_floor_bytes, limits.layer_ratio * os.lseek(fd, 0, os.SEEK_CUR)):
                raise RefusedError(
                    f"{what} is compressed more than {limits.layer_ratio} times, as a decompression bomb is"
                )
            try:
                durable.write_all(output.fileno(), data)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise NoSpaceError(
                        f"no space left in {temporary} to decompress {what}",
                        "free some space, or decompress the file yourself and name the result",
                    ) from error
                raise UnavailableError(f"cannot write in {temporary}: {error.strerror}") from error
        return os.dup(output.fileno())


def _reader(
    file: IO[bytes], compression: str, what: str, limits: Limits
) -> tuple[_Reader, tuple[type[Exception], ...]]:
    """Return a reader of the decompressed bytes, and the exceptions by which it tells that they are damaged."""
    if compression == "gzip":
        import zlib

        try:
            from isal import igzip, isal_zlib
        except ImportError:
            import gzip

            return gzip.GzipFile(fileobj=file, mode="rb"), (EOFError, zlib.error)
        fast: Any = igzip  # its stubs are half typed
        errors: Any = isal_zlib.error
        return fast.IGzipFile(fileobj=file, mode="rb"), (EOFError, zlib.error, errors)
    if compression == "zstd":
        return _zstd_reader(file, what, limits)
    raise UnsupportedError(f"{what} is compressed by {compression}", "decompress it first, and name the result")


def _zstd_reader(file: IO[bytes], what: str, limits: Limits) -> tuple[_Reader, tuple[type[Exception], ...]]:
    try:
        import zstandard
    except ImportError:
        try:
            from compression import zstd  # Python 3.14
        except ImportError:
            raise UnsupportedError(f"{what} is compressed by zstd", "apt install python3-zstandard") from None
        options = {zstd.DecompressionParameter.window_log_max: limits.zstd_window_log}
        return zstd.ZstdFile(file, options=options), (EOFError, zstd.ZstdError)
    decoder = zstandard.ZstdDecompressor(max_window_size=1 << limits.zstd_window_log)
    return decoder.stream_reader(file, read_across_frames=True), (zstandard.ZstdError,)


def _read(reader: _Reader, damaged: tuple[type[Exception], ...], what: str) -> bytes:
    try:
        return reader.read(_CHUNK)
    except damaged as error:
        raise RefusedError(f"{what} is damaged: {error}", "copy it again") from error
    except OSError as error:
        if error.errno is None:  # gzip.BadGzipFile
            raise RefusedError(f"{what} is damaged: {error}", "copy it again") from error
        raise UnavailableError(f"cannot read {what}: {error.strerror}") from error
