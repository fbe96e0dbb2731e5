# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is fuzzed: each reader of a stranger's bytes as a function of them, with bytes to begin with.

A target may raise OciError, the refusal; anything else that it raises, and an assertion about what it returned, is a
finding.  They are short, so that a fuzzer gets far: test_short.py mutates by hypothesis, run.py by atheris.
"""

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lxc_oci import jsonio
from lxc_oci.container import command, lxcconfig, stopsignal
from lxc_oci.container.lxcconfig import Line
from lxc_oci.container.overrides import Overrides
from lxc_oci.errors import OciError
from lxc_oci.image import config, manifest, reference
from lxc_oci.image.config import ImageConfig
from lxc_oci.image.platform import Platform
from lxc_oci.layer import entry as kinds
from lxc_oci.layer import inflate, puzzlefs, record
from lxc_oci.layer.capnp import Message
from lxc_oci.layer.tarstream import TarReader
from lxc_oci.limits import Limits
from lxc_oci.log import escape
from lxc_oci.source import challenge, policy, registriesconf
from tests.support import image as images
from tests.support import puzzlefs_image
from tests.support.tarmaker import archive, base256, directory, file, gnu_long, hardlink, symlink

LIMITS = Limits(
    layer_bytes=1 << 24, ratio_floor_bytes=1 << 20, entries=2000, pax_bytes=1 << 16, puzzlefs_bytes=1 << 20,
    document_bytes=1 << 20, index_documents=8,
)  # fmt: skip
AMD64 = Platform("linux", "amd64")


@dataclass(frozen=True)
class Target:
    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


def tar(data: bytes) -> list[tuple[bytes, str, int]]:
    found = []
    for item, content in TarReader(io.BytesIO(data), LIMITS, _quiet):
        size = len(content) if isinstance(content, (bytes, memoryview)) else sum(map(len, iter(content.read, b"")))
        stored = item.size if item.sparse is None else sum(length for _, length in item.sparse)
        assert size == stored
        assert 0 <= item.mode <= 0o7777 and 0 <= item.uid < 2**32 - 1 and 0 <= item.gid < 2**32 - 1
        assert b"\0" not in item.name and b"\0" not in item.link
        assert item.type == kinds.FILE or size == 0
        found.append((item.name, item.type, item.size))
    return found


def inflated(data: bytes) -> None:
    for compression in ("gzip", "zstd", ""):
        try:
            reader = inflate.decompress(io.BytesIO(data), compression, LIMITS, _quiet)
            total = 0
            while piece := reader.read():
                total += len(piece)
            assert total <= LIMITS.layer_bytes
        except OciError:
            pass


def capnp(data: bytes) -> None:
    pending = [Message(data, "the message").root()]
    for _ in range(500):
        if not pending:
            break
        one = pending.pop()
        for index in range(4):
            for read in (one.data, one.struct, one.structs):
                try:
                    found = read(index)
                except OciError:
                    continue
                if isinstance(found, bytes):
                    assert len(found) <= len(data)
                elif found is not None:
                    pending.extend([found] if not hasattr(found, "__len__") else list(found)[:4])


def puzzle(data: bytes) -> None:
    rootfs = puzzlefs.read_rootfs(data, LIMITS)
    pending, seen = [puzzlefs.ROOT_INODE], set()
    while pending and len(seen) < 200:
        number = pending.pop()
        if number not in seen:
            seen.add(number)
            for name, child in rootfs.names(number, b"x").items():
                assert name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name
                pending.append(child)


def documents(data: bytes) -> None:
    for media_type in ("", manifest.mediatype.OCI_MANIFEST, manifest.mediatype.OCI_INDEX):
        try:
            found = manifest.parse(data, media_type, LIMITS)
        except OciError as error:
            _message(error)
            continue
        if isinstance(found, manifest.Index):
            manifest.candidates(found, AMD64)
            _printable(*map(escape, manifest.offered(found)))


def configuration(data: bytes) -> None:
    """From the bytes to lines of LXC's configuration: what is rendered is read back, and no more."""
    found = config.parse(data)
    assert jsonio.parse(jsonio.dump(dict(found.labels)), "labels") == dict(found.labels)
    lines = [Line("lxc.environment", text) for text in found.env] + [Line("lxc.init.cwd", found.working_dir)]
    if found.stop_signal:
        lines.append(Line("lxc.signal.halt", stopsignal.halt_signal(found.stop_signal)))
    arguments = command.combine(found, Overrides(), LIMITS)
    for major in (5, 6, 7):
        values = command.values(arguments, major)
        lines += [Line("lxc.init.cmd", value) for value in (values.init, values.execute) if value]
    for line in lines:
        writer(line)


def writer(line: Line) -> None:
    try:
        raw = lxcconfig.render(line)
    except OciError as error:
        _message(error)
        return
    assert lxcconfig.parse(raw) == [line] and raw.count(b"\n") == 1 and raw.endswith(b"\n")
    assert b"\r" not in raw and b"\0" not in raw


def rendered(data: bytes) -> None:
    writer(Line("lxc.environment", data.decode("utf-8", "surrogateescape")))
    mount = data.decode("utf-8", "surrogateescape")
    try:
        raw = lxcconfig.render(lxcconfig.mount_entry(mount, mount, "none", "bind"))
    except OciError:
        return
    assert len(lxcconfig.parse(raw)[0].value.split(" ")) == 6


def words(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    arguments = ImageConfig(AMD64, entrypoint=tuple(text.split("\n")))
    command.values(command.combine(arguments, Overrides(), LIMITS), 6)


def authenticate(data: bytes) -> None:
    for one in challenge.parse(data.decode("latin-1").split("\n")):
        assert one.scheme == one.scheme.lower() and " " not in one.scheme


def url(data: bytes) -> None:
    try:
        found = reference.parse(data.decode("utf-8", "replace"), lambda path: False)
    except OciError as error:
        _message(error)
        return
    _printable(found.text)
    if found.transport == reference.DOCKER:
        assert ".." not in found.repository.split("/") and not found.repository.startswith("-")
        assert reference.parse(found.text, lambda path: False) == found


def registries(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "registries.conf")
        path.write_bytes(data)
        found = registriesconf.load({"HOME": place, "CONTAINERS_REGISTRIES_CONF": str(path)}, place)
        wanted = reference.parse("docker://registry.example/one/two:3", lambda path: False)
        _printable(*(str(endpoint) for endpoint in found.places(wanted, False)))


def policies(data: bytes) -> None:
    found = policy.parse(data, "policy.json")
    found.requirements(reference.parse("docker://registry.example/one/two:3", lambda path: False))


def replay(data: bytes) -> None:
    record.replay(io.BytesIO(data))
    target = io.BytesIO()
    record.copy_layers(io.BytesIO(data), 1, target)
    assert data.startswith(target.getvalue())


def terminal(data: bytes) -> None:
    _printable(escape(data.decode("utf-8", "surrogateescape")))


def _quiet(message: str) -> None:
    _printable(escape(message))


def _message(error: OciError) -> None:
    _printable(escape(error.message), escape(error.hint))


def _printable(*texts: str) -> None:
    for text in texts:
        assert text.isprintable(), text


def _record() -> bytes:
    output = io.BytesIO()
    made = record.RecordWriter(output)
    made.add(record.DIRECTORY, b"", b"", 0o755, 0, 0, 0, 0)
    made.add(record.FILE, b"", b"a", 0o644, 0, 0, 0, 1, bytes(32))
    made.xattrs(((b"user.x", b"y"),))
    made.add(record.DIRECTORY, b"", b"d", 0o755, 0, 0, 0, 0)
    made.link(b"d", b"b", b"a")
    made.end_layer()
    made.removed(b"", b"a")
    made.end_layer()
    return output.getvalue()


def _rootfs() -> bytes:
    inodes = [
        puzzlefs_image.inode(1, 3, puzzlefs_image.directory({b"a": 2, b"d": 3})),
        puzzlefs_image.inode(2, 5),
        puzzlefs_image.inode(3, 3, puzzlefs_image.directory({})),
    ]
    return puzzlefs_image.message(puzzlefs_image.rootfs([inodes]))


_TAR = archive(
    directory(b"d/"),
    file(b"d/f", b"content", xattrs={b"user.x": b"y"}),
    file(b"n" * 150, b"x" * 600),
    gnu_long(b"g" * 120) + file(b"g", b""),
    symlink(b"l", b"target"),
    hardlink(b"h", b"d/f"),
    file(b"b", b"12345", mtime=base256(-5, 12), uid=base256(3_000_000, 8)),
    file(b"s", b"0\n".ljust(512, b"\0"), pax=[(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"),
                                             (b"GNU.sparse.name", b"s"), (b"GNU.sparse.realsize", b"9")]),
)  # fmt: skip
_IMAGE = images.Image(
    [images.layer(images.file("a"))],
    {"Env": ["A=b", "PATH=/bin"], "Cmd": ["sh", "-c", 'a "b"'], "User": "1:2", "Labels": {"k": "v"},
     "WorkingDir": "/x", "StopSignal": "SIGTERM", "Volumes": {"/v": {}}},
)  # fmt: skip

TARGETS = {
    "tar": Target(tar, (_TAR,)),
    "inflate": Target(inflated, (images.compress(_TAR, "gzip"), _TAR[:600])),
    "capnp": Target(capnp, (_rootfs(),)),
    "puzzlefs": Target(puzzle, (_rootfs(),)),
    "manifest": Target(documents, (_IMAGE.manifest, images.Index([_IMAGE]).manifest)),
    "config": Target(configuration, (_IMAGE.configuration,)),
    "writer": Target(rendered, (b"A=b", b' "x" ', b"a\\040b\tc")),
    "words": Target(words, (b"/bin/sh\n-c\na 'b' \"c\"",)),
    "authenticate": Target(
        authenticate, (b'Bearer realm="https://a.example/t",service="s",scope="x:y:pull", Basic realm="a\\"b"',)
    ),
    "reference": Target(
        url, (b"docker://docker.io/library/debian:stable@sha256:" + b"0" * 64, b"oci:/a/b:tag", b"docker-archive:x:a:b")
    ),
    "registries": Target(
        registries,
        (b'unqualified-search-registries = ["a.example"]\n[[registry]]\nprefix = "*.example"\n'
         b'location = "b.example/x"\nblocked = false\n[[registry.mirror]]\nlocation = "c.example"\n',),
    ),
    "policy": Target(
        policies,
        (b'{"default":[{"type":"reject"}],"transports":{"docker":{"registry.example/one":'
         b'[{"type":"insecureAcceptAnything"}]}}}',),
    ),
    "record": Target(replay, (_record(),)),
    "terminal": Target(terminal, (b"\x1b[31m\xc2\x9b\xe2\x80\xae", "é\u2028".encode())),
}  # fmt: skip
