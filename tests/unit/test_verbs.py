# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.verbs: where a verb finds things, and what inspect prints."""

import importlib
import json
from pathlib import Path

import pytest

from lxc_oci import options
from lxc_oci.container import lxcpath
from lxc_oci.container.idmap import Range
from lxc_oci.container.lxcconfig import parse
from lxc_oci.errors import UnsupportedError, UsageError
from lxc_oci.log import Log
from lxc_oci.verbs import _MODULES, inspect, namespace, source_options
from tests.support import image as images
from tests.unit.test_options import verbs


def test_every_verb_of_the_command_line_has_its_module() -> None:
    for name in verbs():
        assert callable(importlib.import_module(f"lxc_oci.verbs.{_MODULES.get(name, name)}").run)


# --- where containers are --------------------------------------------------------------------------------------


def test_the_lxcpath_of_a_user(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path)}
    assert lxcpath.default(environment, user=True) == f"{tmp_path}/.local/share/lxc"
    (tmp_path / ".config/lxc").mkdir(parents=True)
    (tmp_path / ".config/lxc/lxc.conf").write_text("# mine\nlxc.lxcpath = /srv/first\nlxc.lxcpath=/srv/containers\n")
    assert lxcpath.default(environment, user=True) == "/srv/containers"


def test_the_lxcpath_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lxcpath, "_SYSTEM_CONFIG", str(tmp_path / "lxc.conf"))
    assert lxcpath.default({}, user=False) == "/var/lib/lxc"
    (tmp_path / "lxc.conf").write_text("lxc.lxcpath = /srv/lxc\n")
    assert lxcpath.default({}, user=False) == "/srv/lxc"


# --- a user's namespace ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ((), 0),
        ((Range(0, 100000, 65536),), 65536),
        ((Range(1, 100000, 10),), 0),
        ((Range(10, 5, 10), Range(0, 100000, 10)), 20),
        ((Range(0, 100000, 10), Range(20, 5, 10)), 10),
    ],
)
def test_the_id_that_lxc_gives_its_caller(ranges: tuple[Range, ...], expected: int) -> None:
    assert namespace.unmapped(ranges) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [("65536:65536", (65536, 65536)), ("", None), ("x:1", None), ("1", None), ("1:", None)]
)
def test_the_caller(monkeypatch: pytest.MonkeyPatch, value: str, expected: tuple[int, int] | None) -> None:
    monkeypatch.setenv("LXC_OCI_PY_NAMESPACE", value)
    assert namespace.caller() == expected


def test_a_namespace_is_entered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LXC_OCI_PY_NAMESPACE", "65536:65536")
    with pytest.raises(UnsupportedError, match="lxc-usernsexec"):
        namespace.enter()


def test_subordinate_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 4242)
    file = tmp_path / "subuid"
    file.write_text("other:1:1\nbroken\n4242:100000:65536\n4242:200000:65536\n")
    assert namespace._subordinate(str(file)) == (Range(0, 100000, 65536),)
    for path in (tmp_path / "none", file):
        file.write_text("other:1:1\n")
        with pytest.raises(UnsupportedError, match="no subordinate ids"):
            namespace._subordinate(str(path))


# --- options of a source ---------------------------------------------------------------------------------------


def test_options_of_a_source() -> None:
    words = ["pull", "dir:/x", "--insecure", "--platform", "linux/arm64", "--username", "u", "--password", "p"]
    found = source_options(options.command_parser().parse_args(words), "/t")
    assert found.temporary == "/t" and found.insecure and str(found.platform) == "linux/arm64/v8"
    assert (found.username, found.password) == ("u", "p")
    with pytest.raises(UsageError):
        source_options(options.command_parser().parse_args(["pull", "dir:/x", "--platform", "arm"]), "/t")


# --- inspect ---------------------------------------------------------------------------------------------------


def inspected(capfdbinary: pytest.CaptureFixture[bytes], *words: str) -> bytes:
    assert inspect.run(options.command_parser().parse_args(["inspect", *words]), Log()) == 0
    return capfdbinary.readouterr().out


def test_an_image_in_full(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    made = images.busybox_image({"Env": ["A=b\nc"], "Labels": {"a": "\x1b[31m"}, "Healthcheck": {"Test": ["CMD", "x"]}})
    path = images.write_layout(tmp_path / "image", {"latest": made})
    found = json.loads(inspected(capfdbinary, f"oci:{path}:latest", "--json"))
    assert found["digest"] == made.digest and found["indexDigest"] is None and found["platforms"] == []
    assert found["environment"] == ["A=b\nc"] and found["healthcheck"] == ["CMD", "x"]
    text = inspected(capfdbinary, f"oci:{path}:latest")
    assert b"\x1b" not in text and b"  A=b\\nc\n" in text and b"index:" not in text
    assert inspected(capfdbinary, f"oci:{path}:latest", "--raw") == made.manifest


def test_raw_is_for_images() -> None:
    with pytest.raises(UsageError, match="--raw"):
        inspect.run(options.command_parser().parse_args(["inspect", "web", "--raw"]), Log())


def test_what_is_in_force() -> None:
    text = (
        b"lxc.environment = A=1\nlxc.environment = B=2\nlxc.init.cmd = /a\nlxc.init.cmd = /b\n"
        b"lxc.signal.halt = SIGTERM\nlxc.signal.halt =\nlxc.net.0.type = veth\nlxc.mount.entry = x\xff y\n"
    )
    assert inspect._in_force(parse(text)) == {
        "lxc.init.cmd": ["/b"],
        "lxc.environment": ["A=1", "B=2"],
        "lxc.mount.entry": ["x\ufffd y"],
    }
