# SPDX-License-Identifier: LGPL-2.1-or-later
"""What wheel2deb.py does on an architecture that it has no wheel for: only what the package depends on is missed."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.packaging.conftest import ROOT


@pytest.fixture
def wheel2deb(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("wheel2deb", ROOT / "packaging/wheel2deb.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "wheel2deb", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "output", lambda *argv: "riscv64" if argv[0] == "dpkg" else "")
    return module


@pytest.mark.parametrize(("name", "status"), [("orjson", 1), ("isal", 0)])
def test_an_architecture_without_a_wheel(
    wheel2deb: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, status: int
) -> None:
    wheels = tuple(wheel for wheel in wheel2deb.WHEELS if wheel.name == name)
    monkeypatch.setattr(wheel2deb, "WHEELS", wheels)
    assert wheel2deb.main(["wheel2deb.py", str(tmp_path)]) == status
    assert list(tmp_path.iterdir()) == []
