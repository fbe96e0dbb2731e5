# SPDX-License-Identifier: LGPL-2.1-or-later
"""A create that is stopped: by ^C, which reaches LXC too, by SIGTERM, and at many points of its work."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import direct, need
from tests.support import image as images
from tests.support.faultregistry import Answer, FaultRegistry, Request
from tests.support.host import Host

LAYER = images.layer(images.file("noise", os.urandom(1 << 20)), compression="")
_WAIT = 120  # seconds


class Stalling:
    """A registry whose last layer stops half way until it is let go."""

    def __init__(self) -> None:
        self.registry = FaultRegistry()
        self.made = images.busybox_image({}, LAYER)
        self.registry.add("slow/app", "1", self.made)
        self.registry.faults.append(self._fault)
        self.stalled = threading.Event()
        self.stalls = True

    @property
    def url(self) -> str:
        return f"docker://{self.registry.host}/slow/app:1"

    def _fault(self, request: Request) -> Answer | None:
        if not self.stalls or images.digest(LAYER.blob) not in request.target:
            return None
        return Answer(200, {"Content-Type": "application/octet-stream"}, self._half(), length=len(LAYER.blob))

    def _half(self) -> Iterator[bytes]:
        yield LAYER.blob[: len(LAYER.blob) // 2]
        self.stalled.set()
        self.registry.stopped.wait(_WAIT)


@pytest.fixture
def slow() -> Iterator[Stalling]:
    made = Stalling()
    with made.registry:
        yield made


def wait_until_gone(path: object) -> None:
    end = time.monotonic() + _WAIT
    while os.path.lexists(str(path)):
        assert time.monotonic() < end, os.listdir(str(path))
        time.sleep(0.05)


def wait_until_kept(host: Host) -> None:
    """Wait until the store has some of the layer: the registry has sent it a little earlier than that."""
    kept = Path(host.store, "partial", images.digest(LAYER.blob).replace(":", "-"))
    end = time.monotonic() + _WAIT
    while not kept.exists() or not kept.stat().st_size:
        assert time.monotonic() < end, list(kept.parent.iterdir())
        time.sleep(0.05)


def begin(host: Host, *argv: str) -> "subprocess.Popen[bytes]":
    """Start a program in a process group of its own, as a shell does."""
    return subprocess.Popen(
        [*host._become(), *argv], env=host._environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def create(host: Host, url: str, *options: str) -> "subprocess.Popen[bytes]":
    return begin(
        host, "lxc-create", "-P", str(host.lxcpath), "-f", str(host.configuration), "-n", "one", "-t", host.template,
        "--", "--url", url, "--insecure", *options,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
@pytest.mark.parametrize("storage", ["auto", "flat"])
def test_f20_a_signal_to_lxc_create_and_all_its_children(
    any_host: Host, slow: Stalling, storage: str, number: signal.Signals
) -> None:
    process = create(any_host, slow.url, "--storage", storage)
    assert slow.stalled.wait(_WAIT)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=_WAIT)
    assert process.returncode != 0
    # LXC is dead by then: the template itself takes the half-made container away.
    wait_until_gone(any_host.lxcpath / "one")
    assert f"lxc-oci-py: error: stopped by {number.name}" in errors.decode()
    assert b"Traceback" not in errors
    assert direct.store_leftovers(any_host) == []
    slow.stalls = False
    any_host.create("one", slow.url, "--insecure", "--storage", storage)
    assert any_host.execute("one", "/bin/sh", "-c", "wc -c < /noise") == b"1048576\n"


def test_what_came_before_is_not_fetched_again(root_host: Host, slow: Stalling) -> None:
    process = create(root_host, slow.url)
    assert slow.stalled.wait(_WAIT)
    wait_until_kept(root_host)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=_WAIT)
    wait_until_gone(root_host.lxcpath / "one")
    slow.stalls = False
    root_host.create("one", slow.url, "--insecure")
    (request,) = slow.registry.seen(images.digest(LAYER.blob))[1:]
    assert request.headers["range"].startswith("bytes=") and request.headers["range"] != "bytes=0-"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["INT", "TERM", "HUP"])
def test_f20_a_signal_to_the_template_alone(root_host: Host, slow: Stalling, number: signal.Signals) -> None:
    direct.prepare(root_host, "one")
    process = begin(root_host, *direct.command(root_host, "one", "--url", slow.url, "--insecure"))
    assert slow.stalled.wait(_WAIT)
    process.send_signal(number)
    _, errors = process.communicate(timeout=_WAIT)
    assert process.returncode == 128 + number
    assert errors.decode().count("lxc-oci-py: error: ") == 1
    assert direct.leftovers(root_host, "one") == []
    assert (root_host.lxcpath / "one/config").exists()  # LXC lives and removes it


def test_a_killed_create_is_cleared_by_the_next(root_host: Host, slow: Stalling) -> None:
    process = create(root_host, slow.url)
    assert slow.stalled.wait(_WAIT)
    wait_until_kept(root_host)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=_WAIT)
    assert direct.store_leftovers(root_host) != []
    slow.stalls = False
    root_host.create("two", slow.url, "--insecure")
    assert direct.store_leftovers(root_host) == []
    # The man page says what to do about the container that LXC left.
    assert (root_host.lxcpath / "one").is_dir()
    root_host.lxc("destroy", "one")
    root_host.create("one", slow.url, "--insecure")


@pytest.mark.long
@pytest.mark.parametrize("storage", ["auto", "flat"])
@pytest.mark.parametrize("call", ["openat", "mkdir", "mkdirat", "rename,renameat,renameat2", "fsync", "mount", "write"])
def test_f20_a_signal_at_many_points(root_host: Host, busybox: str, call: str, storage: str) -> None:
    strace = need.program("strace")
    for when in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610):
        direct.prepare(root_host, "one")
        command = direct.command(root_host, "one", "--url", busybox, "--storage", storage)
        inject = [strace, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
        inject += ["-e", f"inject={call}:signal=TERM:when={when}"]
        done = root_host.run(*command[:2], *inject, *command[2:], check=False)
        assert b"Traceback" not in done.stderr, (call, when, done.stderr.decode())
        if done.returncode == 0:
            direct.discard(root_host, "one")
            break  # fewer calls than that are made
        assert done.returncode in (143, -signal.SIGTERM), (call, when, done.stderr.decode())
        if done.returncode == 143:
            assert direct.leftovers(root_host, "one") == [], (call, when)
        direct.discard(root_host, "one")
    root_host.create("one", busybox, "--storage", storage)
