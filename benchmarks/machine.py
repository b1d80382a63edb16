"""What every measurement says about where it was made, and how it sums up several rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """Several rounds of one figure."""

    median: float
    lowest: float
    highest: float
    rounds: int

    def __str__(self) -> str:
        if self.rounds == 1:
            return f"{self.median:,.2f}"
        return f"{self.median:,.2f} ({self.lowest:,.2f} to {self.highest:,.2f}, {self.rounds} rounds)"


def spread(figures: Sequence[float]) -> Spread:
    """Median and ends of a few rounds."""
    return Spread(statistics.median(figures), min(figures), max(figures), len(figures))


def percentile(figures: Sequence[float], share: float) -> float:
    """Nearest-rank percentile; `share` from 0 to 1."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
