"""Thompson sampling with logged probabilities: call those that are likely to bring the most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from datastreamx.model.auction import Outcome
from operators.bidding.selection.draws import independent
from operators.bidding.selection.posterior import ForgettingValues, among_best
from operators.bidding.selection.protocol import Choice, Context, Lesson, Selection

# A change of the rules below is another policy to whoever evaluates the log: count up.
_MODEL_VERSION = "1"
# `EXPIRED` after a call: the bid had won, and we were too late.
_VALID_BID = frozenset({Outcome.WON, Outcome.OUTBID, Outcome.EXPIRED})
# Called in 7 % of the auctions (floor and exploration by default), an aggregator's sums are worth 200 calls: its mean
# is known to about an eighth. When the best one stops bidding, its successor is found some 2,000 auctions later.
_HALF_LIFE_AUCTIONS = 2_000.0
# Fewer calls than this prove nothing about a mean: such an aggregator is called in every auction until they are made.
_MIN_CALLS = 30.0
# Steps of under one percent, far finer than the floor.
_DRAWS = 128
# Probabilities are renewed after a sixteenth more lessons, at the latest after 64. It takes about 0.2 ms.
_RENEWAL_SHARE = 16
_MAX_LESSONS_UNSEEN = 64


class _Group:
    """What is known about all aggregators on the channels of one group.

    Attributes:
        candidates: Aggregators with the probability with which each is drawn.
        probabilities: With which each is called: those, and for the `best` the chance that nobody is drawn.
        best: Index of the one that is called when nobody is drawn.
    """

    __slots__ = (
        "_aggregators",
        "_calls",
        "_lessons",
        "_min_probability",
        "_renew_at",
        "_values",
        "best",
        "candidates",
        "probabilities",
    )

    def __init__(self, aggregators: tuple[str, ...], calls: int, min_probability: float) -> None:
        self._aggregators = aggregators
        self._calls = calls
        self._min_probability = min_probability
        self._values = ForgettingValues(len(aggregators), _HALF_LIFE_AUCTIONS)
        self._lessons = 0
        self._renew_at = 1
        self._publish([1.0] * len(aggregators))

    def learn(self, values: Sequence[tuple[int, int]]) -> None:
        self._values.add(values)
        self._lessons += 1
        if self._lessons >= self._renew_at:
            self._renew_at = self._lessons + min(_MAX_LESSONS_UNSEEN, max(1, self._lessons // _RENEWAL_SHARE))
            self._renew()

    def _renew(self) -> None:
        known = [arm for arm, calls in enumerate(self._values.calls()) if calls >= _MIN_CALLS]
        probabilities = [1.0] * len(self._aggregators)
        if known:
            among = among_best(self._values.posterior(known), self._calls, _DRAWS)
            for arm, probability in zip(known, among, strict=True):
                probabilities[arm] = max(probability, self._min_probability)
        self._publish(probabilities)

    def _publish(self, probabilities: list[float]) -> None:
        nobody = math.prod(1.0 - probability for probability in probabilities)
        self.candidates = tuple(zip(self._aggregators, probabilities, strict=True))
        self.best = max(range(len(probabilities)), key=probabilities.__getitem__)
        self.probabilities = [*probabilities]
        self.probabilities[self.best] = min(1.0, probabilities[self.best] + nobody)


class Thompson:
    """Call each aggregator as often as it is likely to be among the best `calls`.

    Classical Thompson sampling draws a value per arm from the posterior and calls the arms with the highest; the
    probability of that, which an evaluation needs, is never computed. Here it is computed first, from a fixed number of
    such draws whenever enough was learned, raised to the floor, and then each aggregator is drawn independently with
    exactly that probability. So the logged probability is true by construction, and a choice costs one hash per
    aggregator. About `calls` are called on average, not in every auction.

    When nobody is drawn, the one with the highest probability is called: an opportunity that nobody is asked for is
    lost for certain. It is drawn with p, nobody with q (the product of all 1 - p), and the two exclude each other: so
    it is called with exactly p + q, which is what is logged. All others keep their p. A set of two or more, and each
    single one but the best, is chosen with the product of the draws' probabilities, as without this rule.

    The value of an aggregator is what its own bids offer per call, not what it adds to the other bids.

    Args:
        aggregators: All of them, at least one.
        calls: How many of them to be after.
        min_probability: Lower bound of every probability.
        channel_groups: Channel ids by group; all others are one more group. Groups learn separately.
    """

    name = "thompson"
    model_version: str | None = _MODEL_VERSION

    def __init__(
        self,
        aggregators: tuple[str, ...],
        calls: int,
        min_probability: float,
        channel_groups: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._arms = {name: arm for arm, name in enumerate(aggregators)}
        self._others = _Group(aggregators, calls, min_probability)
        groups = {name: _Group(aggregators, calls, min_probability) for name in channel_groups}
        self._groups = {channel: groups[name] for name, channels in channel_groups.items() for channel in channels}

    def select(self, context: Context) -> Selection:
        """Choose."""
        group = self._groups.get(context.channel_id, self._others)
        drawn = independent(context.auction_id, group.candidates)
        if True not in drawn:
            drawn[group.best] = True
        choices = tuple(
            Choice(name, probability, 0 if called else None)
            for name, probability, called in zip(self._arms, group.probabilities, drawn, strict=True)
        )
        return Selection(choices=choices, policy=self.name, model_version=self.model_version)

    def learn(self, channel_id: str, outcomes: Sequence[Lesson]) -> None:
        """Value the calls of a decided auction. Aggregators that are no longer configured are passed over."""
        values = [
            (self._arms[outcome.aggregator], (outcome.price_micros or 0) if outcome.code in _VALID_BID else 0)
            for outcome in outcomes
            # Who was not called has shown nothing, nor has who was still thinking when we closed.
            if outcome.called and outcome.code is not Outcome.CLOSED_EARLY and outcome.aggregator in self._arms
        ]
        if values:
            self._groups.get(channel_id, self._others).learn(values)
