# SPDX-License-Identifier: MIT
"""docs/performance.md, and the same text on the terminal."""

from .point import FASTLOCAL, RING, TCP, UNIX
from .summary import TRANSPORT_NAMES, summarise
from .targets import TARGETS, judge

HEAD = """<!-- Written by bench/run. Do not edit: run it again. -->
# Performance

Programs on the kernel's TCP, on AF_UNIX where they have it, and on TCP with fastlocal preloaded, measured side by side
in one run. The same unmodified binaries run each time; fastlocal is the environment variable `LD_PRELOAD` and nothing
else.

"""

METHOD = """
## How it is measured

`bench/run` makes this page; `bench/run --quick` does so in a few minutes, `--rows REGEX` looks at some rows, and every
run keeps its points in `bench/results/*.json`, from which `--from FILE` makes the page again.

- For each point a fresh server and a fresh client are started, with or without the library, warmed up and measured.
  Transports follow each other directly, in an order that rotates from round to round.
- A figure is the median over the rounds, with the lowest and the highest beside it. **A ratio is the median of the
  rounds' own ratios**, each between points measured one after the other; above 1 is better, for times as for rates.
- "Ring" is the share of all bytes of the row's connections that did not go through the kernel's TCP, as the library
  itself counted.
- Programs of our own (`bench/rr.c`, `bench/stream.c`, `bench/mcload.c`) use the plain sockets API, set TCP_NODELAY
  unless the row says otherwise, and know nothing of fastlocal. "Two CPUs": each end is pinned to its own; "one CPU":
  both are pinned to the same.
- "Bare ring" is `bench/ring.c`: the same messages through `shmring/` alone, two processes that spin, without sockets,
  locks, or a second lane. It is what the library's own code could reach at best.
- The programs under "Programs" are not pinned. PostgreSQL runs with fsync off and one scale-5
  database for the run; redis without persistence; nginx with one worker and a file of 612 bytes; memcached with its
  default four threads.
- "TCP against TCP" has the library at neither end: what its ratio is away from 1, and its spread, is the noise.
- A round that hangs or fails is shown as failed, and listed with its reason. No row is left out.
"""


def number(value):
    if value is None:
        return ""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread_text(spread):
    return f"{number(spread.median)} <sub>{number(spread.low)}–{number(spread.high)}</sub>" if spread else ""


def ratio_text(ratio):
    return f"{number(ratio.median)}x <sub>{number(ratio.low)}–{number(ratio.high)}</sub>" if ratio else ""


def table(header, lines):
    yield "| " + " | ".join(header) + " |"
    yield "| " + " | ".join("---" if i == 0 else "---:" for i in range(len(header))) + " |"
    for line in lines:
        yield "| " + " | ".join(line) + " |"
    yield ""


def cell(row, transport, key="value"):
    if transport not in row.transports:
        return "–"
    failed, rounds = row.failed(transport)
    text = spread_text(row.spread(transport, key))
    if failed:
        return f"{text} **failed {failed}/{rounds}**".strip()
    return text if text else row.row.get("skipped") and "skipped" or "not measured"


def main_line(row, limit):
    ring = row.ring_percent()
    beyond = [cell(row, RING), ratio_text(row.ratio(FASTLOCAL, RING))] if limit else []
    return [row.label(), *(cell(row, t) for t in (TCP, UNIX, FASTLOCAL)), ratio_text(row.ratio(FASTLOCAL, TCP)),
            ratio_text(row.ratio(FASTLOCAL, UNIX)), "" if ring is None else f"{ring:.0f} %", *beyond]


def group_tables(rows):
    for group in dict.fromkeys(row.group for row in rows):
        yield f"## {group}"
        yield ""
        for unit in dict.fromkeys(row.unit for row in rows if row.group == group):
            members = [row for row in rows if row.group == group and row.unit == unit]
            limit = any(RING in row.transports for row in members)
            yield from table([unit, "TCP", "AF_UNIX", "fastlocal", "÷ TCP", "÷ AF_UNIX", "ring",
                              *["bare ring", "÷ bare ring"] * limit], (main_line(row, limit) for row in members))


def latency_tables(rows):
    keys = (("p50_us", "p50"), ("p99_us", "p99"), ("p999_us", "p99.9"))
    rows = [row for row in rows if row.has("p50_us")]
    if not rows:
        return

    def cells(row):
        for transport in (TCP, UNIX, FASTLOCAL, RING):
            spreads = [row.spread(transport, key) for key, _ in keys]
            yield " / ".join(number(s.median) for s in spreads if s)

    yield "## Latency"
    yield ""
    yield "Microseconds for an exchange, p50 / p99 / p99.9 (redis: p50 / p99); medians of the rounds."
    yield ""
    yield from table(["", *(TRANSPORT_NAMES[t] for t in (TCP, UNIX, FASTLOCAL, RING))],
                     ([row.label(), *cells(row)] for row in rows))


def cpu_tables(rows):
    for key, unit, what in (("cpu_us", "us", "for an exchange"), ("cpu_ns_per_byte", "ns", "for a byte")):
        members = [row for row in rows if row.has(key)]
        if not members:
            continue
        yield f"## Processor time {what}"
        yield ""
        yield "Both ends, user and system (getrusage); spinning included. Below 1x is more than TCP takes."
        yield ""
        yield from table([unit, "TCP", "AF_UNIX", "fastlocal", "TCP ÷ fastlocal"],
                         ([row.label(), *(cell(row, t, key) for t in (TCP, UNIX, FASTLOCAL)),
                           ratio_text(row.ratio(FASTLOCAL, TCP, key, better="lower"))] for row in members))


def target_table(rows):
    yield "## Targets of this stage"
    yield ""
    lines = []
    for one in TARGETS:
        verdict, figure, where = judge(rows, one)
        lines.append([one.text, one.limit_text(), figure, verdict, where])
    yield from table(["", "target", "measured", "", "worst row"], lines)


def machine_table(document):
    machine, options = document["machine"], document["options"]
    other = document.get("other_load") or {}
    environment = ", ".join(f"{k}={v}" for k, v in machine["environment"].items())
    lines = [
        ["processors", f"{machine['cpus']} x {machine['cpu']}"],
        ["memory", f"{machine['memory_gb']} GB"],
        ["system", f"{machine['system']}, {machine['kernel']}, {machine['libc']}, clock {machine['clock']}"],
        ["virtualisation", f"{machine['virtualisation']} (hypervisor: {machine['hypervisor']})"],
        ["fastlocal", f"{machine['version']}, commit {machine['commit']}{', ' if environment else ''}{environment}"],
        ["date", f"{machine['date']}, {options['took_s']:.0f} s"],
        ["rounds", f"{options['rounds']} of {options['seconds']:g} s each{' (quick run)' if options['quick'] else ''}"],
        ["noise", f"{other.get('others_percent', 0):.1f} % of the processors taken by others meanwhile, "
                  f"{other.get('steal_percent', 0):.1f} % stolen by the hypervisor"],
    ]
    yield "## The machine"
    yield ""
    yield from table(["", ""], lines)


def trouble_list(rows):
    skipped = [row for row in rows if row.row.get("skipped")]
    failed = [row for row in rows if row.errors()]
    if not skipped and not failed:
        return
    yield "## Failed and skipped"
    yield ""
    for row in failed:
        for transport, error, times in row.errors():
            yield f"- **{row.label()}**, {TRANSPORT_NAMES[transport]}, {times}x: `{error.replace('`', chr(39))}`"
    for row in skipped:
        yield f"- {row.label()}: skipped, {row.row['skipped']}"
    yield ""


def markdown(document, plots=()):
    rows = summarise(document)
    lines = [*target_table(rows)]
    for title, path in plots:
        lines += [f"![{title}]({path})", ""]
    lines += [*trouble_list(rows), *machine_table(document)]
    lines += [*group_tables(rows), *latency_tables(rows), *cpu_tables(rows)]
    return HEAD + "\n".join(lines) + METHOD
