# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.kernel.confine: how results come back; tests/lxc/test_user_namespace.py has the confinement itself."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from lxc_oci import errors
from lxc_oci.errors import OciError
from lxc_oci.kernel import confine


def answered(work: Callable[[], Any]) -> dict[str, Any]:
    read, write = os.pipe()
    try:
        confine._answer(write, work)
        os.close(write)
        found: dict[str, Any] = json.loads(confine._read_all(read))
        return found
    finally:
        os.close(read)


def fail(error: Exception) -> Any:
    raise error


def test_a_result() -> None:
    assert answered(lambda: {"a": [1, "ü"]}) == {"value": {"a": [1, "ü"]}}


@pytest.mark.parametrize(
    "kind", [errors.UsageError, errors.AccessError, errors.RefusedError, errors.NoSpaceError, errors.UnsupportedError]
)
def test_an_error_keeps_its_kind(kind: type[OciError]) -> None:
    found = answered(lambda: fail(kind("it failed", "do that")))
    assert found == {"error": [kind.__name__, "it failed", "do that"]}
    assert confine._error_class(kind.__name__) is kind


@pytest.mark.parametrize("name", ["SystemExit", "annotations", "__doc__", "", "os"])
def test_only_our_errors_can_be_named(name: str) -> None:
    assert confine._error_class(name) is OciError


def test_an_error_of_the_system_names_its_file() -> None:
    found = answered(lambda: fail(PermissionError(13, "Permission denied", b"/x\xff")))
    assert found["error"][1] == "Permission denied: /x\udcff"


def test_an_answer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "_MAXIMUM_ANSWER", 1000)
    with pytest.raises(OciError, match="without end"):
        answered(lambda: "x" * 2000)
