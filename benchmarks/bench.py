#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ours against the peers, in pairs, in one run; a table on standard output and build/bench.json.

    make bench                       all cases, 5 pairs each
    benchmarks/bench.py -n 3 cold    the cases whose names have `cold` in them

Each pair is run one after the other, so a machine that slows down slows both; what is quoted is the median of the
ratios.  The installed template is measured, as a user would run it.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import workload

BUILD = Path(__file__).resolve().parents[1] / "build"
OURS = "oci-py"
HOOK = "/usr/share/lxc/hooks/oci-py-mount"
FILES, LAYERS = 70_000, 5


@dataclass
class Side:
    """One thing to time: `before` and `after` are not counted."""

    name: str
    run: Callable[[], None]
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None


@dataclass
class Case:
    """A row of the table: ours, a peer, and the ratio that is aimed at (peer over ours, or ours over it)."""

    name: str
    ours: Side
    peer: Side
    target: float
    inverse: bool = False  # the target is a ceiling of ours over the peer
    difference: bool = False  # the target is a ceiling of ours less the peer's, in seconds
    times: dict[str, list[float]] = field(default_factory=dict)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Measure lxc-oci-py against its peers.")
    parser.add_argument("-n", type=int, default=5, help="pairs of each case")
    parser.add_argument("words", nargs="*", help="only cases with one of these words in their names")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        parser.error("run this as root: it makes containers")
    os.umask(0o022)
    with workload.quiet_file_system() as place:
        layouts = {"debian": workload.debian(), "files": workload.many_files(FILES, LAYERS)}
        with (
            workload.registry(place / "registry", layouts) as host,
            workload.debian_13(place, BUILD.parent / "dist") as inside,
        ):
            bench = Bench(place, host, layouts, inside)
            cases = [
                case for case in bench.cases() if not options.words or any(word in case.name for word in options.words)
            ]
            for case in cases:
                measure(case, options.n)
                print(row(case), flush=True)
    report = {"machine": machine(), "cases": [as_json(case) for case in cases]}
    BUILD.mkdir(exist_ok=True)
    (BUILD / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{machine()}")
    print(table(cases))
    return 0


class Bench:
    """The cases, on one file system with one registry."""

    def __init__(self, place: Path, host: str, layouts: dict[str, Path], inside: list[str]) -> None:
        """`inside` is put before what is to run in a Debian 13."""
        self.place = place
        self.inside = inside
        self.host = host
        self.layouts = layouts
        self.lxcpath = place / "lxc"
        self.store = place / "store"
        self.podman = ["podman", "--root", f"{place}/podman", "--runroot", f"{place}/podman-run",
                       "--cgroup-manager=cgroupfs", "--storage-driver=overlay"]  # fmt: skip
        self.lxcpath.mkdir()
        self.configuration = place / "default.conf"
        self.configuration.write_text("lxc.net.0.type = empty\n")
        # Where skopeo, podman and ours find it: in the home directory that all of them are given.
        registries = place / ".config/containers/registries.conf"
        registries.parent.mkdir(parents=True)
        registries.write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        self.environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(place),
            "LC_ALL": "C.UTF-8",
            "LXC_OCI_PY_STORE": str(self.store),
        }

    def cases(self) -> Iterator[Case]:
        """All rows of the table, in its order."""
        debian, files = f"docker://{self.host}/debian:latest", f"docker://{self.host}/files:latest"
        pinned = f"docker://{self.host}/debian@{workload.manifest_digest(self.layouts['debian'])}"
        cold, cold_files = self.ours("cold", debian), self.ours("cold", files)
        yield Case("cold create, Debian image: upstream's template", cold, self.upstream(debian), 5)
        yield Case("cold create, Debian image: podman pull + create", cold, self.podman_pull("debian", create=True), 4)
        yield Case("cold create, 70,000 files: umoci unpack alone", cold_files, self.umoci("files"), 8)
        yield Case("cold create, 70,000 files: podman pull", cold_files, self.podman_pull("files"), 4)
        warm = self.ours("warm", debian, cold=False)
        yield Case("warm create by tag: upstream's template", warm, self.upstream(debian), 20)
        exact = self.ours("exact", pinned, cold=False)
        yield Case("warm create by digest: upstream's template", exact, self.upstream(debian), 40)
        yield Case("warm create by digest: podman create", exact, self.podman_create(), 2, inverse=True)
        index = self.ours("index", debian, indexed=True)
        yield Case("cold create as EROFS index, Debian image: upstream's template", index, self.upstream(debian), 6)
        index = self.ours("index", files, indexed=True)
        yield Case("cold create as EROFS index, 70,000 files: umoci unpack alone", index, self.umoci("files"), 20)
        flat = self.ours("flat", debian, "--storage", "flat")
        yield Case("cold flat create, Debian image: upstream's template", flat, self.upstream(debian), 4)
        yield Case("cold create, Debian image: inflate of its layer alone", cold, self.inflate("debian"), 1.5, True)
        yield Case("cold create, 70,000 files: inflate + GNU tar", cold_files, self.gnu_tar("files"), 1.5, True)
        without = self.ours("cold", debian, plain=True)
        yield Case("pre-mount hook: an empty shell hook", self.hook(debian), self.empty_hook(), 0.030, difference=True)
        yield Case("cold create, Debian image, without ISA-L: upstream's template", without, self.upstream(debian), 1)

    # --- ours -----------------------------------------------------------------------------------------------

    def ours(
        self, name: str, url: str, *options: str, cold: bool = True, plain: bool = False, indexed: bool = False
    ) -> Side:
        """A create by the installed template; cold ones find an empty store, `plain` ones no ISA-L, `indexed` ones
        run in Debian 13."""
        template = self.without_isal() if plain else OURS
        inside = self.inside if indexed else []

        def before() -> None:
            if cold:
                shutil.rmtree(self.store, ignore_errors=True)
            elif not (self.store / "version").exists():
                create()
                after()

        def create() -> None:
            self.call(
                [*inside, "lxc-create", "-q", "-P", self.lxcpath, "-f", self.configuration, "-n", name, "-t", template,
                 "--", "--url", url, "--quiet", *options]
            )  # fmt: skip

        def after() -> None:
            self.call([*inside, "lxc-destroy", "-P", self.lxcpath, "-n", name])

        return Side("lxc-oci-py", create, before, after)

    def without_isal(self) -> str:
        """A template like the installed one, for which isal is not installed."""
        path = self.place / "lxc-oci-py-without-isal"
        text = Path("/usr/share/lxc/templates/lxc-oci-py").read_text()
        path.write_text(text.replace("import sys\n", 'import sys\n\nsys.modules["isal"] = None\n', 1))
        path.chmod(0o755)
        return str(path)

    def hook(self, url: str) -> Side:
        """What LXC runs before it mounts the rootfs of a container, and no container."""
        made = self.ours("hook", url, cold=False)

        def before() -> None:
            if not (self.lxcpath / "hook").exists():
                made.before()
                made.run()

        def run() -> None:
            self.call(["unshare", "-m", HOOK, "attach", self.lxcpath / "hook"])

        return Side("oci-py-mount", run, before)

    def empty_hook(self) -> Side:
        """The smallest hook there is."""
        return Side("sh -c :", lambda: self.call(["unshare", "-m", "/bin/sh", "-c", ":"]))

    # --- peers ----------------------------------------------------------------------------------------------

    def upstream(self, url: str) -> Side:
        """Upstream's template, which copies everything for every container."""

        def create() -> None:
            self.call(
                ["lxc-create", "-P", self.lxcpath, "-f", self.configuration, "-n", "upstream", "-t", "oci", "--",
                 "--url", url, "--no-cache"]
            )  # fmt: skip

        return Side("lxc-oci", create, after=lambda: self.call(["lxc-destroy", "-P", self.lxcpath, "-n", "upstream"]))

    def podman_pull(self, name: str, create: bool = False) -> Side:
        """podman, with an empty storage."""
        image = f"{self.host}/{name}:latest"

        def run() -> None:
            self.call([*self.podman, "pull", "-q", "--tls-verify=false", image])
            if create:
                self.call([*self.podman, "create", "--name", "bench", image])

        def clean() -> None:
            self.call([*self.podman, "rm", "-f", "-i", "bench"])
            self.call([*self.podman, "rmi", "-f", image])

        return Side("podman", run, after=clean)

    def podman_create(self) -> Side:
        """podman with the image in its storage."""
        image = f"{self.host}/debian:latest"

        def before() -> None:
            if subprocess.run([*self.podman, "image", "exists", image], env=self.environment, check=False).returncode:
                self.call([*self.podman, "pull", "-q", "--tls-verify=false", image])

        return Side(
            "podman",
            lambda: self.call([*self.podman, "create", "--pull=never", "--name", "bench", image]),
            before,
            lambda: self.call([*self.podman, "rm", "-f", "bench"]),
        )

    def umoci(self, name: str) -> Side:
        """umoci unpack, without a pull and without a container."""
        target = self.place / "umoci"
        return Side(
            "umoci",
            lambda: self.call(["umoci", "unpack", "--image", f"{self.layouts[name]}:latest", target]),
            after=lambda: shutil.rmtree(target),
        )

    def inflate(self, name: str) -> Side:
        """The layer inflated by ISA-L to nowhere: what no create can be faster than on one core."""
        blob = workload.layer_blobs(self.layouts[name])[0]
        with_isal = f"/usr/bin/python3 -m isal.igzip -dc < {blob} > /dev/null"
        return Side("isal.igzip", lambda: self.call(["/bin/sh", "-c", with_isal]))

    def gnu_tar(self, name: str) -> Side:
        """The layers inflated by ISA-L to files, and those extracted by GNU tar."""
        target = self.place / "tar"
        steps = [f"mkdir {target}"]
        for number, blob in enumerate(workload.layer_blobs(self.layouts[name])):
            steps.append(f"/usr/bin/python3 -m isal.igzip -dc < {blob} > {target}.{number}")
            steps.append(f"tar -xpf {target}.{number} -C {target}")

        def after() -> None:
            shutil.rmtree(target)
            for file in self.place.glob("tar.*"):
                file.unlink()

        return Side("igzip+tar", lambda: self.call(["/bin/sh", "-ec", "\n".join(steps)]), after=after)

    def call(self, argv: list[str | Path]) -> None:
        """Run a program; show what it said when it fails."""
        done = subprocess.run(
            argv,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{argv} failed with {done.returncode}:\n{done.stdout.decode()}{done.stderr.decode()}")


@contextmanager
def timed(times: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times.append(time.perf_counter() - start)


def measure(case: Case, pairs: int) -> None:
    """Run both sides in turn; the first pair warms up and is not counted."""
    sides = {"ours": case.ours, "peer": case.peer}
    case.times = {key: [] for key in sides}
    for number in range(pairs + 1):
        for key, side in sides.items():
            side.before()
            with timed(case.times[key] if number else []):
                side.run()
            side.after()


def ratio(case: Case) -> float:
    """The median of the pairs' ratios: the peer over ours, for a ceiling ours over the peer, or the difference."""
    pairs = list(zip(case.times["ours"], case.times["peer"], strict=True))
    if case.difference:
        return statistics.median(ours - peer for ours, peer in pairs)
    return statistics.median(ours / peer if case.inverse else peer / ours for ours, peer in pairs)


def row(case: Case) -> str:
    ours, peer = (statistics.median(case.times[key]) for key in ("ours", "peer"))
    spread = (max(case.times["ours"]) - min(case.times["ours"])) / ours
    ceiling = case.inverse or case.difference
    reached = ratio(case) <= case.target if ceiling else ratio(case) >= case.target
    found, target = (
        f"{1000 * number:.0f} ms" if case.difference else f"{number:.3g}" for number in (ratio(case), case.target)
    )
    figures = f"{ours:.3f} s (±{spread / 2:.0%}) | {peer:.3f} s | {found} | {'≤' if ceiling else '≥'} {target}"
    return f"| {case.name} | {figures} | {'yes' if reached else 'no'} |"


def table(cases: list[Case]) -> str:
    head = "| case | ours | peer | ratio | target | reached |\n|---|---|---|---|---|---|"
    return "\n".join([head, *(row(case) for case in cases)])


def as_json(case: Case) -> dict[str, object]:
    return {
        "case": case.name,
        "peer": case.peer.name,
        "seconds": case.times,
        "ratio": ratio(case),
        "target": case.target,
        "ceiling": case.inverse or case.difference,
    }


def machine() -> str:
    """What the figures were measured on."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    return f"{os.cpu_count()} × {model}, Linux {platform.release()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
