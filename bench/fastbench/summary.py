# SPDX-License-Identifier: MIT
"""From points to figures. Works on the JSON document of a run alone, so that old runs can be read again."""

from collections import Counter
from dataclasses import dataclass
from statistics import median

from .point import FASTLOCAL, RING, TCP, UNIX


@dataclass(frozen=True)
class Spread:
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        values = [v for v in values if v is not None]
        return cls(median(values), min(values), max(values)) if values else None


class RowSummary:
    def __init__(self, row, points):
        self.row = row
        self._rounds = {}  # transport -> {round: point}
        for point in points:
            self._rounds.setdefault(point["transport"], {})[point["round"]] = point

    def __getattr__(self, name):
        try:
            return self.row[name]
        except KeyError:
            raise AttributeError(name) from None

    def label(self):
        return self.name + (f", {self.placement}" if self.placement else "")

    def _figures(self, transport, key):
        rounds = self._rounds.get(transport, {})
        return {n: p["figures"].get(key) for n, p in rounds.items() if "error" not in p}

    def spread(self, transport, key="value"):
        return Spread.of(self._figures(transport, key).values())

    def ratio(self, transport, base, key="value", better=None):
        """How many times better: each round against the same round's base, then the median."""
        ours, theirs = self._figures(transport, key), self._figures(base, key)
        pairs = [(ours[n], theirs[n]) for n in ours if theirs.get(n) and ours[n]]
        if (better or self.better) == "lower":
            pairs = [(b, a) for a, b in pairs]
        return Spread.of([a / b for a, b in pairs])

    def difference(self, transport, base):
        ours, theirs = self._figures(transport, "value"), self._figures(base, "value")
        return Spread.of([ours[n] - theirs[n] for n in ours if n in theirs])

    def ring_percent(self):
        spread = Spread.of([p.get("ring_percent") for p in self._rounds.get(FASTLOCAL, {}).values()])
        return spread.median if spread else None

    def has(self, key):
        return any(v is not None for t in self._rounds for v in self._figures(t, key).values())

    def failed(self, transport):
        """(failed rounds, all rounds)"""
        rounds = self._rounds.get(transport, {}).values()
        return sum("error" in p for p in rounds), len(rounds)

    def errors(self):
        """[(transport, what, how often)]"""
        counts = Counter((t, p["error"]) for t, rounds in self._rounds.items() for p in rounds.values() if "error" in p)
        return [(t, e, n) for (t, e), n in counts.items()]


def summarise(document):
    by_row = {}
    for point in document["points"]:
        by_row.setdefault(point["row"], []).append(point)
    return [RowSummary(row, by_row.get(row["key"], [])) for row in document["rows"]]


TRANSPORT_NAMES = {TCP: "TCP", UNIX: "AF_UNIX", FASTLOCAL: "fastlocal", RING: "bare ring"}
