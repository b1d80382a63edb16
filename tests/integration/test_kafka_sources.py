from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import bytewax.operators as op
import msgspec
import pyarrow as pa
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, run_main

from datastreamx.acks import AckedOffsets
from datastreamx.clock import SystemClock
from datastreamx.config import Config
from datastreamx.errors import (
    ConfigError,
    ExpiredOffsetError,
    MissingTopicError,
    RetryableError,
    StaleStoreError,
    StateMismatchError,
)
from datastreamx.model.auction import DecidedAuction
from datastreamx.model.chunk import Chunk
from datastreamx.model.keygroup import KeyGroup, group_of
from datastreamx.model.log import LogBatch, Tick
from datastreamx.place import Place
from datastreamx.wire.decisions import encode_decision
from datastreamx.wire.facts import FactBatch, encode_facts
from operators.decisions import read_decisions
from operators.impressions import join_impressions
from operators.impressions.step import ImpressionBatch
from operators.repeats import drop_repeats
from operators.split import split_log
from sources.kafka import DecisionLog, EventSource, WarehouseSource, alignment
from sources.kafka.ends import LogEnds, decision_ends
from sources.kafka.outside import Outside
from sources.kafka.positions import Layout, Positions
from sources.kafka.reader import PartitionReader
from sources.kafka.start import PartitionId, StartPosition
from sources.kafka.warehouse import slack_ms
from sources.kafka.witness import Lineage
from tests.builders import winning_ad
from tests.integration.brokers import Broker, Record, produce
from tests.integration.crashes import CrashingSource
from tests.sinks.items import decision, facts

pytestmark = pytest.mark.integration

T = TypeVar("T")

PARTITIONS = 4
GROUPS = 2
PATIENCE_S = 30.0
IMPATIENT = Outside(answer_patience_s=0.5)
CLUSTER_OF_TWO = Place("cluster", 0, 2, ("127.0.0.1:1", "127.0.0.1:2"))


def events(count: int, *, first: int = 0) -> list[Record]:
    """Records over all partitions; the value says which one it is."""
    return [(n % PARTITIONS, b"stb-%d" % (n % 37), b"event-%d" % n) for n in range(first, first + count)]


def until(poll: Callable[[], Iterable[T]], enough: Callable[[list[T]], bool]) -> list[T]:
    """Collect until it is enough; the deadline only ends a test that fails."""
    collected: list[T] = []
    deadline = time.monotonic() + PATIENCE_S
    while not enough(collected):
        assert time.monotonic() < deadline, f"only got {collected!r}"
        collected.extend(poll())
        time.sleep(0.001)
    return collected


def drain(source: EventSource, resume: bytes | None = None) -> tuple[list[tuple[str, Chunk]], bytes]:
    """All that a source with `stop_at_end` emits, and its last snapshot."""
    part = source.build_part("in", source.list_parts()[0], resume)
    emitted: list[tuple[str, Chunk]] = []
    while True:
        try:
            emitted.extend(part.next_batch())
        except StopIteration:
            snapshot = part.snapshot()
            part.close()
            return emitted, snapshot
        time.sleep(0.001)


def values(emitted: Iterable[tuple[str, Chunk]]) -> list[bytes | None]:
    return [value for _, chunk in emitted for value in chunk.values]


@pytest.fixture
def config(broker: Broker) -> Config:
    return broker.new_config(partitions=PARTITIONS, groups=GROUPS)


def test_every_record_arrives_once_in_its_key_group_and_in_log_order(broker: Broker, config: Config) -> None:
    sent = events(2_000)
    offsets = produce(broker, config.topics.events, sent, timestamp_ms=1_700_000_000_000)
    emitted, _ = drain(EventSource(config, stop_at_end=True))

    got = {
        (chunk.partition, offset): (timestamp, key, value)
        for _, chunk in emitted
        for offset, timestamp, key, value in zip(
            chunk.offsets, chunk.timestamps_ms, chunk.keys, chunk.values, strict=True
        )
    }
    assert len(values(emitted)) == len(sent)
    assert got == {
        (partition, offset): (1_700_000_000_000 + n, key, value)
        for n, ((partition, key, value), offset) in enumerate(zip(sent, offsets, strict=True))
    }
    seen: dict[str, int] = {}
    for name, chunk in emitted:
        assert name == KeyGroup(chunk.partition, chunk.group).key
        assert all(group_of(key or b"", GROUPS) == chunk.group for key in chunk.keys)
        assert chunk.offsets == sorted(chunk.offsets)
        assert chunk.offsets[0] > seen.get(name, -1)
        seen[name] = chunk.offsets[-1]


def test_a_record_without_key_or_value_is_handed_on(broker: Broker, config: Config) -> None:
    produce(broker, config.topics.events, [(0, None, b"no key"), (0, b"stb-1", None)])
    emitted, _ = drain(EventSource(config, stop_at_end=True))
    records = {(key, value) for _, c in emitted for key, value in zip(c.keys, c.values, strict=True)}
    assert records == {(None, b"no key"), (b"stb-1", None)}


def test_a_resume_continues_exactly_behind_the_snapshot(broker: Broker, config: Config) -> None:
    produce(broker, config.topics.events, events(500))
    first, snapshot = drain(EventSource(config, stop_at_end=True))
    produce(broker, config.topics.events, events(300, first=500))
    second, _ = drain(EventSource(config, stop_at_end=True), snapshot)
    assert len(values(first)) == 500
    assert sorted(map(str, values(second))) == sorted(str(b"event-%d" % n) for n in range(500, 800))


def test_a_partition_that_was_empty_at_the_snapshot_is_not_skipped(broker: Broker, config: Config) -> None:
    _, snapshot = drain(EventSource(config, stop_at_end=True, start=StartPosition("end")))
    produce(broker, config.topics.events, events(8))
    emitted, _ = drain(EventSource(config, stop_at_end=True, start=StartPosition("end")), snapshot)
    assert len(values(emitted)) == 8


def test_two_readers_share_the_partitions(broker: Broker, config: Config) -> None:
    produce(broker, config.topics.events, events(400))
    source = EventSource(config, place=CLUSTER_OF_TWO, stop_at_end=True)
    assert source.list_parts() == ["reader-00", "reader-01"]
    read: dict[str, set[int]] = {}
    for name in source.list_parts():
        part = source.build_part("in", name, None)
        chunks = until(part.next_batch, lambda got: sum(len(chunk.offsets) for _, chunk in got) == 200)
        read[name] = {chunk.partition for _, chunk in chunks}
        part.close()
    assert read == {"reader-00": {0, 2}, "reader-01": {1, 3}}


def test_start_at_an_offset_and_at_a_time(broker: Broker, config: Config) -> None:
    produce(broker, config.topics.events, events(40), timestamp_ms=1_700_000_000_000)
    emitted, _ = drain(EventSource(config, stop_at_end=True, start=StartPosition("offset", 7)))
    assert all(min(chunk.offsets) >= 7 for _, chunk in emitted)
    assert len(values(emitted)) == PARTITIONS * 3

    emitted, _ = drain(EventSource(config, stop_at_end=True, start=StartPosition("timestamp", 1_700_000_000_020)))
    wanted = {b"event-%d" % n for n in range(20, 40)}
    if broker.kind == "tansu":
        # It answers 0 for every time: too early, never too late.
        assert wanted < set(values(emitted))
    else:
        assert set(values(emitted)) == wanted


def test_a_start_in_the_future_waits_for_what_comes(broker: Broker, config: Config) -> None:
    if broker.kind == "tansu":
        pytest.skip("the local broker answers 0 for a time in the future")
    produce(broker, config.topics.events, events(40))
    emitted, _ = drain(EventSource(config, stop_at_end=True, start=StartPosition("timestamp", 4_000_000_000_000)))
    assert emitted == []


def test_a_stop_ends_the_source_with_a_snapshot_of_what_was_read(broker: Broker, config: Config) -> None:
    produce(broker, config.topics.events, events(100))
    stop = threading.Event()
    source = EventSource(config, stop=stop)
    part = source.build_part("in", "reader-00", None)
    until(part.next_batch, lambda got: len(values(got)) == 100)
    stop.set()
    with pytest.raises(StopIteration):
        part.next_batch()
    snapshot = part.snapshot()
    part.close()
    emitted, _ = drain(EventSource(config, stop_at_end=True), snapshot)
    assert emitted == []


def test_a_missing_topic_is_named_with_the_command_that_makes_it(config: Config) -> None:
    topics = msgspec.structs.replace(config.topics, events="nobody-made-this")
    with pytest.raises(MissingTopicError, match=r"nobody-made-this .* `datastreamx apply`"):
        drain(EventSource(msgspec.structs.replace(config, topics=topics)))


def test_another_partition_count_than_configured_is_refused(config: Config) -> None:
    wrong = msgspec.structs.replace(config.events, partitions=8)
    with pytest.raises(ConfigError, match=r"it has 4 partitions, events.partitions is 8"):
        drain(EventSource(msgspec.structs.replace(config, events=wrong)))


def test_an_unreachable_broker_is_named_with_the_next_step(config: Config) -> None:
    kafka = msgspec.structs.replace(config.kafka, bootstrap="127.0.0.1:9")
    layout = Layout(topics=("events",), partitions=(0,), partition_count=1, groups_per_partition=1)
    reader = PartitionReader(kafka, layout, client_id="test", group="test", outside=IMPATIENT)
    with pytest.raises(RetryableError, match=r"127\.0\.0\.1:9 .*(refused|failed).* Check kafka\.bootstrap"):
        reader.start(StartPosition("beginning"))
    reader.close()


def test_a_snapshot_of_another_key_group_count_is_refused(broker: Broker, config: Config) -> None:
    produce(broker, config.topics.events, events(10))
    _, snapshot = drain(EventSource(config, stop_at_end=True))
    other = msgspec.structs.replace(config.events, groups_per_partition=3)
    with pytest.raises(StateMismatchError, match=r"and 2 key groups .* and 3 key groups"):
        drain(EventSource(msgspec.structs.replace(config, events=other)), snapshot)


def layout_of(config: Config) -> Layout:
    return Layout(
        topics=(config.topics.events,),
        partitions=tuple(range(PARTITIONS)),
        partition_count=PARTITIONS,
        groups_per_partition=GROUPS,
    )


def snapshot_at(config: Config, offsets: list[int]) -> bytes:
    lineages = {p: Lineage(id="test") for p in range(PARTITIONS)}
    return Positions.of(
        layout_of(config), {(config.topics.events, p): o for p, o in enumerate(offsets)}, lineages
    ).seal()


def test_a_position_beyond_the_end_is_refused_even_where_the_broker_would_be_silent(
    broker: Broker, config: Config
) -> None:
    produce(broker, config.topics.events, events(40))
    with pytest.raises(ExpiredOffsetError, match=r"\[2\]: offset 11 lies beyond the end; .* up to 10"):
        drain(EventSource(config), snapshot_at(config, [10, 10, 11, 10]))


def test_a_position_at_the_true_end_is_accepted_whatever_end_the_broker_reports(broker: Broker, config: Config) -> None:
    produce(broker, config.topics.events, events(40))
    emitted, _ = drain(EventSource(config, stop_at_end=True), snapshot_at(config, [10, 10, 10, 10]))
    assert emitted == []


def test_an_expired_position_is_refused_with_both_offsets(broker: Broker, config: Config) -> None:
    produce(broker, config.topics.events, events(40))
    broker.require_cluster().delete_records_before(config.topics.events, 1, 6)
    with pytest.raises(ExpiredOffsetError, match=r"\[1\]: offset 4 is gone, the earliest .* is 6: 2 records"):
        drain(EventSource(config), snapshot_at(config, [0, 4, 0, 0]))


def test_a_position_that_expires_while_the_flow_reads_is_refused(broker: Broker, config: Config) -> None:
    cluster = broker.require_cluster()
    part = EventSource(config).build_part("in", "reader-00", None)
    # Stopped right after the start: what is produced now has not been fetched when it is deleted.
    until(part.next_batch, lambda _: part._reader.caught_up)
    part._reader._consumer.pause(part._reader._consumer.assignment())
    produce(broker, config.topics.events, events(40))
    cluster.delete_records_before(config.topics.events, 1, 6)
    part._reader._consumer.resume(part._reader._consumer.assignment())
    with pytest.raises(ExpiredOffsetError, match=r"\[1\]: offset 0 is gone, the earliest .* is 6"):
        until(part.next_batch, lambda _: False)
    part.close()


def test_a_broker_restart_is_waited_out(broker: Broker, config: Config) -> None:
    cluster = broker.require_cluster()
    produce(broker, config.topics.events, events(100))
    part = EventSource(config).build_part("in", "reader-00", None)
    before = until(part.next_batch, lambda got: len(values(got)) == 100)
    cluster.kill_node(1)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        assert not [*part.next_batch()]
        time.sleep(0.001)
    cluster.start_node(1)
    produce(broker, config.topics.events, events(100, first=100))
    after = until(part.next_batch, lambda got: len(values(got)) == 100)
    part.close()
    assert {*values(before), *values(after)} == {b"event-%d" % n for n in range(200)}


def after_records(count: int) -> Callable[[list[tuple[str, Chunk]]], bool]:
    left = count

    def is_time(items: list[tuple[str, Chunk]]) -> bool:
        nonlocal left
        left -= len(values(items))
        return left < 0

    return is_time


@pytest.mark.parametrize("crash_after", [0, 300, 2_500])
def test_a_crashed_flow_repeats_but_never_skips(
    broker: Broker, config: Config, tmp_path: Path, crash_after: int
) -> None:
    produce(broker, config.topics.events, events(3_000))
    small = msgspec.structs.replace(config, events=msgspec.structs.replace(config.events, chunk_records=100))
    init_db_dir(tmp_path, 1)
    out: list[tuple[str, Chunk]] = []

    def run(records: int) -> None:
        flow = Dataflow("crash_story")
        source = CrashingSource(EventSource(small, stop_at_end=True), after_records(records))
        op.output("out", op.input("in", flow, source), TestingSink(out))
        run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(str(tmp_path)))

    run(crash_after)
    crashed_with = len(values(out))
    run(10**9)
    assert crashed_with <= crash_after
    assert {*values(out)} == {b"event-%d" % n for n in range(3_000)}
    # A snapshot is taken with each epoch, here with each poll: what is repeated is the last polls, not everything.
    assert len(values(out)) <= 3_000 + crash_after
    done = len(values(out))
    run(10**9)
    assert len(values(out)) == done


def test_the_warehouse_source_reads_both_topics_with_headers_and_ticks_first_after_each_snapshot(
    broker: Broker, config: Config
) -> None:
    produce(broker, config.topics.facts, [(p, b"k", b"fact-%d" % n) for n in range(10) for p in range(PARTITIONS)])
    produce(broker, config.topics.decisions, [(p, b"k", b"decision") for p in range(PARTITIONS)])
    source = WarehouseSource(config)
    part = source.build_part("in", "reader-00", None)

    def count(items: list[Any]) -> int:
        return sum(len(item.offsets) for item in items if isinstance(item, LogBatch))

    items = until(part.next_batch, lambda got: count(got) == 44)
    assert not [item for item in items if isinstance(item, Tick)]
    assert {(item.topic, item.partition) for item in items if isinstance(item, LogBatch)} == {
        (topic, p) for topic in (config.topics.facts, config.topics.decisions) for p in range(PARTITIONS)
    }
    produce(broker, config.topics.facts, [(0, b"k", b"late")])
    snapshot = part.snapshot()
    assert isinstance(next(iter(part.next_batch())), Tick)
    rest = until(part.next_batch, lambda got: bool(got) or part._reader.positions[config.topics.facts, 0] == 11)
    assert not [item for item in rest if isinstance(item, Tick)]
    part.snapshot()
    assert isinstance(next(iter(part.next_batch())), Tick)
    part.close()

    # What was proven since then is in the log, too; knowingly, it is read again.
    resumed = WarehouseSource(config, accept_store=True).build_part("in", "reader-00", snapshot)
    first = until(resumed.next_batch, bool)
    assert [type(item) for item in first] == [LogBatch]
    assert first[0].values == [b"late"]  # type: ignore[union-attr]  # its type was just asserted
    resumed.close()


def test_an_old_or_lost_store_is_refused_because_the_broker_knows_better(broker: Broker, config: Config) -> None:
    def run(state: bytes | None, *, accept: bool = False) -> tuple[bytes, bytes]:
        """Snapshots before and after reading what is there, both proven."""
        part = EventSource(config, accept_store=accept).build_part("in", "reader-00", state)
        before = part.snapshot()
        until(part.next_batch, lambda _: part._reader.caught_up)
        after = part.snapshot()
        part.next_batch()
        part.close()
        return before, after

    produce(broker, config.topics.events, events(40))
    old, new = run(None)
    for store in (old, None):
        with pytest.raises(StaleStoreError, match=r"datastreamx run FLOW --accept-store"):
            run(store)
    run(new)
    _, accepted = run(old, accept=True)
    run(accepted)


def decisions(count: int, *, first: int = 0, partition: int = 1) -> list[Record]:
    return [(partition, b"stb-1", encode_decision(decision(n))) for n in range(first, first + count)]


def ids(numbers: Iterable[int]) -> set[str]:
    return {f"{n:032x}" for n in numbers}


def auctions(entries: list[DecidedAuction]) -> set[str]:
    return {entry.auction_id for entry in entries}


def test_the_decision_log_is_read_back_from_behind_an_offset_to_the_true_end(broker: Broker, config: Config) -> None:
    log = DecisionLog(config)
    assert auctions(log.read_back(1, None)) == set()
    produce(broker, config.topics.decisions, decisions(5_000))
    produce(broker, config.topics.decisions, decisions(10, partition=2, first=10_000))
    assert auctions(log.read_back(1, None)) == ids(range(5_000))
    assert auctions(log.read_back(1, 0)) == ids(range(1, 5_000))
    assert auctions(log.read_back(1, 4_989)) == ids(range(4_990, 5_000))
    assert auctions(log.read_back(1, 4_999)) == set()
    assert auctions(log.read_back(2, 5)) == ids(range(10_006, 10_010))


def test_the_decision_log_beyond_its_end_is_empty_and_does_not_hang(broker: Broker, config: Config) -> None:
    produce(broker, config.topics.decisions, decisions(10))
    assert auctions(DecisionLog(config).read_back(1, 100_000)) == set()


def test_an_expired_offset_of_the_decision_log_means_from_the_earliest(broker: Broker, config: Config) -> None:
    produce(broker, config.topics.decisions, decisions(10))
    broker.require_cluster().delete_records_before(config.topics.decisions, 1, 6)
    assert auctions(DecisionLog(config).read_back(1, 2)) == ids(range(6, 10))


def test_an_end_of_the_decision_log_is_a_mark_that_leaves_nothing_out(broker: Broker, config: Config) -> None:
    acked = AckedOffsets()
    ends = LogEnds(decision_ends(config), acked)
    ends.refresh()
    assert acked.snapshot() == {}
    produce(broker, config.topics.decisions, decisions(50))
    ends.refresh()
    (partition, mark), *others = acked.snapshot().items()
    assert (partition, others) == (1, [])
    # The local broker tells less than there is.
    assert 0 <= mark <= 49
    if broker.kind == "kafka":
        assert mark == 49
    produce(broker, config.topics.decisions, decisions(10, first=50))
    assert auctions(DecisionLog(config).read_back(1, mark)) == ids(range(mark + 1, 60))


def test_the_join_matches_everything_of_a_backlog_of_hours(broker: Broker, config: Config) -> None:
    """Three hours of pushes and their displays, which are read with no more than ten minutes of memory."""
    hours_ms, memory_ms, count = 3 * 3_600_000, 600_000, 540
    step_ms = hours_ms // count
    first_ms = SystemClock().now_ms() - hours_ms
    ads = [winning_ad(f"{n:032x}") for n in range(count)]
    won = [
        msgspec.structs.replace(
            decision(n), decided_ms=first_ms + n * step_ms, status="won", push_id=ads[n].push_id, ads=(ads[n],)
        )
        for n in range(count)
    ]
    shown = [display_facts(n, ad.push_id, first_ms + n * step_ms + 5_000) for n, ad in enumerate(ads)]
    # One topic after the other, as the broker hands on what it holds.
    decided: list[Record] = [(0, b"k", encode_decision(one)) for one in won]
    produce(broker, config.topics.decisions, decided, timestamp_ms=first_ms, step_ms=step_ms)
    produce(
        broker,
        config.topics.facts,
        [(0, b"k", value) for value, _ in shown],
        timestamp_ms=first_ms + 5_000,
        step_ms=step_ms,
        headers=shown[0][1],
    )
    config = msgspec.structs.replace(
        config, warehouse=msgspec.structs.replace(config.warehouse, decision_memory_ms=memory_ms)
    )
    out: list[tuple[str, ImpressionBatch]] = []
    flow = Dataflow("join")
    log = split_log("log", op.input("topics", flow, WarehouseSource(config, stop_at_end=True)), config.topics)
    impressions = join_impressions(
        "impressions", drop_repeats("repeats", log.facts), read_decisions("decisions", log.decisions), memory_ms
    )
    op.output("out", impressions, TestingSink(out))
    run_main(flow)
    matched = [impression for _, batch in out for impression in batch.impressions if impression.push is not None]
    assert len(matched) == count


def test_partitions_that_are_paused_again_and_again_lose_and_repeat_nothing(
    broker: Broker, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "SHARE_BYTES_MIN", 0)
    monkeypatch.setattr(alignment, "HELD_BYTES_MAX", 4_000)
    paused: list[str] = []
    pause = PartitionReader._pause

    def note_and_pause(reader: PartitionReader, partition: PartitionId) -> None:
        paused.append(partition[0])
        pause(reader, partition)

    monkeypatch.setattr(PartitionReader, "_pause", note_and_pause)
    count, hour_ms = 5_000, 3_600_000
    first_ms = SystemClock().now_ms() - 2 * hour_ms
    for topic in (config.topics.facts, config.topics.decisions):
        # Each topic is ahead for a while: facts are dense first, decisions later.
        dense, sparse = (count - 20, 20) if topic == config.topics.facts else (20, count - 20)
        for start_ms, records in ((first_ms, dense), (first_ms + hour_ms, sparse)):
            sent: list[Record] = [(n % 2, b"k", b"%d" % n) for n in range(records)]
            produce(broker, topic, sent, timestamp_ms=start_ms, step_ms=hour_ms // records)
    part = WarehouseSource(config).build_part("in", "reader-00", None)
    read: dict[tuple[str, int], list[int]] = {}
    for item in until(part.next_batch, lambda _: part._reader.caught_up):
        assert isinstance(item, LogBatch)
        assert item.timestamps_ms[-1] - item.timestamps_ms[0] <= slack_ms(config)
        read.setdefault((item.topic, item.partition), []).extend(item.offsets)
    part.close()
    assert set(paused) == {config.topics.facts, config.topics.decisions}
    assert read == {
        (topic, number): [*range(count // 2)]
        for topic in (config.topics.facts, config.topics.decisions)
        for number in (0, 1)
    }


def display_facts(number: int, push_id: str, shown_time_ms: int) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Message of one displayed ad."""
    row = facts(rows=1, first_offset=number).rows.columns()
    values = {
        "type": "ad_shown",
        "push_id": push_id,
        "event_time": dt.datetime.fromtimestamp(shown_time_ms / 1000, dt.UTC),
    }
    columns = [
        pa.array([values[field.name]], field.type) if field.name in values else row.column(field.name)
        for field in row.schema
    ]
    return encode_facts(FactBatch("box_events", 0, 0, pa.RecordBatch.from_arrays(columns, schema=row.schema)))
