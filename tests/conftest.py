# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every test gets: an environment that is nobody's, and no way to the store or the logins of the real host."""

import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# A shell starts what it puts into the background with the first two ignored, nohup with the last, and containers would
# inherit that.
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

try:
    from hypothesis import settings
except ImportError:
    pass
else:
    # The machine may be slow and busy: how long an example takes says nothing.
    settings.register_profile("ours", deadline=None, database=None)
    settings.load_profile("ours")

_KEPT = (
    "PATH",
    "CI",
    "TERM",
    "LXC_OCI_PY_INSTALLED",
    "XDG_CACHE_HOME",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "GOPATH",
    "GOCACHE",
)


@pytest.fixture(autouse=True)
def _nobodys_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name not in _KEPT and not name.startswith("PYTEST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name a long parameter by its length: a test's name is kept, and printed, many times over."""
    return f"{argname}-of-{len(val)}" if isinstance(val, bytes | str) and len(val) > 100 else None
