# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a container was made of, written and read back."""

from pathlib import Path

import pytest

from lxc_oci.container import provenance
from lxc_oci.container.overrides import Overrides, TmpfsOption, VolumeOption
from lxc_oci.container.provenance import Provenance
from lxc_oci.errors import RefusedError
from lxc_oci.image.config import Image, ImageConfig
from lxc_oci.image.digest import sha256
from lxc_oci.image.manifest import Descriptor, Manifest
from lxc_oci.image.platform import Platform

FACTS = Provenance(
    "00ff", "docker://a.example/b:1", sha256(b"m"), sha256(b"i"), "linux/amd64", "tree", ("trees/x",), "/s", "now"
)
MANIFEST = Manifest("application/vnd.oci.image.manifest.v1+json", Descriptor("c", sha256(b"c"), 1), ())
IMAGE = Image(sha256(b"m"), MANIFEST, ImageConfig(Platform("linux", "amd64")), b"m", b"c")


def test_facts_and_documents_come_back(tmp_path: Path) -> None:
    provenance.write(str(tmp_path), FACTS, IMAGE)
    assert provenance.read(str(tmp_path)) == FACTS
    assert provenance.documents(str(tmp_path)) == (b"m", b"c")


def test_a_container_of_others_has_none(tmp_path: Path) -> None:
    assert provenance.read(str(tmp_path)) is None


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"version":1}', b'{"version":2}', b"x"])
def test_damaged_facts_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "oci-py").mkdir()
    (tmp_path / "oci-py/image.json").write_bytes(content)
    with pytest.raises(RefusedError):
        provenance.read(str(tmp_path))


@pytest.mark.parametrize(
    "options",
    [
        Overrides(),
        Overrides(
            entrypoint=("/bin/a b",),
            cmd=(),
            env=(("A", "b=c"), ("B", ""), ("C", "\udcff")),
            user="x:y",
            volumes=(VolumeOption("/a", "/b", True),),
            tmpfs=(TmpfsOption("/t", "1m"),),
            dhcp=False,
            address=("192.0.2.1/24",),
        ),
    ],
)
def test_options_come_back_and_are_private(tmp_path: Path, options: Overrides) -> None:
    (tmp_path / "oci-py").mkdir()
    provenance.write_options(str(tmp_path), options)
    assert provenance.read_options(str(tmp_path)) == options
    assert (tmp_path / "oci-py/options.json").stat().st_mode & 0o777 == 0o600
