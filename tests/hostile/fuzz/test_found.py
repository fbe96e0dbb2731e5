# SPDX-License-Identifier: LGPL-2.1-or-later
"""What fuzzing found, kept."""

import io

import pytest

from lxc_oci.errors import RefusedError
from lxc_oci.layer.tarstream import TarReader
from lxc_oci.limits import Limits
from tests.support.image import END, raw_header


@pytest.mark.parametrize(
    "fields",
    [{"size": b"00000001900\0"}, {"size": b"8" * 11 + b" "}, {"mtime": b"00000000080\0"}, {"mtime": b"09999999999 "}],
    ids=str,
)
def test_digits_that_are_not_octal(fields: dict[str, bytes]) -> None:
    """They are digits for isdigit(), and int(…, 8) raised ValueError: an internal error instead of a refusal."""
    content = raw_header(b"x", **fields) + END  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match="is not a number"):
        list(TarReader(io.BytesIO(content), Limits(), print))


@pytest.mark.parametrize("checksum", [b"009999\0 ", b"888888\0 "])
def test_a_checksum_that_is_not_octal(checksum: bytes) -> None:
    content = raw_header(b"x", checksum=checksum) + END
    with pytest.raises(RefusedError, match="checksum"):
        list(TarReader(io.BytesIO(content), Limits(), print))
