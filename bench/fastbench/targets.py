# SPDX-License-Identifier: MIT
"""What this stage promises, and whether a run kept it."""

from dataclasses import dataclass

from .point import FASTLOCAL, TCP


@dataclass(frozen=True)
class Target:
    text: str
    tags: frozenset    # of the rows that it judges; the worst of them counts
    kind: str          # "ratio": fastlocal / TCP at least; "extra": fastlocal - TCP below; "value": fastlocal below
    limit: float
    unit: str = ""

    def figure(self, row):
        if self.kind == "ratio":
            return row.ratio(FASTLOCAL, TCP)
        return row.difference(FASTLOCAL, TCP) if self.kind == "extra" else row.spread(FASTLOCAL)

    def kept_by(self, value):
        return value >= self.limit if self.kind == "ratio" else value < self.limit

    def limit_text(self):
        return f"at least {self.limit:g}x TCP" if self.kind == "ratio" else f"below {self.limit:g} {self.unit}"

    def value_text(self, value):
        return f"{value:.2f}x" if self.kind == "ratio" else f"{value:.2f} {self.unit}"


def target(text, tags, kind, limit, unit=""):
    return Target(text, frozenset(tags), kind, limit, unit)


TARGETS = [
    target("request-response of 1 byte, two CPUs", ["rr 1", "two CPUs"], "ratio", 50),
    target("redis GET, 50 clients", ["redis GET 50"], "ratio", 1.8),
    target("redis GET, 1 client", ["redis GET 1"], "ratio", 4),
    target("nginx keep-alive under wrk", ["wrk"], "ratio", 2),
    target("stream of 16 KB writes, two CPUs", ["stream 16384", "two CPUs"], "ratio", 2),
    target("everything pinned to one CPU", ["one CPU"], "ratio", 0.95),
    target("request-response beside four busy loops", ["busy"], "ratio", 0.95),
    target("a connection for each request", ["reconnect"], "ratio", 0.95),
    target("only one end has the library", ["one end"], "ratio", 0.95),
    target("start-up of the library", ["start-up"], "extra", 1, "ms"),
    target("memory of an idle paired connection", ["memory"], "value", 16, "KB"),
]


def judge(rows, one):
    """(verdict, figure, which row) of one target: the worst of its rows. A failed round is a failure."""
    judged = [row for row in rows if one.tags <= set(row.tags)]
    if any(row.failed(FASTLOCAL)[0] for row in judged):
        bad = next(row for row in judged if row.failed(FASTLOCAL)[0])
        return "FAIL", "rounds failed", bad.label()
    figures = [(one.figure(row), row) for row in judged]
    figures = [(figure.median, row) for figure, row in figures if figure]
    if not figures:
        return "not measured", "", ""
    value, row = (min if one.kind == "ratio" else max)(figures, key=lambda pair: pair[0])
    partial = " (not all rows measured)" if len(figures) < len(judged) else ""
    return "pass" if one.kept_by(value) else "FAIL", one.value_text(value), row.label() + partial
