# SPDX-License-Identifier: MIT
"""What is measured: one Row for each line of the tables."""

import os
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Callable

from . import programs
from .point import FASTLOCAL, RING, TCP, UNIX

ALL, NO_UNIX = (TCP, UNIX, FASTLOCAL), (TCP, FASTLOCAL)
# A bare ring does nothing but spin, so that it is the limit only where each end has a CPU.
WITH_LIMIT = {"two CPUs": {"transports": (*ALL, RING)}}
BOTH = ("server", "client")


@dataclass(frozen=True)
class Row:
    group: str
    name: str
    measure: Callable  # Point -> figures
    unit: str = "exchanges/s"
    transports: tuple = ALL
    better: str = "higher"
    placement: str = ""      # as printed
    cpus: tuple = None       # (server's, client's)
    busy: int = 0            # busy loops beside
    quota: float = 0         # processors that each end may use, as a container is limited; 0: no limit
    preload: tuple = BOTH    # which ends have the library, on the transport fastlocal
    statistics: bool = True  # a preloaded process leaves statistics
    repeat: int = 1          # measurements in each round: more where chance decides much
    needs: tuple = ()        # programs
    tags: frozenset = field(default_factory=frozenset)  # what targets.py looks for


def two_cpus():
    """Two processors that we may use; the same one twice where there is no second."""
    cpus = sorted(os.sched_getaffinity(0))
    return (cpus[0], cpus[1 % len(cpus)])


def placements():
    first, second = two_cpus()
    return {
        "two CPUs": {"cpus": (first, second)},
        "one CPU": {"cpus": (first, first)},
        "anywhere": {},
        # Where the scheduler puts the ends makes a factor of five here, with or without the library.
        "busy": {"busy": 4, "repeat": 2},
        "quota": {"quota": 0.5},
    }


PLACEMENT_TEXT = {"two CPUs": "two CPUs", "one CPU": "one CPU", "anywhere": "not pinned",
                  "busy": "not pinned, 4 busy loops", "quota": "half a CPU each"}


def size_text(size):
    if size >= 1 << 20:
        return f"{size >> 20} MB"
    return f"{size >> 10} KB" if size >= 1024 else f"{size} B"


def placed(where, *tags, **kwargs):
    return Row(placement=PLACEMENT_TEXT[where], tags=frozenset({where, *tags}), **placements()[where], **kwargs)


def request_response_rows():
    for where in placements():
        for size in (1, 64, 1024, 16384):
            yield placed(where, "rr", f"rr {size}", group="Request-response", name=f"rr {size_text(size)}",
                         measure=partial(programs.rr, size=size), **WITH_LIMIT.get(where, {}))
    for where in ("two CPUs", "one CPU"):
        yield placed(where, group="Request-response", name="rr 64 B, connection for 30 requests",
                     measure=partial(programs.rr, size=64, reconnect=30))
    for loops in (1, 2, 8):
        yield Row(group="Request-response", name="rr 64 B", placement=f"not pinned, {loops} busy loop{'s' * (loops > 1)}",
                  busy=loops, repeat=2, tags=frozenset({"busy", "rr"}), measure=partial(programs.rr, size=64))
    for connections in (1, 50):
        yield placed("two CPUs", "epoll", group="Request-response", name=f"rr 64 B, epoll, {connections} conn.",
                     measure=partial(programs.rr, size=64, epoll=True, connections=connections))


def stream_rows():
    for where in ("two CPUs", "one CPU"):
        for size in (64, 1024, 16384, 1 << 20):
            yield placed(where, "stream", f"stream {size}", group="Stream", name=f"stream, {size_text(size)} writes",
                         unit="MB/s", measure=partial(programs.stream, size=size), **WITH_LIMIT.get(where, {}))
    yield placed("two CPUs", group="Stream", name="stream, 64 B writes, Nagle on", unit="MB/s",
                 measure=partial(programs.stream, size=64, nagle=True))
    yield placed("two CPUs", group="Stream", name="stream, 16 KB writes, from the server", unit="MB/s",
                 measure=partial(programs.stream, size=16384, reverse=True))


def program_row(name, measure, *needs, unit="requests/s", tags=(), where=None, **kwargs):
    placement = {"placement": PLACEMENT_TEXT[where], **placements()[where]} if where else {}
    return Row(group="Programs", name=name, measure=measure, unit=unit, needs=needs,
               tags=frozenset(tags) | ({where} if where else set()), **placement, **kwargs)


def redis_rows():
    needs = ("redis-server", "redis-benchmark")
    for clients in (1, 50, 500):
        yield program_row(f"redis GET, {clients} client{'s' * (clients > 1)}",
                          partial(programs.redis, test="get", clients=clients), *needs, tags=[f"redis GET {clients}"])
    yield program_row("redis GET, 50 clients, 16 pipelined",
                      partial(programs.redis, test="get", clients=50, pipeline=16), *needs, tags=["redis pipelined"])
    yield program_row("redis SET of 16 KB, 50 clients",
                      partial(programs.redis, test="set", clients=50, size=16384), *needs)
    for where in ("busy", "quota"):
        yield program_row("redis GET, 50 clients", partial(programs.redis, test="get", clients=50), *needs, where=where,
                          tags=["program"])


def postgres_rows():
    needs = [str(programs.postgres_program(name)) for name in ("postgres", "pgbench")]

    def row(name, where=None, tags=(), **kwargs):
        return program_row(f"PostgreSQL, pgbench {name}, 8 clients", partial(programs.pgbench, **kwargs), *needs,
                           unit="transactions/s", tags=["postgres", *tags], where=where)

    yield row("-S", tags=["pgbench -S"])
    yield row("TPC-B", script=())
    for where in ("busy", "quota"):
        yield row("-S", where, tags=["program"])


def pair_rows():
    pairs = programs.PAIRS
    for name, program, warmup in (("node", ["node", pairs / "node_pair.js"], 0.5),
                                  ("Python asyncio", ["python3", pairs / "asyncio_pair.py"], 0.3),
                                  ("JVM", ["java", pairs / "Pair.java"], 1)):
        for connections in (1, 16):
            yield program_row(f"{name}, 64 B, {connections} connection{'s' * (connections > 1)}",
                              partial(programs.pair, program=program, connections=connections, warmup=warmup), program[0],
                              unit="exchanges/s")


def program_rows():
    yield from redis_rows()
    yield program_row("memcached get, 1 connection", partial(programs.memcached, connections=1), "memcached")
    yield program_row("memcached get, 50 connections", partial(programs.memcached, connections=50), "memcached")
    nginx = {"transports": NO_UNIX}
    yield program_row("nginx keep-alive, wrk, 16 connections", programs.wrk, "nginx", "wrk", tags=["wrk"], **nginx)
    yield program_row("nginx before nginx, wrk, 16 connections", partial(programs.wrk, start=programs.start_proxy),
                      "nginx", "wrk", **nginx)
    for where in ("busy", "quota"):
        yield program_row("nginx keep-alive, wrk, 16 connections", programs.wrk, "nginx", "wrk", where=where,
                          tags=["program"], **nginx)
    yield program_row("nginx, connection per request, ab -c 4", programs.ab, "nginx", "ab", tags=["reconnect"], **nginx)
    yield from postgres_rows()
    yield from pair_rows()
    for name, options in (("one stream", ()), ("one stream, from the server", ("-R",)), ("4 streams", ("-P", "4"))):
        yield program_row(f"iperf3, {name}", lambda point, options=options: programs.iperf3(point, *options), "iperf3",
                          unit="MB/s", transports=NO_UNIX)
    yield program_row("sockperf ping-pong, 14 B", programs.sockperf, "sockperf", unit="us round trip", better="lower",
                      transports=NO_UNIX)


def bystander_rows():
    """Where the library cannot help it must not hurt."""
    group = "Nothing to gain"
    for where in ("two CPUs", "one CPU", "busy"):
        yield replace(placed(where, group=group, name="rr 1 B, neither has it: TCP against TCP, the noise", preload=(),
                             transports=NO_UNIX, measure=programs.rr), tags=frozenset({"noise"}))
    for side in BOTH:
        yield placed("two CPUs", "one end", group=group, name=f"rr 1 B, only the {side} has the library",
                     preload=(side,), transports=NO_UNIX, measure=programs.rr)
    for where in ("two CPUs", "one CPU"):
        yield placed(where, "reconnect", group=group, name="rr 1 B, connection per request",
                     measure=partial(programs.rr, reconnect=1))


def cost_rows():
    group = "The library's own cost"
    yield Row(group=group, name="start and end of /bin/true", unit="ms per process", better="lower", transports=NO_UNIX,
              measure=programs.start_up, statistics=False, tags=frozenset({"start-up"}))
    for exchanges, size in ((100, 64), (20000, 64), (100, 100000)):
        text = f"{exchanges} exchanges of {size_text(size)}"
        yield Row(group=group, name=f"memory of an idle paired connection, after {text}", unit="KB", better="lower",
                  transports=(FASTLOCAL,), measure=partial(programs.idle_memory, exchanges=exchanges, size=size),
                  tags=frozenset({"memory"} if exchanges == 100 else ()))
    yield placed("two CPUs", "idle", group=group, name="round trip, 64 B, epoll, beside 10,000 idle paired connections",
                 unit="times as long", better="lower", transports=(FASTLOCAL,),
                 measure=partial(programs.idle_beside, idle=10000))


def all_rows():
    return [*request_response_rows(), *stream_rows(), *program_rows(), *bystander_rows(), *cost_rows()]
