"""The distributions behind the fleet, each exact by construction."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

from simulator.fleet.timeline import DAY_MS, HOUR_MS


class LogLinearQuantiles:
    """Distribution given by quantiles; the logarithm of the value is linear in the probability between them.

    Args:
        quantiles: `(probability, value)`, from probability 0 to 1, values positive and rising.
    """

    def __init__(self, quantiles: Sequence[tuple[float, float]]) -> None:
        self._probabilities = [p for p, _ in quantiles]
        self._logs = [math.log(value) for _, value in quantiles]
        if self._probabilities[0] != 0.0 or self._probabilities[-1] != 1.0:
            raise ValueError(f"quantiles must run from probability 0 to 1, not {quantiles!r}")
        if any(q[0] >= r[0] or q[1] >= r[1] for q, r in pairwise(quantiles)):
            raise ValueError(f"quantiles must rise: {quantiles!r}")

    def value(self, probability: float) -> float:
        """Inverse of the distribution function at `probability` in [0, 1)."""
        probabilities, logs = self._probabilities, self._logs
        i = bisect_right(probabilities, probability)
        p, q = probabilities[i - 1], probabilities[i]
        return math.exp(logs[i - 1] + (logs[i] - logs[i - 1]) * (probability - p) / (q - p))


class DailyCurve:
    """Share of boxes that are on by the time of day: linear between knots, and across midnight.

    Args:
        knots: `(hour, share)`, hours rising in [0, 24) and starting with 0.
    """

    def __init__(self, knots: Sequence[tuple[float, float]]) -> None:
        if knots[0][0] != 0.0:
            raise ValueError(f"the curve must start at hour 0, not {knots[0][0]}")
        points = [*knots, (24.0, knots[0][1])]
        self._times = [int(hour * HOUR_MS) for hour, _ in points]
        self._shares = [share for _, share in points]

    def share(self, at_ms: int) -> float:
        """Share at `at_ms` behaviour time."""
        time = at_ms % DAY_MS
        i = bisect_right(self._times, time)
        start, end = self._times[i - 1], self._times[i]
        low, high = self._shares[i - 1], self._shares[i]
        return low + (high - low) * (time - start) / (end - start)

    def next_crossing(self, level: float, after_ms: int, until_ms: int) -> int:
        """First time in (after_ms, until_ms] at which the curve has changed sides of `level`, else `until_ms`."""
        above = self.share(after_ms) > level
        midnight = after_ms - after_ms % DAY_MS
        i = bisect_right(self._times, after_ms - midnight)
        while True:
            start, end = midnight + self._times[i - 1], midnight + self._times[i]
            low, high = self._shares[i - 1], self._shares[i]
            if (high > level) != above:
                crossing = start + math.ceil((level - low) / (high - low) * (end - start))
                return min(until_ms, max(after_ms + 1, crossing))
            if end >= until_ms:
                return until_ms
            i += 1
            if i == len(self._times):
                i, midnight = 1, midnight + DAY_MS


class ChannelChoice:
    """Which channel a viewer turns to: Zipf shares, though nobody turns to the channel that is on already.

    Simply skipping the present channel would favour the unpopular ones. Drawing from weights w among the others is a
    reversible Markov chain whose stationary shares are proportional to w_i (1 - w_i); so we look for the w that makes
    these the Zipf shares.
    """

    def __init__(self, channels: int, exponent: float) -> None:
        raw = [(rank + 1) ** -exponent for rank in range(channels)]
        total = sum(raw)
        self.shares = [value / total for value in raw]
        self._first = _cumulated(self.shares)
        weights = _weights_without_repeat(self.shares)
        self._weights = weights
        self._other = _cumulated(weights)

    def first(self, probability: float) -> int:
        """Channel of a viewer who just switched on."""
        return bisect_right(self._first, probability)

    def other(self, current: int, probability: float) -> int:
        """Channel that a viewer of `current` turns to."""
        cumulated, weight = self._other, self._weights[current]
        below = cumulated[current] - weight
        point = probability * (cumulated[-1] - weight)
        if point >= below:
            point += weight
        choice = min(bisect_right(cumulated, point), len(cumulated) - 1)
        if choice == current:  # rounding at the edge of the gap
            return current - 1 if current else 1
        return choice


def _cumulated(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    sums = list(accumulate(weight / total for weight in weights))
    sums[-1] = 1.0
    return sums


def _weights_without_repeat(shares: Sequence[float]) -> list[float]:
    """Solve w_i (1 - w_i) ∝ share_i with sum 1, by a damped fixed-point iteration."""
    weights = list(shares)
    for _ in range(500):
        raw = [share / (1 - weight) for share, weight in zip(shares, weights, strict=True)]
        total = sum(raw)
        weights = [(weight + value / total) / 2 for weight, value in zip(weights, raw, strict=True)]
    return weights
