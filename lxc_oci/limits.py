# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every ceiling that hostile input meets, in one place, with its reason.

Each can be changed by the administrator: `name = value` lines in
/etc/lxc-oci-py/limits.conf, then NAME=VALUE pairs separated by spaces in the
environment variable LXC_OCI_PY_LIMITS.  Sizes are bytes, times are seconds.
"""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from lxc_oci.errors import UsageError

LIMITS_FILE = "/etc/lxc-oci-py/limits.conf"
MIB = 1024 * 1024
GIB = 1024 * MIB
_POSITIVE = re.compile(r"[1-9][0-9]{0,17}\Z")  # int() refuses thousands of digits by a ValueError


class Limits(NamedTuple):
    """Ceilings; the defaults follow containers/image and containerd where they have one."""

    document_bytes: int = 4 * MIB  # manifest, index, config (containers/image iolimits)
    token_bytes: int = 1 * MIB  # token and error bodies
    user_database_bytes: int = 10 * MIB  # /etc/passwd and /etc/group of an image
    index_depth: int = 4  # real images nest twice
    index_documents: int = 32
    layers: int = 500  # overlayfs stacks at most 500 lowers
    archive_members: int = 100_000  # of an oci-archive or docker-archive
    archive_bytes: int = 256 * GIB  # such an archive, uncompressed
    layer_bytes: int = 64 * GIB  # uncompressed tar, sparse files counted at logical size
    image_bytes: int = 256 * GIB  # all layers of an image, uncompressed
    layer_ratio: int = 1000  # output to input, once ratio_floor_bytes are out
    ratio_floor_bytes: int = 100 * MIB
    puzzlefs_bytes: int = 256 * MIB  # metadata of a PuzzleFS image, held in memory: some 200 bytes a file
    zstd_window_log: int = 27  # 128 MiB, zstd's own default ceiling
    entries: int = 2_000_000  # per layer
    names_bytes: int = 192 * MIB  # memory for names of a layer, or of an archive: 800 bytes a directory, 100 a file
    path_bytes: int = 4096  # PATH_MAX
    path_depth: int = 1024
    pax_bytes: int = 1 * MIB  # extended header of one entry (Go's limit)
    environment_entries: int = 4096
    environment_entry_bytes: int = 128 * 1024 - 1  # MAX_ARG_STRLEN of the kernel, NUL included
    environment_bytes: int = 1 * MIB
    argument_bytes: int = 128 * 1024 - 1
    arguments_bytes: int = 1 * MIB
    volumes: int = 100  # each gets a copy of what the image has there, those inside others once more
    redirects: int = 10
    retries: int = 5
    retry_delay: int = 60  # the longest Retry-After that is waited for
    connect_timeout: int = 10
    idle_timeout: int = 30  # no byte for that long
    minimum_rate: int = 1024  # bytes per second over rate_window
    rate_window: int = 60
    transfer_seconds: int = 6 * 3600  # a whole pull or push: at minimum_rate, layer_bytes would take two years
    helper_timeout: int = 600  # a mount helper, mkfs.erofs, a credential helper; what skopeo copies is a transfer
    helper_memory_bytes: int = 4 * GIB


def load(environment: Mapping[str, str] | None = None, path: str = LIMITS_FILE) -> Limits:
    """Return the defaults changed by the file and by LXC_OCI_PY_LIMITS.

    Raises UsageError for an unknown name or a value that is not a positive integer.
    """
    environment = os.environ if environment is None else environment
    words: list[tuple[str, str]] = []
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                line = line.partition("#")[0].strip()
                if line:
                    words.append((line, path))
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', '') or error}") from error
    words += [(word, "LXC_OCI_PY_LIMITS") for word in environment.get("LXC_OCI_PY_LIMITS", "").split()]
    if not words:
        return Limits()
    known = set(Limits._fields)
    changes: dict[str, int] = {}
    for word, origin in words:
        name, _, value = (part.strip() for part in word.partition("="))
        if name not in known:
            raise UsageError(f"{origin}: unknown limit {name!r:.50}", "the limits are listed in lxc-oci-py(1)")
        if not _POSITIVE.match(value):
            raise UsageError(f"{origin}: {name} takes a positive integer, not {value!r:.50}")
        changes[name] = int(value)
    return Limits()._replace(**changes)
