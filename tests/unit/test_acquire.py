# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.acquire: the store is asked before the source, and only for what a name led to before."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxc_oci import acquire
from lxc_oci.acquire import Acquired, acquired
from lxc_oci.errors import AccessError, RefusedError
from lxc_oci.image import platform, reference
from lxc_oci.limits import Limits
from lxc_oci.source.open import SourceOptions
from lxc_oci.source.source import blob
from lxc_oci.store import images as stored
from lxc_oci.store.home import Store, open_store
from tests.support import image as images
from tests.support.faultregistry import FaultRegistry

HOST = str(platform.host())
LAYER = images.layer(images.file("data", b"content"))
MADE = images.Image([LAYER], platform=HOST)
OTHER = images.Image([LAYER], {"Cmd": ["/other"]}, platform=HOST)


@pytest.fixture(autouse=True)
def _no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lxc_oci.source.hostfiles.policies", lambda environment: ())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    tmp_path.chmod(0o755)
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    with FaultRegistry() as made:
        made.add("team/app", "1", MADE)
        yield made


@contextmanager
def got(url: str, store: Store | None, tmp_path: Path, **options: object) -> Iterator[Acquired]:
    settings = SourceOptions(str(tmp_path), insecure=True, **options)  # type: ignore[arg-type]
    with acquired(reference.parse(url), settings, store, Limits(), lambda message: None) as found:
        yield found


def test_a_warm_pull_by_digest_asks_nobody(store: Store, registry: FaultRegistry, tmp_path: Path) -> None:
    url = f"docker://{registry.host}/team/app@{MADE.digest}"
    with got(url, store, tmp_path) as cold:
        assert not cold.stored and cold.image.digest == MADE.digest
    asked = len(registry.requests)
    with got(url, store, tmp_path) as warm:
        assert warm.stored and warm.image.raw_config == MADE.configuration
    assert len(registry.requests) == asked


def test_a_warm_pull_by_tag_asks_once(store: Store, registry: FaultRegistry, tmp_path: Path) -> None:
    url = f"docker://{registry.host}/team/app:1"
    for _ in range(2):
        asked = len(registry.seen("/team/app/"))
        with got(url, store, tmp_path) as found:
            pass
    assert found.stored and len(registry.seen("/team/app/")) == asked + 1


def test_a_tag_that_moved(store: Store, registry: FaultRegistry, tmp_path: Path) -> None:
    url = f"docker://{registry.host}/team/app:1"
    with got(url, store, tmp_path):
        pass
    registry.add("team/app", "1", OTHER)
    with got(url, store, tmp_path) as found:
        assert not found.stored and found.image.digest == OTHER.digest
    assert len(list(stored.every(store))) == 2


def test_a_digest_alone_opens_nothing(store: Store, registry: FaultRegistry, tmp_path: Path) -> None:
    # zot CVE-2024-39897: what one repository handed out is not another's.
    with got(f"docker://{registry.host}/team/app@{MADE.digest}", store, tmp_path):
        pass
    with pytest.raises(AccessError), got(f"docker://{registry.host}/team/secret@{MADE.digest}", store, tmp_path):
        pass


def test_damaged_documents_are_fetched_again(store: Store, registry: FaultRegistry, tmp_path: Path) -> None:
    url = f"docker://{registry.host}/team/app@{MADE.digest}"
    with got(url, store, tmp_path):
        pass
    (document,) = Path(store.path).glob("images/*/manifest.json")
    document.write_bytes(document.read_bytes().replace(b"2", b"3"))
    with got(url, store, tmp_path) as found:
        assert not found.stored and found.image.digest == MADE.digest
    assert document.read_bytes() == MADE.manifest


def test_each_platform_is_remembered_by_itself(store: Store, registry: FaultRegistry, tmp_path: Path) -> None:
    foreign = images.Image([LAYER], platform="linux/s390x")
    index = images.Index([MADE, foreign])
    registry.add("team/app", "all", index)
    url = f"docker://{registry.host}/team/app@{index.digest}"
    wanted = platform.parse("linux/s390x")
    for _ in range(2):
        with got(url, store, tmp_path) as here, got(url, store, tmp_path, platform=wanted) as there:
            digests = here.image.digest, there.image.digest
    assert digests == (MADE.digest, foreign.digest) and here.stored and there.stored


def test_without_a_store_nothing_is_kept(registry: FaultRegistry, tmp_path: Path) -> None:
    url = f"docker://{registry.host}/team/app:1"
    with got(url, None, tmp_path) as found:
        assert not found.stored
        with blob(found.source, found.image.layers[0], "the layer") as reader:
            assert reader.read(1 << 20) == LAYER.blob
    assert list(tmp_path.iterdir()) == []


def test_files_are_read_anew_each_time(store: Store, tmp_path: Path) -> None:
    path = images.write_layout(tmp_path / "layout", {"latest": MADE})
    for made in (MADE, OTHER):
        images.write_layout(path, {"latest": made})
        with got(f"oci:{path}:latest", store, tmp_path) as found:
            assert not found.stored and found.image.digest == made.digest
    (Path(path) / "blobs" / MADE.digest.replace(":", "/")).write_bytes(b"damaged")
    images.write_files(path, {"index.json": images.layout_files({"latest": MADE})["index.json"]})
    with pytest.raises(RefusedError), got(f"oci:{path}:latest", store, tmp_path):
        pass


def test_the_time_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert acquire.now() == "2023-11-14T22:13:20Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert acquire.now() > "2024"
