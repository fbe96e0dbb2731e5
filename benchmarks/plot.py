#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Time of a cold create against the number of files and of layers: build/plot.json, docs/create-time.svg.

make bench-plot                  ours and `podman pull`, medians of 3 pairs; needs gnuplot
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench
import workload

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "create-time.svg"
PAIRS = 3
BY_FILES = [(files, 1) for files in (1_000, 5_000, 10_000, 20_000, 40_000, 70_000)]
BY_LAYERS = [(10_000, layers) for layers in (1, 5, 10, 20, 40, 80)]
SIDES = ("lxc-oci-py", "podman pull")

_GNUPLOT = """
set terminal svg size 840,340 font "sans-serif,12" background "#ffffff"
set output "{output}"
set multiplot layout 1,2
set key left top
set grid ytics lc "#dddddd"
set border 3
set tics nomirror
set yrange [0:*]
set ylabel "seconds"
set xlabel "files, in one layer"
plot for [i=2:3] $files using 1:i with linespoints lw 2 pt 7 ps 0.6 title columnheader(i)
set xlabel "layers, of 10,000 files together"
plot for [i=2:3] $layers using 1:i with linespoints lw 2 pt 7 ps 0.6 title columnheader(i)
"""


def main() -> int:
    os.umask(0o022)
    report: dict[str, list[list[float]]] = {}
    with workload.quiet_file_system() as place:
        layouts = {name(*shape): workload.many_files(*shape) for shape in {*BY_FILES, *BY_LAYERS}}
        with workload.registry(place / "registry", layouts) as host:
            made = bench.Bench(place, host, layouts, [])
            for axis, shapes in (("files", BY_FILES), ("layers", BY_LAYERS)):
                report[axis] = [[shape[axis == "layers"], *times(made, name(*shape))] for shape in shapes]
                print(axis, *report[axis], sep="\n", flush=True)
    bench.BUILD.mkdir(exist_ok=True)
    (bench.BUILD / "plot.json").write_text(json.dumps({"machine": bench.machine(), **report}, indent=1) + "\n")
    draw(report)
    return 0


def name(files: int, layers: int) -> str:
    return f"files-{files}-{layers}"


def times(made: bench.Bench, image: str) -> list[float]:
    """The median seconds of both sides."""
    ours = made.ours("plot", f"docker://{made.host}/{image}:latest")
    case = bench.Case(image, ours, made.podman_pull(image), 1)
    bench.measure(case, PAIRS)
    return [round(statistics.median(case.times[side]), 3) for side in ("ours", "peer")]


def draw(report: dict[str, list[list[float]]]) -> None:
    """Have gnuplot draw the picture."""
    blocks = ""
    for axis, rows in report.items():
        lines = [" ".join(["x", *(f'"{side}"' for side in SIDES)]), *(" ".join(map(str, row)) for row in rows)]
        blocks += "\n".join([f"${axis} << END", *lines, "END", ""])
    program = blocks + _GNUPLOT.format(output=PICTURE)
    subprocess.run(["gnuplot"], input=program, text=True, check=True)


if __name__ == "__main__":
    sys.exit(main())
