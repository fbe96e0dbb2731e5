# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.rootfs.layers and .together: several layers at once, and an end to all of them when one fails."""

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxc_oci.acquire import acquired
from lxc_oci.errors import AccessError, RefusedError
from lxc_oci.image import platform, reference
from lxc_oci.limits import Limits
from lxc_oci.log import Log
from lxc_oci.progress import Progress
from lxc_oci.rootfs.layers import Layers
from lxc_oci.rootfs.together import Stopped, together
from lxc_oci.source.open import SourceOptions
from lxc_oci.store import blobs, indexes
from lxc_oci.store.home import Store, open_store
from tests.support import image as images
from tests.support.faultregistry import Answer, FaultRegistry, Request

HOST = str(platform.host())
SQUASHFS = "application/vnd.stacker.image.layer.squashfs+zstd+verity"
PUZZLEFS = "application/vnd.puzzlefs.image.rootfs.v1"
AT_ONCE = 3
WAIT = 60.0  # seconds, for what comes at once where all is well


@pytest.fixture(autouse=True)
def _no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lxc_oci.source.hostfiles.policies", lambda environment: ())


def ended(before: set[threading.Thread]) -> None:
    """All daemons that were not there `before` come to their end, although nobody waits for them."""
    end = time.monotonic() + WAIT
    while any(thread.daemon and thread not in before for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    ended(before)


@pytest.fixture
def registry(_no_thread_is_left: None) -> Iterator[FaultRegistry]:
    with FaultRegistry() as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    tmp_path.chmod(0o755)
    return open_store(str(tmp_path / "store"))


def image_of(kind: str) -> images.Image:
    """Seven layers of 1000 bytes and more, two of them the same."""
    contents = [bytes([number]) * 1000 for number in (0, 1, 2, 3, 4, 5, 5)]
    if kind == "tar":
        layers = [images.layer(images.file(f"f{content[0]}", content)) for content in contents]
    else:
        types = [PUZZLEFS if kind == "puzzlefs" and number == 0 else SQUASHFS for number in range(len(contents))]
        if kind == "puzzlefs":
            types[1:] = ["application/vnd.puzzlefs.image.filedata.v1"] * (len(contents) - 1)
        layers = [
            images.layer(content, compression="", media_type=media_type)
            for content, media_type in zip(contents, types, strict=True)
        ]
    return images.Image(layers, platform=HOST)


@contextmanager
def layers_of(
    registry: FaultRegistry, made: images.Image, store: Store | None, directory: Path, output: io.StringIO | None = None
) -> Iterator[Layers]:
    registry.add("team/app", "1", made)
    url = reference.parse(f"docker://{registry.host}/team/app:1")
    options = SourceOptions(str(directory), insecure=True)
    progress = Progress(output or io.StringIO())
    log = Log(stream=io.StringIO())
    with acquired(url, options, store, Limits(), log.warn) as found:
        yield Layers(found, store, Limits(), log, progress, temporary=str(directory))


def blob_requests(registry: FaultRegistry, made: images.Image, answer: Callable[[Request], Answer | None]) -> None:
    """Have requests for layers answered by `answer`."""
    digests = {layer.descriptor()["digest"] for layer in made.layers}
    registry.faults.append(lambda request: answer(request) if request.path.rpartition("/")[2] in digests else None)


def meeting(count: int) -> Callable[[Request], None]:
    """What returns only once `count` requests are there, each time."""
    barrier = threading.Barrier(count)

    def wait(request: Request) -> None:
        barrier.wait(WAIT)

    return wait


@pytest.mark.parametrize("kind", ["squashfs", "puzzlefs"])
@pytest.mark.parametrize("stored", [True, False], ids=["store", "no store"])
def test_files_are_fetched_three_at_a_time(
    registry: FaultRegistry, store: Store, tmp_path: Path, kind: str, stored: bool
) -> None:
    made = image_of(kind)
    first = {layer.descriptor()["digest"] for layer in made.layers[:AT_ONCE]}
    meet = meeting(AT_ONCE)
    blob_requests(registry, made, lambda request: meet(request) if request.path.rpartition("/")[2] in first else None)
    output = io.StringIO()
    with layers_of(registry, made, store if stored else None, tmp_path, output) as layers, layers.files() as files:
        assert {str(digest): Path(path).read_bytes() for digest, path in files.items()} == {
            layer.descriptor()["digest"]: layer.blob for layer in made.layers
        }
    said = output.getvalue()
    if kind == "puzzlefs":
        assert said == "7 blobs: 7.0 kB done\n"
    else:
        assert sorted(said.splitlines()) == [f"layer {number}: 1.0 kB done" for number in range(1, 8)]
    if not stored:
        assert [path.name for path in tmp_path.iterdir() if path.name != "store"] == []


def test_layers_are_indexed_three_at_a_time(
    registry: FaultRegistry, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "_index", lambda tar, index, limits: "")
    made = image_of("tar")
    first = {layer.descriptor()["digest"] for layer in made.layers[:AT_ONCE]}
    meet = meeting(AT_ONCE)
    blob_requests(registry, made, lambda request: meet(request) if request.path.rpartition("/")[2] in first else None)
    with layers_of(registry, made, store, tmp_path) as layers:
        found, reason = layers.index()
    assert reason == ""
    assert [Path(index.tar).read_bytes() for index in found] == [layer.plain for layer in made.layers]


def test_a_layer_without_an_index_ends_the_others_and_leaves_the_source(
    registry: FaultRegistry, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image is unpacked then, from the same source."""
    monkeypatch.setattr(indexes, "_index", lambda tar, index, limits: "")
    dependent = images.layer(images.file("no/such/directory"))
    made = images.Image([*image_of("tar").layers[:1], dependent, *image_of("tar").layers[1:]], platform=HOST)
    with layers_of(registry, made, store, tmp_path) as layers:
        found, reason = layers.index()
        assert found == [] and "no/such" in reason
        with layers.files() as files:
            assert len(files) == 7


def hang(registry: FaultRegistry, began: threading.Event) -> Answer:
    """A blob of which nothing but the beginning comes."""

    def parts() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx"
        began.set()
        registry.stopped.wait(WAIT)

    return Answer(raw=parts())


@pytest.mark.parametrize("stored", [True, False], ids=["store", "no store"])
def test_a_failure_ends_the_others_at_once(registry: FaultRegistry, store: Store, tmp_path: Path, stored: bool) -> None:
    made = image_of("squashfs")
    began = threading.Event()

    def answer(request: Request) -> Answer:
        if made.layers[0].descriptor()["digest"] not in request.path:
            return hang(registry, began)
        began.wait(WAIT)
        return Answer(404)

    blob_requests(registry, made, answer)
    with layers_of(registry, made, store if stored else None, tmp_path) as layers:
        before = set(threading.enumerate())
        started = time.monotonic()
        with pytest.raises(AccessError, match="has no blob"), layers.files():
            pass
        ended(before)
        assert time.monotonic() - started < Limits().idle_timeout
    assert not stored or not os.path.exists(blobs.blob_path(store, layers._image.layers[1].digest))


def test_an_interrupt_ends_them_at_once(registry: FaultRegistry, store: Store, tmp_path: Path) -> None:
    made = image_of("squashfs")
    began = threading.Event()
    blob_requests(registry, made, lambda request: hang(registry, began))
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        began.wait(WAIT)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with layers_of(registry, made, store, tmp_path) as layers:
        before = set(threading.enumerate())
        started = time.monotonic()
        thread.start()
        with pytest.raises(KeyboardInterrupt), layers.files():
            pass
        thread.join()
        ended(before)
        assert time.monotonic() - started < Limits().idle_timeout


def test_what_is_wrong_is_told_with_its_layer(registry: FaultRegistry, store: Store, tmp_path: Path) -> None:
    made = image_of("squashfs")
    wrong = made.layers[3].descriptor()["digest"]
    with layers_of(registry, made, store, tmp_path) as layers:
        registry.blobs["team/app", wrong] = b"x" * 1000
        with pytest.raises(RefusedError, match="layer 4 has digest"), layers.files():
            pass


def test_together_keeps_the_order_and_begins_nothing_after_a_failure() -> None:
    assert together(lambda number, check: number * 2, 10, lambda failure: None) == list(range(0, 20, 2))
    assert together(lambda number, check: number, 0, lambda failure: None) == []
    begun: list[int] = []
    failures: list[BaseException] = []
    ended = threading.Event()

    def work(number: int, check: Callable[[], None]) -> None:
        begun.append(number)
        if number == 1:
            raise ValueError("one")
        ended.wait(WAIT)
        with pytest.raises(Stopped):
            check()
        check()

    def give_up(failure: BaseException) -> None:
        failures.append(failure)
        ended.set()

    with pytest.raises(ValueError, match="one"):
        together(work, 100, give_up)
    assert len(begun) <= AT_ONCE + 1 and [str(failure) for failure in failures] == ["one"]
