# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images made on the spot: layers, manifests, indexes, and the places that they are kept in.

    rootfs = layer(directory("etc"), file("etc/motd", b"hello\\n"), symlink("bin", "usr/bin"), compression="zstd")
    made = Image([busybox_rootfs(), rootfs], {"Entrypoint": ["/bin/sh"], "Env": ["A=b"]})
    write_layout(path, {"latest": made, "all": Index([made, other])})
    write_oci_archive(path, {"latest": made}, compression="gzip")
    write_docker_archive(path, {"example/app:1": made, "": untagged})
    write_directory(path, made)

Everything is data before it is written, and every part can be replaced by raw bytes, so that hostile
images come from here too.  Equal calls give equal bytes.  For tests only: tarfile writes here, never in lxc_oci.
"""

import functools
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support import need

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
MANIFEST = OCI + "manifest.v1+json"
INDEX = OCI + "index.v1+json"
CONFIG = OCI + "config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
TAR = OCI + "layer.v1.tar"
DOCKER_MANIFEST = DOCKER + "distribution.manifest.v2+json"
DOCKER_INDEX = DOCKER + "distribution.manifest.list.v2+json"
DOCKER_CONFIG = DOCKER + "container.image.v1+json"
DOCKER_TAR = DOCKER + "image.rootfs.diff.tar"
SQUASHFS = "application/vnd.stacker.image.layer.squashfs+zstd"
EROFS = "application/vnd.stacker.image.layer.erofs"


def digest(content: bytes) -> str:
    """`sha256:…` of `content`."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def descriptor(media_type: str, content: bytes, **more: Any) -> dict[str, Any]:
    """A descriptor of `content` as the specification writes it; `more` adds or overrides members."""
    return {"mediaType": media_type, "digest": digest(content), "size": len(content), **more}


def dump(value: Any) -> bytes:
    """JSON bytes of `value`, always the same."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


# --- entries of a tar ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One entry: tarfile's header fields, its content, and extra PAX records."""

    header: Mapping[str, Any]
    content: bytes = b""
    pax: Mapping[str, str] = field(default_factory=dict)


def _item(name: str, kind: bytes, content: bytes = b"", **fields: Any) -> Item:
    """Known fields: mode, uid, gid, uname, gname, mtime, linkname, devmajor, devminor, size;
    xattrs={name: bytes}; pax={record: text}."""
    pax = dict(fields.pop("pax", {}))
    for key, value in fields.pop("xattrs", {}).items():
        pax[f"SCHILY.xattr.{key}"] = value.decode("utf-8", "surrogateescape")
    size = fields.pop("size", len(content))
    return Item({"name": name, "type": kind, "size": size, **fields}, content, pax)


def file(name: str, content: bytes | str = b"", **fields: Any) -> Item:
    """A regular file."""
    data = content.encode() if isinstance(content, str) else content
    return _item(name, tarfile.REGTYPE, data, **fields)


def program(name: str, content: bytes | str, **fields: Any) -> Item:
    """A regular file with mode 0755."""
    return file(name, content, **{"mode": 0o755, **fields})


def directory(name: str, **fields: Any) -> Item:
    """A directory, mode 0755."""
    return _item(name, tarfile.DIRTYPE, **{"mode": 0o755, **fields})


def symlink(name: str, target: str, **fields: Any) -> Item:
    """A symbolic link."""
    return _item(name, tarfile.SYMTYPE, linkname=target, **{"mode": 0o777, **fields})


def hardlink(name: str, target: str, **fields: Any) -> Item:
    """A hard link to the entry `target`."""
    return _item(name, tarfile.LNKTYPE, linkname=target, **fields)


def character(name: str, major: int, minor: int, **fields: Any) -> Item:
    """A character device."""
    return _item(name, tarfile.CHRTYPE, devmajor=major, devminor=minor, **fields)


def block(name: str, major: int, minor: int, **fields: Any) -> Item:
    """A block device."""
    return _item(name, tarfile.BLKTYPE, devmajor=major, devminor=minor, **fields)


def fifo(name: str, **fields: Any) -> Item:
    """A FIFO."""
    return _item(name, tarfile.FIFOTYPE, **fields)


def whiteout(name: str) -> Item:
    """The whiteout that removes `name` from the layers below."""
    parent, base = os.path.split(name)
    return file(os.path.join(parent, ".wh." + base))


def opaque(name: str) -> Item:
    """The whiteout that hides what lower layers have in the directory `name`."""
    return file(os.path.join(name, ".wh..wh..opq"))


def tar(*items: Item, form: int = tarfile.PAX_FORMAT) -> bytes:
    """The bytes of a tar with `items`, times at the epoch unless they say otherwise."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=form, errors="surrogateescape") as archive:
        for item in items:
            header = tarfile.TarInfo()
            for key, value in item.header.items():
                setattr(header, key, value)
            header.pax_headers = dict(item.pax)
            archive.addfile(header, io.BytesIO(item.content) if item.content else None)
    return output.getvalue()


def raw_header(name: bytes, *, typeflag: bytes = b"0", size: int | bytes = 0, **fields: bytes) -> bytes:
    """One ustar header block with a right checksum, each field as raw bytes, for what tarfile would not write.

    Fields: mode uid gid mtime linkname magic uname gname devmajor devminor prefix checksum.
    """
    number = size if isinstance(size, bytes) else b"%011o\0" % size
    layout = (
        ("name", 100, name),
        ("mode", 8, b"0000644\0"),
        ("uid", 8, b"0000000\0"),
        ("gid", 8, b"0000000\0"),
        ("size", 12, number),
        ("mtime", 12, b"00000000000\0"),
        ("checksum", 8, b" " * 8),
        ("typeflag", 1, typeflag),
        ("linkname", 100, b""),
        ("magic", 8, b"ustar\x0000"),
        ("uname", 32, b""),
        ("gname", 32, b""),
        ("devmajor", 8, b""),
        ("devminor", 8, b""),
        ("prefix", 155, b""),
        ("pad", 12, b""),
    )
    head = b"".join(
        (default if key == "checksum" else fields.get(key, default)).ljust(length, b"\0")[:length]
        for key, length, default in layout
    )
    checksum = fields.get("checksum", b"%06o\0 " % sum(head)).ljust(8, b"\0")[:8]
    return head[:148] + checksum + head[156:]


def padded(content: bytes) -> bytes:
    """`content` filled up to whole tar blocks."""
    return content + b"\0" * (-len(content) % 512)


def pax_block(records: bytes, typeflag: bytes = b"x") -> bytes:
    """A PAX extended header (or, with b"g", a global one) with these raw records."""
    return raw_header(b"PaxHeaders/0", typeflag=typeflag, size=len(records)) + padded(records)


def pax_record(key: bytes, value: bytes) -> bytes:
    """One well-formed PAX record."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


END = b"\0" * 1024


# --- layers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A layer's blob, what its descriptor says, and its DiffID ("" where it has none)."""

    blob: bytes
    media_type: str
    diff_id: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    plain: bytes = b""  # the uncompressed tar

    def descriptor(self) -> dict[str, Any]:
        more = {"annotations": dict(self.annotations)} if self.annotations else {}
        return descriptor(self.media_type, self.blob, **more)


def compress(content: bytes, compression: str) -> bytes:
    """`content` compressed by "gzip", "zstd" (needs python3-zstandard or zstd), or not at all with ""."""
    if compression == "gzip":
        return gzip.compress(content, 6, mtime=0)
    if compression == "zstd":
        return subprocess.run([need.program("zstd"), "-q", "-c"], input=content, stdout=-1, check=True).stdout
    assert compression == "", compression
    return content


def layer(*content: Item | bytes, compression: str = "gzip", media_type: str = "", docker: bool = False) -> Layer:
    """A tar layer of items, or of one argument that already is the uncompressed tar."""
    if len(content) == 1 and isinstance(content[0], bytes):
        plain = content[0]
    else:
        plain = tar(*(item for item in content if isinstance(item, Item)))
    if not media_type and docker:
        media_type = DOCKER_TAR + (f".{compression}" if compression else "")
    elif not media_type:
        media_type = TAR + (f"+{compression}" if compression else "")
    return Layer(compress(plain, compression), media_type, digest(plain), plain=plain)


def squashfs_layer(*items: Item, media_type: str = SQUASHFS, options: Sequence[str] = ("-comp", "zstd")) -> Layer:
    """A squashfs layer of `items`; the file system's DiffID equals its blob's digest."""
    return _file_system(items, media_type, ["mksquashfs", "TREE", "FILE", "-noappend", "-quiet", *options])


def erofs_layer(*items: Item, media_type: str = EROFS, options: Sequence[str] = ()) -> Layer:
    """An EROFS layer of `items`."""
    return _file_system(items, media_type, ["mkfs.erofs", "--quiet", *options, "FILE", "TREE"])


def _file_system(items: Iterable[Item], media_type: str, command: list[str]) -> Layer:
    """As root the tree has its owners and devices; as a plain user everything is the user's."""
    with tempfile.TemporaryDirectory() as work:
        tree, made = os.path.join(work, "tree"), os.path.join(work, "made")
        os.mkdir(tree, 0o755)
        extract = ["tar", "-C", tree, "-xp", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
        subprocess.run(extract, input=tar(*items), check=True)
        command = [{"TREE": tree, "FILE": made}.get(word, word) for word in command]
        need.program(command[0])
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(made, "rb") as output:
            blob = output.read()
    return Layer(blob, media_type, digest(blob))


@functools.cache
def busybox_rootfs() -> Layer:
    """A root file system of Debian's static busybox, with users `root`, `app` (1000:1000) and the usual directories."""
    path = need.program("busybox")
    with open(path, "rb") as static:
        binary = static.read()
    applets = subprocess.run([path, "--list"], stdout=subprocess.PIPE, check=True, text=True).stdout.split()
    directories = [
        "bin",
        "dev",
        "etc",
        "home",
        "home/app",
        "proc",
        "root",
        "run",
        "sbin",
        "sys",
        "usr",
        "usr/bin",
        "var",
    ]
    return layer(
        *(directory(name) for name in directories),
        directory("tmp", mode=0o1777),
        program("bin/busybox", binary),
        *(symlink(f"bin/{applet}", "busybox") for applet in applets if applet != "busybox"),
        file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"),
        file("etc/group", "root:x:0:\ntty:x:5:\nvideo:x:44:app\napp:x:1000:\n"),
    )


# --- images ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    """Layers and configuration; `manifest` and `configuration` are the bytes made of them.

    `config` is the inner object (Entrypoint, Env, …), None for an image without a configuration.
    `document` and `members` change the members of the whole configuration and of the manifest (a value of None
    drops one); `raw_config` and `raw_manifest` replace the bytes.
    """

    layers: Sequence[Layer] = ()
    config: Mapping[str, Any] | None = field(default_factory=dict)
    platform: str = "linux/amd64"
    docker: bool = False  # Docker's media types
    annotations: Mapping[str, str] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)
    members: Mapping[str, Any] = field(default_factory=dict)
    raw_config: bytes | None = None
    raw_manifest: bytes | None = None

    @functools.cached_property
    def configuration(self) -> bytes:
        if self.raw_config is not None:
            return self.raw_config
        if self.config is None:
            return b"{}"
        diff_ids = [item.diff_id for item in self.layers if item.diff_id]
        return dump(
            _changed(
                {**_platform(self.platform), "rootfs": {"type": "layers", "diff_ids": diff_ids}, "config": self.config},
                self.document,
            )
        )

    @functools.cached_property
    def manifest(self) -> bytes:
        if self.raw_manifest is not None:
            return self.raw_manifest
        kind = EMPTY if self.config is None else DOCKER_CONFIG if self.docker else CONFIG
        value = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": descriptor(kind, self.configuration),
            "layers": [item.descriptor() for item in self.layers],
        }
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return dump(_changed(value, self.members))

    @property
    def media_type(self) -> str:
        return DOCKER_MANIFEST if self.docker else MANIFEST

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return digest(self.manifest)

    def blobs(self) -> dict[str, bytes]:
        """Every blob by digest, the manifest among them."""
        parts = [self.manifest, self.configuration, *(item.blob for item in self.layers)]
        return {digest(part): part for part in parts}

    def entry(self) -> dict[str, Any]:
        """The descriptor that an index has of this image."""
        return descriptor(self.media_type, self.manifest, platform=_platform(self.platform))


@dataclass(frozen=True)
class Index:
    """An index of images or of other indexes; `entries` replaces the descriptors, `members` changes the document."""

    manifests: Sequence["Image | Index"] = ()
    docker: bool = False
    entries: Sequence[Mapping[str, Any]] | None = None
    members: Mapping[str, Any] = field(default_factory=dict)
    raw_manifest: bytes | None = None

    @functools.cached_property
    def manifest(self) -> bytes:
        if self.raw_manifest is not None:
            return self.raw_manifest
        entries = [item.entry() for item in self.manifests] if self.entries is None else list(self.entries)
        return dump(_changed({"schemaVersion": 2, "mediaType": self.media_type, "manifests": entries}, self.members))

    @property
    def media_type(self) -> str:
        return DOCKER_INDEX if self.docker else INDEX

    @property
    def digest(self) -> str:
        return digest(self.manifest)

    def blobs(self) -> dict[str, bytes]:
        found = {self.digest: self.manifest}
        for item in self.manifests:
            found.update(item.blobs())
        return found

    def entry(self) -> dict[str, Any]:
        return descriptor(self.media_type, self.manifest)


def busybox_image(config: Mapping[str, Any] | None = None, *more: Layer, **changes: Any) -> Image:
    """An image that runs: busybox_rootfs, then `more`.  The host's architecture is what busybox has."""
    machine = {"x86_64": "linux/amd64", "aarch64": "linux/arm64/v8"}.get(os.uname().machine, "linux/amd64")
    inner = {"Cmd": ["/bin/sh"], "Env": ["PATH=/usr/bin:/bin:/sbin"], **(config or {})}
    return Image([busybox_rootfs(), *more], inner, **{"platform": machine, **changes})


def _platform(text: str) -> dict[str, str]:
    return dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))


def _changed(value: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in {**value, **changes}.items() if item is not None}


# --- places ----------------------------------------------------------------------------------------------------


def layout_files(images: Mapping[str, Image | Index]) -> dict[str, bytes]:
    """The files of an OCI layout with one entry for each image, named by its key ("" for an entry without a name)."""
    entries, files = [], {}
    for name, item in images.items():
        entry = item.entry()
        if name:
            entry["annotations"] = {"org.opencontainers.image.ref.name": name}
        entries.append(entry)
        for key, content in item.blobs().items():
            files["blobs/" + key.replace(":", "/")] = content
    index = dump({"schemaVersion": 2, "manifests": entries})
    return {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index, **files}


def write_files(path: str | os.PathLike[str], files: Mapping[str, bytes]) -> str:
    """Write `files` below the directory `path`, which is made; returns it as text."""
    for name, content in files.items():
        full = os.path.join(path, name)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as output:
            output.write(content)
    return os.fspath(path)


def write_layout(path: str | os.PathLike[str], images: Mapping[str, Image | Index]) -> str:
    """Write an OCI layout (`oci:PATH:NAME`)."""
    return write_files(path, layout_files(images))


def write_oci_archive(
    path: str | os.PathLike[str], images: Mapping[str, Image | Index], *, compression: str = ""
) -> str:
    """Write the tar of a layout (`oci-archive:PATH:NAME`), compressed as a whole if so wanted."""
    return _write_tar(path, [file(name, content) for name, content in layout_files(images).items()], compression)


def docker_archive_items(images: Mapping[str, Image]) -> list[Item]:
    """The members of what `docker save` writes: layers uncompressed and named by their DiffID."""
    manifest, items, seen = [], [], set[str]()
    for name, made in images.items():
        config_name = digest(made.configuration)[7:] + ".json"
        names = [item.diff_id[7:] + ".tar" for item in made.layers]
        manifest.append({"Config": config_name, "RepoTags": [name] if name else None, "Layers": names})
        members = [(config_name, made.configuration), *zip(names, (item.plain for item in made.layers), strict=True)]
        for member, content in members:
            if member not in seen:
                seen.add(member)
                items.append(file(member, content))
    return [*items, file("manifest.json", dump(manifest))]


def write_docker_archive(path: str | os.PathLike[str], images: Mapping[str, Image], *, compression: str = "") -> str:
    """Write a docker-archive; keys are `repository:tag`, or "" for an image without a name."""
    return _write_tar(path, docker_archive_items(images), compression)


def write_directory(path: str | os.PathLike[str], made: Image) -> str:
    """Write a `dir:` image as skopeo does: manifest.json, version, and blobs named by their hex digest."""
    files = {key[7:]: content for key, content in made.blobs().items() if key != made.digest}
    return write_files(
        path, {"version": b"Directory Transport Version: 1.1\n", "manifest.json": made.manifest, **files}
    )


def _write_tar(path: str | os.PathLike[str], items: Iterable[Item], compression: str) -> str:
    with open(path, "wb") as output:
        output.write(compress(tar(*items), compression))
    return os.fspath(path)
