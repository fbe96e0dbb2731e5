# SPDX-License-Identifier: LGPL-2.1-or-later
"""External mount helpers: the contract, helpers that misbehave, and the real ones."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lxc_oci.errors import OciError, UnsupportedError
from lxc_oci.image import config as configs
from lxc_oci.image import manifest as manifests
from lxc_oci.image.config import Image
from lxc_oci.image.digest import Digest, sha256
from lxc_oci.image.platform import host as host_platform
from lxc_oci.limits import Limits
from lxc_oci.store import helper, mountplan
from tests.peers import build
from tests.support import hooks, need
from tests.support import image as images
from tests.support.host import Host

LIMITS = Limits(helper_timeout=30)


@pytest.fixture
def blobs(root_host: Host) -> tuple[Image, dict[Digest, str]]:
    """An image of two squashfs layers, and its blobs as files of a store."""
    store = root_host.directory / "blobs"
    store.mkdir()
    upper = images.squashfs_layer(images.file("etc/two", "two\n"))
    made = images.Image([images.squashfs_layer(*busybox()), upper], {"Entrypoint": ["/bin/sh"]})
    return stored(made, store)


def busybox() -> Sequence[images.Item]:
    """The busybox root file system as items."""
    import io
    import tarfile

    found = []
    with tarfile.open(fileobj=io.BytesIO(images.busybox_rootfs().plain)) as archive:
        for member in archive:
            data = archive.extractfile(member)
            if member.isdir():
                found.append(images.directory(member.name, mode=member.mode))
            elif member.issym():
                found.append(images.symlink(member.name, member.linkname))
            elif data is not None:
                found.append(images.file(member.name, data.read(), mode=member.mode))
    return found


def stored(made: images.Image, store: Path) -> tuple[Image, dict[Digest, str]]:
    """An image as create has it: parsed, its layers in files."""
    layout = store / "layout"
    images.write_layout(layout, {"image": made})
    return from_layout(layout)


def from_layout(layout: Path) -> tuple[Image, dict[Digest, str]]:
    """The one image of an OCI layout, its blobs where they are."""
    entry = json.loads((layout / "index.json").read_text())["manifests"][0]

    def blob(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    raw = blob(entry["digest"]).read_bytes()
    parsed = manifests.parse(raw, "", Limits())
    assert isinstance(parsed, manifests.Manifest)
    raw_config = blob(parsed.config.digest).read_bytes()
    made = Image(sha256(raw), parsed, configs.without_config(host_platform()), raw, raw_config)
    return made, {layer.digest: str(blob(layer.digest)) for layer in parsed.layers}


Recorder = Callable[[str], Path]


@pytest.fixture
def recorder(root_host: Host) -> Iterator[Recorder]:
    """Make helpers that record how they are called, then do what a shell script says."""

    def make(body: str) -> Path:
        path = root_host.directory / "recording helper"  # a path may have a space
        log = root_host.directory / "calls"
        path.write_text(f'#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done >>{log}\necho -- >>{log}\n{body}\n')
        path.chmod(0o755)
        return path

    yield make
    for notes in Path("/run/atomfs/meta").glob(f"*/*-{root_host.directory.name}-*"):
        shutil.rmtree(notes)


def calls(host: Host) -> list[list[str]]:
    text = (host.directory / "calls").read_text()
    return [call.splitlines() for call in text.split("--\n") if call]


# A helper as atomfs is, in a shell: the lowers by the kernel, UPPER/persist above; it takes notes of each mount by the
# number of its namespace, which the next one may have, and mounts nothing where it finds some.
GOOD = """
eval target=\\$$#
notes=/run/atomfs/meta/$(readlink /proc/self/ns/mnt | tr -dc 0-9)/$(echo "${target#/}" | tr / -)
case $1 in
mount)
    [ "$2" = --persist ] || exit 9
    [ ! -e "$notes" ] || { echo "$notes exists" >&2; exit 8; }
    mkdir -p "$notes/mounts"
    upper=$3 layout=${4%:*}
    mkdir -p "$upper/persist" "$upper/work"
    lower=
    for digest in $(sed 's/"layers"/\\n&/' "$layout"/blobs/sha256/MANIFEST | tail -n 1 |
        grep -o '"digest":"sha256:[0-9a-f]*"' | cut -d: -f3 | tr -d '"'); do
        mkdir -p "$upper/lower/$digest"
        mount -o ro,loop "$layout/blobs/sha256/$digest" "$upper/lower/$digest"
        lower=$upper/lower/$digest${lower:+:$lower}
    done
    mount -t overlay -o "lowerdir=$lower,upperdir=$upper/persist,workdir=$upper/work" overlay "$target"
    ;;
umount)
    umount "$2"
    rm -r "$notes"
    for lower in "${2%/rootfs}"/helper/lower/*; do umount "$lower"; done
    ;;
esac
"""


def prepare(host: Host, program: Path, image: Image, blobs: dict[Digest, str]) -> Path:
    """A container that `program` mounts, up to where create calls it."""
    call = helper.call(str(program), LIMITS)
    path = hooks.container(host, "one", {"lowers": [{"kind": "helper"}]})
    helper.write_layout(str(path), call, image, blobs)
    return path


def create(host: Host, program: Path, image: Image, blobs: dict[Digest, str], name: str = "one") -> Path:
    """As create does: the layout, the plan, a first mount to look inside, the end of it."""
    path = prepare(host, program, image, blobs)
    in_namespace(host, path, program)
    return path


def in_namespace(host: Host, path: Path, program: Path) -> list[str]:
    """Mount and unmount by the helper in a mount namespace of its own; returns what is in the rootfs meanwhile.

    What fails raises UnsupportedError here; nothing may be left mounted in there then.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            from lxc_oci.rootfs import overlay

            overlay.private_namespace()
            plan = helper.plan(helper.call(str(program), LIMITS), userxattr=False)
            answer: dict[str, Any] = {}
            try:
                hook = str(hooks.program(host.directory, "oci-py-mount"))
                with helper.mounted(str(path), plan, LIMITS, hook=hook) as target:
                    answer["names"] = sorted(os.listdir(target))
            except OciError as error:
                answer = {"message": error.message, "hint": error.hint, "class": type(error).__name__}
            answer["mounts"] = [
                line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(path) in line
            ]
            os.write(writing, json.dumps(answer).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading) as file:
        answer = json.loads(file.read() or "{}")
    assert os.waitpid(pid, 0)[1] == 0
    assert answer.pop("mounts") == []
    if "message" in answer:
        raise UnsupportedError(answer["message"], answer["hint"])
    found: list[str] = answer["names"]
    return found


def good(recorder: Recorder, image: Image) -> Path:
    return recorder(GOOD.replace("MANIFEST", image.digest.hex))


# --- the contract ----------------------------------------------------------------------------------------------


def test_a_helper_is_called_as_upstream_calls_it(
    root_host: Host, recorder: Recorder, blobs: tuple[Image, dict[Digest, str]]
) -> None:
    program = good(recorder, blobs[0])
    path = create(root_host, program, *blobs)
    mount = ["mount", "--persist", f"{path}/helper", f"{path}/oci:image", f"{path}/rootfs"]
    assert calls(root_host) == [mount, ["umount", f"{path}/rootfs"]]
    root_host.start("one")
    assert calls(root_host)[2:] == [mount]
    assert root_host.attach("one", "/bin/cat", "/etc/two") == b"two\n"
    root_host.attach("one", "/bin/sh", "-c", "echo mine > /etc/mine")
    root_host.stop("one", "-k")
    assert (path / "helper/persist/etc/mine").read_text() == "mine\n"
    root_host.start("one")
    assert root_host.attach("one", "/bin/cat", "/etc/mine") == b"mine\n"
    root_host.stop("one", "-k")
    for process in (os.getpid(), 1):
        assert str(path) not in Path(f"/proc/{process}/mountinfo").read_text()


def test_the_verbs_of_lxc_work_with_a_helper(
    root_host: Host, recorder: Recorder, blobs: tuple[Image, dict[Digest, str]]
) -> None:
    create(root_host, good(recorder, blobs[0]), *blobs)
    root_host.start("one")
    root_host.attach("one", "/bin/sh", "-c", "echo mine > /etc/mine")
    root_host.stop("one", "-k")
    root_host.lxc("copy", "one", "-N", "two")
    root_host.lxc("copy", "one", "-s", "-N", "three")
    root_host.lxc("copy", "two", "-R", "-N", "four")
    inodes = {path.stat().st_ino for path in (root_host.lxcpath / "one/oci/blobs/sha256").iterdir()}
    for name in ("three", "four", "one"):
        assert {path.stat().st_ino for path in (root_host.lxcpath / name / "oci/blobs/sha256").iterdir()} == inodes
        root_host.start(name)
        root_host.attach(name, "/bin/sh", "-c", f"cat /etc/two; echo {name} >> /etc/mine")
        expected = "mine\n" + f"{name}\n"
        assert root_host.attach(name, "/bin/cat", "/etc/mine").decode() == expected
        root_host.stop(name, "-k")


def test_the_layout_is_a_layout_whose_blobs_are_links(
    root_host: Host, recorder: Recorder, blobs: tuple[Image, dict[Digest, str]]
) -> None:
    path = prepare(root_host, good(recorder, blobs[0]), *blobs)
    copied = root_host.directory / "copied"
    subprocess.run(
        [need.program("skopeo"), "copy", "--insecure-policy", "-q", f"oci:{path}/oci:image", f"dir:{copied}"],
        check=True,
    )
    for digest, source in blobs[1].items():
        assert (path / "oci/blobs/sha256" / digest.hex).stat().st_ino == os.stat(source).st_ino
    # A second time over the first: nothing is in the way.
    helper.write_layout(str(path), helper.call("/x", LIMITS), *blobs)


# --- helpers that misbehave ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message", "hint"),
    [
        ("echo no such image >&2; exit 3", "failed with status 3", "no such image"),
        ("kill -TERM $$", "failed with signal 15", ""),
        ("exit 0", "mounted nothing", ""),
        ('[ $1 = umount ] && exec umount "$2"; mount -t tmpfs none "$5"; echo oh >&2; exit 4', "with status 4", "oh"),
        # It cannot undo its own mounts: ours is the last word.
        ('mount -t tmpfs none "$5"; mount -t tmpfs none "$5"; exit 4', "failed with status 4", ""),
        # A process that keeps the helper's standard error open is not waited for.
        ("sleep 1000 & echo $! >${0%/*}/pid; exit 5", "failed with status 5", ""),
    ],
)
def test_a_failing_helper(
    root_host: Host, recorder: Recorder, blobs: tuple[Image, dict[Digest, str]], body: str, message: str, hint: str
) -> None:
    program = recorder(f'[ "$2" = --help ] && {{ echo mount --persist; exit 0; }}\n{body}')
    path = prepare(root_host, program, *blobs)
    with pytest.raises(UnsupportedError, match=message) as caught:
        in_namespace(root_host, path, program)
    assert hint in caught.value.hint
    pid = root_host.directory / "pid"
    if pid.exists():
        os.kill(int(pid.read_text()), 9)


@pytest.mark.parametrize("hangs", ["exec sleep 1000", "while :; do echo still here; sleep 0.1; done"])
def test_a_hanging_helper(
    root_host: Host, recorder: Recorder, blobs: tuple[Image, dict[Digest, str]], hangs: str
) -> None:
    program = recorder(f'mount -t tmpfs none "$5"; {hangs}')
    path = prepare(root_host, program, *blobs)
    limits = Limits(helper_timeout=1)
    plan = helper.plan(helper.call(str(program), limits), userxattr=False)
    mountplan.write(str(path), plan)
    script = '"$0" attach "$1"; echo $?; cat /proc/self/mountinfo'
    command = [
        "unshare",
        "-m",
        "/bin/sh",
        "-c",
        script,
        str(hooks.program(root_host.directory, "oci-py-mount")),
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    status, _, mounts = done.stdout.partition("\n")
    assert status == "1" and "did not finish in 1 seconds" in done.stderr
    assert str(path) not in mounts


def test_a_fuse_helper_that_dies_after_it_has_mounted(
    root_host: Host, recorder: Recorder, blobs: tuple[Image, dict[Digest, str]]
) -> None:
    """What it leaves cannot even be looked at; its message is told all the same, and nothing stays mounted."""
    squashfuse = need.program("squashfuse")
    image = root_host.directory / "image"
    image.write_bytes(images.squashfs_layer(images.file("a")).blob)
    program = recorder(
        f"""
        [ "$2" = --help ] && {{ echo mount --persist; exit 0; }}
        [ $1 = umount ] && exit 1
        {squashfuse} -f {image} "$5" & pid=$!
        until mountpoint -q "$5"; do sleep 0.1; done
        kill -9 $pid; wait
        echo out of memory >&2
        exit 1
        """
    )
    path = prepare(root_host, program, *blobs)
    with pytest.raises(UnsupportedError, match="failed with status 1") as caught:
        in_namespace(root_host, path, program)
    assert "out of memory" in caught.value.hint
    said = root_host.directory / "said"
    script = '"$0" attach "$1" 2>"$2"; echo $?; cat /proc/self/mountinfo'
    hook = hooks.program(root_host.directory, "oci-py-mount")
    done = subprocess.run(
        ["unshare", "-m", "/bin/sh", "-c", script, str(hook), str(path), str(said)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    status, _, mounts = done.stdout.partition("\n")
    assert status == "1" and "Traceback" not in said.read_text()
    assert str(path) not in mounts


def test_a_helper_that_is_gone(root_host: Host, recorder: Recorder, blobs: tuple[Image, dict[Digest, str]]) -> None:
    program = good(recorder, blobs[0])
    create(root_host, program, *blobs)
    program.unlink()
    log = root_host.directory / "log"
    failed = root_host.lxc("start", "one", "-F", "-l", "DEBUG", "-o", log, check=False)
    assert failed.returncode != 0
    assert f"the mount helper {program} that this container was made with is missing" in log.read_text()


def test_a_helper_without_persist_gets_our_overlay(
    root_host: Host, recorder: Recorder, blobs: tuple[Image, dict[Digest, str]]
) -> None:
    source = root_host.directory / "tree"
    source.mkdir()
    subprocess.run(["tar", "-C", source, "-xp"], input=images.busybox_rootfs().plain, check=True)
    program = recorder(
        f"""
        [ "$2" = --help ] && {{ echo "usage: mount OCI_DIR MOUNTPOINT"; exit 0; }}
        [ $1 = umount ] && {{ echo unknown command >&2; exit 2; }}
        [ $# = 3 ] || {{ echo unexpected argument >&2; exit 2; }}
        mount --bind {source} "$3" && mount -o remount,bind,ro "$3"
        """
    )
    path = prepare(root_host, program, *blobs)
    assert "etc" in in_namespace(root_host, path, program)
    plan = mountplan.load(str(path))
    assert plan is not None and plan.helper is not None and not plan.helper.persist
    root_host.start("one")
    root_host.attach("one", "/bin/sh", "-c", "echo mine > /etc/mine")
    root_host.stop("one", "-k")
    assert (path / "upper/etc/mine").read_text() == "mine\n"
    assert not (source / "etc/mine").exists()


# --- the real ones ---------------------------------------------------------------------------------------------


def peer(name: str) -> Path:
    found = build.find(name)
    if found is None and name == "atomfs":
        pytest.skip("atomfs is not built: not every module proxy serves it (make peers PEERS=atomfs)")
    return found or need.missing(f"{name} is not built (make peers)")


@pytest.mark.parametrize("layer", [images.squashfs_layer, images.erofs_layer])
def test_real_atomfs(root_host: Host, layer: Callable[..., images.Layer]) -> None:
    # This kernel may have no dm-verity; a wrapper adds the option that lets atomfs do without, as a user would.
    wrapper = root_host.directory / "atomfs"
    real = peer("atomfs")
    wrapper.write_text(
        "#!/bin/sh\nverb=$1; shift\n"
        f'[ $verb = mount ] && exec {real} mount --allow-missing-verity "$@"\nexec {real} $verb "$@"\n'
    )
    wrapper.chmod(0o755)
    layers = [layer(*busybox()), layer(images.file("etc/two", "two\n"))]
    made = images.Image(layers, {"Entrypoint": ["/bin/sh"]})
    path = create(root_host, wrapper, *stored(made, root_host.directory))
    for content in (b"", b"mine\n"):
        root_host.start("one")
        assert root_host.attach("one", "/bin/cat", "/etc/two") == b"two\n"
        assert root_host.attach("one", "/bin/sh", "-c", "cat /etc/mine 2>/dev/null; :") == content
        root_host.attach("one", "/bin/sh", "-c", "echo mine > /etc/mine")
        root_host.stop("one", "-k")
    assert (path / "helper/persist/etc/mine").read_text() == "mine\n"
    assert "atomfs" not in Path("/proc/1/mountinfo").read_text()


def test_real_puzzlefs(root_host: Host) -> None:
    # 0.2.0 has neither --persist nor umount, and in the background it needs a syslog: the wrapper keeps it before us.
    real = peer("puzzlefs")
    wrapper = root_host.directory / "puzzlefs"
    wrapper.write_text(
        f"""#!/bin/sh
        [ "$1" = mount ] && [ $# = 3 ] || exec {real} "$@"
        pipe=$(mktemp -u) && mkfifo $pipe
        {real} mount -f -i $pipe "$2" "$3" & read -r answer <$pipe; rm $pipe
        [ "$answer" = s ]
        """
    )
    wrapper.chmod(0o755)
    tree = root_host.directory / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-C", tree, "-xp"], input=images.busybox_rootfs().plain, check=True)
    layout = root_host.directory / "built"
    subprocess.run([real, "build", tree, f"{layout}:image"], check=True, capture_output=True)
    path = prepare(root_host, wrapper, *from_layout(layout))
    assert "etc" in in_namespace(root_host, path, wrapper)
    plan = mountplan.load(str(path))
    assert plan is not None and plan.helper is not None and not plan.helper.persist
    root_host.start("one")
    root_host.attach("one", "/bin/sh", "-c", "echo mine > /etc/mine")
    root_host.stop("one", "-k")
    assert (path / "upper/etc/mine").read_text() == "mine\n"
