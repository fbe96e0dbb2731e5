# SPDX-License-Identifier: LGPL-2.1-or-later
"""What images have in common is fetched and kept once, one after the other or all at once."""

import itertools
import os
import random
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import image as images
from tests.support.host import Host
from tests.support.image import file, layer
from tests.support.registry import Registry

CONTENT = random.Random(1).randbytes(6 << 20)


@pytest.fixture(scope="session")
def base() -> images.Layer:
    """Six megabytes that do not compress, below /usr, where trees share by hard links."""
    return layer(images.directory("usr"), images.directory("usr/share"), file("usr/share/large", CONTENT))


Push = Callable[[str, images.Image], str]


@pytest.fixture
def push(registry: Registry, request: pytest.FixtureRequest) -> Push:
    """Puts an image into a repository of the test's own and returns its URL."""
    test = "".join(letter for letter in request.node.name.lower() if letter.isalnum())[:40]

    def pushed(name: str, made: images.Image) -> str:
        registry.push(f"{test}/{name}", "latest", made)
        return f"docker://{registry.host}/{test}/{name}:latest"

    return pushed


def fetched(registry: Registry, made: images.Layer) -> int:
    """How often a layer was fetched, from whatever repository."""
    return registry.requests("GET", f"/blobs/{images.digest(made.blob)}")


def variants(base: images.Layer, count: int, seed: str) -> list[images.Image]:
    """Images over busybox and `base`, each with a layer of its own."""
    lower = layer(file("seed", seed))
    return [images.busybox_image({}, base, lower, layer(file("own", f"{seed} {number}"))) for number in range(count)]


def used(path: Path) -> int:
    """Bytes on disk, each inode once."""
    return int(subprocess.run(["du", "-sxB1", path], capture_output=True, check=True).stdout.split()[0])


def test_ten_images_cost_their_base_once(root_host: Host, registry: Registry, push: Push, base: images.Layer) -> None:
    made = variants(base, 10, "ten")
    lower = made[0].layers[2]
    before = fetched(registry, base)
    sizes = []
    for number, image in enumerate(made):
        root_host.create(f"c{number}", push(f"i{number}", image), "--insecure")
        sizes.append(used(root_host.store))
    assert fetched(registry, base) - before <= 1 and fetched(registry, lower) == 1
    # A tree of its own has its own copy of what is not below /usr, busybox's two megabytes, and not of the six.
    assert max(after - first for first, after in itertools.pairwise(sizes)) < (3 << 20)
    assert root_host.oci("verify").stdout == b""
    for number in (0, 9):
        path = root_host.lxcpath / f"c{number}"
        assert root_host.execute(path.name, "/bin/cat", "/own") == f"ten {number}".encode()


@pytest.mark.parametrize("storage", ["auto", "flat"])
def test_f12_ten_creates_at_once_of_one_image(
    root_host: Host, registry: Registry, push: Push, base: images.Layer, storage: str
) -> None:
    (made,) = variants(base, 1, f"at once {storage}")
    url = push("one", made)
    before = fetched(registry, base)
    names = [f"c{number}" for number in range(10)]
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda name: root_host.create(name, url, "--insecure", "--storage", storage), names))
    assert fetched(registry, base) - before == 1
    assert [fetched(registry, item) for item in made.layers[2:]] == [1, 1]
    for name in names:
        assert root_host.execute(name, "/bin/cat", "/own") == f"at once {storage} 0".encode()
    assert root_host.oci("verify").stdout == b""
    assert os.listdir(root_host.store / "staging") == os.listdir(root_host.store / "partial") == []


def test_f12_ten_creates_at_once_of_different_images(
    root_host: Host, registry: Registry, push: Push, base: images.Layer
) -> None:
    made = variants(base, 10, "different")
    urls = [push(f"i{number}", image) for number, image in enumerate(made)]
    before = fetched(registry, base)
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda number: root_host.create(f"c{number}", urls[number], "--insecure"), range(10)))
    assert fetched(registry, base) - before == 1
    assert [fetched(registry, item) for item in (made[0].layers[2], *(image.layers[3] for image in made))] == [1] * 11
    for number in range(10):
        assert root_host.execute(f"c{number}", "/bin/cat", "/own") == f"different {number}".encode()
    assert root_host.oci("verify").stdout == b""


def test_a_second_container_asks_one_question(root_host: Host, registry: Registry, push: Push) -> None:
    url = push("one", images.busybox_image({}, layer(file("own", "a question"))))
    root_host.create("one", url, "--insecure")
    before = {method: registry.requests(method) for method in ("GET", "HEAD")}
    root_host.create("two", url, "--insecure")
    assert registry.requests("GET") - before["GET"] <= 1  # the registry's /v2/
    assert registry.requests("HEAD") - before["HEAD"] == 1


def test_the_waiting_take_over_from_the_dead(root_host: Host, push: Push, base: images.Layer) -> None:
    """The first of two creates is killed while it holds the lock; the other makes the tree."""
    from tests.support import direct

    (made,) = variants(base, 1, "takes over")
    url = push("one", made)
    direct.prepare(root_host, "dead")
    first = subprocess.Popen(
        ["strace", "-f", "-o", "/dev/null", "-e", "trace=syncfs", "-e", "inject=syncfs:signal=STOP:when=2",
         *direct.command(root_host, "dead", "--url", url, "--insecure", "--no-kernel-mount")],
        env=root_host._environment(), stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        locks = root_host.store / "locks"
        wait_for(lambda: any(name.startswith("tree-") for name in os.listdir(locks)) if locks.exists() else False)
        with ThreadPoolExecutor() as pool:
            second = pool.submit(root_host.create, "two", url, "--insecure", "--no-kernel-mount")
            wait_for(lambda: second.done() or _waiting(locks))
            os.killpg(first.pid, 9)
            second.result(timeout=120)
    finally:
        os.killpg(first.pid, 9)
        first.wait()
    assert root_host.execute("two", "/bin/cat", "/own") == b"takes over 0"
    direct.discard(root_host, "dead")
    root_host.oci("prune")
    assert os.listdir(root_host.store / "staging") == []


def _waiting(locks: Path) -> bool:
    """Somebody waits for a lock on one of the files."""
    inodes = {str(path.stat().st_ino) for path in locks.iterdir() if path.name.startswith("tree-")}
    lines = Path("/proc/locks").read_text().splitlines()
    return any(line.split()[1] == "->" and line.split()[6].rpartition(":")[2] in inodes for line in lines)


def wait_for(condition: Callable[[], bool]) -> None:
    import time

    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
