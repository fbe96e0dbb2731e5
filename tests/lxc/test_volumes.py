# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volumes, tmpfs and the console's log in real containers."""

import os
from pathlib import Path

import pytest

from lxc_oci.container.overrides import Overrides, TmpfsOption, VolumeOption
from tests.support import need
from tests.support.guestbox import Box, image_config, make_rootfs

ENV = ("PATH=/bin",)


@pytest.fixture
def box(place: Path) -> Box:
    need.root()
    made = Box(place / "lxc path")
    make_rootfs(made.rootfs)
    return made


def script(box: Box, text: str) -> tuple[str, ...]:
    (box.rootfs / "script").write_text(text)
    return ("/bin/sh", "/script")


@pytest.mark.parametrize("verb", ("lxc-start", "lxc-execute"))
def test_a_volume_survives_and_starts_with_the_images_content(box: Box, verb: str) -> None:
    (box.rootfs / "var/lib/my db").mkdir(parents=True)
    (box.rootfs / "var/lib/my db/seed").write_text("seed\n")
    os.chown(box.rootfs / "var/lib/my db", 7, 8)
    command = script(box, 'cd "/var/lib/my db"; echo >> runs; cat seed runs > /out/seen; stat -c %u:%g . > /out/owner')
    box.make(image_config(entrypoint=command, env=ENV, volumes=("/var/lib/my db",)))
    box.run(verb)
    out = box.run(verb).out
    assert (out / "seen").read_text() == "seed\n\n\n"
    assert (out / "owner").read_text() == "7:8\n"
    assert not (box.rootfs / "var/lib/my db/runs").exists(), "written into the volume, not into the rootfs"


def test_the_flags_of_mounts(box: Box, place: Path) -> None:
    command = script(box, "cat /proc/self/mounts > /out/mounts; . /dump")
    overrides = Overrides(volumes=(VolumeOption(str(place), "/host"), VolumeOption(str(place), "/read", True)))
    box.make(image_config(entrypoint=(*command, "a\nb"), env=ENV, volumes=("/data",)), overrides)
    lines = (box.run().out / "mounts").read_text().splitlines()
    mounts = {fields[1]: fields[3].split(",") for fields in (line.split() for line in lines)}
    for target, access in (("/read", "ro"), ("/.oci-py", "ro"), ("/dev/shm", "rw")):
        assert {"nosuid", "nodev", access} <= set(mounts[target]), target
    for target in ("/data", "/host"):
        assert "rw" in mounts[target], target


def test_directories_and_files_of_the_host(box: Box, place: Path) -> None:
    host = place / "host dir"
    host.mkdir()
    (host / "file").write_text("from the host\n")
    (place / "one file").write_text("one\n")
    command = script(
        box,
        "cat /data/file '/etc/one file' > /out/seen; touch /data/new; touch /read/new; echo $? > /out/status;"
        " stat -f -c %T /scratch >> /out/seen; stat -c %a /scratch >> /out/seen",
    )
    overrides = Overrides(
        volumes=(
            VolumeOption(str(host), "/data"),
            VolumeOption(str(host), "/read", True),
            VolumeOption(str(place / "one file"), "/etc/one file", True),
        ),
        tmpfs=(TmpfsOption("/scratch", "1m"),),
    )
    box.make(image_config(entrypoint=command, env=ENV, volumes=("/data",)), overrides)
    out = box.run().out
    assert (out / "seen").read_text() == "from the host\none\ntmpfs\n1777\n"
    assert (out / "status").read_text() == "1\n"
    assert (host / "new").exists()
    assert not (box.directory / "oci-py/volumes").exists(), "the user's mount takes the volume's place"


def test_a_full_run_is_not_hidden(box: Box) -> None:
    (box.rootfs / "run/app").mkdir(parents=True)
    (box.rootfs / "run/app/socket-to-be").write_text("kept\n")
    box.make(image_config(entrypoint=script(box, "cat /run/app/socket-to-be > /out/seen"), env=ENV))
    assert (box.run().out / "seen").read_text() == "kept\n"


def test_what_the_program_writes_is_logged_and_rotated(box: Box) -> None:
    # 5 MiB in lines of 64 bytes, through the console.
    line = "x" * 63
    command = script(box, "i=0; while [ $i -lt 1280 ]; do cat /block; i=$((i+1)); done; echo last")
    (box.rootfs / "block").write_text(f"{line}\n" * 64)
    box.make(image_config(entrypoint=command, env=ENV))
    box.run()
    log, old = box.directory / "console.log", box.directory / "console.log.1"
    assert log.read_bytes().endswith(b"last\r\n")
    assert old.stat().st_size <= 4 << 20 and log.stat().st_size < 4 << 20
    assert old.stat().st_size + log.stat().st_size > 5 << 20
