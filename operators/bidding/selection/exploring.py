"""A share of the auctions in which everyone is called."""

from __future__ import annotations

from collections.abc import Sequence

from operators.bidding.selection.draws import draw
from operators.bidding.selection.protocol import Choice, Context, Lesson, Selection, SelectionPolicy


class Exploring:
    """Another policy, except in a share of the auctions, in which everyone is called at once.

    The share is drawn per auction and does not depend on the policy, so the same auctions are explored whatever policy
    runs. In them all bids are known: any policy can be replayed on them without weights.

    A candidate that the policy calls with probability p is called with `explore + (1 - explore) * p`.
    """

    def __init__(self, policy: SelectionPolicy, explore: float) -> None:
        self._policy = policy
        self._explore = explore

    @property
    def name(self) -> str:
        """Name of the policy inside."""
        return self._policy.name

    @property
    def model_version(self) -> str | None:
        """Model of the policy inside."""
        return self._policy.model_version

    def select(self, context: Context) -> Selection:
        """Choose."""
        inner = self._policy.select(context)
        explored = draw(context.auction_id, "explore") < self._explore
        return Selection(
            choices=tuple(self._mixed(choice, explored=explored) for choice in inner.choices),
            policy=inner.policy,
            model_version=inner.model_version,
            explored=explored,
            explore=self._explore,
        )

    def learn(self, channel_id: str, outcomes: Sequence[Lesson]) -> None:
        """Let the policy inside learn, from explored auctions too."""
        self._policy.learn(channel_id, outcomes)

    def _mixed(self, choice: Choice, *, explored: bool) -> Choice:
        # In this form certainty stays exactly 1.0.
        probability = choice.probability + self._explore * (1.0 - choice.probability)
        return Choice(choice.aggregator, probability, 0 if explored else choice.tier, choice.turn)
