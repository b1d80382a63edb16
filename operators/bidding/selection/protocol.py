"""What a policy is told, what it answers, and what may be concluded from the answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from datastreamx.model.auction import AggregatorOutcome, DecidedOutcome, Trigger

Lesson = AggregatorOutcome | DecidedOutcome
"""How one (auction, aggregator) ended, as this process has seen it or as an earlier one has logged it."""


class Context(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a choice may depend on: the features of a model.

    Attributes:
        last_channel_id: Viewing history; `None` also when the viewer's consent keeps it in the house.
        last_ad_id: Likewise.
        slot_ms: Length of the ad slot, or of the whole break.
    """

    auction_id: str
    channel_id: str
    last_channel_id: str | None
    last_ad_id: str | None
    trigger: Trigger
    opportunity_ms: int
    slot_ms: int


class Choice(msgspec.Struct, frozen=True, gc=False):
    """What was chosen for one candidate.

    Attributes:
        probability: With which it is called in this context, in (0, 1], exploration included. For a later turn: given
            that nobody of an earlier turn bids.
        tier: When it is asked in this auction: those of tier 0 first, those of the next only if nobody has bid yet.
            `None`: not at all.
        turn: The tier in which the policy asks it, also where exploration asks everyone at once.
    """

    aggregator: str
    probability: float
    tier: int | None
    turn: int = 0


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to call in one auction.

    Attributes:
        choices: One per candidate, in their order. It may be that none is called: the auction then ends without a bid.
        policy: Name of the policy.
        model_version: Of the very model that made the choices; `None` without one.
        explored: Whether everyone is called because the auction belongs to the explored share.
        explore: That share.
    """

    choices: tuple[Choice, ...]
    policy: str
    model_version: str | None = None
    explored: bool = False
    explore: float = 0.0

    def propensities(self, bidders: Collection[str]) -> tuple[float, ...]:
        """Probability with which each candidate was to be called, seen from the end of the auction.

        This is what a decision logs. It differs from `Choice.probability` for turns only: after an earlier turn has
        bid, a later one is asked through exploration alone. Earlier turns are always asked, so what they bid is known
        whether or not the later one was called, and is a condition like any other: dividing by this number gives
        unbiased estimates (sequential randomisation: Robins 1986). Logging 1 instead would count the explored
        auctions, in which both were asked, once instead of `1 / explore` times.

        Args:
            bidders: Aggregators with a valid bid, by the same rule that ends the walk through the tiers.

        Returns:
            One per choice, in their order.
        """
        ended = min((choice.turn for choice in self.choices if choice.aggregator in bidders), default=None)
        if ended is None:
            return tuple(choice.probability for choice in self.choices)
        return tuple(self.explore if choice.turn > ended else choice.probability for choice in self.choices)


class SelectionPolicy(Protocol):
    """Chooses whom to call. One object per process, called from one thread, never blocking: tens of microseconds."""

    @property
    def name(self) -> str:
        """What decisions are labelled with."""
        ...

    @property
    def model_version(self) -> str | None:
        """Of the model in use now; `None` without one."""
        ...

    def select(self, context: Context) -> Selection:
        """Choose; the same context and the same state of learning give the same choice.

        A policy that uses turns asks those of earlier turns with certainty; see `Selection.propensities`.
        """
        ...

    def learn(self, channel_id: str, outcomes: Sequence[Lesson]) -> None:
        """Take notice of a decided auction, also of one read back after a restart."""
        ...
