from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import OFFSET_END, KafkaError
from prometheus_client import REGISTRY

from datastreamx.config import KafkaConfig
from datastreamx.errors import ConfigError, CrashError, ExpiredOffsetError, MissingTopicError, RetryableError
from sources.kafka.positions import Positions
from sources.kafka.reader import PartitionReader
from sources.kafka.start import StartPosition
from sources.kafka.witness import Lineage
from tests.sources.fake_kafka import LAYOUT, TOPIC, FakeConsumer, end, event, failure, record

KAFKA = KafkaConfig(bootstrap="broker:9092")
BEGINNING = StartPosition("beginning")


def reader_of(consumer: FakeConsumer, **options: Any) -> PartitionReader:
    return PartitionReader(KAFKA, LAYOUT, client_id="test", group="test", outside=consumer.outside(), **options)


def started(consumer: FakeConsumer) -> PartitionReader:
    reader = reader_of(consumer)
    reader.start(BEGINNING)
    return reader


def offsets(runs: list[Any]) -> dict[int, list[int]]:
    return {run.partition: [m.offset() for m in run.messages] for run in runs}


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_every_partition_starts_at_a_concrete_offset() -> None:
    consumer = FakeConsumer(watermarks={0: (3, 9), 1: (0, 0)})
    for origin, expected in [
        (BEGINNING, [3, 0]),
        (StartPosition("end"), [9, 0]),
        ({(TOPIC, 0): 5, (TOPIC, 1): 0}, [5, 0]),
    ]:
        reader = reader_of(consumer)
        reader.start(origin)  # type: ignore[arg-type]  # a union of two kinds
        assert [one.offset for one in consumer.assigned] == expected
        assert [*reader.positions.values()] == expected


def test_a_start_by_time_where_no_record_is_that_young_is_the_end() -> None:
    consumer = FakeConsumer(watermarks={0: (3, 9), 1: (0, 7)})
    consumer.at_time = {0: 6, 1: OFFSET_END}
    reader = reader_of(consumer)
    reader.start(StartPosition("timestamp", 1_700_000_000_000))
    assert [*reader.positions.values()] == [6, 7]


def test_positions_follow_the_records_of_each_partition() -> None:
    reader = started(FakeConsumer(polls=[[record(0), record(1), record(0, partition=1)], [record(4)]]))
    assert offsets(reader.poll(10)) == {0: [0, 1], 1: [0]}
    assert [*reader.positions.values()] == [2, 1]
    reader.poll(10)
    assert [*reader.positions.values()] == [5, 1]


def test_it_is_caught_up_only_when_every_partition_has_ended_and_nothing_came_since() -> None:
    reader = started(
        FakeConsumer(polls=[[record(0), end(1)], [end(0, partition=1)], [record(1)], [end(2), record(2)], [end(3)]])
    )
    states: list[bool] = []
    for _ in range(5):
        reader.poll(10)
        states.append(reader.caught_up)
    assert states == [False, True, False, False, True]


def test_an_end_that_is_told_below_the_known_end_is_none() -> None:
    """Right after its leader moved, a partition may tell so of records that were acknowledged."""
    consumer = FakeConsumer(
        polls=[[record(0), end(1), end(0, partition=1)], [record(1), end(2)], [record(2), end(3)]],
        watermarks={0: (0, 3), 1: (0, 0)},
    )
    reader = started(consumer)
    states: list[bool] = []
    for _ in range(3):
        reader.poll(10)
        states.append(reader.caught_up)
    assert states == [False, False, True]


def test_an_end_behind_markers_that_are_no_records_moves_the_position() -> None:
    reader = started(FakeConsumer(polls=[[record(0), end(2), end(0, partition=1)]]))
    reader.poll(10)
    assert reader.positions[TOPIC, 0] == 2
    assert reader.caught_up


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    ],
)
def test_broker_trouble_is_counted_and_waited_out(code: int) -> None:
    reason = KafkaError(code).name()
    before = metric("datastreamx_source_errors_total", topic=TOPIC, reason=reason)
    reader = started(FakeConsumer(polls=[[event(code), record(0)], failure(code), [record(1)]]))
    assert offsets(reader.poll(10)) == {0: [0]}
    assert reader.poll(10) == []
    assert offsets(reader.poll(10)) == {0: [1]}
    assert metric("datastreamx_source_errors_total", topic=TOPIC, reason=reason) == before + 1
    assert metric("datastreamx_source_errors_total", topic="all", reason=reason) > 0


def test_an_outage_is_logged_once_and_so_is_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    down = event(KafkaError._TRANSPORT)
    reader = started(FakeConsumer(polls=[[down], [down], [down], [record(0), end(1)], [record(1), end(2)]]))
    for _ in range(5):
        reader.poll(10)
    log = "".join(capsys.readouterr())
    assert log.count("broker.unwell") == 1
    assert log.count("broker.well_again") == 1


def test_an_offset_that_expires_while_reading_names_wanted_and_earliest() -> None:
    consumer = FakeConsumer(polls=[[record(0), record(1)], [event(KafkaError._AUTO_OFFSET_RESET)]])
    reader = started(consumer)
    reader.poll(10)
    consumer.watermarks[0] = (100, 200)
    with pytest.raises(ExpiredOffsetError, match=r"events\[0\]: offset 2 is gone, the earliest .* is 100: 98 records"):
        reader.poll(10)


def test_a_log_that_became_shorter_is_refused() -> None:
    consumer = FakeConsumer(
        polls=[[record(50)], [event(KafkaError.OFFSET_OUT_OF_RANGE)]], watermarks={0: (0, 60), 1: (0, 0)}
    )
    reader = started(consumer)
    reader.poll(10)
    consumer.watermarks[0] = (0, 40)
    with pytest.raises(ExpiredOffsetError, match=r"offset 51 lies beyond the end; the broker holds 0 .* up to 40"):
        reader.poll(10)


def test_a_snapshot_older_than_retention_is_refused_before_anything_is_read() -> None:
    consumer = FakeConsumer(watermarks={0: (10, 20), 1: (0, 0)})
    with pytest.raises(ExpiredOffsetError, match=r"offset 9 is gone, the earliest that the broker still holds is 10"):
        reader_of(consumer).start({(TOPIC, 0): 9, (TOPIC, 1): 0})
    assert consumer.assigned == []


def test_an_understated_end_is_seen_through_by_reading_to_the_true_one() -> None:
    consumer = FakeConsumer(watermarks={0: (0, 3), 1: (0, 0)}, polls=[[record(2), record(3), record(4)], [end(5)]])
    reader_of(consumer).start({(TOPIC, 0): 5, (TOPIC, 1): 0})
    assert [one.offset for one in consumer.assigned] == [5, 0]

    consumer.polls = [[record(2), record(3), record(4)], [end(5)]]
    with pytest.raises(ExpiredOffsetError, match=r"offset 6 lies beyond the end; .* up to 5"):
        reader_of(consumer).start({(TOPIC, 0): 6, (TOPIC, 1): 0})


def test_a_topic_that_is_deleted_while_it_is_read_stops_the_flow() -> None:
    reader = started(FakeConsumer(polls=[[event(KafkaError.UNKNOWN_TOPIC_OR_PART)]]))
    with pytest.raises(MissingTopicError, match="deleted while it was read"):
        reader.poll(10)


def test_a_missing_topic_and_a_wrong_partition_count_are_refused_at_the_start() -> None:
    with pytest.raises(MissingTopicError, match=r"topic events does not exist at broker:9092 .*datastreamx apply"):
        reader_of(FakeConsumer(topics={"other": 2})).start(BEGINNING)
    with pytest.raises(ConfigError, match=r"it has 3 partitions, events\.partitions is 2"):
        reader_of(FakeConsumer(topics={TOPIC: 3})).start(BEGINNING)


def test_a_start_survives_brokers_that_answer_late() -> None:
    consumer = FakeConsumer()
    consumer.failures = [failure(KafkaError._TRANSPORT), failure(KafkaError._TIMED_OUT)]
    reader_of(consumer).start(BEGINNING)
    assert [one.offset for one in consumer.assigned] == [0, 0]


def test_a_start_without_brokers_gives_up_with_the_reason_and_the_next_step() -> None:
    consumer = FakeConsumer()
    consumer.failures = [failure(KafkaError._TRANSPORT)] * 100
    started_s = consumer.clock.monotonic_s()
    reader = reader_of(consumer)
    consumer.properties["error_cb"](KafkaError(KafkaError._RESOLVE, "no such host"))
    consumer.properties["error_cb"](KafkaError(KafkaError._ALL_BROKERS_DOWN))
    with pytest.raises(
        RetryableError, match=r"broker:9092 did not tell .* within 10 s: no such host.*kafka\.bootstrap"
    ):
        reader.start(BEGINNING)
    assert 10 <= consumer.clock.monotonic_s() - started_s < 15


def test_a_failure_to_commit_is_only_counted() -> None:
    consumer = FakeConsumer(polls=[[record(0)]])
    reader = started(consumer)
    reader.poll(10)
    lineages = {0: Lineage(id="aa", taken=3), 1: Lineage(id="bb")}
    proven = Positions.of(LAYOUT, reader.positions, lineages)
    reader.commit(proven)
    assert [(one.partition, one.offset, one.metadata) for one in consumer.commits[0]] == [
        (0, 1, "aa:3"),
        (1, 0, "bb:0"),
    ]

    before = metric("datastreamx_source_errors_total", topic="all", reason="commit__TRANSPORT")
    consumer.failures = [failure(KafkaError._TRANSPORT)]
    reader.commit(proven)
    consumer.properties["on_commit"](KafkaError(KafkaError._TRANSPORT), [])
    assert metric("datastreamx_source_errors_total", topic="all", reason="commit__TRANSPORT") == before + 2


def test_records_bytes_and_lag_are_published_once_a_second() -> None:
    consumer = FakeConsumer(watermarks={0: (0, 10), 1: (0, 0)})
    consumer.polls = [[], [record(0, value=b"12345"), record(1, value=None)], [], []]
    reader = started(consumer)
    labels = {"topic": TOPIC, "partition": "0"}
    records = metric("datastreamx_source_records_total", **labels)
    size = metric("datastreamx_source_bytes_total", **labels)
    reader.poll(10)
    reader.poll(10)
    assert metric("datastreamx_source_records_total", **labels) == records
    consumer.clock.advance(1_000)
    reader.poll(10)
    assert metric("datastreamx_source_records_total", **labels) == records + 2
    assert metric("datastreamx_source_bytes_total", **labels) == size + 5
    assert metric("datastreamx_source_lag_records", **labels) == 8
    assert metric("datastreamx_source_lag_seconds", **labels) == pytest.approx(1.003)
    consumer.polls = [[*(record(n) for n in range(2, 10)), end(10)]]
    consumer.clock.advance(1_000)
    reader.poll(10)
    assert metric("datastreamx_source_lag_records", **labels) == 0
    assert metric("datastreamx_source_lag_seconds", **labels) == 0


def test_lag_grows_while_nobody_polls() -> None:
    """As while a sink waits out an outage: what was told when all was well must not stand."""
    consumer = FakeConsumer(polls=[[record(0), end(1), end(0, partition=1)]], watermarks={0: (0, 1), 1: (0, 0)})
    reader = started(consumer)
    reader.poll(10)
    labels = {"topic": TOPIC, "partition": "0"}
    assert metric("datastreamx_source_lag_records", **labels) == 0
    consumer.watermarks[0] = (0, 5_001)
    reader.tell_lag()
    assert metric("datastreamx_source_lag_records", **labels) == 0
    consumer.clock.advance(60_000)
    reader.tell_lag()
    assert metric("datastreamx_source_lag_records", **labels) == 5_000
    assert metric("datastreamx_source_lag_seconds", **labels) >= 60


def test_lag_is_not_asked_of_a_client_that_is_closed() -> None:
    consumer = FakeConsumer()
    reader = started(consumer)
    reader.close()
    consumer.watermarks.clear()
    consumer.clock.advance(60_000)
    reader.tell_lag()


def test_a_fatal_client_error_stops_the_flow() -> None:
    fatal = event(KafkaError._FATAL)
    fatal.set_error(KafkaError(KafkaError._FATAL, "fenced", True))
    with pytest.raises(CrashError, match="cannot go on"):
        started(FakeConsumer(polls=[[fatal]])).poll(10)


def test_a_partition_ends_at_its_first_record_of_a_time_and_the_others_go_on() -> None:
    polls = [
        [record(0, timestamp_ms=10), record(1, timestamp_ms=20), record(2, timestamp_ms=19)],
        [record(3, timestamp_ms=5), record(0, partition=1, timestamp_ms=19)],
        [record(1, partition=1, timestamp_ms=21), end(2, partition=1), end(4)],
    ]
    consumer = FakeConsumer(polls=[*polls])
    reader = reader_of(consumer, until_ms=20)
    reader.start(BEGINNING)
    read, over = [], []
    for _ in polls:
        read.append(offsets(reader.poll(10)))
        over.append(reader.is_over)
    assert read == [{0: [0]}, {1: [0]}, {}]
    assert over == [False, False, True]
    assert reader.caught_up
    assert consumer.paused == {(TOPIC, 0), (TOPIC, 1)}
    # What was not read is not skipped by whoever goes on from here.
    assert [*reader.positions.values()] == [1, 1]


def test_a_reader_knows_how_far_it_is() -> None:
    consumer = FakeConsumer(watermarks={0: (3, 9), 1: (0, 4)}, polls=[[record(3), record(4)], [record(0, partition=1)]])
    reader = started(consumer)
    assert reader.progress() == (0, 10)
    reader.poll(10)
    assert reader.progress() == (2, 10)
    reader.poll(10)
    # More than the broker told at first.
    consumer.polls = [[*(record(n) for n in range(5, 12)), end(15)]]
    reader.poll(10)
    assert reader.progress() == (13, 16)


def test_a_partition_that_ended_at_a_time_is_done_whatever_lies_behind() -> None:
    consumer = FakeConsumer(watermarks={0: (0, 9), 1: (0, 0)}, polls=[[record(0), record(1, timestamp_ms=2 * 10**12)]])
    reader = reader_of(consumer, until_ms=2 * 10**12)
    reader.start(BEGINNING)
    reader.poll(10)
    assert reader.progress() == (1, 1)
