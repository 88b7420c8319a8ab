# SPDX-License-Identifier: MIT
"""The order of things: rounds over all rows; in each round the transports of a row follow each other at once."""

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from . import cgroup
from .point import FASTLOCAL, measure
from .programs import postgres_program

GIVE_UP_AFTER = 2  # failures in succession of one row on one transport: a hang costs its whole time limit


def missing_programs(row):
    return [name for name in row.needs if shutil.which(name) is None]


def prepare_postgres(bench):
    """One data directory for the run, owned by the user that PostgreSQL insists on."""
    directory = Path(tempfile.mkdtemp(prefix="flb-pg-", dir="/tmp"))
    shutil.chown(directory, "postgres", "postgres")
    data = directory / "data"

    def run(*argv):
        subprocess.run([str(a) for a in argv], user="postgres", group="postgres", extra_groups=[], cwd=directory,
                       check=True, timeout=120, stdin=subprocess.DEVNULL, capture_output=True)

    pg_ctl = [postgres_program("pg_ctl"), "-D", data, "-w"]
    try:
        run(postgres_program("initdb"), "-D", data, "--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8")
        run(*pg_ctl, "-l", directory / "log", "-o",
            f"-c listen_addresses= -c unix_socket_directories={directory} -c fsync=off", "start")
        try:
            run(postgres_program("pgbench"), "-h", directory, "-i", "-q", "-s", 5, "postgres")
        finally:
            run(*pg_ctl, "-m", "fast", "stop")
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return replace(bench, postgres_data=data)


def rotated(items, by):
    by %= len(items)
    return items[by:] + items[:by]


def progress(text):
    print(text, file=sys.stderr, flush=True)


def plan(rows, have_library):
    """(rows to run with their transports, {name of a row: why it is skipped})"""
    todo, skipped = [], {}
    for row in rows:
        missing = missing_programs(row)
        transports = tuple(t for t in row.transports if t != FASTLOCAL or have_library)
        if missing:
            skipped[row_key(row)] = f"not installed: {', '.join(Path(m).name for m in missing)}"
        elif row.quota and cgroup.why_not():
            skipped[row_key(row)] = cgroup.why_not()
        elif not transports:
            skipped[row_key(row)] = "the library is not built"
        else:
            todo.append((row, transports))
    return todo, skipped


def row_key(row):
    return f"{row.group}: {row.name}" + (f" ({row.placement})" if row.placement else "")


def schedule(todo, rounds):
    """(number of the measurement of this row and transport, row, transport) of every point."""
    for round_number in range(rounds):
        for row, transports in todo:
            for again in range(row.repeat):
                number = round_number * row.repeat + again
                yield from ((number, row, transport) for transport in rotated(transports, number))


def run_rounds(bench, todo, rounds):
    """All points, in the order in which they were measured."""
    points, failures = [], {}
    began = time.monotonic()
    for number, row, transport in schedule(todo, rounds):
        key = (row_key(row), transport)
        if failures.get(key, 0) >= GIVE_UP_AFTER:
            result = {"error": "given up after failures"}
        else:
            result = measure(bench, row, transport)
        failures[key] = failures.get(key, 0) + 1 if "error" in result else 0
        points.append({"row": key[0], "transport": transport, "round": number, **result})
        outcome = f"FAILED: {result['error']}" if "error" in result else f"{result['figures']['value']:,.2f}"
        progress(f"[{time.monotonic() - began:5.0f} s] {number // row.repeat + 1}/{rounds} {key[0]:<60} {transport:<9} "
                 f"{outcome}")
    return points


def run(bench, todo, rounds):
    if not any("postgres" in row.tags for row, _ in todo):
        return run_rounds(bench, todo, rounds)
    try:
        bench = prepare_postgres(bench)
    except (subprocess.SubprocessError, OSError, LookupError) as error:
        detail = (getattr(error, "stderr", None) or b"").decode(errors="replace")[-300:]
        progress(f"PostgreSQL could not be prepared, its row will fail: {error} {detail}")
        return run_rounds(bench, todo, rounds)
    try:
        return run_rounds(bench, todo, rounds)
    finally:
        shutil.rmtree(bench.postgres_data.parent, ignore_errors=True)
