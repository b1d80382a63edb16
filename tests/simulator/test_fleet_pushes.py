from __future__ import annotations

import random
from functools import partial

import pytest
from msgspec.structs import replace

from datastreamx.model.auction import Decision, WinningAd
from datastreamx.model.events import AdShown, Power
from datastreamx.wire.signing import SigningKey, sign_push, verify_push
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


def ad(number: int, place: int = 0, duration_ms: int | None = None) -> WinningAd:
    return WinningAd(
        push_id=f"push-{number}-{place}" if place else f"push-{number}",
        aggregator="a",
        bid_id=f"b-{place}",
        ad_id=f"ad-{number + place}",
        price_micros=1,
        currency="USD",
        duration_ms=duration_ms,
    )


def push(
    box: int,
    number: int = 0,
    *,
    emitted_ms: int = NOW_MS - 50,
    won: bool = True,
    slot_ms: int = 30_000,
    durations_ms: tuple[int | None, ...] = (None,),
) -> Decision:
    ads = tuple(ad(number, place, duration_ms) for place, duration_ms in enumerate(durations_ms))
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
        ads=ads if won else (),
        auction_us=20_000,
    )


def displays(desk: PushDesk, until_ms: int) -> list[tuple[str, str, int, int]]:
    """Reports up to a time, looked for every 100 ms: push, ad, end after `NOW_MS`, time displayed."""
    return [
        (report.push_id, report.ad_id, report.event_time_ms - NOW_MS, report.shown_ms)
        for now_ms in range(NOW_MS, until_ms + 1, 100)
        for report in desk.reports(now_ms)
    ]


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


def test_the_ads_of_a_break_are_displayed_one_after_the_other_each_under_its_own_push_id() -> None:
    boxes = fleet()
    desk = PushDesk(boxes, START_MS)
    decision = push(box_that_is(on=True, boxes=boxes), slot_ms=60_000, durations_ms=(15_000, 10_000, 20_000))
    desk.receive(decision, NOW_MS)
    assert (desk.displaying, desk.counts().displayed, desk.counts().ads) == (3, 1, 3)
    assert displays(desk, NOW_MS + 60_000) == [
        ("push-0", "ad-0", 15_000, 15_000),
        ("push-0-1", "ad-1", 25_000, 10_000),
        ("push-0-2", "ad-2", 45_000, 20_000),
    ]
    counts = desk.counts()
    assert (counts.displaying, counts.ads_reported, counts.ads_not_shown) == (0, 3, 0)


def test_a_late_look_finds_every_ad_of_the_break() -> None:
    boxes = fleet()
    desk = PushDesk(boxes, START_MS)
    desk.receive(push(box_that_is(on=True, boxes=boxes), slot_ms=60_000, durations_ms=(15_000, 10_000)), NOW_MS)
    assert [report.shown_ms for report in desk.reports(NOW_MS + 60_000)] == [15_000, 10_000]


def test_nothing_is_displayed_beyond_the_end_of_the_break() -> None:
    boxes = fleet()
    desk = PushDesk(boxes, START_MS)
    decision = push(box_that_is(on=True, boxes=boxes), slot_ms=20_000, durations_ms=(15_000, 10_000, 20_000))
    desk.receive(decision, NOW_MS)
    assert displays(desk, NOW_MS + 60_000) == [
        ("push-0", "ad-0", 15_000, 15_000),
        ("push-0-1", "ad-1", 20_000, 5_000),
    ]
    counts = desk.counts()
    assert (counts.ads, counts.ads_reported, counts.ads_not_shown, counts.displaying) == (3, 2, 1, 0)


def test_ads_of_unknown_length_share_the_break() -> None:
    boxes = fleet()
    desk = PushDesk(boxes, START_MS)
    desk.receive(push(box_that_is(on=True, boxes=boxes), slot_ms=60_000, durations_ms=(None, 20_000, None)), NOW_MS)
    assert [shown_ms for *_, shown_ms in displays(desk, NOW_MS + 60_000)] == [20_000, 20_000, 20_000]


def test_standby_ends_a_break_and_what_would_follow_is_not_reported() -> None:
    boxes = fleet()
    box = box_that_is(on=True, boxes=boxes)
    desk = PushDesk(boxes, START_MS)
    # Off it goes at some time; the break begins so early that its first ad is over, and its second is not.
    off_ms = next(
        event.event_time_ms
        for event in boxes.advance(boxes.timeline.behaviour_ms + 10**8)
        if event.box_id == box_name(box) and isinstance(event, Power)
    )
    boxes = fleet()
    desk = PushDesk(boxes, START_MS)
    begins_ms = off_ms - 15_000

    def live_until(at_ms: int) -> None:
        for _ in boxes.advance(boxes.timeline.to_behaviour_ms(at_ms)):
            pass

    live_until(begins_ms)
    durations_ms = (10_000, 10_000, 10_000)
    desk.receive(push(box, emitted_ms=begins_ms, slot_ms=60_000, durations_ms=durations_ms), begins_ms)
    live_until(begins_ms + 10_000)
    assert [report.shown_ms for report in desk.reports(begins_ms + 10_000)] == [10_000]
    live_until(off_ms + 6_000)
    assert [report.shown_ms for report in desk.reports(off_ms + 6_000)] == [5_000]
    counts = desk.counts()
    assert (counts.ads, counts.ads_reported, counts.ads_not_shown, counts.displaying) == (3, 2, 1, 0)


def test_a_break_cut_short_reports_the_ad_that_runs_and_no_other() -> None:
    boxes = fleet()
    desk = PushDesk(boxes, START_MS)
    desk.receive(push(box_that_is(on=True, boxes=boxes), slot_ms=60_000, durations_ms=(15_000, 15_000)), NOW_MS)
    (report,) = desk.cut_short(NOW_MS + 1_234)
    assert (report.push_id, report.shown_ms) == ("push-0", 1_234)
    counts = desk.counts()
    assert (counts.ads, counts.ads_reported, counts.ads_not_shown, counts.displaying) == (2, 1, 1, 0)


def test_a_copy_of_a_break_is_known_by_the_push_id_of_the_record() -> None:
    boxes = fleet()
    box = box_that_is(on=True, boxes=boxes)
    desk = PushDesk(boxes, START_MS)
    for _ in range(2):
        desk.receive(push(box, slot_ms=60_000, durations_ms=(10_000, 10_000)), NOW_MS)
    counts = desk.counts()
    assert (counts.received, counts.duplicates, counts.displayed, counts.ads) == (2, 1, 1, 2)
    assert len(displays(desk, NOW_MS + 60_000)) == 2


def test_a_push_with_a_wrong_signature_is_ignored_and_counted() -> None:
    key = SigningKey.from_hex("5a" * 32, "key-1")
    boxes = fleet()
    box = box_that_is(on=True, boxes=boxes)
    desk = PushDesk(boxes, START_MS, partial(verify_push, public_key=key.public_key))
    signed = sign_push(push(box, 1), key)
    stranger = SigningKey.from_hex("5b" * 32, "key-1")
    for decision in (
        push(box, 2),
        sign_push(push(box, 3), stranger),
        replace(signed, box_id=box_name(box + 1)),
        signed,
    ):
        desk.receive(decision, NOW_MS)
    counts = desk.counts()
    assert (counts.decisions, counts.forged, counts.received, counts.displayed) == (4, 3, 1, 1)
    # What is ignored must not make the true push look like a copy.
    assert [push_id for push_id, *_ in displays(desk, NOW_MS + 30_000)] == ["push-1"]


@pytest.mark.parametrize("seed", range(5))
def test_every_ad_of_a_displayed_push_is_accounted_for(seed: int) -> None:
    print(f"seed {seed}")  # noqa: T201  shown when the test fails
    rng = random.Random(seed)
    boxes = fleet()
    desk = PushDesk(boxes, START_MS)
    reported = 0
    for number, now_ms in enumerate(range(NOW_MS, NOW_MS + 300_000, 500)):
        for _ in boxes.advance(boxes.timeline.to_behaviour_ms(now_ms)):
            pass
        durations_ms = tuple(rng.choice((None, 10_000, 15_000, 30_000)) for _ in range(rng.randint(1, 6)))
        slot_ms = rng.choice((30_000, 60_000, 120_000))
        box = rng.randrange(BOXES)
        desk.receive(push(box, number, emitted_ms=now_ms, slot_ms=slot_ms, durations_ms=durations_ms), now_ms)
        reported += len(list(desk.reports(now_ms)))
        counts = desk.counts()
        assert counts.ads == counts.ads_reported + counts.ads_not_shown + counts.displaying
        assert counts.ads_reported == reported
    reported += len(list(desk.cut_short(NOW_MS + 300_000)))
    counts = desk.counts()
    assert (counts.displaying, counts.ads_reported) == (0, reported)
    assert counts.distinct == counts.after_deadline + counts.to_standby + counts.displayed
    assert counts.ads_not_shown > 0
