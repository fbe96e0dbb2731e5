# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the DHCP hook makes of answers from a network that the container can pretend to be."""

import importlib.util
import os
import random
import struct
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

HOOK = Path(__file__).resolve().parents[2] / "hooks/oci-py-dhcp"


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    loader = SourceFileLoader("oci_py_dhcp", str(HOOK))
    spec = importlib.util.spec_from_loader("oci_py_dhcp", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = keep
    return module


def answer(address: bytes = b"\x0a\0\0\x05", **options: bytes) -> bytes:
    """An answer of a server: its options by their numbers, `o51=…`."""
    given = {53: b"\5", 54: b"\x0a\0\0\1", 1: b"\xff\xff\xff\0", 51: struct.pack("!I", 120)}
    given |= {int(name[1:]): value for name, value in options.items()}
    body = b"".join(bytes((code, len(value))) + value for code, value in given.items() if value)
    return bytes(16) + address + bytes(216) + b"\x63\x82\x53\x63" + body + b"\xff"


def test_a_good_answer(hook: ModuleType) -> None:
    lease = hook.Lease(answer(o6=b"\x0a\0\0\1\x0a\0\0\2", o15=b"example.org\0", o3=b"\x0a\0\0\1"), b"mac")
    assert lease.valid and lease.kind == 5 and lease.prefix == 24
    assert (lease.seconds, lease.renew, lease.rebind) == (120, 60, 105)
    assert lease.servers == [b"\x0a\0\0\1", b"\x0a\0\0\2"] and lease.domain == "example.org"
    assert lease.routes == [(b"\0\0\0\0", 0, b"\x0a\0\0\1")]


@pytest.mark.parametrize("mask, prefix", (("ffffffff", 32), ("fffffffe", 31), ("ff000000", 8), ("80000000", 1)))
def test_masks(hook: ModuleType, mask: str, prefix: int) -> None:
    lease = hook.Lease(answer(o1=bytes.fromhex(mask)), b"")
    assert lease.valid and lease.prefix == prefix


@pytest.mark.parametrize("mask", ("00000000", "ff00ff00", "00ffffff", "00000001"))
def test_masks_that_are_none(hook: ModuleType, mask: str) -> None:
    assert not hook.Lease(answer(o1=bytes.fromhex(mask)), b"").valid


@pytest.mark.parametrize("address", ("00000000", "7f000001", "e0000001", "ffffffff", "00010203"))
def test_addresses_that_no_host_has(hook: ModuleType, address: str) -> None:
    raw = bytes.fromhex(address)
    assert not hook.Lease(answer(raw), b"").valid
    assert not hook.Lease(answer(o54=raw), b"").valid
    assert hook.Lease(answer(o6=raw), b"").servers == []
    assert hook.Lease(answer(o3=raw), b"").routes == []


@pytest.mark.parametrize(
    "value",
    (
        b"a\nnameserver 192.0.2.1",
        b"a b",
        b"a\0b",
        b"a..b",
        b".",
        b"",
        b"\xc3\xa4",
        b"x" * 64,
        b"a." * 200 + b"a",
        b"$(id)",
    ),
)
def test_domains_that_are_none(hook: ModuleType, value: bytes) -> None:
    assert hook.domain_in(value) == ""


def test_times_are_kept_in_order(hook: ModuleType) -> None:
    for seconds, renew, rebind in (
        (0, 5, 5),
        (1, 1, 1),
        (120, 500, 400),
        (2**32 - 1, 2**32 - 1, 2**32 - 1),
        (60, 50, 10),
    ):
        options = {f"o{code}": struct.pack("!I", value) for code, value in ((51, seconds), (58, renew), (59, rebind))}
        lease = hook.Lease(answer(**options), b"")
        assert 0 < lease.renew <= lease.rebind <= lease.seconds and lease.seconds >= 10


def test_routes(hook: ModuleType) -> None:
    value = bytes.fromhex("00 0a000001 18 c00002 0a000002 20 c6336407 00000000")
    assert hook.routes_in(value) == [
        (b"\0\0\0\0", 0, b"\x0a\0\0\1"),
        (b"\xc0\0\2\0", 24, b"\x0a\0\0\2"),
        (b"\xc6\x33\x64\7", 32, b"\0\0\0\0"),
    ]
    for length in range(len(value)):
        hook.routes_in(value[:length])
    assert hook.routes_in(b"\x21" + bytes(20)) == []
    assert len(hook.routes_in(bytes.fromhex("00 0a000001") * 50)) == 32


def test_long_options_are_joined(hook: ModuleType) -> None:
    assert hook.options_of(b"\x0f\2ab\0\x0f\1c\xff\x0f\1d") == {15: b"abc"}
    assert hook.options_of(b"\x0f\5ab") == {}
    assert hook.options_of(b"\x0f") == {}


def test_random_answers_raise_nothing(hook: ModuleType) -> None:
    generator = random.Random(9)
    good = bytearray(answer(o6=bytes(12), o15=b"example", o121=bytes(20), o3=b"\x0a\0\0\1"))
    for _ in range(5000):
        data = bytearray(good)
        for _ in range(generator.randint(1, 8)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        hook.Lease(bytes(data[: generator.randint(241, len(data))]), b"")
        hook.payload_of(generator.randbytes(generator.randint(0, 60)))


def test_datagrams_are_read_back(hook: ModuleType) -> None:
    packet = bytearray(hook.datagram(b"payload", b"\x0a\0\0\5"))
    assert hook.checksum(bytes(packet[:20])) == 0
    assert packet[12:20] == b"\x0a\0\0\5\xff\xff\xff\xff"
    assert hook.payload_of(bytes(packet)) == b"", "it goes to the server's port"
    struct.pack_into("!H", packet, 22, 68)
    assert hook.payload_of(bytes(packet)) == b"payload"
    struct.pack_into("!H", packet, 6, 1)
    assert hook.payload_of(bytes(packet)) == b"", "a later fragment has no header"


def test_messages_are_long_enough_for_relays(hook: ModuleType) -> None:
    message = hook.message(1, b"xidx", b"\2\0\0\0\0\1", [(12, b"name")])
    assert len(message) == 300 and message[28:34] == b"\2\0\0\0\0\1" and message[236:240] == b"\x63\x82\x53\x63"
    assert hook.options_of(message[240:]) == {53: b"\1", 12: b"name"}


def test_not_run_by_lxc() -> None:
    done = subprocess.run([HOOK], env={}, capture_output=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith(b"oci-py-dhcp: not run by LXC")
    assert os.access(HOOK, os.X_OK)
