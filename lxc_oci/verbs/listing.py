# SPDX-License-Identifier: LGPL-2.1-or-later
"""`lxc-oci-py list`: the images in the store, what they cost, and the containers that use them."""

import argparse
import sys
from dataclasses import dataclass

from lxc_oci import jsonio
from lxc_oci.errors import OciError
from lxc_oci.image import config as configs
from lxc_oci.log import Log, escape
from lxc_oci.progress import Counter, size
from lxc_oci.store import images, inventory, marks
from lxc_oci.verbs import lxcpaths, open_store


@dataclass(frozen=True)
class _Row:
    image: images.StoredImage
    platform: str
    forms: tuple[str, ...]
    size: int
    shared: int
    containers: tuple[str, ...]


def run(arguments: argparse.Namespace, log: Log) -> int:
    """Print a table, or JSON; return 0."""
    store = open_store(arguments, create=True)
    with Counter(sys.stderr, "looking at containers", arguments.quiet) as counter, store.in_use():
        found = marks.collect(store, lxcpaths(), counter.step)
        known = inventory.trees_by_layers(store)
        rows = []
        for image in images.every(store):
            counter.step()
            try:
                config = configs.parse(image.raw_config) if image.raw_config != b"{}" else None
            except OciError as error:
                log.warn(f"image {image.digest}: {error.message}")
                continue
            parts = inventory.parts_of(store, image, known)
            users = {
                user for part in (*parts, inventory.image_part(image.digest)) for user in found.users.get(part, ())
            }
            sizes = [inventory.sizes(store, part) for part in parts]
            rows.append(
                _Row(
                    image,
                    str(config.platform) if config else "",
                    tuple(sorted({part.partition("/")[0] for part in parts})),
                    sum(total for total, _ in sizes),
                    sum(shared for _, shared in sizes),
                    tuple(sorted(users)),
                )
            )
    if arguments.json:
        sys.stdout.buffer.write(jsonio.dump([_json(row) for row in rows]))
        return 0
    table = [("IMAGE", "DIGEST", "PLATFORM", "SIZE", "SHARED", "CONTAINERS")]
    for row in rows:
        names = row.image.references or ("",)
        for number, name in enumerate(names):
            last = number == len(names) - 1
            table.append(
                (
                    escape(name),
                    row.image.digest.hex[:12],
                    row.platform,
                    size(row.size) if last else "",
                    size(row.shared) if last else "",
                    escape(", ".join(row.containers)) if last else "",
                )
            )
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _json(row: _Row) -> dict[str, object]:
    return {
        "digest": row.image.digest,
        "references": list(row.image.references),
        "platform": row.platform,
        "storage": list(row.forms),
        "bytes": row.size,
        "sharedBytes": row.shared,
        "added": row.image.added,
        "containers": list(row.containers),
    }
