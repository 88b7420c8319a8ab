# SPDX-License-Identifier: MIT
"""One measured point: one row, one transport, one round. Owns its processes, its directory and its statistics."""

import json
import os
import shutil
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .cgroup import CpuQuota
from .process import Child, PointFailed, free_port

TCP, UNIX, FASTLOCAL = "tcp", "unix", "fastlocal"
RING = "ring"  # the same messages through shmring alone: the limit
LIMIT = 20  # seconds that a client may take beyond its measured time


@dataclass(frozen=True)
class Bench:
    """What all points of a run share."""
    build: Path
    library: Path
    seconds: float
    warmup: float
    postgres_data: Path = None


class Point:
    def __init__(self, bench, row, transport):
        self.bench, self.row, self.transport = bench, row, transport
        self.seconds, self.warmup = bench.seconds, bench.warmup
        self.unix = transport == UNIX
        self.directory = Path(tempfile.mkdtemp(prefix="flb-", dir="/tmp"))
        self.directory.chmod(0o777)
        self.stats_path = self.directory / "stats.jsonl"
        self.stats_path.touch()
        self.stats_path.chmod(0o666)
        self.children = []
        self.cgroups = {}
        self.servers = []  # (child, the signal that ends it in an orderly way)

    def __enter__(self):
        for _ in range(self.row.busy):
            self._start(["/bin/sh", "-c", "while :; do :; done"], self.environment(False))
        if self.row.quota:
            self.cgroups = {side: CpuQuota(f"{self.directory.name}-{side}", self.row.quota) for side in ("server", "client")}
        return self

    def __exit__(self, *_):
        for child in reversed(self.children):
            child.kill()
        for cgroup in self.cgroups.values():
            cgroup.remove()
        shutil.rmtree(self.directory, ignore_errors=True)

    # Where things are

    def program(self, name):
        """A program of ours."""
        return self.bench.build / "bench" / name

    def socket_path(self, name="s"):
        return str(self.directory / name)

    def own_address(self):
        """What a server of ours is told to listen on: it finds its port itself."""
        return self.socket_path() if self.unix else "0"

    def port(self):
        return free_port()

    def cpu_options(self, end):
        """--cpu for a program of ours; end is 0 for the server, 1 for the client."""
        return [f"--cpu={self.row.cpus[end]}"] if self.row.cpus else []

    # What runs

    def preloads(self, side):
        return self.transport == FASTLOCAL and side in self.row.preload

    def environment(self, preload):
        env = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "FASTLOCAL_STATS")}
        env["LC_ALL"] = "C"
        if preload:
            env["LD_PRELOAD"] = str(self.bench.library)
            env["FASTLOCAL_STATS"] = str(self.stats_path)
        return env

    def _start(self, argv, env, user=None, cgroup=None):
        child = Child(argv, env, self.directory / f"log{len(self.children)}", user, cwd=self.directory, cgroup=cgroup)
        self.children.append(child)
        return child

    def server(self, *argv, listening=(), user=None, stop_signal=signal.SIGTERM):
        """Starts a server. `listening` are the ports and paths to wait for; without, a server of ours prints it."""
        child = self._start(argv, self.environment(self.preloads("server")), user, self.cgroups.get("server"))
        self.servers.append((child, stop_signal))
        if listening:
            child.wait_listening(*listening)
            return None
        return child.wait_ready_line()

    def start_client(self, *argv, user=None):
        return self._start(argv, self.environment(self.preloads("client")), user, self.cgroups.get("client"))

    def client(self, *argv, user=None):
        """Runs the client to its end, and returns what it printed."""
        return self.start_client(*argv, user=user).wait_end(self.seconds + self.warmup + LIMIT)

    @property
    def server_child(self):
        """The server that was started last."""
        return self.servers[-1][0]

    def stop_server(self):
        """Orderly end of the servers (statistics are written there); returns what the last one printed."""
        for child, stop_signal in reversed(self.servers):
            child.stop(stop_signal)
        return self.server_child.output() if self.servers else ""

    def wait_server(self):
        """For servers that end by themselves: a signal at that moment would make it look like a failure."""
        self.server_child.wait_end(LIMIT)

    # What the library said

    def statistics(self):
        """Sums over all processes of the point; None when none was preloaded."""
        lines = [json.loads(line) for line in self.stats_path.read_text().splitlines() if line.strip()]
        if not lines:
            return None
        total = {"processes": len(lines), "connections": 0, "paired": 0, "ring": 0, "unix": 0, "kernel": 0}
        for line in lines:
            total["connections"] += line.get("connections", 0)
            total["paired"] += line.get("paired", 0)
            for direction in ("tx", "rx"):
                for lane, counts in line.get(direction, {}).items():
                    total[lane] = total.get(lane, 0) + counts["bytes"]
        return total


def ring_percent(statistics):
    """The share of all bytes, both ends and both directions, that did not go through the kernel's TCP."""
    if not statistics:
        return None
    fast = statistics["ring"] + statistics["unix"]
    total = fast + statistics["kernel"]
    return 100 * fast / total if total else None


def measure(bench, row, transport):
    """Runs one point. Never raises for what a program does: the result then has "error"."""
    try:
        with Point(bench, row, transport) as point:
            try:
                figures = row.measure(point)
                point.stop_server()
                statistics = point.statistics()
                if transport == FASTLOCAL and row.preload and row.statistics and statistics is None:
                    raise PointFailed("the library was not loaded: it left no statistics")
            except (OSError, ValueError, KeyError, IndexError, AttributeError) as error:
                raise PointFailed(f"not understood: {type(error).__name__}: {error}") from error
            return {"figures": figures, "statistics": statistics, "ring_percent": ring_percent(statistics)}
    except PointFailed as error:
        return {"error": str(error)}
