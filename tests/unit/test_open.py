# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.source.open"""

import subprocess
import sys
from pathlib import Path

import pytest

from lxc_oci.errors import UsageError
from lxc_oci.image import reference
from lxc_oci.limits import Limits
from lxc_oci.source.open import SourceOptions, open_source
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
from lxc_oci.source.open import SourceOptions, open_source
from lxc_oci.source.resolve import resolve
source = open_source(reference.parse({f"oci-archive:{path}"!r}), SourceOptions({str(tmp_path)!r}), Limits(), print)
resolve(source, platform.parse("linux/amd64"), Limits(), lambda message: None)
loaded = {{"ssl", "http.client", "socket", "subprocess", "email", "lxc_oci.source.registry"}} & set(sys.modules)
sys.exit(", ".join(sorted(loaded)) or 0)
"""
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
