# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.image.platform"""

import os

import pytest

from lxc_oci.errors import UsageError
from lxc_oci.image import platform
from lxc_oci.image.platform import Platform, parse


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/arm64", "linux/arm64/v8"),
        ("linux/arm64/v8", "linux/arm64/v8"),
        ("linux/aarch64", "linux/arm64/v8"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/armv7l", "linux/arm/v7"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_parse(text: str, shown: str) -> None:
    assert str(parse(text)) == shown


@pytest.mark.parametrize(
    "text", ["", "amd64", "linux/", "/amd64", "linux/amd64/", "a/b/c/d", "Linux/amd64", "linux/a b"]
)
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(UsageError, match="is not a platform"):
        parse(text)


@pytest.mark.parametrize(
    ("wanted", "order"),
    [
        ("linux/amd64", ["linux/amd64", "linux/amd64/v1"]),
        ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64/v1", "linux/amd64"]),
        ("linux/arm64", ["linux/arm64/v8", "linux/arm64"]),
        ("linux/arm64/v9", ["linux/arm64/v9", "linux/arm64/v8", "linux/arm64"]),
        ("linux/arm/v7", ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5", "linux/arm"]),
        ("linux/arm/v5", ["linux/arm/v5", "linux/arm"]),
        ("linux/arm", ["linux/arm", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5", "linux/arm/v8"]),
        ("linux/s390x", ["linux/s390x"]),
        ("linux/s390x/z", ["linux/s390x/z", "linux/s390x"]),
    ],
)
def test_alternatives_best_first(wanted: str, order: list[str]) -> None:
    assert [str(item) for item in parse(wanted).alternatives()] == order


def test_what_str_wrote_is_read_again() -> None:
    for one in (Platform("linux", "amd64"), Platform("linux", "arm", "v7")):
        assert platform.recorded(str(one)) == one
    for without in (Platform("linux", ""), Platform("", "")):  # an image need not say what it is for
        assert platform.recorded(str(without)) is None


def test_runs() -> None:
    assert parse("linux/arm/v7").runs(parse("linux/arm/v6"))
    assert not parse("linux/arm/v6").runs(parse("linux/arm/v7"))
    assert not parse("linux/amd64").runs(parse("linux/386"))
    assert parse("linux/arm64").runs(platform.normal("linux", "arm64", ""))


@pytest.mark.parametrize(
    ("machine", "shown"),
    [("x86_64", "linux/amd64"), ("aarch64", "linux/arm64/v8"), ("armv6l", "linux/arm/v6"), ("vax", "linux/vax")],
)
def test_host(machine: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*real[:4], machine)))
    assert str(platform.host()) == shown
