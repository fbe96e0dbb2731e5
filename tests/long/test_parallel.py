# SPDX-License-Identifier: LGPL-2.1-or-later
"""F12: fifty creates at once, of one image and of five."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import image as images
from tests.support.host import Host
from tests.support.image import file, layer
from tests.support.registry import Registry

pytestmark = [pytest.mark.long, pytest.mark.root]

COUNT = 50


@pytest.mark.parametrize("different", [1, 5])
def test_f12_fifty_creates_at_once(root_host: Host, registry: Registry, different: int) -> None:
    base = layer(images.directory("usr"), file("usr/base", f"{different}" * 500_000))
    made = [images.busybox_image({}, base, layer(file("own", f"{different} {number}"))) for number in range(different)]
    urls = []
    for number, image in enumerate(made):
        registry.push(f"fifty-{different}/i{number}", "latest", image)
        urls.append(f"docker://{registry.host}/fifty-{different}/i{number}:latest")
    with ThreadPoolExecutor(COUNT) as pool:
        numbers = range(COUNT)
        list(pool.map(lambda n: root_host.create(f"c{n}", urls[n % different], "--insecure", "--quiet"), numbers))
    for item in (base, *(image.layers[2] for image in made)):
        assert registry.requests("GET", f"/blobs/{images.digest(item.blob)}") == 1
    assert root_host.oci("verify").stdout == b""
    for number in range(0, COUNT, 7):
        wanted = f"{different} {number % different}".encode()
        assert root_host.execute(f"c{number}", "/bin/cat", "/own") == wanted
