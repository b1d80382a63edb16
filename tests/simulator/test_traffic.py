from __future__ import annotations

from itertools import islice

from datastreamx.model.keygroup import group_of
from datastreamx.wire.events import decode_event
from simulator.traffic import INTERVAL_MS, START_MS, chunks, events


def test_the_same_seed_gives_the_same_traffic_and_another_one_does_not() -> None:
    first, again, other = (list(events(50, 200, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_box_reports_once_in_an_interval() -> None:
    # Some events come twice, so that a lap is a few events longer.
    seen = [event.box_id for at_ms, event in events(300, 600) if at_ms < START_MS + INTERVAL_MS]
    assert len(set(seen)) == 300
    assert len(seen) <= 305


def test_chunks_hold_all_events_each_in_its_key_group_in_log_order() -> None:
    made = chunks(100, 1_000, 4, 2, records=30)
    assert sum(len(one.values) for one in made) == 1_000
    offsets: dict[int, list[int]] = {}
    for one in made:
        assert 0 < len(one.values) <= 30
        assert {group_of(key or b"", 2) for key in one.keys} == {one.group}
        assert one.offsets == sorted(one.offsets)
        offsets.setdefault(one.partition, []).extend(one.offsets)
    assert all(sorted(found) == list(range(len(found))) for found in offsets.values())
    expected = {event.event_id for _, event in islice(events(100, 1_000), 1_000)}
    assert {decode_event(value or b"").event_id for one in made for value in one.values} == expected
