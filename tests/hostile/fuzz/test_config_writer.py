# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every byte in every field that an image can fill, written by our writer and read back by liblxc itself.

What is written arrives byte for byte and alone: the line after it is read, and no other key appears (C01, C02, C04).
"""

import ctypes
import ctypes.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxc_oci.container import lxcconfig
from lxc_oci.container.lxcconfig import Line
from lxc_oci.errors import RefusedError
from tests.support import need

_POINTERS = [
    "is_defined", "state", "is_running", "freeze", "unfreeze", "init_pid", "load_config", "start", "startl", "stop",
    "want_daemonize", "want_close_all_fds", "config_file_name", "wait", "set_config_item", "destroy", "save_config",
    "create", "createl", "rename", "reboot", "shutdown", "clear_config", "clear_config_item", "get_config_item",
]  # fmt: skip


class _Container(ctypes.Structure):
    """The begin of struct lxc_container (lxccontainer.h), which only grows at its end."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("name", "configfile", "pidfile", "slock", "privlock")),
        ("numthreads", ctypes.c_int),
        ("lxc_conf", ctypes.c_void_p),
        ("error_string", ctypes.c_void_p),
        ("error_num", ctypes.c_int),
        ("daemonize", ctypes.c_bool),
        ("config_path", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


_LOAD = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_char_p)
_GET = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)


class Liblxc:
    """liblxc, for what it makes of a configuration file."""

    def __init__(self, lxcpath: Path) -> None:
        self._lxcpath = bytes(lxcpath)
        self._file = lxcpath / "config"
        self._library = ctypes.CDLL("liblxc.so.1")
        self._library.lxc_container_new.restype = ctypes.POINTER(_Container)
        self._library.lxc_container_put.argtypes = [ctypes.POINTER(_Container)]

    @contextmanager
    def reading(self, text: bytes) -> Iterator[Callable[[str], bytes] | None]:
        """Give a function that returns values of `text`, or None where liblxc refuses it."""
        self._file.write_bytes(text)
        container = self._library.lxc_container_new(b"fuzzed", self._lxcpath)
        assert container
        try:
            loaded = _LOAD(container.contents.load_config)(container, bytes(self._file))

            def value(key: str) -> bytes:
                get = _GET(container.contents.get_config_item)
                size = get(container, key.encode(), None, 0)
                buffer = ctypes.create_string_buffer(max(size, 0) + 1)
                get(container, key.encode(), buffer, len(buffer))
                return buffer.value

            yield value if loaded else None
        finally:
            self._library.lxc_container_put(container)


@pytest.fixture
def liblxc(tmp_path: Path) -> Liblxc:
    try:
        return Liblxc(tmp_path)
    except OSError:
        need.missing("there is no liblxc.so.1 (Debian: lxc)")


# Key → how a value is made of the bytes.
FIELDS: dict[str, Callable[[str], str]] = {
    "lxc.environment": lambda text: f"A={text}",
    "lxc.init.cmd": lambda text: f"/bin/{text}",
    "lxc.execute.cmd": lambda text: f"/bin/{text}",
    "lxc.init.cwd": lambda text: f"/q{text}q",  # liblxc makes paths simple
    "lxc.mount.entry": lambda text: f"/a{text} b none bind 0 0",
    "lxc.hook.clone": lambda text: f"/{text}",
    "lxc.console.logfile": lambda text: f"/tmp/q{text}q",
}
SENTINEL = b"lxc.uts.name = sentinel\n"
OTHERS = ("lxc.hook.pre-start", "lxc.hook.mount", "lxc.cap.drop", "lxc.apparmor.profile", "lxc.idmap")


def surroundings(byte: int) -> Iterator[bytes]:
    one = bytes((byte,))
    yield from (one, one + b"x", b"x" + one, b"x" + one + b"y", one + b"x" + one)
    yield b"x" + one + b"lxc.hook.pre-start = /bin/evil" + one + b"y"


@pytest.mark.parametrize("key", FIELDS)
def test_c01_every_byte_arrives_alone_or_is_refused(liblxc: Liblxc, key: str, tried: Callable[[int], None]) -> None:
    arrived = refused = 0
    for byte in range(256):
        for raw in surroundings(byte):
            tried(1)
            value = FIELDS[key](raw.decode("utf-8", "surrogateescape"))
            try:
                text = lxcconfig.render(Line(key, value))
            except RefusedError:
                assert byte < 0x20 or byte == 0x7F, "only control bytes are refused"
                refused += 1
                continue
            with liblxc.reading(text + SENTINEL) as read:
                assert read is not None, text
                # A list is given back with one line for each value.
                assert read(key).rstrip(b"\n") == value.encode("utf-8", "surrogateescape").rstrip(b"\n"), text
                assert read("lxc.uts.name") == b"sentinel", text
                assert not any(b"evil" in read(other) for other in OTHERS), text
            arrived += 1
    assert arrived > 200 * 6 and refused >= 30 * 6


def test_liblxc_shows_what_is_injected(liblxc: Liblxc) -> None:
    """The reader used above sees an injection where there is one."""
    for end in (b"\n", b"\r"):
        with liblxc.reading(b"lxc.environment = A=x" + end + b"lxc.hook.pre-start = /bin/evil\n" + SENTINEL) as read:
            assert read is not None and read("lxc.hook.pre-start") == b"/bin/evil\n"
    with liblxc.reading(b"lxc.environment = A=x\0\n" + SENTINEL) as read:
        assert read is not None and read("lxc.uts.name") == b""
