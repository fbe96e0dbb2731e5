# SPDX-License-Identifier: LGPL-2.1-or-later
"""The wrapper, run for real: x86-64 and, by QEMU, arm64; and the script of other architectures by real shells."""

import os
import platform
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lxc_oci.container import wrapper
from lxc_oci.container.wrapper import Job
from lxc_oci.errors import UnsupportedError
from tests.support import need

MACHINES = {"amd64": ("x86_64", "qemu-x86_64-static"), "arm64": ("aarch64", "qemu-aarch64-static")}
ARCHITECTURES = (*MACHINES, "riscv64")
# Prints argv and, to standard error, the environment as the kernel gave them.
SHOW = (
    "import os\nfor fd, name in (1, 'cmdline'), (2, 'environ'): os.write(fd, open('/proc/self/' + name, 'rb').read())"
)


def run(
    tmp_path: Path, job: Job, architecture: str, environment: Mapping[bytes, bytes] | None = None
) -> subprocess.CompletedProcess[bytes]:
    path = tmp_path / "wrapper"
    path.write_bytes(wrapper.build(job, architecture))
    path.chmod(0o755)
    argv = [str(path)]
    if architecture in MACHINES and platform.machine() != MACHINES[architecture][0]:
        argv.insert(0, need.program(MACHINES[architecture][1]))
    return subprocess.run(argv, env=environment or {}, capture_output=True, stdin=subprocess.DEVNULL, check=False)


def parts(done: subprocess.CompletedProcess[bytes]) -> tuple[list[bytes], dict[bytes, bytes]]:
    assert done.returncode == 0, done.stderr
    entries = done.stderr.split(b"\0")[:-1]
    found = dict(entry.partition(b"=")[::2] for entry in entries)
    assert len(found) == len(entries), "a variable came twice"
    return done.stdout.split(b"\0")[:-1], found


def show(*arguments: str, variables: tuple[tuple[str, str], ...] = (), directory: str = "") -> Job:
    return Job((sys.executable,), (sys.executable, "-IS", "-c", SHOW, *arguments), variables, directory)


WORDS = (
    "",
    " ",
    "a b",
    "'",
    '"',
    "\\",
    "*",
    "$x",
    "`id`",
    "a\nb",
    "\t",
    "\x01",
    "ü",
    "\udcff",
    "x" * 20_000,
    "-n",
    "=",
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_argv_is_kept(tmp_path: Path, architecture: str) -> None:
    argv, _ = parts(run(tmp_path, show(*WORDS), architecture))
    assert argv[4:] == [os.fsencode(word) for word in WORDS]


@pytest.mark.parametrize("architecture", MACHINES)
def test_argv_0_need_not_be_the_program(tmp_path: Path, architecture: str) -> None:
    job = Job((sys.executable,), ("my own name", "-IS", "-c", SHOW))
    assert parts(run(tmp_path, job, architecture))[0][0] == b"my own name"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_variables_are_added_and_replace(tmp_path: Path, architecture: str) -> None:
    given = {b"A": b"old", b"AB": b"1", b"B": b"kept", b"LONG": b"y" * 100_000}
    added = (("A", "new"), ("LD_X", "a\nb 'c' \"d\""), ("EMPTY", ""), ("C_", "=x="), ("BIG", "z" * 100_000))
    _, found = parts(run(tmp_path, show(variables=added), architecture, given))
    expected = {**given, **{name.encode(): value.encode() for name, value in added}}
    if architecture not in MACHINES:
        found = {name: value for name, value in found.items() if name not in (b"PWD", b"OLDPWD", b"SHLVL", b"_")}
    assert found == expected


@pytest.mark.parametrize("architecture", MACHINES)
@pytest.mark.parametrize("given, added", ((0, 0), (0, 1), (1, 0), (2000, 2000)))
def test_any_number_of_variables(tmp_path: Path, architecture: str, given: int, added: int) -> None:
    environment = {f"G{number}".encode(): b"g" for number in range(given)}
    variables = tuple((f"{'G' if number % 2 else 'N'}{number}", "n") for number in range(added))
    _, found = parts(run(tmp_path, show(variables=variables), architecture, environment))
    assert found == {**environment, **{name.encode(): b"n" for name, _ in variables}}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_directory_is_entered(tmp_path: Path, architecture: str) -> None:
    where = tmp_path / "a b'c"
    where.mkdir()
    job = Job((sys.executable,), (sys.executable, "-ISc", "import os; print(os.getcwd())"), (), str(where))
    assert run(tmp_path, job, architecture).stdout.decode() == f"{where}\n"


@pytest.mark.parametrize("architecture", MACHINES)
def test_programs_are_tried_in_order(tmp_path: Path, architecture: str) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    programs = (str(tmp_path / "none"), str(plain / "below"), str(plain), sys.executable, "/never")
    assert parts(run(tmp_path, Job(programs, show().arguments), architecture))[0][0] == os.fsencode(sys.executable)


@pytest.mark.parametrize("architecture", MACHINES)
@pytest.mark.parametrize(
    "names, status, number",
    ((("none",), 127, 2), (("none", "plain", "none"), 126, 13), (("plain/x",), 127, 2), (("text",), 126, 8)),
)
def test_failures_are_said(tmp_path: Path, architecture: str, names: tuple[str, ...], status: int, number: int) -> None:
    (tmp_path / "plain").write_text("")
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    done = run(tmp_path, Job(tuple(str(tmp_path / name) for name in names), ("the\x1b[1mprogram",)), architecture)
    assert (done.returncode, done.stdout) == (status, b"")
    assert done.stderr == b"lxc-oci-py: cannot run the?[1mprogram: errno %d\n" % number


@pytest.mark.parametrize("architecture", MACHINES)
def test_a_missing_directory_is_said(tmp_path: Path, architecture: str) -> None:
    done = run(tmp_path, Job((sys.executable,), ("x",), (), "/none/such"), architecture)
    assert (done.returncode, done.stderr) == (126, b"lxc-oci-py: cannot enter /none/such: errno 2\n")


def test_it_runs_unread(tmp_path: Path) -> None:
    """It may hold secrets: the guest's users need no right to read it."""
    need.root()
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("no wrapper of this architecture")
    architecture = "amd64" if platform.machine() == "x86_64" else "arm64"
    path = tmp_path / "wrapper"
    path.write_bytes(wrapper.build(Job(("/bin/true",), ("true",)), architecture))
    path.chmod(0o711)
    for place in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        place.chmod(0o755)
    assert subprocess.run([path], user=65534, check=False).returncode == 0
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(["/bin/cat", path], user=65534, check=True, capture_output=True)


@pytest.mark.parametrize("architecture", MACHINES)
def test_the_file_is_small_and_not_writable_in_memory(architecture: str) -> None:
    content = wrapper.build(Job(("/bin/true",), ("true",)), architecture)
    assert len(content) < 1024
    count = struct.unpack_from("<H", content, 56)[0]
    headers = [struct.unpack_from("<II", content, 64 + 56 * number) for number in range(count)]
    assert headers == [(1, 5), (0x6474E551, 6)], "one segment to read and execute, and a stack that is not executable"


@pytest.mark.parametrize("shell", ("dash", "bash", "busybox"))
def test_the_script_in_other_shells(tmp_path: Path, shell: str) -> None:
    path = tmp_path / "script"
    path.write_bytes(wrapper.build(show(*WORDS, variables=(("A", 'it\'s\n"x"'),)), "riscv64"))
    argv = [need.program(shell), *(["sh"] if shell == "busybox" else []), str(path)]
    done = subprocess.run(argv, env={}, capture_output=True, check=False)
    argv_found, environment = parts(done)
    assert argv_found[4:] == [os.fsencode(word) for word in WORDS]
    assert environment[b"A"] == b'it\'s\n"x"'


@pytest.mark.parametrize("name", ("a.b", "a-b", "1", "a b"))
def test_what_a_script_cannot_set_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match="variable"):
        wrapper.build(show(variables=((name, "x"),)), "riscv64")
