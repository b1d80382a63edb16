"""Policies that learn nothing: everyone, one after the other, each with its probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from operators.bidding.selection.draws import independent
from operators.bidding.selection.protocol import Choice, Context, Lesson, Selection


class _Fixed:
    """What these policies share: no model, nothing to learn."""

    model_version: str | None = None

    def learn(self, channel_id: str, outcomes: Sequence[Lesson]) -> None:
        """Nothing."""


class CallAll(_Fixed):
    """Everyone at once, with certainty."""

    name = "all"

    def __init__(self, aggregators: tuple[str, ...]) -> None:
        self._selection = Selection(choices=tuple(Choice(name, 1.0, 0) for name in aggregators), policy=self.name)

    def select(self, context: Context) -> Selection:  # noqa: ARG002 - the same for all
        """Choose."""
        return self._selection


class Waterfall(_Fixed):
    """One after the other: a call costs less than a lost bid is worth, and the order is a matter of contracts.

    Args:
        aggregators: All of them.
        order: Those asked first; the others follow in their own order.
    """

    name = "waterfall"

    def __init__(self, aggregators: tuple[str, ...], order: tuple[str, ...]) -> None:
        turns = {name: turn for turn, name in enumerate(dict.fromkeys((*order, *aggregators)))}
        choices = tuple(Choice(name, 1.0, turns[name], turns[name]) for name in aggregators)
        self._selection = Selection(choices=choices, policy=self.name)

    def select(self, context: Context) -> Selection:  # noqa: ARG002 - the same for all
        """Choose."""
        return self._selection


class Weighted(_Fixed):
    """Each by its own probability, independently.

    It may be that nobody is drawn, and then nobody is called. The weights are a promise about traffic: calling someone
    all the same would give the aggregator with the largest weight more than was configured, and two aggregators of
    0.1 would be called in every auction.

    Args:
        aggregators: All of them.
        weights: Probability by name; those not named have 1.
        min_probability: Lower bound of every probability.
    """

    name = "weighted"

    def __init__(self, aggregators: tuple[str, ...], weights: Mapping[str, float], min_probability: float) -> None:
        self._candidates = tuple((name, max(weights.get(name, 1.0), min_probability)) for name in aggregators)

    def select(self, context: Context) -> Selection:
        """Choose."""
        drawn = independent(context.auction_id, self._candidates)
        choices = tuple(
            Choice(name, probability, 0 if called else None)
            for (name, probability), called in zip(self._candidates, drawn, strict=True)
        )
        return Selection(choices=choices, policy=self.name)
