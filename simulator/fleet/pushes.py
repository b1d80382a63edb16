"""How boxes receive pushes: ignore copies, ignore what comes too late, display the rest and report it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from datastreamx.model.auction import Decision, WinningAd
from datastreamx.model.events import AdShown
from simulator.fleet.behaviour import Fleet, box_number
from simulator.fleet.ledger import LatencyHistogram, Pushes, RecentIds

Verify = Callable[[Decision], bool]
"""Whether the push comes from who it should come from."""


class _Display(NamedTuple):
    """Display of one ad, and what comes after it. Ordered by its end; `order` keeps the comparison from the rest.

    `over_ms` is the end of the slot or break, beyond which nothing is displayed.
    """

    ends_ms: int
    order: int
    begins_ms: int
    over_ms: int
    box: int
    ad: WinningAd
    following: tuple[WinningAd, ...]


class PushDesk:
    """Receives decisions for all boxes of a fleet, keeps the displays that run, and counts.

    Args:
        fleet: Tells which boxes are on, and gives reports their sequence numbers.
        started_ms: Decisions on records that Kafka stamped earlier belong to an earlier run.
        verify: Checks signatures; without it they are not looked at.
    """

    def __init__(self, fleet: Fleet, started_ms: int, verify: Verify | None = None) -> None:
        self._fleet = fleet
        self._started_ms = started_ms
        self._verify = verify
        self._seen = RecentIds()
        self._running: list[_Display] = []
        self._decisions = self._earlier = self._others = self._forged = 0
        self._received = self._duplicates = self._late = self._to_standby = self._displayed = 0
        self._ads = self._begun = self._reported = self._not_shown = 0
        self.latency = LatencyHistogram()
        self.latency_without_auction = LatencyHistogram()

    @property
    def displaying(self) -> int:
        """Ads that are being displayed, or wait for the ads before them."""
        return self._ads - self._reported - self._not_shown

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
        if not decision.ads or decision.push_id is None:
            return
        if self._verify is not None and not self._verify(decision):
            self._forged += 1
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
            self._ads += len(decision.ads)
            over_ms = received_ms + self._fleet.timeline.shrink(decision.slot_ms)
            self._display(box, decision.ads, received_ms, over_ms)

    def reports(self, now_ms: int) -> Iterator[AdShown]:
        """Reports of the displays that have ended by `now_ms`, each the next event of its box."""
        while self._running and self._running[0].ends_ms <= now_ms:
            ended = heappop(self._running)
            if ended.following and ended.ends_ms < ended.over_ms and self._fleet.is_on(ended.box):
                self._display(ended.box, ended.following, ended.ends_ms, ended.over_ms)
            else:
                self._not_shown += len(ended.following)
            yield self._report(ended, now_ms)

    def cut_short(self, now_ms: int) -> Iterator[AdShown]:
        """End all displays at `now_ms`, and report how long each was shown; what would follow is not."""
        while self._running:
            cut = heappop(self._running)
            self._not_shown += len(cut.following)
            yield self._report(cut, now_ms)

    def counts(self) -> Pushes:
        """The numbers so far."""
        return Pushes(
            decisions=self._decisions,
            of_earlier_runs=self._earlier,
            of_other_fleets=self._others,
            forged=self._forged,
            received=self._received,
            distinct=self._received - self._duplicates,
            duplicates=self._duplicates,
            after_deadline=self._late,
            to_standby=self._to_standby,
            displayed=self._displayed,
            ads=self._ads,
            ads_reported=self._reported,
            ads_not_shown=self._not_shown,
            displaying=self.displaying,
        )

    def _display(self, box: int, ads: tuple[WinningAd, ...], begins_ms: int, over_ms: int) -> None:
        """Begin with the first of `ads`."""
        ad, *following = ads
        if ad.duration_ms is None:
            # An equal part of what is left.
            lasts_ms = (over_ms - begins_ms) // len(ads)
        else:
            lasts_ms = self._fleet.timeline.shrink(ad.duration_ms)
        ends_ms = min(begins_ms + lasts_ms, over_ms)
        self._begun += 1
        display = _Display(ends_ms, self._begun, begins_ms, over_ms, box, ad, tuple(following))
        heappush(self._running, display)

    def _report(self, display: _Display, now_ms: int) -> AdShown:
        self._reported += 1
        off_since_ms = self._fleet.off_since_ms(display.box)
        ends_ms = min(display.ends_ms, now_ms if off_since_ms is None else off_since_ms)
        return self._fleet.ad_shown(
            display.box,
            event_time_ms=now_ms,
            push_id=display.ad.push_id,
            ad_id=display.ad.ad_id,
            shown_ms=max(0, ends_ms - display.begins_ms),
        )
