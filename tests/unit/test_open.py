# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.source.open"""

import subprocess
import sys
from pathlib import Path

import pytest

from lxc_oci.errors import UsageError
from lxc_oci.image import reference
from lxc_oci.limits import Limits
from lxc_oci.source import registriesconf
from lxc_oci.source.open import SourceOptions, open_source, parse_url
from tests.support import image

ROOT = Path(__file__).resolve().parents[2]
MADE = image.Image([image.layer(image.file("a"))], {})


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("docker://localhost:1/a", "RegistrySource"),
        ("oci:/nope", "LayoutSource"),
        ("oci-archive:/nope", "LayoutSource"),
        ("docker-archive:/nope", "DockerArchiveSource"),
        ("dir:/nope", "DirectorySource"),
        ("docker-daemon:a:b", "SkopeoSource"),
        ("containers-storage:a", "SkopeoSource"),
    ],
)
def test_each_transport_has_its_source_and_nothing_is_read_yet(url: str, kind: str, tmp_path: Path) -> None:
    source = open_source(reference.parse(url), SourceOptions(str(tmp_path)), Limits(), print)
    assert type(source).__name__ == kind
    source.close()
    source.close()
    assert not list(tmp_path.iterdir())


def configure(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this be the registries.conf, and what the machine has count for nothing."""
    load = registriesconf.load
    monkeypatch.setenv("HOME", str(conf.parent))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    monkeypatch.setattr(registriesconf, "load", lambda environment: load(environment, str(conf.parent)))


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("fedora", "on this host it may stand for docker://registry.fedoraproject.org/fedora:latest"),
        ("fedora:40", "on this host it may stand for docker://registry.fedoraproject.org/fedora:40"),
        ("team/app:1", "on this host it may stand for docker://quay.io/team/app:1 or docker://docker.io/team/app:1"),
        ("quay.io/a", "if it is in a registry, write docker://quay.io/a:latest"),
        ("Fedora", "write docker://HOST"),
    ],
)
def test_a_short_name_is_explained_by_the_hosts_own_files(
    url: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "registries.conf"
    conf.write_text(
        'unqualified-search-registries = ["quay.io", "docker.io"]\n'
        '[aliases]\nfedora = "registry.fedoraproject.org/fedora"\n'
    )
    configure(conf, monkeypatch)
    with pytest.raises(UsageError, match="does not say where the image is") as caught:
        parse_url(url)
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("text", ["", "[broken"])
def test_a_short_name_on_a_host_that_says_nothing(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "registries.conf"
    conf.write_text(text)
    configure(conf, monkeypatch)
    with pytest.raises(UsageError) as caught:
        parse_url("nginx")
    assert caught.value.hint == "if it is in a registry, write docker://docker.io/library/nginx:latest"


def test_a_password_is_not_shown() -> None:
    assert "hunter2" not in repr(SourceOptions("/x", username="u", password="hunter2"))


def test_a_foreign_transport_takes_no_login(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="docker-daemon: takes no --username"):
        options = SourceOptions(str(tmp_path), username="u")
        open_source(reference.parse("docker-daemon:a:b"), options, Limits(), print)


def test_an_image_of_files_loads_no_network(tmp_path: Path) -> None:
    path = image.write_oci_archive(tmp_path / "a.tar", {"": MADE}, compression="gzip")
    program = f"""
import sys
from lxc_oci.image import platform, reference
from lxc_oci.limits import Limits
from lxc_oci.source import registriesconf
from lxc_oci.source.open import SourceOptions, open_source, parse_url
from lxc_oci.source.resolve import resolve
source = open_source(reference.parse({f"oci-archive:{path}"!r}), SourceOptions({str(tmp_path)!r}), Limits(), print)
resolve(source, platform.parse("linux/amd64"), Limits(), lambda message: None)
loaded = {{"ssl", "http.client", "socket", "subprocess", "email", "lxc_oci.source.registry"}} & set(sys.modules)
sys.exit(", ".join(sorted(loaded)) or 0)
"""
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
