"""Auctions of the past: nobody is asked, nobody wins."""

from __future__ import annotations

import asyncio

from datastreamx.clock import Clock
from datastreamx.model.auction import Decision, Opportunity, Outcome
from operators.bidding.auction import undecided


class PastHouse:
    """An auction house that calls nobody: what is past has expired, and what is not stays open.

    The deadlines are the executor's: it asks `undecided` at once for those that have passed. The others wait here. If
    the replay ends before their deadline, they are still in flight in its last snapshot, and the flow that resumes
    from there auctions them.

    Args:
        aggregators: All that are configured: each has an outcome in every decision.
        clock: Wall clock.
    """

    def __init__(self, aggregators: tuple[str, ...], clock: Clock) -> None:
        self._aggregators = aggregators
        self._clock = clock

    async def auction(self, opportunity: Opportunity, attempt: int, handed_over_ns: int) -> Decision:  # noqa: ARG002  the house's interface
        """Wait; the executor ends it."""
        never: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        return await never

    def undecided(self, opportunity: Opportunity, reason: Outcome, attempt: int = 1) -> Decision:
        """Decision without an auction."""
        return undecided(opportunity, reason, self._aggregators, self._clock.now_ms(), attempt=attempt)

    def failed(self, opportunity: Opportunity, attempt: int, error: Exception) -> Decision:
        """Decision after a fault; there is nothing in `auction` that could fail."""
        detail = f"the replay failed: {type(error).__name__}"
        now_ms = self._clock.now_ms()
        return undecided(opportunity, Outcome.ERROR, self._aggregators, now_ms, attempt=attempt, detail=detail)

    def finish(self, decision: Decision, now_ms: int) -> Decision:  # noqa: ARG002  the house's interface
        """The decision as it is: without an ad there is nothing to withdraw and nothing to sign."""
        return decision
