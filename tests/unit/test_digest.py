# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.image.digest"""

import hashlib

import pytest

from lxc_oci.errors import RefusedError
from lxc_oci.image import digest
from lxc_oci.image.digest import Digest

HEX = hashlib.sha256(b"x").hexdigest()
LONG = hashlib.sha512(b"x").hexdigest()


@pytest.mark.parametrize(("text", "algorithm"), [(f"sha256:{HEX}", "sha256"), (f"sha512:{LONG}", "sha512")])
def test_registered_algorithms(text: str, algorithm: str) -> None:
    found = Digest(text)
    assert (found, found.algorithm, found.hex) == (text, algorithm, text.partition(":")[2])
    hasher = found.hasher()
    hasher.update(b"x")
    assert hasher.hexdigest() == found.hex


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX.upper()}",
        f"SHA256:{HEX}",
        f"sha256:{HEX}\n",
        f"\nsha256:{HEX}",
        f"sha256:{LONG}",
        f"sha512:{HEX}",
        f"sha384:{HEX}",
        f"md5:{HEX[:32]}",
        "sha256:../../../../etc/passwd",
        "sha256:" + "../" * 21 + "a",
        "sha256:" + "\u0661" * 64,
        f"sha256+b64:{HEX}",
        None,
        7,
        b"sha256:" + HEX.encode(),
        [f"sha256:{HEX}"],
    ],
)
def test_anything_else_is_refused(text: object) -> None:
    with pytest.raises(RefusedError, match=r"DiffID .* is not a sha256 or sha512 digest"):
        Digest(text, "DiffID")


def test_a_long_text_is_cut_in_the_message() -> None:
    with pytest.raises(RefusedError) as caught:
        Digest("x" * 100_000)
    assert len(caught.value.message) < 200


def test_check_compares_content() -> None:
    digest.check(b"x", digest.sha256(b"x"), "the manifest")
    digest.check(b"x", Digest(f"sha512:{LONG}"), "the manifest")
    with pytest.raises(RefusedError, match=f"the manifest has digest sha256:{hashlib.sha256(b'y').hexdigest()}, not"):
        digest.check(b"y", digest.sha256(b"x"), "the manifest")
