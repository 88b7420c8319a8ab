# SPDX-License-Identifier: MIT
"""The command line of bench/run."""

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import plot, report
from .machine import OtherLoad, describe
from .point import Bench
from .rows import all_rows
from .runner import plan, progress, row_key, run

SOURCE = Path(__file__).resolve().parents[2]
RESULTS = SOURCE / "bench" / "results"
OWN_PROGRAMS = ("rr", "stream", "mcload", "ring")


def arguments():
    parser = argparse.ArgumentParser(prog="bench/run", description=(
        "Measures programs on TCP, on AF_UNIX and with fastlocal, side by side, and writes docs/performance.md."),
        epilog="Programs measured, as Debian packages: redis-server redis-tools nginx-light wrk "
               "apache2-utils memcached postgresql iperf3 sockperf; gnuplot-nox for the plots. What is missing is "
               "skipped, and said to be.")
    parser.add_argument("--quick", action="store_true", help="three short rounds: a few minutes")
    parser.add_argument("--rounds", type=int, help="rounds (5; quick: 3)")
    parser.add_argument("--seconds", type=float,
                        help="measured time of each point (0.6; quick: 0.25)")
    parser.add_argument("--rows", metavar="REGEX", help="only rows whose name matches; implies --no-write")
    parser.add_argument("--list", action="store_true", help="print the names of the rows and end")
    parser.add_argument("--no-write", action="store_true", help="print the page, leave docs/ as it is")
    parser.add_argument("--build", type=Path, default=SOURCE / "build", help="meson's build directory (build)")
    parser.add_argument("--library", type=Path, help="the library (BUILD/preload/libfastlocal.so)")
    parser.add_argument("--from", dest="from_file", type=Path, metavar="JSON", help="make the page from an earlier run")
    return parser.parse_args()


def build_if_missing(build):
    if all((build / "bench" / name).exists() for name in OWN_PROGRAMS):
        return
    progress(f"building in {build}")
    if not (build / "build.ninja").exists():
        subprocess.run(["meson", "setup", build], cwd=SOURCE, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", build], check=True, stdout=subprocess.DEVNULL)


def describe_row(row, skipped):
    entry = {"key": row_key(row), "group": row.group, "name": row.name, "placement": row.placement, "unit": row.unit,
             "better": row.better, "transports": row.transports, "tags": sorted(row.tags)}
    reason = skipped.get(entry["key"])
    return {**entry, "skipped": reason} if reason else entry


def measure_all(options):
    build_if_missing(options.build)
    library = (options.library or options.build / "preload" / "libfastlocal.so").resolve()
    if not library.exists():
        progress(f"{library} does not exist: TCP and AF_UNIX only")
    rows = [row for row in all_rows() if not options.rows or re.search(options.rows, row_key(row))]
    todo, skipped = plan(rows, library.exists())
    seconds = options.seconds or (0.25 if options.quick else 0.6)
    rounds = options.rounds or (3 if options.quick else 5)
    bench = Bench(options.build.resolve(), library, seconds, min(0.15, seconds / 2))

    machine, load, began = describe(SOURCE), OtherLoad(), time.monotonic()
    points = run(bench, todo, rounds)
    return {
        "machine": machine,
        "options": {"rounds": rounds, "seconds": seconds, "quick": options.quick, "rows": options.rows,
                    "took_s": time.monotonic() - began},
        "other_load": load.percentages(),
        "rows": [describe_row(row, skipped) for row in rows],
        "points": points,
    }


def save(document):
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / time.strftime("%Y%m%d-%H%M%S.json")
    path.write_text(json.dumps(document, indent=1) + "\n")
    progress(f"points: {path}")


def write_page(document):
    drawn, trouble = plot.draw(document, SOURCE / "docs" / "img")
    if trouble:
        progress(trouble)
    page = SOURCE / "docs" / "performance.md"
    page.write_text(report.markdown(document, [(title, f"img/{name}") for title, name in drawn]))
    progress(f"written: {page}")


def main():
    options = arguments()
    if options.list:
        print("\n".join(row_key(row) for row in all_rows()))
        return 0
    # An interrupted run leaves through the same clean-up as a finished one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.from_file:
        document = json.loads(options.from_file.read_text())
    else:
        document = measure_all(options)
        save(document)
    print(report.markdown(document))
    if not options.no_write and not options.rows:
        write_page(document)
    return 1 if any("error" in point for point in document["points"]) else 0
