from __future__ import annotations

from datastreamx.model.auction import Decision, Winner
from datastreamx.model.events import AdShown, Power
from simulator.fleet.behaviour import Fleet, box_name, box_number
from simulator.fleet.log import START_MS
from simulator.fleet.pushes import PushDesk
from simulator.fleet.timeline import Timeline

SEED = 7
BOXES = 200
NOW_MS = START_MS + 60_000


def fleet(speed_up: float = 1.0) -> Fleet:
    made = Fleet(SEED, BOXES, Timeline.starting(START_MS, start_hour=20.0, speed_up=speed_up))
    for _ in made.advance(made.timeline.to_behaviour_ms(NOW_MS)):
        pass
    return made


def box_that_is(*, on: bool, boxes: Fleet) -> int:
    return next(box for box in range(BOXES) if boxes.is_on(box) is on)


def push(
    box: int, number: int = 0, *, emitted_ms: int = NOW_MS - 50, won: bool = True, slot_ms: int = 30_000
) -> Decision:
    winner = Winner(aggregator="a", bid_id="b", ad_id=f"ad-{number}", price_micros=1, currency="USD")
    return Decision(
        auction_id=f"auction-{number}",
        box_id=box_name(box),
        box_key="k",
        partition=0,
        group=0,
        offset=number,
        emitted_ms=emitted_ms,
        trigger="dwell",
        opportunity_ms=emitted_ms,
        deadline_ms=emitted_ms + 2_000,
        decided_ms=emitted_ms + 10,
        slot_ms=slot_ms,
        channel_id="ch01",
        last_channel_id=None,
        last_ad_id=None,
        break_id=None,
        status="won" if won else "no_bid",
        push_id=f"push-{number}" if won else None,
        winner=winner if won else None,
        auction_us=20_000,
    )


def test_a_push_is_displayed_for_its_slot_and_then_reported_as_the_next_event_of_the_box() -> None:
    boxes = fleet()
    box = box_that_is(on=True, boxes=boxes)
    desk = PushDesk(boxes, START_MS)
    desk.receive(push(box), NOW_MS)
    assert desk.displaying == 1
    assert list(desk.reports(NOW_MS + 29_999)) == []
    (report,) = desk.reports(NOW_MS + 30_000)
    assert isinstance(report, AdShown)
    assert (report.box_id, report.push_id, report.ad_id) == (box_name(box), "push-0", "ad-0")
    assert report.shown_ms == 30_000
    assert report.event_time_ms == NOW_MS + 30_000
    following = next(
        event for event in boxes.advance(boxes.timeline.behaviour_ms + 10**7) if event.box_id == box_name(box)
    )
    assert following.seq == report.seq + 1
    assert desk.displaying == 0


def test_a_speed_up_shortens_displays() -> None:
    boxes = fleet(speed_up=10.0)
    desk = PushDesk(boxes, START_MS)
    desk.receive(push(box_that_is(on=True, boxes=boxes)), NOW_MS)
    (report,) = desk.reports(NOW_MS + 3_000)
    assert report.shown_ms == 3_000


def test_a_copy_is_counted_and_displayed_once() -> None:
    boxes = fleet()
    box = box_that_is(on=True, boxes=boxes)
    desk = PushDesk(boxes, START_MS)
    for _ in range(3):
        desk.receive(push(box), NOW_MS)
    counts = desk.counts()
    assert (counts.received, counts.distinct, counts.duplicates, counts.displayed) == (3, 1, 2, 1)
    assert desk.latency.summary().samples == 1


def test_a_push_after_its_deadline_is_ignored_and_counted() -> None:
    boxes = fleet()
    box = box_that_is(on=True, boxes=boxes)
    desk = PushDesk(boxes, START_MS)
    desk.receive(push(box, 1), NOW_MS - 50 + 2_000)
    assert desk.counts().after_deadline == 0
    desk.receive(push(box, 2), NOW_MS - 50 + 2_001)
    assert (desk.counts().after_deadline, desk.counts().displayed) == (1, 1)


def test_a_box_in_standby_displays_nothing() -> None:
    boxes = fleet()
    desk = PushDesk(boxes, START_MS)
    desk.receive(push(box_that_is(on=False, boxes=boxes)), NOW_MS)
    assert (desk.counts().to_standby, desk.counts().displayed) == (1, 0)


def test_standby_ends_a_display() -> None:
    boxes = fleet()
    desk = PushDesk(boxes, START_MS)
    ends = boxes.timeline.to_behaviour_ms(NOW_MS) + 4 * 3_600_000
    for event in boxes.advance(ends):
        box = box_number(event.box_id, BOXES)
        assert box is not None
        if isinstance(event, Power) and event.state == "standby" and event.event_time_ms > NOW_MS:
            begins_ms = event.event_time_ms - 4_000
            break
        # Every box would be displaying something when it goes off; only the last matters.
    else:
        raise AssertionError(f"no box went off with seed {SEED}")
    # The push had arrived four seconds before the standby.
    boxes_before = fleet()
    desk = PushDesk(boxes_before, START_MS)
    for _ in boxes_before.advance(boxes_before.timeline.to_behaviour_ms(begins_ms)):
        pass
    desk.receive(push(box, emitted_ms=begins_ms - 10), begins_ms)
    for _ in boxes_before.advance(boxes_before.timeline.to_behaviour_ms(begins_ms + 30_000)):
        pass
    (report,) = desk.reports(begins_ms + 30_000)
    assert report.shown_ms == 4_000


def test_displays_cut_short_report_how_long_they_ran() -> None:
    boxes = fleet()
    desk = PushDesk(boxes, START_MS)
    desk.receive(push(box_that_is(on=True, boxes=boxes)), NOW_MS)
    (report,) = desk.cut_short(NOW_MS + 1_234)
    assert report.shown_ms == 1_234
    assert desk.displaying == 0


def test_decisions_without_winner_and_of_others_are_no_pushes() -> None:
    boxes = fleet()
    box = box_that_is(on=True, boxes=boxes)
    desk = PushDesk(boxes, START_MS)
    desk.receive(push(box, 1, won=False), NOW_MS)
    desk.receive(push(box, 2, emitted_ms=START_MS - 1), NOW_MS)
    desk.receive(push(BOXES, 3), NOW_MS)
    counts = desk.counts()
    assert (counts.decisions, counts.of_earlier_runs, counts.of_other_fleets, counts.received) == (3, 1, 1, 0)


def test_every_distinct_push_is_accounted_for() -> None:
    boxes = fleet()
    desk = PushDesk(boxes, START_MS)
    for number in range(1_000):
        late_ms = 3_000 if number % 5 == 0 else 0
        desk.receive(push(number % BOXES, number // 2), NOW_MS + late_ms)
    counts = desk.counts()
    assert counts.received == counts.distinct + counts.duplicates == 1_000
    assert counts.distinct == counts.after_deadline + counts.to_standby + counts.displayed == 500


def test_latency_runs_from_the_causing_record_and_is_kept_with_and_without_the_auction() -> None:
    boxes = fleet()
    desk = PushDesk(boxes, START_MS)
    desk.receive(push(0, emitted_ms=NOW_MS - 50), NOW_MS)
    assert desk.latency.summary().p50_ms == 50
    assert desk.latency_without_auction.summary().p50_ms == 30
