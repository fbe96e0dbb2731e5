# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.limits"""

from pathlib import Path

import pytest

from lxc_oci.errors import UsageError
from lxc_oci.limits import Limits, load


def test_without_file_and_variable_the_defaults_hold(tmp_path: Path) -> None:
    assert load({}, str(tmp_path / "none")) == Limits()


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "limits.conf"
    file.write_text("# ours\nlayers = 7   # few\n\nretries=1\n")
    found = load({"LXC_OCI_PY_LIMITS": " retries=2  idle_timeout=3 "}, str(file))
    assert (found.layers, found.retries, found.idle_timeout) == (7, 2, 3)
    assert found.entries == Limits().entries


@pytest.mark.parametrize(
    "word",
    ["layers", "layers=", "layers=0", "layers=-1", "layers=x", "layers=1.5", "layers=1e3", "layers=\u0663", "nope=1"]
    + ["layers=" + "9" * 5000, "=1", "n\x1bope=1", "layers=1=2"],
)
def test_bad_words(word: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^LXC_OCI_PY_LIMITS: ") as caught:
        load({"LXC_OCI_PY_LIMITS": word}, str(tmp_path / "none"))
    assert caught.value.message.isprintable()
    file = tmp_path / "limits.conf"
    file.write_text(word)
    with pytest.raises(UsageError, match=str(file)):
        load({}, str(file))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*: Is a directory"):
        load({}, str(tmp_path))
    file = tmp_path / "limits.conf"
    file.write_bytes(b"layers = \xff")
    with pytest.raises(UsageError, match="cannot read"):
        load({}, str(file))


def test_every_limit_is_a_positive_number() -> None:
    for name, value in Limits()._asdict().items():
        assert value > 0, name
