# SPDX-License-Identifier: LGPL-2.1-or-later
"""The version of LXC: told by its library's name, and the same that LXC itself tells."""

import os
import subprocess

import pytest

from lxc_oci.container import lxcversion
from tests.support import need


def test_the_library_tells_what_the_program_tells() -> None:
    program = need.program("lxc-start")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    assert lxcversion.major() == int(version.split(".")[0])


@pytest.mark.parametrize("target", ("liblxc.so.1.99.0", "liblxc.so.2.7.0", "other"))
def test_an_unknown_library_leads_to_the_program(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    need.program("lxc-start")
    told = lxcversion.major()
    monkeypatch.setattr(os, "readlink", lambda _path: target)
    assert lxcversion.major() == told
