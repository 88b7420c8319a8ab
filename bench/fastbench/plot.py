# SPDX-License-Identifier: MIT
"""Bars of how many times faster than TCP each row is, drawn by gnuplot as SVG."""

import shutil
import subprocess

from .point import FASTLOCAL, TCP, UNIX
from .summary import summarise

PLOTS = [
    ("performance-sockets.svg", "Plain sockets, times as fast as TCP",
     ("Request-response", "Stream", "Nothing to gain")),
    ("performance-programs.svg", "Programs, times as fast as TCP", ("Programs",)),
]

# (transport, colour, vertical middle of its bar within the row's band)
BARS = ((UNIX, "#b0b0b0", 0.2), (FASTLOCAL, "#1f77b4", -0.2))
HALF_HEIGHT = 0.17

SCRIPT = """
set terminal svg size 900,{height} dynamic background rgb 'white' font 'sans-serif,12'
set output '{output}'
set title "{title}" noenhanced
set logscale x
set xrange [{low}:{high}]
set yrange [{bottom}:0.7]
set ytics ({tics}) noenhanced scale 0
set xtics (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) nomirror
set grid xtics lc rgb '#dddddd'
set border 1
set key outside bottom center horizontal
set style fill solid 1.0 noborder
set arrow 1 from 1, graph 0 to 1, graph 1 nohead lc rgb '#444444' lw 1.5 front
{data}
plot {plots}
"""


def quoted(text):
    return '"' + text.replace("\\", "").replace('"', "'") + '"'


def bar_data(rows, transport, middle):
    """x, y, xlow, xhigh, ylow, yhigh, error low, error high"""
    for place, row in enumerate(rows):
        ratio = row.ratio(transport, TCP)
        if ratio:
            y = -place + middle
            low, high = sorted((1.0, ratio.median))
            yield f"{ratio.median} {y} {low} {high} {y - HALF_HEIGHT} {y + HALF_HEIGHT} {ratio.low} {ratio.high}"


def script(rows, title, output):
    series = [(name, colour, list(bar_data(rows, name, middle))) for name, colour, middle in BARS]
    series = [s for s in series if s[2]]
    ratios = [float(line.split()[i]) for s in series for line in s[2] for i in (6, 7)]
    data = "\n".join(f"${name} << EOD\n" + "\n".join(lines) + "\nEOD" for name, _, lines in series)
    names = {UNIX: "AF_UNIX", FASTLOCAL: "fastlocal"}
    plots = ", ".join(
        f"${name} using 1:2:3:4:5:6 with boxxyerror lc rgb '{colour}' title {quoted(names[name])} noenhanced, "
        f"${name} using 1:2:7:8 with xerrorbars pt 0 lw 1 lc rgb '#222222' notitle" for name, colour, _ in series)
    tics = ", ".join(f"{quoted(row.label())} {-place}" for place, row in enumerate(rows))
    return SCRIPT.format(height=110 + 24 * len(rows), output=output, title=title, low=min(0.4, min(ratios) * 0.9),
                         high=max(4, max(ratios) * 1.2), bottom=-len(rows) + 0.4, tics=tics, data=data, plots=plots)


def draw(document, directory):
    """Writes the plots; returns [(title, file name)] of those that were drawn, and why others were not."""
    if shutil.which("gnuplot") is None:
        return [], "gnuplot is not installed (gnuplot-nox): no plots"
    directory.mkdir(parents=True, exist_ok=True)
    drawn, rows = [], summarise(document)
    for name, title, groups in PLOTS:
        members = [row for row in rows if row.group in groups and any(row.ratio(t, TCP) for t, *_ in BARS)]
        if not members:
            continue
        result = subprocess.run(["gnuplot"], input=script(members, title, directory / name), text=True, timeout=60,
                                capture_output=True, check=False)
        if result.returncode != 0:
            return drawn, f"gnuplot failed: {result.stderr.strip()[-300:]}"
        drawn.append((title, name))
    return drawn, ""
