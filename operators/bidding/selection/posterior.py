"""What is believed of each aggregator's value, and how likely each is among the best. Pure arithmetic.

The value of a call is the price of the valid bid that it brought, or 0. Most calls bring 0, so single values are far
from normal; their mean over tens of calls is near enough, and tens of calls are what a policy waits for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from hashlib import blake2b
from statistics import NormalDist

# Four imagined calls with the mean and spread of all aggregators together. Without them, thirty calls without a bid
# would prove with certainty that an aggregator never bids; with them it keeps a deviation of the size of its mean.
_IMAGINED_CALLS = 4.0
# A rescaling every twenty half-lives keeps the growing weight far from the end of floating point.
_MAX_WEIGHT = 2.0**20
# Of prices in millionths: no difference that matters, and no division by zero where all values are equal.
_MIN_VARIANCE = 1.0


class ForgettingValues:
    """Sums of the values of calls per arm, old ones counting less.

    An arm is an aggregator by its index. Everything counts half after `half_life` lessons, whichever arm they were
    about: an arm that is seldom called becomes uncertain, and so is called again. Instead of shrinking all sums at each
    lesson, the weight of the newest grows.
    """

    def __init__(self, arms: int, half_life: float) -> None:
        self._growth = 2.0 ** (1.0 / half_life)
        self._weight = 1.0
        self._counts = [0.0] * arms
        self._sums = [0.0] * arms
        self._squares = [0.0] * arms

    def add(self, values: Sequence[tuple[int, int]]) -> None:
        """One lesson: the value of a call, in millionths, by arm."""
        self._weight *= self._growth
        for arm, value in values:
            weighted = self._weight * value
            self._counts[arm] += self._weight
            self._sums[arm] += weighted
            self._squares[arm] += weighted * value
        if self._weight > _MAX_WEIGHT:
            self._rescale()

    def calls(self) -> list[float]:
        """How many calls each arm's sums are worth today."""
        return [count / self._weight for count in self._counts]

    def posterior(self, arms: Sequence[int]) -> list[tuple[float, float]]:
        """Mean and standard deviation of the belief in each arm's mean value, in millionths.

        Normal, with the variance of the arm's own values, both drawn towards those of all `arms` together by
        `_IMAGINED_CALLS` (empirical Bayes). At least one of the arms has been called.
        """
        pooled_calls = sum(self._counts[arm] for arm in arms)
        pooled_mean = sum(self._sums[arm] for arm in arms) / pooled_calls
        pooled_square = sum(self._squares[arm] for arm in arms) / pooled_calls
        imagined = _IMAGINED_CALLS * self._weight
        beliefs = []
        for arm in arms:
            count = self._counts[arm] + imagined
            mean = (self._sums[arm] + imagined * pooled_mean) / count
            variance = (self._squares[arm] + imagined * pooled_square) / count - mean * mean
            beliefs.append((mean, math.sqrt(max(variance, _MIN_VARIANCE) * self._weight / count)))
        return beliefs

    def _rescale(self) -> None:
        for sums in (self._counts, self._sums, self._squares):
            sums[:] = [value / self._weight for value in sums]
        self._weight = 1.0


def among_best(beliefs: Sequence[tuple[float, float]], calls: int, draws: int) -> list[float]:
    """Probability that each arm is among the `calls` best, by `draws` fixed draws from the normal `beliefs`.

    The probabilities add up to `calls`, or to the number of arms if that is less. Fixed draws make the result a
    function of the beliefs alone, so a replay repeats it.
    """
    arms = range(len(beliefs))
    if calls >= len(beliefs):
        return [1.0 for _ in arms]
    hits = [0] * len(beliefs)
    for row in _normal_draws(draws, len(beliefs)):
        values = [mean + deviation * z for (mean, deviation), z in zip(beliefs, row, strict=True)]
        for arm in sorted(arms, key=values.__getitem__, reverse=True)[:calls]:
            hits[arm] += 1
    return [hit / draws for hit in hits]


@cache
def _normal_draws(draws: int, arms: int) -> tuple[tuple[float, ...], ...]:
    """A Latin hypercube of standard normal draws (McKay, Beckman and Conover 1979): `draws` rows of `arms` columns.

    Each column holds the midpoints of `draws` equally likely strata once, in an order of its own that follows from
    hashes. 128 such rows are as good as some 380 independent ones (measured: two best of eight), as no column is lucky.
    """
    normal = NormalDist()
    strata = [normal.inv_cdf((index + 0.5) / draws) for index in range(draws)]
    columns = [sorted(strata, key=partial(_shuffle_key, arm)) for arm in range(arms)]
    return tuple(zip(*columns, strict=True))


def _shuffle_key(arm: int, z: float) -> bytes:
    return blake2b(f"{arm}\0{z!r}".encode(), digest_size=8).digest()
