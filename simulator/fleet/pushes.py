"""How boxes receive pushes: ignore copies, ignore what comes too late, display the rest and report it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from datastreamx.model.auction import Decision
from datastreamx.model.events import AdShown
from simulator.fleet.behaviour import Fleet, box_number
from simulator.fleet.ledger import LatencyHistogram, Pushes, RecentIds


class _Display(NamedTuple):
    """Ordered by its end; `order` keeps the comparison away from the rest."""

    ends_ms: int
    order: int
    begins_ms: int
    box: int
    push_id: str
    ad_id: str


class PushDesk:
    """Receives decisions for all boxes of a fleet, keeps the displays that run, and counts.

    Args:
        fleet: Tells which boxes are on, and gives reports their sequence numbers.
        started_ms: Decisions on records that Kafka stamped earlier belong to an earlier run.
    """

    def __init__(self, fleet: Fleet, started_ms: int) -> None:
        self._fleet = fleet
        self._started_ms = started_ms
        self._seen = RecentIds()
        self._running: list[_Display] = []
        self._decisions = self._earlier = self._others = 0
        self._received = self._duplicates = self._late = self._to_standby = self._displayed = 0
        self.latency = LatencyHistogram()
        self.latency_without_auction = LatencyHistogram()

    @property
    def displaying(self) -> int:
        """Displays that have not ended."""
        return len(self._running)

    def receive(self, decision: Decision, received_ms: int) -> None:
        """Take in one record of ad-decisions that arrived at wall clock `received_ms`."""
        self._decisions += 1
        if decision.emitted_ms < self._started_ms:
            self._earlier += 1
            return
        box = box_number(decision.box_id, self._fleet.boxes)
        if box is None:
            self._others += 1
            return
        if decision.winner is None or decision.push_id is None:
            return
        self._received += 1
        if not self._seen.is_new(decision.push_id):
            self._duplicates += 1
            return
        latency_ms = received_ms - decision.emitted_ms
        self.latency.add(latency_ms)
        self.latency_without_auction.add(latency_ms - (decision.auction_us or 0) / 1000)
        if received_ms > decision.deadline_ms:
            self._late += 1
        elif not self._fleet.is_on(box):
            self._to_standby += 1
        else:
            self._displayed += 1
            ends_ms = received_ms + self._fleet.timeline.shrink(decision.slot_ms)
            display = _Display(ends_ms, self._displayed, received_ms, box, decision.push_id, decision.winner.ad_id)
            heappush(self._running, display)

    def reports(self, now_ms: int) -> Iterator[AdShown]:
        """Reports of the displays that have ended by `now_ms`, each the next event of its box."""
        while self._running and self._running[0].ends_ms <= now_ms:
            yield self._report(heappop(self._running), now_ms)

    def cut_short(self, now_ms: int) -> Iterator[AdShown]:
        """End all displays at `now_ms`, and report how long each was shown."""
        while self._running:
            yield self._report(heappop(self._running), now_ms)

    def counts(self) -> Pushes:
        """The numbers so far."""
        return Pushes(
            decisions=self._decisions,
            of_earlier_runs=self._earlier,
            of_other_fleets=self._others,
            received=self._received,
            distinct=self._received - self._duplicates,
            duplicates=self._duplicates,
            after_deadline=self._late,
            to_standby=self._to_standby,
            displayed=self._displayed,
            displaying=len(self._running),
        )

    def _report(self, display: _Display, now_ms: int) -> AdShown:
        off_since_ms = self._fleet.off_since_ms(display.box)
        ends_ms = min(display.ends_ms, now_ms if off_since_ms is None else off_since_ms)
        return self._fleet.ad_shown(
            display.box,
            event_time_ms=now_ms,
            push_id=display.push_id,
            ad_id=display.ad_id,
            shown_ms=max(0, ends_ms - display.begins_ms),
        )
