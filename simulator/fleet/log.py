"""A whole run as a log, without Kafka: input for tests, oracles and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple

import msgspec

from datastreamx.model.events import AdBreak, BoxEvent
from datastreamx.model.identity import auction_id, push_id
from simulator.fleet.behaviour import Fleet, box_number
from simulator.fleet.draws import draw, stream_seed, unit
from simulator.fleet.faults import NO_FAULT, FaultBounds, FaultInjector, FaultRates
from simulator.fleet.parameters import Behaviour
from simulator.fleet.partitioner import partition_of
from simulator.fleet.timeline import Timeline

START_MS = 1_700_000_000_000
AD_MS = 30_000
"""Length of the ads that are displayed in a break, give or take what makes them fill it."""


class LogRecord(msgspec.Struct, frozen=True, gc=False):
    """One record where it stands in the log; `fault` is a key of `faults.FAULTS`."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes
    value: bytes | None
    event_type: str
    fault: str = NO_FAULT


def generate_events(  # noqa: PLR0913  independent knobs, each with a default
    seed: int,
    boxes: int,
    duration_ms: int,
    *,
    start_ms: int = START_MS,
    start_hour: float | None = 20.0,
    speed_up: float = 1.0,
    behaviour: Behaviour | None = None,
    shown_share: float = 0.0,
) -> Iterator[BoxEvent]:
    """Events of a fleet from `start_ms` on for `duration_ms` event time, ordered by event time.

    Args:
        seed: Chooses the viewers.
        boxes: How many.
        duration_ms: Event time that the log covers.
        start_ms: Event time at which it begins.
        start_hour: Hour of the day at which viewers live at the start; 20 is when most boxes are on. `None` takes the
            hour of `start_ms` (UTC).
        speed_up: Behaviour that passes in one unit of event time.
        behaviour: Parameters of the viewers.
        shown_share: Share of reported ad breaks that the box also reports displays for: of one ad after the other,
            each when it is over.
    """
    timeline = Timeline.starting(start_ms, start_hour=start_hour, speed_up=speed_up)
    fleet = Fleet(seed, boxes, timeline, behaviour)
    until_ms = timeline.to_behaviour_ms(start_ms + duration_ms)
    if shown_share == 0.0:
        return fleet.advance(until_ms)
    return _with_displays(fleet, until_ms, shown_share, stream_seed(seed, "displays"))


def generate_log(  # noqa: PLR0913  likewise
    seed: int,
    boxes: int,
    duration_ms: int,
    *,
    partitions: int = 8,
    faults: FaultRates | None = None,
    bounds: FaultBounds | None = None,
    start_ms: int = START_MS,
    start_hour: float | None = 20.0,
    speed_up: float = 1.0,
    behaviour: Behaviour | None = None,
    shown_share: float = 0.0,
) -> Iterator[LogRecord]:
    """Records of a fleet as they would stand in the topic, in the order of their Kafka time; see `generate_events`."""
    events = generate_events(
        seed,
        boxes,
        duration_ms,
        start_ms=start_ms,
        start_hour=start_hour,
        speed_up=speed_up,
        behaviour=behaviour,
        shown_share=shown_share,
    )
    places: dict[bytes, int] = {}
    ends = [0] * partitions
    for timestamp_ms, record in FaultInjector(faults or FaultRates(), seed, bounds).transform(events):
        partition = places.get(record.key)
        if partition is None:
            partition = places[record.key] = partition_of(record.key, partitions)
        offset = ends[partition]
        ends[partition] += 1
        yield LogRecord(partition, offset, timestamp_ms, record.key, record.value, record.event_type, record.fault)


class _Display(NamedTuple):
    """Ordered by its end; `seq` and `place` keep the comparison away from the event."""

    ended_ms: int
    box: int
    seq: int
    place: int
    shown_ms: int
    answered: AdBreak


def _with_displays(fleet: Fleet, until_ms: int, share: float, seed: int) -> Iterator[BoxEvent]:
    """Let boxes answer a share of their ad breaks with displays, the last of which ends with the break.

    Behaviour only ever advances to the next end of a display, for its report takes the box's next sequence number.
    """
    timeline = fleet.timeline
    waiting: list[_Display] = []
    while True:
        for event in fleet.advance(
            min(until_ms, timeline.to_behaviour_ms(waiting[0].ended_ms)) if waiting else until_ms
        ):
            yield event
            box = box_number(event.box_id, fleet.boxes)
            if isinstance(event, AdBreak) and box is not None and unit(draw(seed, box, event.seq)) < share:
                for display in _displays(event, box, timeline):
                    heappush(waiting, display)
                break
        else:
            if not waiting or timeline.to_behaviour_ms(waiting[0].ended_ms) > until_ms:
                return
            ended = heappop(waiting)
            answered = ended.answered
            auction = auction_id(answered.break_id, 0, answered.seq, answered.box_id)
            yield fleet.ad_shown(
                ended.box,
                event_time_ms=ended.ended_ms,
                push_id=push_id(auction, ended.place),
                ad_id=f"ad-{draw(seed, answered.seq, ended.place) % 100}",
                shown_ms=ended.shown_ms,
            )


def _displays(answered: AdBreak, box: int, timeline: Timeline) -> Iterator[_Display]:
    """Displays that fill a break, of equal length."""
    starts_ms = answered.event_time_ms + answered.starts_in_ms
    lasts_ms = timeline.shrink(answered.duration_ms)
    ads = max(1, round(answered.duration_ms / AD_MS))
    ends = [starts_ms + lasts_ms * place // ads for place in range(ads + 1)]
    for place, (begins_ms, ends_ms) in enumerate(pairwise(ends)):
        yield _Display(ends_ms, box, answered.seq, place, ends_ms - begins_ms, answered)
