# SPDX-License-Identifier: LGPL-2.1-or-later
"""A store and an lxcpath for creates that are run hundreds of times: by forks of the test, without lxc-create.

The template's directory is made and removed as lxc-create does it.  `check` tells whether everything is as after a
create that nothing disturbed.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from lxc_oci.__main__ import command, template
from lxc_oci.errors import NoSpaceError
from lxc_oci.store import health, home, prune
from tests.support import image as images
from tests.support import kill, tree
from tests.support.image import directory, fifo, file, hardlink, layer, opaque, program, symlink, whiteout

BASE = (
    directory(".", mtime=1),
    directory("bin"),
    program("bin/sh", b"#!"),
    directory("etc"),
    file("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
    file("etc/group", "root:x:0:\n", uid=3, gid=4, mode=0o640),
    directory("usr"),
    directory("usr/lib"),
    file("usr/lib/kept", b"kept" * 3000, mtime=7),
    file("usr/lib/changed", b"before" * 100),
    symlink("lib", "usr/lib"),
    directory("srv"),
    file("srv/hidden", b"hidden"),
    directory("tmp", mode=0o1777),
)
UPPER = (
    file("lib/changed", b"after" * 100, mode=0o4755),
    hardlink("usr/lib/again", "usr/lib/kept"),
    whiteout("etc/group"),
    opaque("srv"),
    fifo("srv/queue"),
    file("tmp/new", xattrs={"user.note": b"x"}),
)
# squashfs has the overlay's own whiteouts, which a tar on its way into mksquashfs cannot have.
UPPER_FILES = (directory("usr"), directory("usr/lib"), file("usr/lib/changed", b"after" * 100), file("note", b"x"))
CONFIG = {"Entrypoint": ["/bin/sh"], "User": "root", "WorkingDir": "/srv"}
FORMS = {"flat": "flat", "tree": "auto", "mounted": "auto", "index": "auto"}  # form → --storage


class Scene:
    """One form of rootfs, one image, one store, one lxcpath."""

    def __init__(self, place: Path, form: str) -> None:
        self.form = form
        self.place = place
        self.store = place / "store"
        self.lxcpath = place / "lxc"
        self._prepared = place / "prepared"
        self._output = place / "output"
        self.lxcpath.mkdir()
        self._prepared.mkdir(mode=0o700)
        if form == "mounted":
            layers = [images.squashfs_layer(*BASE), images.squashfs_layer(*UPPER_FILES)]
        elif form == "index":  # a layer that implies its directories would not be indexed
            layers = [layer(*BASE), layer(*UPPER_FILES)]
        else:
            layers = [layer(*BASE), layer(*UPPER, compression="")]
        self.url = self._layout("image", layers)
        self.base_url = self._layout("base", layers[:1])
        self._expected: dict[str, object] = {}

    def _layout(self, name: str, layers: list[images.Layer]) -> str:
        platform = images.busybox_image().platform  # this machine's
        made = images.Image(layers, CONFIG, platform=platform)
        return f"oci:{images.write_layout(self.place / name, {'latest': made})}:latest"

    # --- what is run -------------------------------------------------------------------------------------------

    def creating(self, name: str, url: str = "") -> Callable[[], int]:
        """The body of a create of the container `name`, whose directory is made now."""
        path = self.lxcpath / name
        (path / "rootfs").mkdir(parents=True)
        (path / "config").write_text(f"lxc.net.0.type = empty\nlxc.rootfs.path = dir:{path}/rootfs\n")
        argv = [f"--path={path}", f"--name={name}", f"--rootfs={path}/rootfs", "--url", url or self.url]
        argv += ["--storage", FORMS[self.form], "--store", str(self.store), "--verbose"]
        return lambda: template(argv)

    def pruning(self) -> Callable[[], int]:
        """The body of a prune of everything that nobody uses."""
        return lambda: command(["prune", "--force", "--store", str(self.store), "--verbose"])

    def run(self, body: Callable[[], int], number: int = 0) -> kill.Outcome:
        """Run a body, killed at its call `number`."""
        return kill.at(number, body, self._output)

    def run_elsewhere(self, body: Callable[[], int]) -> kill.Outcome:
        """Run a body whose messages go to another file system than the scene's."""
        with tempfile.TemporaryDirectory(dir="/var/tmp") as other:
            return kill.at(0, body, Path(other, "output"))

    def create(self, name: str, url: str = "") -> kill.Outcome:
        """A create that nothing disturbs."""
        done = self.run(self.creating(name, url))
        assert done.status == 0, done.output
        assert f"storage: {self.form}" in done.output, done.output
        return done

    def destroy(self, name: str) -> None:
        """What lxc-create does when the template failed, and lxc-destroy."""
        shutil.rmtree(self.lxcpath / name)

    # --- states of the store -----------------------------------------------------------------------------------

    def keep(self) -> None:
        """Note the store as it is, for `reset`."""
        self._copy(self.store, self._prepared)

    def reset(self) -> None:
        """Bring the store back to what `keep` has seen, nothing at first."""
        self._copy(self._prepared, self.store)

    def _copy(self, source: Path, target: Path) -> None:
        if target.exists():
            shutil.rmtree(target)
        subprocess.run(["cp", "-a", source, target], check=True)

    def age(self) -> None:
        """Let everything have been used two days ago."""
        before = time.time() - 2 * prune.RECENT_SECONDS
        for path in self.store.glob("*/*"):
            os.utime(path, (before, before), follow_symlinks=False)

    # --- what must be --------------------------------------------------------------------------------------------

    def expect(self, name: str) -> None:
        """Take the container `name` as what a create must give."""
        self._expected = self._seen(name)

    def check(self, name: str) -> None:
        """The container `name` is as it must be, and the store is whole, with nothing half-made in it."""
        seen = self._seen(name)
        for key, value in self._expected.items():
            assert seen[key] == value, key
        self.check_store()

    def check_store(self) -> None:
        """Everything in the store is what its name says, and no staging place or mount is left."""
        store = home.open_store(str(self.store))
        assert list(health.check(store)) == []
        assert os.listdir(self.store / "staging") == []
        assert f"{self.place}/" not in Path("/proc/self/mountinfo").read_text()

    def _seen(self, name: str) -> dict[str, object]:
        path = self.lxcpath / name
        config = (path / "config").read_text().replace(f"/{name}/", "/NAME/").replace(f" {name}\n", " NAME\n")
        seen: dict[str, object] = {"config": config}
        if self.form == "flat":
            # Files of the container's own are as old as it is.
            seen["files"] = tree.facts(path / "rootfs", without=("mtime", "content"))
        else:
            seen["plan"] = (path / "oci-py/plan.json").read_bytes()
            seen["upper"] = tree.facts(path / "upper", without=("mtime", "content", "xattrs"))
        for part in self.uses(name):
            if part.startswith("trees/"):
                seen["tree"] = tree.facts(self.store / part / "rootfs")
        return seen

    def uses(self, name: str) -> list[str]:
        """What the container `name` uses of the store."""
        found: list[str] = json.loads((self.lxcpath / name / "oci-py/image.json").read_bytes())["uses"]
        return found


def scene(place: Path, form: str) -> Scene:
    """A scene whose store is empty, after one create that nothing disturbed."""
    made = Scene(place, form)
    made.reset()
    made.create("first")
    made.expect("first")
    made.check("first")
    made.destroy("first")
    made.reset()
    return made


def extended(place: Path) -> Scene:
    """A scene whose store has the tree of the image's first layer, used by the container `used`."""
    made = scene(place, "tree")
    made.create("used", made.base_url)
    made.keep()
    return made


def kill_creates(made: Scene, numbers: Iterable[int]) -> list[str]:
    """Kill creates at the calls `numbers`; after each the next create must be as if nothing had been.

    Returns the names of the calls.
    """
    used = tree.facts(made.store / "trees") if (made.lxcpath / "used").exists() else {}
    calls = []
    for number in numbers:
        made.reset()
        done = made.run(made.creating("victim"), number)
        assert done.call, f"there is no call {number}"
        calls.append(done.call)
        where = f"killed at call {number}, {done.call}\n{done.output}"
        if done.status != -9:  # a program that we had called was
            assert "internal error" not in done.output, where
        made.destroy("victim")
        try:
            made.create("next")
            made.check("next")
        except AssertionError as error:
            raise AssertionError(where) from error
        made.destroy("next")
        now = tree.facts(made.store / "trees") if used else {}
        for name, facts in used.items():  # the number of links grows, nothing else
            for key in ("type", "mode", "owner", "xattrs", "content", "target"):
                assert now[name].get(key) == facts.get(key), f"{where}: {name} {key}"
    return calls


def unused(place: Path) -> Scene:
    """A scene whose store has one image that a container uses, and of everything something that nobody does."""
    made = extended(place)
    made.create("other")
    made.destroy("other")
    hexadecimal = "ab" * 32
    subprocess.run(
        ["cp", "-a", made.store / "trees" / os.listdir(made.store / "trees")[0],
         made.store / "trees" / f"{hexadecimal}{home.REPLACED}{'0' * 16}"], check=True,
    )  # fmt: skip
    (made.store / "partial" / f"sha256-{hexadecimal}").write_bytes(b"x")
    (made.store / "blobs" / f"sha256-{hashlib.sha256(b'x').hexdigest()}").write_bytes(b"x")
    (made.store / "containers/.x.1.tmp").write_bytes(b"x")
    made.age()
    made.keep()
    return made


def kill_prunes(made: Scene, numbers: Iterable[int]) -> list[str]:
    """Kill prunes at the calls `numbers`; after each all that is used is there, and the next prune ends the work."""
    (part,) = made.uses("used")
    rootfs = made.store / part / "rootfs"
    used = tree.facts(rootfs)
    assert made.run(made.pruning()).status == 0
    wanted = _names(made)
    assert len([name for name in wanted if name.startswith("trees/")]) == 1
    calls = []
    for number in numbers:
        made.reset()
        done = made.run(made.pruning(), number)
        assert done.call and done.status == -9, done.output
        calls.append(done.call)
        where = f"killed at call {number}, {done.call}"
        made.create("next", made.base_url)
        made.check_store()
        made.destroy("next")
        done = made.run(made.pruning())
        assert done.status == 0, f"{where}\n{done.output}"
        assert _names(made) == wanted, where
        assert tree.facts(rootfs) == used, where
    return calls


def _names(made: Scene) -> list[str]:
    """All names in the store, hidden ones too, but those of lock files."""
    found = [*made.store.glob("*/*"), *made.store.glob(".*"), *made.store.glob("*/.*")]
    return sorted(str(path.relative_to(made.store)) for path in found if path.parent.name != "locks")


def spread(total: int, count: int) -> list[int]:
    """`count` numbers from 1 to `total`, the first and the last among them."""
    return sorted({1 + round(step * (total - 1) / (count - 1)) for step in range(count)})


def starve(made: Scene, amounts: Iterable[int], *, inodes: bool) -> list[int]:
    """Let creates have `amounts` of bytes or inodes left on the file system of the scene, which is nearly as large.

    What fails says so and leaves nothing; once there is room again the next create works.  Returns the statuses.
    """
    ballast = made.place / "ballast"
    statuses = []
    for amount in amounts:
        made.reset()
        body = made.creating("victim")
        ballast.mkdir()
        subprocess.run(["sync", "-f", made.place], check=True)
        space = os.statvfs(made.place)
        if inodes:
            for number in range(space.f_ffree - amount):
                (ballast / str(number)).touch()
        else:
            with open(ballast / "file", "wb") as output:
                size = space.f_bavail * space.f_bsize - amount
                while True:
                    try:
                        os.posix_fallocate(output.fileno(), 0, max(1, size))
                        break
                    except OSError:  # its own extents need some blocks
                        size -= space.f_bsize
        done = made.run_elsewhere(body)
        where = f"{amount} left: status {done.status}\n{done.output}"
        statuses.append(done.status)
        path = made.lxcpath / "victim"
        if done.status:
            assert done.status == NoSpaceError.status, where
            assert len([line for line in done.output.splitlines() if line.startswith("lxc-oci-py: error: ")]) == 1, (
                where
            )
            assert sorted(os.listdir(path)) == ["config", "rootfs"] and not os.listdir(path / "rootfs"), where
            assert "lxc.init.cmd" not in (path / "config").read_text(), where
        if made.store.exists():
            left = [*made.store.glob("staging/*"), *made.store.glob(".*.tmp"), *made.store.glob("*/.*.tmp")]
            assert left == [], where
        shutil.rmtree(ballast)
        made.destroy("victim")
        made.create("next")
        try:
            made.check("next")
        except AssertionError as error:
            raise AssertionError(where) from error
        made.destroy("next")
    return statuses
