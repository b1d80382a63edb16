from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastreamx.wire.facts import FactBatch, decode_facts, encode_facts
from sinks.facts import FactsSink
from sinks.facts.coalesce import BYTES_MAX, Coalescer
from tests import builders
from tests.sinks.fake_producer import FakeBroker
from tests.sinks.items import Columns, facts


def offsets(batches: list[FactBatch]) -> list[int]:
    return [offset for batch in batches for offset in batch.rows.column("source_offset").to_pylist()]


def test_batches_wait_until_a_message_is_full() -> None:
    coalescer = Coalescer(rows_max=10)
    assert not [*coalescer.add(facts(rows=4, first_offset=0), 0.0)]
    assert not [*coalescer.add(facts(rows=4, first_offset=4), 0.0)]
    (full,) = coalescer.add(facts(rows=4, first_offset=8), 0.0)
    assert offsets([full]) == [*range(8)]
    (rest,) = coalescer.drain()
    assert offsets([rest]) == [8, 9, 10, 11]
    assert coalescer.drain() == []


def test_columns_are_built_once_per_message(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    columns = Columns.columns

    def counted(self: Columns, later: Sequence[Columns] = ()) -> pa.RecordBatch:
        found = columns(self, later)
        built.append(found.num_rows)
        return found

    pieces = [facts(rows=2, first_offset=2 * number) for number in range(5)]
    monkeypatch.setattr(Columns, "columns", counted)
    coalescer = Coalescer(rows_max=100)
    for piece in pieces:
        assert not [*coalescer.add(piece, 0.0)]
    assert built == []
    (message,) = coalescer.drain()
    assert message.rows.num_rows == built[-1] == 10


def test_a_batch_that_fills_a_message_exactly_does_not_wait() -> None:
    coalescer = Coalescer(rows_max=10)
    (full,) = coalescer.add(facts(rows=10, first_offset=0), 0.0)
    assert full.rows.num_rows == 10


def test_partitions_groups_and_tables_are_never_mixed() -> None:
    coalescer = Coalescer()
    for partition in (0, 1):
        for group in (0, 1):
            for first in (0, 5):
                assert not [*coalescer.add(facts(rows=5, first_offset=first, partition=partition, group=group), 0.0)]
    drained = coalescer.drain()
    assert [(batch.partition, batch.group) for batch in drained] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for batch in drained:
        assert batch.rows.column("source_partition").to_pylist() == [batch.partition] * 10
        assert offsets([batch]) == [*range(10)]


def test_once_the_oldest_is_old_enough_everything_is_due() -> None:
    coalescer = Coalescer(age_ms_max=100)
    assert not [*coalescer.add(facts(rows=1, first_offset=0, group=0), 1.00)]
    assert not [*coalescer.add(facts(rows=1, first_offset=0, group=1), 1.05)]
    assert not [*coalescer.add(facts(rows=1, first_offset=1, group=0), 1.09)]
    assert coalescer.due(1.09) == []
    old, younger = coalescer.due(1.11)
    assert (old.group, offsets([old])) == (0, [0, 1])
    assert younger.group == 1
    assert coalescer.due(9.0) == []


def test_a_batch_too_large_for_a_message_is_cut_and_fits_on_the_wire() -> None:
    coalescer = Coalescer()
    parts = [*coalescer.add(facts(rows=5_000, first_offset=0, padding=500), 0.0), *coalescer.drain()]
    assert offsets(parts) == [*range(5_000)]
    assert len(parts) > 2
    for part in parts:
        value, headers = encode_facts(part)
        assert len(value) < 1_000_000
        assert decode_facts(value, headers, 0).rows == part.rows


def test_a_single_row_is_never_cut() -> None:
    coalescer = Coalescer(bytes_max=100)
    (one,) = [*coalescer.add(facts(rows=1, first_offset=0, padding=BYTES_MAX), 0.0), *coalescer.drain()]
    assert one.rows.num_rows == 1


@given(
    sizes=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), max_size=30),
    rows_max=st.integers(1, 40),
    bytes_max=st.integers(200, 20_000),
    step_ms=st.integers(0, 60),
)
def test_no_row_is_lost_repeated_or_overtaken(
    sizes: list[tuple[int, int]], rows_max: int, bytes_max: int, step_ms: int
) -> None:
    coalescer = Coalescer(rows_max=rows_max, bytes_max=bytes_max)
    out: list[FactBatch] = []
    sent = dict.fromkeys(range(3), 0)
    for step, (group, rows) in enumerate(sizes):
        now_s = step * step_ms / 1000
        out += coalescer.add(facts(rows=rows, first_offset=sent[group], group=group), now_s)
        out += coalescer.due(now_s)
        sent[group] += rows
    out += coalescer.drain()
    for group, total in sent.items():
        assert offsets([batch for batch in out if batch.group == group]) == [*range(total)]
    assert all(0 < batch.rows.num_rows <= rows_max for batch in out)


@pytest.fixture
def broker() -> FakeBroker:
    broker = FakeBroker()
    broker.topics = {"box-facts": 8}
    return broker


def part_of(broker: FakeBroker) -> Any:
    return FactsSink(builders.config(), broker.outside()).build_part("out", "facts", None)


def sent(broker: FakeBroker, partition: int = 0) -> list[int]:
    return [len(log.value or b"") for log in broker.logs["box-facts", partition]]


def test_writes_are_sent_by_age_and_a_snapshot_sends_the_rest(broker: FakeBroker) -> None:
    part = part_of(broker)
    part.write_batch([facts(rows=3, first_offset=0)])
    assert sent(broker) == []
    broker.clock.advance(250)
    part.write_batch([facts(rows=3, first_offset=0, partition=1)])
    assert len(sent(broker)) == len(sent(broker, 1)) == 1
    part.write_batch([facts(rows=3, first_offset=3)])
    assert len(sent(broker)) == 1
    assert part.snapshot() is None
    assert len(sent(broker)) == 2


def test_a_clean_end_sends_what_waits(broker: FakeBroker) -> None:
    part = part_of(broker)
    part.write_batch([facts(rows=3, first_offset=0)])
    part.close()
    assert len(sent(broker)) == 1
    assert broker.clients[0].is_closed
