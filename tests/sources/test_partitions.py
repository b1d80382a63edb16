from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaError

from datastreamx.config import Config
from datastreamx.errors import CrashError, RetryableError, StateMismatchError
from datastreamx.model.keygroup import KeyGroup, group_of
from datastreamx.model.log import LogBatch, Tick
from datastreamx.place import Place
from sources.kafka import DecisionLog, EventSource, WarehouseSource
from sources.kafka.backoff import Backoff
from sources.kafka.positions import Layout
from sources.kafka.reader import PartitionReader
from sources.kafka.start import StartPosition
from tests import builders
from tests.sources.fake_kafka import FakeConsumer, end, event, failure, record


def config() -> Config:
    return builders.config("[events]\npartitions = 2\ngroups_per_partition = 2\nchunk_records = 20\n")


EVENTS = "box-events"
FACTS = "box-facts"
DECISIONS = "ad-decisions"


def readers(consumer: FakeConsumer) -> Any:
    def make_reader(layout: Layout, client_id: str) -> PartitionReader:
        return PartitionReader(config().kafka, layout, client_id=client_id, group="g", outside=consumer.outside())

    return make_reader


def event_part(consumer: FakeConsumer, **options: Any) -> Any:
    consumer.topics = {EVENTS: 2}
    source = EventSource(config(), make_reader=readers(consumer), **options)
    return source.build_part("in", "reader-00", None)


def test_chunks_are_keyed_by_their_key_group() -> None:
    polls = [[record(n, topic=EVENTS, partition=n % 2, key=b"stb-%d" % n) for n in range(20)]]
    items = event_part(FakeConsumer(polls=polls)).next_batch()  # type: ignore[arg-type]  # lists are invariant
    assert items
    for key, chunk in items:
        assert key == KeyGroup(chunk.partition, chunk.group).key
        assert all(group_of(k, 2) == chunk.group for k in chunk.keys)
    assert len({key for key, _ in items}) == len(items)


def test_an_idle_source_gives_nothing_and_leaves_the_wake_up_to_bytewax() -> None:
    part = event_part(FakeConsumer())
    assert part.next_batch() == []
    assert part.next_awake() is None


def test_it_ends_at_the_end_only_when_asked_to() -> None:
    ended = [[end(0, topic=EVENTS), end(0, topic=EVENTS, partition=1)]]
    assert event_part(FakeConsumer(polls=[*ended])).next_batch() == []
    with pytest.raises(StopIteration):
        event_part(FakeConsumer(polls=[*ended]), stop_at_end=True).next_batch()


def test_a_stop_ends_the_source_even_if_records_wait() -> None:
    stop = threading.Event()
    consumer = FakeConsumer(polls=[[record(0, topic=EVENTS)], [record(1, topic=EVENTS)]])
    part = event_part(consumer, stop=stop)
    part.next_batch()
    stop.set()
    with pytest.raises(StopIteration):
        part.next_batch()
    assert b'"0":1' in part.snapshot()


def test_a_source_until_a_time_ends_when_every_partition_has_reached_it() -> None:
    late = 2 * 10**12
    polls = [
        [record(0, topic=EVENTS), record(1, topic=EVENTS, timestamp_ms=late)],
        [record(0, topic=EVENTS, partition=1, timestamp_ms=late)],
    ]
    consumer = FakeConsumer(topics={EVENTS: 2}, polls=[*polls])

    def make_reader(layout: Layout, client_id: str) -> PartitionReader:
        return PartitionReader(
            config().kafka, layout, client_id=client_id, group=None, until_ms=late, outside=consumer.outside()
        )

    part = EventSource(config(), make_reader=make_reader).build_part("in", "reader-00", None)
    assert [chunk.offsets for _, chunk in part.next_batch()] == [[0]]
    with pytest.raises(StopIteration):
        part.next_batch()


def test_the_partitions_of_a_cell_are_all_that_it_reads() -> None:
    consumer = FakeConsumer()
    part = event_part(consumer, place=Place("cells", 1, 2))
    assert [one.partition for one in consumer.assigned] == [1]
    snapshot = part.snapshot()
    with pytest.raises(StateMismatchError, match=r"of them \[1\].*of them \[0, 1\]"):
        EventSource(config(), make_reader=readers(consumer)).build_part("in", "reader-00", snapshot)


def warehouse_part(consumer: FakeConsumer, resume: bytes | None = None) -> Any:
    consumer.topics = {FACTS: 2, DECISIONS: 2}
    return WarehouseSource(config(), make_reader=readers(consumer)).build_part("in", "reader-00", resume)


def test_a_tick_comes_first_after_each_snapshot_and_never_else() -> None:
    fact = [record(0, topic=FACTS)]
    part = warehouse_part(FakeConsumer(polls=[[*fact], [], [record(1, topic=FACTS)], []]))
    assert [type(item) for item in part.next_batch()] == [LogBatch]
    snapshot = part.snapshot()
    assert [type(item) for item in part.next_batch()] == [Tick, LogBatch]
    assert part.next_batch() == []
    part.snapshot()
    part.snapshot()
    assert [type(item) for item in part.next_batch()] == [Tick]
    assert part.next_batch() == []
    resumed = warehouse_part(FakeConsumer(watermarks={0: (0, 9), 1: (0, 0)}, polls=[[*fact]]), snapshot)
    assert [type(item) for item in resumed.next_batch()] == [LogBatch]


def test_a_source_that_may_not_read_gives_ticks_and_leaves_the_records() -> None:
    may_read = False
    consumer = FakeConsumer(topics={FACTS: 2, DECISIONS: 2}, polls=[[record(0, topic=FACTS)]])
    source = WarehouseSource(config(), may_read=lambda: may_read, make_reader=readers(consumer))
    part = source.build_part("in", "reader-00", None)
    part.snapshot()
    assert [type(item) for item in part.next_batch()] == [Tick]
    assert part.next_batch() == []
    may_read = True
    assert [type(item) for item in part.next_batch()] == [LogBatch]


@pytest.mark.parametrize(("start", "first"), [(None, 2), (StartPosition("end"), 9)])
def test_a_source_without_state_begins_where_it_is_told(start: StartPosition | None, first: int) -> None:
    consumer = FakeConsumer(topics={FACTS: 2, DECISIONS: 2}, watermarks={0: (2, 9), 1: (2, 9)})
    options: dict[str, Any] = {} if start is None else {"start": start}
    source = WarehouseSource(config(), make_reader=readers(consumer), **options)
    part = source.build_part("in", "reader-00", None)
    assert {one.offset for one in consumer.assigned} == {first}
    consumer.watermarks = {0: (0, 20), 1: (0, 20)}
    source.build_part("in", "reader-00", part.snapshot())
    assert {one.offset for one in consumer.assigned} == {first}


def test_one_batch_per_topic_and_partition_with_all_columns() -> None:
    polls = [
        [
            record(4, topic=FACTS, value=b"a", headers=[("table", b"t")], timestamp_ms=1),
            record(0, topic=DECISIONS, value=b"b", timestamp_ms=2),
        ],
        [record(5, topic=FACTS, value=None, timestamp_ms=3)],
    ]
    items = warehouse_part(FakeConsumer(polls=[*polls])).next_batch()
    assert items == [
        LogBatch(FACTS, 0, [4, 5], [1, 3], [b"a", b""], [[("table", b"t")], []]),
        LogBatch(DECISIONS, 0, [0], [2], [b"b"], [[]]),
    ]


def test_a_poll_is_bounded_in_bytes_and_in_records() -> None:
    large = [[record(n, topic=FACTS, value=bytes(1_000_000))] for n in range(20)]
    (batch,) = warehouse_part(FakeConsumer(polls=[*large])).next_batch()
    assert len(batch.offsets) == 8
    many = [[record(n, topic=FACTS) for n in range(100)]]
    (batch,) = warehouse_part(FakeConsumer(polls=[*many])).next_batch()
    # Up to chunk_records = 20, in slices of 16.
    assert len(batch.offsets) == 32


@pytest.mark.parametrize("at_end", [False, True], ids=["stop", "end of the log"])
def test_a_source_that_is_to_end_reads_nothing_and_waits_for_what_is_under_way(*, at_end: bool) -> None:
    stop, drained = threading.Event(), threading.Event()
    ended = [end(0, topic=EVENTS), end(0, topic=EVENTS, partition=1)]
    consumer = FakeConsumer(polls=[ended if at_end else [record(0, topic=EVENTS)]])
    part = event_part(consumer, stop=stop, stop_at_end=at_end, drained=drained.is_set)
    if not at_end:
        stop.set()
    assert list(part.next_batch()) == list(part.next_batch()) == []
    drained.set()
    with pytest.raises(StopIteration):
        part.next_batch()


def test_a_stop_ends_the_warehouse_source_too() -> None:
    stop = threading.Event()
    consumer = FakeConsumer(topics={FACTS: 2, DECISIONS: 2})
    part = WarehouseSource(config(), stop=stop, make_reader=readers(consumer)).build_part("in", "reader-00", None)
    stop.set()
    with pytest.raises(StopIteration):
        part.next_batch()


def decisions(*numbers: int) -> list[Any]:
    value = b'{"v":2,"auction_id":"a%d","group":1,"offset":7,"channel_id":"ch1"}'
    return [record(n, topic=DECISIONS, value=value % n) for n in numbers]


def read_back(consumer: FakeConsumer, from_offset: int | None, **options: Any) -> list[str]:
    consumer.topics = {DECISIONS: 2}
    log = DecisionLog(config(), outside=consumer.outside(), **options)
    found = log.read_back(0, from_offset)
    log.close()
    assert consumer.closed
    assert all((entry.group, entry.offset) == (1, 7) for entry in found)
    return [entry.auction_id for entry in found]


def test_an_end_below_the_reported_end_is_not_believed() -> None:
    """Right after a leader moved, Kafka may serve an end of partition below acknowledged records."""
    consumer = FakeConsumer(
        watermarks={0: (0, 4), 1: (0, 0)},
        polls=[[*decisions(0, 1), end(2, topic=DECISIONS)], [], [*decisions(2, 3), end(4, topic=DECISIONS)]],
    )
    assert read_back(consumer, None) == ["a0", "a1", "a2", "a3"]


def test_only_what_lies_behind_the_offset_is_read_back() -> None:
    consumer = FakeConsumer(
        watermarks={0: (0, 2), 1: (0, 0)}, polls=[[*decisions(1, 2, 3, 4), end(5, topic=DECISIONS)]]
    )
    assert read_back(consumer, 3) == ["a4"]


def test_broker_trouble_during_the_read_back_is_waited_out_with_a_heartbeat() -> None:
    beats: list[int] = []
    consumer = FakeConsumer(
        watermarks={0: (0, 2), 1: (0, 0)},
        polls=[
            [event(KafkaError._TRANSPORT, topic=DECISIONS)],
            failure(KafkaError._TIMED_OUT),
            *[[] for _ in range(50)],
            [*decisions(0, 1), end(2, topic=DECISIONS)],
        ],
    )
    assert read_back(consumer, None, on_wait=lambda: beats.append(1)) == ["a0", "a1"]
    assert len(beats) > 50


def test_a_read_back_that_hears_nothing_gives_up_with_the_reason() -> None:
    consumer = FakeConsumer(watermarks={0: (0, 2), 1: (0, 0)}, polls=[[event(KafkaError._TRANSPORT, topic=DECISIONS)]])
    with pytest.raises(RetryableError, match=r"ad-decisions\[0\] .* silent for 20 s"):
        read_back(consumer, None)


def test_records_that_expire_during_the_read_back_are_left_out() -> None:
    consumer = FakeConsumer(watermarks={0: (0, 9), 1: (0, 0)})
    starts: list[int] = []

    def consume(count: int, _timeout: float) -> list[Any]:
        if count > 1:
            return []
        starts.append(consumer.assigned[0].offset)
        if len(starts) == 1:
            consumer.watermarks[0] = (7, 9)
            return [event(KafkaError._AUTO_OFFSET_RESET, topic=DECISIONS)]
        return [*decisions(7, 8), end(9, topic=DECISIONS)]

    consumer.consume = consume  # type: ignore[method-assign,assignment]  # a script with a condition
    assert read_back(consumer, 2) == ["a7", "a8"]
    assert starts == [3, 7]


def test_a_record_that_is_no_decision_stops_the_read_back() -> None:
    consumer = FakeConsumer(watermarks={0: (0, 1), 1: (0, 0)}, polls=[[record(0, topic=DECISIONS, value=b"?")]])
    with pytest.raises(CrashError, match="no decision"):
        read_back(consumer, None)
    assert consumer.closed


def test_one_connection_serves_all_read_backs_until_one_fails() -> None:
    consumers = [FakeConsumer(topics={DECISIONS: 2}, watermarks={0: (0, 1), 1: (0, 1)}) for _ in range(2)]
    consumers[0].polls = [
        [*decisions(0), end(1, topic=DECISIONS)],
        [*decisions(0), end(1, topic=DECISIONS)],
        [record(0, topic=DECISIONS, value=b"?")],
    ]
    consumers[1].polls = [[*decisions(0), end(1, topic=DECISIONS)]]
    made = iter(consumers)
    log = DecisionLog(config(), outside=consumers[0].outside(make_consumer=lambda _properties: next(made)))
    assert len(log.read_back(0, None)) == len(log.read_back(1, None)) == 1
    with pytest.raises(CrashError):
        log.read_back(0, None)
    assert consumers[0].closed
    assert len(log.read_back(0, None)) == 1
    log.close()


def test_broker_that_takes_longer_than_the_wait_of_a_fetch_is_read_with_a_longer_one() -> None:
    slow = FakeConsumer(topics={DECISIONS: 2}, watermarks={0: (0, 2), 1: (0, 1)})
    enough = FakeConsumer(
        topics={DECISIONS: 2},
        watermarks={0: (0, 2), 1: (0, 1)},
        polls=[[*decisions(0, 1), end(2, topic=DECISIONS)], [*decisions(0), end(1, topic=DECISIONS)]],
    )
    waits: list[int] = []

    def make_consumer(properties: dict[str, Any]) -> FakeConsumer:
        waits.append(properties["fetch.wait.max.ms"])
        return slow if waits[-1] < 100 else enough

    log = DecisionLog(config(), outside=slow.outside(make_consumer=make_consumer))
    assert len(log.read_back(0, None)) == 2
    assert slow.closed
    assert len(log.read_back(1, None)) == 1, "the next partition is asked patiently at once"
    assert len(waits) == 2
    log.close()


def test_long_read_backs_report_their_progress(capsys: pytest.CaptureFixture[str]) -> None:
    def slowly(consumer: FakeConsumer) -> Iterator[list[Any]]:
        for n in range(4):
            consumer.clock.advance(3_000)
            yield decisions(n)
        yield [end(4, topic=DECISIONS)]

    consumer = FakeConsumer(watermarks={0: (0, 4), 1: (0, 0)})
    script = slowly(consumer)
    consumer.consume = lambda count, _timeout: next(script) if count == 1 else []  # type: ignore[method-assign,assignment]
    assert len(read_back(consumer, None)) == 4
    assert "".join(capsys.readouterr()).count("decision_log.reading") == 2


def test_delays_grow_to_a_limit_with_jitter_and_start_over() -> None:
    backoff = Backoff(random.Random(3), first_s=0.1, longest_s=1.0)
    delays = [backoff.next_s() for _ in range(10)]
    for attempt, delay in enumerate(delays):
        ceiling = min(1.0, 0.1 * 2**attempt)
        assert ceiling / 2 <= delay <= ceiling
    assert len(set(delays[5:])) == 5
    backoff.reset()
    assert backoff.next_s() <= 0.1


def test_other_key_group_counts_are_refused() -> None:
    consumer = FakeConsumer()
    snapshot = event_part(consumer).snapshot()
    other = msgspec.structs.replace(config(), events=msgspec.structs.replace(config().events, groups_per_partition=5))
    with pytest.raises(StateMismatchError, match="5 key groups"):
        EventSource(other, make_reader=readers(consumer)).build_part("in", "reader-00", snapshot)
