from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from datastreamx.errors import CrashError
from simulator.fleet.__main__ import progress_line
from simulator.fleet.faults import FAULTS, Landing, Record
from simulator.fleet.ledger import (
    HISTOGRAM_MS,
    EventBook,
    FaultCount,
    Latency,
    LatencyHistogram,
    Ledger,
    PartitionAcks,
    Pushes,
    RecentIds,
    read_ledger,
    write_ledger,
)


def ledger(*, finished: bool = True) -> Ledger:
    nothing = Latency(samples=0, p50_ms=None, p90_ms=None, p99_ms=None, max_ms=None)
    return Ledger(
        finished=finished,
        seed=1,
        boxes=2,
        boxes_on=1,
        speed_up=1.0,
        started_ms=3,
        updated_ms=4,
        events=5,
        events_by_type={"tune": 5},
        faults={"duplicate": FaultCount(1, "dropped")},
        expected_rows=5,
        expected_late=0,
        expected_dropped=1,
        expected_dead_letters={"malformed": 2},
        partitions={0: PartitionAcks(6, 5), 7: PartitionAcks(1, 0)},
        records_waiting=0,
        records_sent_again=0,
        slipped_ms=0,
        displays_reported=0,
        pushes=Pushes(received=1, distinct=1),
        event_to_push_ms=nothing,
        event_to_push_without_auction_ms=nothing,
    )


def record(event_type: str, fault: str = "") -> Record:
    return Record(b"stb-000000", b"{}", event_type, fault)


def test_books_survive_the_file(tmp_path: Path) -> None:
    write_ledger(tmp_path / "ledger.json", ledger())
    assert read_ledger(tmp_path / "ledger.json") == ledger()
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.json"]


def test_a_reader_never_sees_half_a_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.json"
    write_ledger(path, ledger(finished=False))

    def crash(_self: Path, _target: Path) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(OSError, match="the disk is gone"):
        write_ledger(path, ledger())
    assert read_ledger(path) == ledger(finished=False)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_bytes(msgspec.json.encode({"finished": True}))
    for name in ("missing.json", "other.json"):
        with pytest.raises(CrashError, match="holds no ledger"):
            read_ledger(tmp_path / name)


def test_second_copies_are_faults_but_not_events() -> None:
    book = EventBook()
    book.acknowledged(record("tune"), 0, 0)
    book.acknowledged(record("tune", "duplicate"), 0, 1)
    book.acknowledged(record("power", "reorder"), 1, 9)
    book.acknowledged(record("power", "malformed"), 1, 8)
    book.acknowledged(record("heartbeat", "clock_far_behind"), 1, 10)
    assert book.events_by_type() == {"heartbeat": 1, "power": 2, "tune": 1}
    assert book.faults()["duplicate"] == FaultCount(1, "dropped")
    assert book.faults()["malformed"] == FaultCount(1, "dead_letter", "malformed")
    assert book.landing(Landing.ROW, Landing.LATE_ROW) == 3
    assert book.landing(Landing.LATE_ROW) == 1
    assert book.dead_letters() == {"malformed": 1}
    assert book.partitions() == {0: PartitionAcks(2, 1), 1: PartitionAcks(3, 10)}


def test_every_acknowledged_record_is_a_row_a_copy_or_a_dead_letter() -> None:
    book = EventBook()
    for number, fault in enumerate(FAULTS):
        for _ in range(number + 1):
            book.acknowledged(record("tune", fault), 0, number)
    records = book.partitions()[0].records
    landed = book.landing(Landing.ROW, Landing.LATE_ROW) + book.landing(Landing.DROPPED)
    assert landed + sum(book.dead_letters().values()) == records


def test_the_progress_line_shows_what_goes_wrong_only_when_it_does() -> None:
    calm = progress_line(ledger())
    assert "1 of 2 boxes on" in calm
    assert "5 events (5/s)" in calm
    assert "too late" not in calm
    assert "waiting" not in calm
    troubled = msgspec.structs.replace(
        ledger(),
        records_waiting=1_200,
        pushes=Pushes(duplicates=3, after_deadline=4, forged=5),
        event_to_push_ms=Latency(samples=1, p50_ms=12, p90_ms=30, p99_ms=40, max_ms=41),
    )
    assert (
        "event to push p50 12 ms, p99 40 ms | 3 copies, 4 too late | 5 with a wrong signature | 1,200 waiting"
        in progress_line(troubled)
    )


def test_percentiles_are_the_nearest_rank() -> None:
    rng = random.Random(5)
    samples = [rng.randrange(2_000) for _ in range(1_234)]
    histogram = LatencyHistogram()
    for sample in samples:
        histogram.add(sample)
    ranked = sorted(samples)
    summary = histogram.summary()
    assert summary.samples == 1_234
    assert summary.p50_ms == ranked[617 - 1]
    assert summary.p90_ms == ranked[1_111 - 1]
    assert summary.p99_ms == ranked[1_222 - 1]
    assert summary.max_ms == ranked[-1]


def test_latencies_outside_the_histogram_count_at_its_ends() -> None:
    histogram = LatencyHistogram()
    assert histogram.summary().p50_ms is None
    histogram.add(-3)
    assert histogram.summary().max_ms == 0
    histogram.add(HISTOGRAM_MS * 2)
    assert histogram.summary().max_ms == HISTOGRAM_MS


def test_ids_are_recognised_over_at_least_the_capacity() -> None:
    seen = RecentIds(capacity=100)
    assert all(seen.is_new(f"push-{n}") for n in range(1_000))
    assert not any(seen.is_new(f"push-{n}") for n in range(900, 1_000))
    assert seen.is_new("push-0")
