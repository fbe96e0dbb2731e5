# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc_oci.source.skopeo, with the real skopeo and with one that records what it is given"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lxc_oci.errors import NoSpaceError, OciError, UnavailableError, UnsupportedError
from lxc_oci.image import platform, reference
from lxc_oci.kernel import run
from lxc_oci.limits import Limits
from lxc_oci.source.open import SourceOptions
from lxc_oci.source.skopeo import SkopeoSource
from tests.support import image, need
from tests.support.reading import read

MADE = image.Image([image.layer(image.file("a", "b"), compression="")], {})


def test_a_foreign_transport_for_real(tmp_path: Path) -> None:
    need.program("skopeo")
    rootfs = image.tar(image.directory("etc"), image.file("etc/motd", "hello\n"))
    (tmp_path / "rootfs.tar").write_bytes(rootfs)
    found = read(f"tarball:{tmp_path}/rootfs.tar", tmp_path, None)
    assert found.layers == [rootfs]
    assert os.listdir(tmp_path) == ["rootfs.tar"]


def test_a_relative_path_starts_where_the_caller_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need.program("skopeo")
    (tmp_path / "rootfs.tar").write_bytes(image.tar(image.file("a")))
    monkeypatch.chdir(tmp_path)
    assert len(read("tarball:rootfs.tar", tmp_path, None).layers) == 1


def test_skopeos_own_message_is_shown_and_nothing_is_left(tmp_path: Path) -> None:
    need.program("skopeo")
    with pytest.raises(UnavailableError, match=r"skopeo cannot copy tarball:/nope: .*no such file") as caught:
        read("tarball:/nope", tmp_path, None)
    assert "level=" not in caught.value.message
    assert os.listdir(tmp_path) == []


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A skopeo that writes down arguments and environment, then copies an image or fails as the test asks."""
    image.write_directory(tmp_path / "made", MADE)
    program = tmp_path / "skopeo"
    program.write_text(
        f"""#!/usr/bin/python3
import json, os, shutil, sys
with open({str(tmp_path / "record")!r}, "w") as file:
    json.dump({{"argv": sys.argv[1:], "environment": dict(os.environ), "cwd": os.getcwd()}}, file)
if os.path.exists({str(tmp_path / "fail")!r}):
    sys.exit(open({str(tmp_path / "fail")!r}).read())
shutil.copytree({str(tmp_path / "made")!r}, sys.argv[-1].removeprefix("dir:"))
"""
    )
    program.chmod(0o755)
    monkeypatch.setattr(run, "find", lambda name: str(program))
    return tmp_path


def _source(where: Path, url: str, **options: object) -> SkopeoSource:
    work = where / "work"
    work.mkdir(exist_ok=True)
    return SkopeoSource(reference.parse(url), SourceOptions(str(work), **options), Limits())  # type: ignore[arg-type]


def test_what_skopeo_is_given(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("DOCKER_HOST", "unix:///x")
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("SECRET", "hunter2")
    source = _source(
        recorded, "docker-daemon:a:b", authfile="/auth.json", insecure=True, platform=platform.parse("linux/arm/v7")
    )
    assert source.root(Limits())[1] == MADE.manifest
    source.root(Limits())
    record = json.loads((recorded / "record").read_text())
    directory = record["argv"][-1].removeprefix("dir:").removesuffix("/image")
    assert record["argv"] == [
        *["--override-os", "linux", "--override-arch", "arm", "--override-variant", "v7", "--tmpdir", directory],
        *["copy", "--quiet", "--src-authfile", "/auth.json", "--src-tls-verify=false"],
        *["--", "docker-daemon:a:b", f"dir:{directory}/image"],
    ]
    assert record["environment"]["HOME"] == "/home/x"
    assert record["environment"]["DOCKER_HOST"] == "unix:///x"
    assert set(record["environment"]) <= {"PATH", "LC_ALL", "HOME", "DOCKER_HOST", "LC_CTYPE"}
    assert Path(directory).stat().st_mode & 0o777 == 0o700
    source.close()
    assert not list((recorded / "work").iterdir())


def test_a_copy_has_the_time_of_a_transfer_and_not_of_a_helper(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes are enough for a mount, and not for a large image."""
    real, given = run.run, []

    def noted(argv: list[str], **options: Any) -> run.Result:
        given.append(options["timeout"])
        return real(argv, **options)

    monkeypatch.setattr(run, "run", noted)
    (recorded / "work").mkdir()
    limits = Limits(helper_timeout=11, transfer_seconds=77)
    options = SourceOptions(str(recorded / "work"))
    source = SkopeoSource(reference.parse("docker-daemon:a:b"), options, limits)
    assert source.root(limits)[1] == MADE.manifest
    source.close()
    assert given == [77]


def test_it_is_copied_once_however_often_it_is_read(recorded: Path) -> None:
    source = _source(recorded, "docker-daemon:a:b")
    source.root(Limits())
    (recorded / "record").unlink()
    source.root(Limits())
    assert not (recorded / "record").exists()
    source.close()


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        ('time="x" level=fatal msg="it \\"really\\" failed"', UnavailableError, ': it "really" failed$'),
        ("something else\nat the end\n", UnavailableError, ": at the end$"),
        ('time="x" level=fatal msg="write /x: no space left on device"', NoSpaceError, "no space left"),
    ],
)
def test_failures(recorded: Path, output: str, error: type[OciError], message: str) -> None:
    (recorded / "fail").write_text(output)
    source = _source(recorded, "containers-storage:a")
    with pytest.raises(error, match=message):
        source.root(Limits())
    assert not list((recorded / "work").iterdir())


def test_without_skopeo_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "find", lambda name: None)
    with pytest.raises(UnsupportedError, match="skopeo is not installed") as caught:
        _source(tmp_path, "docker-daemon:a").root(Limits())
    assert caught.value.hint == "apt install skopeo"
