# SPDX-License-Identifier: MIT
"""The driver of bench/run.

rows.py says what is measured, programs.py how each program is run, runner.py in which order, process.py keeps every
process on a leash, summary.py turns points into figures, targets.py judges them, report.py and plot.py write them down.
"""
