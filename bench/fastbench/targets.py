# SPDX-License-Identifier: MIT
"""What this stage promises, and whether a run kept it."""

from dataclasses import dataclass

from .point import FASTLOCAL, TCP, UNIX
from .summary import TRANSPORT_NAMES


@dataclass(frozen=True)
class Target:
    text: str
    tags: frozenset    # of the rows that it judges; the worst of them counts
    kind: str          # "ratio": fastlocal / base at least; "tail": the same of p99.9; "extra": fastlocal - TCP below;
                       # "value": fastlocal below
    limit: float
    unit: str = ""
    base: str = TCP

    def judges(self, row):
        return self.tags <= set(row.tags) and (self.kind != "tail" or row.has("p999_us") and "noise" not in row.tags)

    def figure(self, row):
        if self.kind == "ratio":
            return row.ratio(FASTLOCAL, self.base)
        if self.kind == "tail":
            return row.ratio(FASTLOCAL, self.base, "p999_us", better="lower")
        return row.difference(FASTLOCAL, TCP) if self.kind == "extra" else row.spread(FASTLOCAL)

    def at_least(self):
        return self.kind in ("ratio", "tail")

    def kept_by(self, value):
        return value >= self.limit if self.at_least() else value < self.limit

    def limit_text(self):
        return f"at least {self.limit:g}x {TRANSPORT_NAMES[self.base]}" if self.at_least() else \
            f"below {self.limit:g} {self.unit}"

    def value_text(self, value):
        return f"{value:.2f}x" if self.at_least() else f"{value:.2f} {self.unit}"


def ratios(text, tags, tcp, unix=None):
    yield Target(text, frozenset(tags), "ratio", tcp)
    if unix:
        yield Target(text, frozenset(tags), "ratio", unix, base=UNIX)


def target(text, tags, kind, limit, unit=""):
    return Target(text, frozenset(tags), kind, limit, unit)


TARGETS = [
    *ratios("request-response of 1 byte, two CPUs", ["rr 1", "two CPUs"], 100, 60),
    *ratios("request-response of 1 byte, not pinned", ["rr 1", "anywhere"], 100, 60),
    *ratios("request-response of 1 byte, one CPU", ["rr 1", "one CPU"], 2, 1.3),
    *ratios("stream of 64 B writes, two CPUs", ["stream 64", "two CPUs"], 20, 20),
    *ratios("stream of 16 KB writes, two CPUs", ["stream 16384", "two CPUs"], 3.5, 1.8),
    *ratios("stream of 16 KB writes, one CPU", ["stream 16384", "one CPU"], 1.8, 1.1),
    *ratios("stream of 1 MB writes, two CPUs", ["stream 1048576", "two CPUs"], 2.5, 1.5),
    *ratios("redis GET, 1 client", ["redis GET 1"], 6, 3),
    *ratios("redis GET, 50 clients", ["redis GET 50"], 3, 2),
    *ratios("redis GET, 500 clients", ["redis GET 500"], 2, 1.4),
    *ratios("redis GET, 50 clients, 16 pipelined", ["redis pipelined"], 2, 1.6),
    *ratios("nginx keep-alive under wrk", ["wrk"], 2.8),
    *ratios("PostgreSQL, pgbench -S", ["pgbench -S"], 1.3, 1.05),
    *ratios("request-response beside busy loops", ["busy", "rr"], 1.2, 1),
    *ratios("programs beside four busy loops", ["busy", "program"], 1.2, 1),
    *ratios("request-response, half a CPU each", ["quota", "rr"], 1.2, 1),
    *ratios("programs, half a CPU each", ["quota", "program"], 1.2, 1),
    *ratios("a connection for each request", ["reconnect"], 0.98),
    *ratios("only one end has the library", ["one end"], 0.98),
    target("p99.9 latency, every row", [], "tail", 1),
    target("start-up of the library", ["start-up"], "extra", 1, "ms"),
    target("round trip beside 10,000 idle connections", ["idle"], "value", 1.1, "times"),
    target("memory of an idle paired connection", ["memory"], "value", 8, "KB"),
]


def judge(rows, one):
    """(verdict, figure, which row) of one target: the worst of its rows. A failed round is a failure."""
    judged = [row for row in rows if one.judges(row)]
    if any(row.failed(FASTLOCAL)[0] for row in judged):
        bad = next(row for row in judged if row.failed(FASTLOCAL)[0])
        return "FAIL", "rounds failed", bad.label()
    figures = [(one.figure(row), row) for row in judged]
    figures = [(figure.median, row) for figure, row in figures if figure]
    if not figures:
        return "not measured", "", ""
    value, row = (min if one.at_least() else max)(figures, key=lambda pair: pair[0])
    partial = " (not all rows measured)" if len(figures) < len(judged) else ""
    return "pass" if one.kept_by(value) else "FAIL", one.value_text(value), row.label() + partial
