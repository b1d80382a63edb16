from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from datastreamx.model.events import AdBreak, AdShown, BoxEvent
from datastreamx.model.identity import auction_id, push_id
from datastreamx.wire.events import decode_event
from simulator.fleet.faults import PRESETS
from simulator.fleet.log import START_MS, LogRecord, generate_events, generate_log
from simulator.fleet.partitioner import murmur2, partition_of

SEED = 11


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_agrees_with_the_java_client(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % 2**32


def test_boxes_spread_evenly_over_partitions() -> None:
    counts = Counter(partition_of(f"stb-{box:06d}".encode(), 8) for box in range(8_000))
    assert sorted(counts) == list(range(8))
    assert min(counts.values()) > 850


def test_a_log_is_one_dense_offset_sequence_per_partition_in_the_order_of_kafka_time() -> None:
    log = list(generate_log(SEED, 300, 10 * 60_000, partitions=4, faults=PRESETS["many"]))
    partitions: dict[int, list[LogRecord]] = defaultdict(list)
    for record in log:
        partitions[record.partition].append(record)
        assert record.partition == partition_of(record.key, 4)
    assert [record.timestamp_ms for record in log] == sorted(record.timestamp_ms for record in log)
    assert sorted(partitions) == [0, 1, 2, 3]
    for records in partitions.values():
        assert [record.offset for record in records] == list(range(len(records)))


def test_a_log_without_faults_holds_the_events() -> None:
    def scenario() -> list[BoxEvent]:
        return list(generate_events(SEED, 200, 5 * 60_000, shown_share=0.5))

    log = generate_log(SEED, 200, 5 * 60_000, shown_share=0.5)
    assert [decode_event(record.value or b"") for record in log] == scenario()


@pytest.mark.parametrize("speed_up", [1.0, 10.0])
def test_displays_follow_their_breaks_in_the_sequence_of_the_box(speed_up: float) -> None:
    breaks: list[AdBreak] = []
    displays: dict[str, list[AdShown]] = defaultdict(list)
    last_seq: dict[str, int] = {}
    last_ms = START_MS
    for event in generate_events(SEED, 500, int(40 * 60_000 / speed_up), shown_share=0.5, speed_up=speed_up):
        assert event.seq == last_seq.get(event.box_id, -1) + 1
        assert event.event_time_ms >= last_ms
        last_seq[event.box_id], last_ms = event.seq, event.event_time_ms
        if isinstance(event, AdBreak):
            breaks.append(event)
        elif isinstance(event, AdShown):
            displays[event.push_id].append(event)
    assert all(len(shown) == 1 for shown in displays.values()), "every ad of a break has a push id of its own"
    answered, ads = 0, Counter[int]()
    for reported in breaks:
        auction = auction_id(reported.break_id, 0, reported.seq, reported.box_id)
        shown = [displays.pop(key)[0] for place in range(4) if (key := push_id(auction, place)) in displays]
        starts_ms = reported.event_time_ms + reported.starts_in_ms
        ends_ms = starts_ms + int(reported.duration_ms / speed_up)
        if ends_ms > last_ms or not shown:
            continue
        answered += 1
        ads[len(shown)] += 1
        for display in shown:
            assert display.event_time_ms - display.shown_ms == starts_ms, "one after the other"
            starts_ms = display.event_time_ms
        assert starts_ms == ends_ms
    assert displays == {}
    assert answered / len(breaks) == pytest.approx(0.5, abs=0.08)
    assert sorted(ads) == [1, 2, 3, 4]


def test_displays_do_not_change_what_viewers_do() -> None:
    def choices(shown_share: float) -> list[tuple[str, int, str]]:
        events = generate_events(SEED, 100, 30 * 60_000, shown_share=shown_share)
        return [
            (event.box_id, event.event_time_ms, type(event).__name__)
            for event in events
            if not isinstance(event, AdShown)
        ]

    assert choices(0.0) == choices(1.0)
