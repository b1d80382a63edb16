from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer

from datastreamx.acks import AckedOffsets
from datastreamx.config import Config
from datastreamx.errors import ConfigError, CrashError, MissingTopicError, RetryableError, StateMismatchError
from datastreamx.model.auction import Decision
from datastreamx.wire.dead_letters import parse_dead_letter
from datastreamx.wire.decisions import decode_decision
from datastreamx.wire.facts import decode_facts
from sinks.ad_push import AdPushSink
from sinks.dead_letter import DeadLetterSink
from sinks.facts import FactsSink
from sinks.kafka import SettlingProducer
from sinks.kafka.outside import Outside
from sources.kafka import DecisionLog
from tests.integration.brokers import Broker
from tests.integration.reading import read_topic
from tests.sinks.items import dead_letter, decision, facts

pytestmark = pytest.mark.integration

PARTITIONS = 4


@pytest.fixture
def config(broker: Broker) -> Config:
    return broker.new_config(partitions=PARTITIONS)


def test_every_acknowledgement_tells_where_the_message_stands(broker: Broker, config: Config) -> None:
    acked: list[tuple[int, int]] = []
    producer = SettlingProducer(config.kafka, "test")
    for n in range(1_000):
        producer.send(
            config.topics.events,
            partition=n % PARTITIONS,
            key=b"k",
            value=b"%d" % n,
            headers=[("n", b"%d" % n)],
            timestamp_ms=1_700_000_000_000 + n,
            on_ack=lambda partition, offset: acked.append((partition, offset)),
        )
    producer.settle()
    assert len(acked) == 1_000
    producer.close()
    records = read_topic(broker, config.topics.events, PARTITIONS)
    assert {(m.partition(), m.offset()) for m in records} == set(acked)
    for message in records:
        number = int(message.value() or b"")
        assert message.timestamp()[1] == 1_700_000_000_000 + number
        assert message.headers() == [("n", b"%d" % number)]


def test_a_message_larger_than_the_client_allows_stops_with_its_size(config: Config) -> None:
    producer = SettlingProducer(config.kafka, "test")
    with pytest.raises(CrashError, match=rf"8,000,001 bytes for topic {config.topics.facts} is refused as too large"):
        producer.send(config.topics.facts, partition=0, key=None, value=bytes(8_000_001))


def test_a_message_larger_than_the_topic_allows_stops_with_its_size(broker: Broker, config: Config) -> None:
    broker.require_cluster().create_topic("small-messages", config={"max.message.bytes": "1000"})
    producer = SettlingProducer(config.kafka, "test")
    producer.send("small-messages", partition=0, key=None, value=b"fits")
    producer.settle()
    producer.send("small-messages", partition=0, key=None, value=random.Random(1).randbytes(5_120))
    with pytest.raises(CrashError, match=r"5,120 bytes for topic small-messages is refused as too large"):
        producer.settle()


def test_a_partition_that_does_not_exist_stops(config: Config) -> None:
    producer = SettlingProducer(config.kafka, "test")
    producer.require_topic(config.topics.facts)

    def deliver() -> None:
        producer.send(config.topics.facts, partition=9, key=None, value=b"x")
        producer.settle()

    with pytest.raises(CrashError, match=rf"{config.topics.facts} has no partition 9"):
        deliver()


def test_messages_settle_after_an_outage_in_order_and_once(broker: Broker, config: Config) -> None:
    cluster = broker.require_cluster()
    producer = SettlingProducer(config.kafka, "test")

    def send(first: int) -> None:
        for n in range(first, first + 200):
            producer.send(config.topics.events, partition=1, key=None, value=b"%d" % n)

    send(0)
    producer.poll()
    cluster.kill_node(1)
    send(200)
    producer.poll()
    cluster.start_node(1)
    send(400)
    producer.close()
    assert [int(m.value() or b"") for m in read_topic(broker, config.topics.events, PARTITIONS)] == [*range(600)]


def test_a_client_that_failed_for_good_is_replaced_and_owes_nothing(broker: Broker, config: Config) -> None:
    clients: list[Producer] = []

    def make_producer(properties: dict[str, Any]) -> Producer:
        clients.append(Producer(properties))
        return clients[-1]

    producer = SettlingProducer(config.kafka, "test", Outside(make_producer=make_producer))
    for n in range(100):
        producer.send(config.topics.events, partition=1, key=None, value=b"%d" % n)
    # What a fatal error does: librdkafka gives up everything that it holds.
    clients[0].purge()
    for n in range(100, 200):
        producer.send(config.topics.events, partition=1, key=None, value=b"%d" % n)
    producer.close()
    assert len(clients) == 2
    got = [int(m.value() or b"") for m in read_topic(broker, config.topics.events, PARTITIONS)]
    first_copies = [*dict.fromkeys(got)]
    assert first_copies == [*range(200)]


@pytest.mark.parametrize(
    ("topic", "make_sink"),
    [
        ("decisions", lambda config: AdPushSink(config, AckedOffsets())),
        ("facts", FactsSink),
        ("dead_letters", DeadLetterSink),
    ],
)
def test_a_missing_topic_is_named_and_not_created(
    config: Config, topic: str, make_sink: Callable[[Config], Any]
) -> None:
    topics = msgspec.structs.replace(config.topics, **{topic: "nobody-made-this"})
    sink = make_sink(msgspec.structs.replace(config, topics=topics))
    for _ in range(2):
        with pytest.raises(MissingTopicError, match=r"nobody-made-this .* `datastreamx apply`"):
            sink.build_part("out", sink.list_parts()[0], None)


def test_another_partition_count_than_configured_is_refused(config: Config) -> None:
    wrong = msgspec.structs.replace(config, events=msgspec.structs.replace(config.events, partitions=8))
    with pytest.raises(ConfigError, match=r"it has 4 partitions, events.partitions is 8"):
        FactsSink(wrong).build_part("out", "facts", None)


def test_an_unreachable_broker_is_named_with_the_next_step(config: Config) -> None:
    away = msgspec.structs.replace(config, kafka=msgspec.structs.replace(config.kafka, bootstrap="127.0.0.1:9"))
    sink = FactsSink(away, Outside(answer_patience_s=0.5))
    with pytest.raises(RetryableError, match=r"127\.0\.0\.1:9 .*(refused|failed).* Check kafka\.bootstrap"):
        sink.build_part("out", "facts", None)


def test_a_decision_lands_in_its_own_partition_under_the_box_and_its_offset_is_known(
    broker: Broker, config: Config
) -> None:
    acked = AckedOffsets()
    part = AdPushSink(config, acked).build_part("out", "ad-push", None)
    sent = [decision(n, partition=n % 3) for n in range(30)]
    part.write_batch(sent)
    snapshot = part.snapshot()
    part.close()

    records = read_topic(broker, config.topics.decisions, PARTITIONS)
    by_id = {decode_decision(m.value() or b"").auction_id: m for m in records}
    for one in sent:
        message = by_id[one.auction_id]
        assert decode_decision(message.value() or b"") == one
        assert (message.partition(), message.key()) == (one.partition, one.box_id.encode())
    assert acked.snapshot() == {0: 9, 1: 9, 2: 9}
    again = AckedOffsets()
    AdPushSink(config, again).build_part("out", "ad-push", snapshot).close()
    assert again.snapshot() == {0: 9, 1: 9, 2: 9}


def test_the_snapshot_of_another_decision_topic_is_refused(config: Config) -> None:
    part = AdPushSink(config, AckedOffsets()).build_part("out", "ad-push", None)
    snapshot = part.snapshot()
    part.close()
    renamed = msgspec.structs.replace(config.topics, decisions="other")
    with pytest.raises(StateMismatchError, match=r"written for topic decisions-.*, but topics.decisions is other"):
        AdPushSink(msgspec.structs.replace(config, topics=renamed), AckedOffsets()).build_part("o", "ad-push", snapshot)


def test_decisions_written_after_the_last_snapshot_are_found_by_reading_back(config: Config) -> None:
    """The crash story of decision 0004: the log knows what the snapshot does not."""
    acked = AckedOffsets()
    part = AdPushSink(config, acked).build_part("out", "ad-push", None)
    part.write_batch([decision(n) for n in range(5)])
    snapshot = part.snapshot()
    part.write_batch([decision(n) for n in range(5, 9)])
    deadline = time.monotonic() + 30
    while acked.highest(0) != 8:
        assert time.monotonic() < deadline
        part.write_batch([])
        time.sleep(0.001)
    del part  # as kill -9: neither snapshot nor close

    known = AckedOffsets()
    resumed = AdPushSink(config, known).build_part("out", "ad-push", snapshot)
    decided = DecisionLog(config).read_back(0, known.highest(0))
    assert [entry.auction_id for entry in decided] == [decision(n).auction_id for n in range(5, 9)]
    resumed.close()


def test_facts_arrive_coalesced_under_their_partition_and_in_order(broker: Broker, config: Config) -> None:
    part = FactsSink(config).build_part("out", "facts", None)
    for offset in range(0, 300, 3):
        part.write_batch([facts(rows=3, first_offset=offset, partition=2, group=g) for g in (0, 1)])
    part.snapshot()
    part.close()
    records = read_topic(broker, config.topics.facts, PARTITIONS)
    assert len(records) < 60
    offsets: dict[int, list[int]] = {0: [], 1: []}
    for message in records:
        batch = decode_facts(message.value() or b"", message.headers() or [], int(message.partition() or 0))  # type: ignore[arg-type]  # bytes values, as sent
        assert (batch.table, batch.partition) == ("box_events", 2)
        assert message.key() == b"p002g%d" % batch.group
        offsets[batch.group] += batch.rows.column("source_offset").to_pylist()
    assert offsets == {0: [*range(300)], 1: [*range(300)]}


def test_a_dead_letter_keeps_its_bytes_reason_and_origin(broker: Broker, config: Config) -> None:
    letters = [
        dead_letter(1, key=b"stb-1", value=b"\xff{", detail="not JSON"),
        dead_letter(2, key=None, value=None, reason="no_value"),
    ]
    part = DeadLetterSink(config).build_part("out", "dead-letters", None)
    part.write_batch(letters)
    part.snapshot()
    part.close()
    records = read_topic(broker, config.topics.dead_letters, PARTITIONS)
    read = [parse_dead_letter(m.key(), m.value(), m.headers() or []) for m in records]  # type: ignore[arg-type]  # bytes
    assert sorted(read, key=lambda letter: letter.offset) == letters


def test_the_largest_possible_record_does_not_stop_the_flow_as_a_dead_letter(broker: Broker, config: Config) -> None:
    part = DeadLetterSink(config).build_part("out", "dead-letters", None)
    incompressible = random.Random(1).randbytes(1_040_000)
    part.write_batch([dead_letter(1, key=b"k" * 300_000, value=incompressible, detail="d" * 5_000)])
    part.snapshot()
    part.close()
    (message,) = read_topic(broker, config.topics.dead_letters, PARTITIONS)
    assert incompressible.startswith(message.value() or b"-")
    assert ("cut_from_bytes", b"1040000") in (message.headers() or [])


def test_a_decision_survives_the_wire(broker: Broker, config: Config) -> None:
    one: Decision = decision(7)
    part = AdPushSink(config, AckedOffsets()).build_part("out", "ad-push", None)
    part.write_batch([one])
    part.close()
    (message,) = read_topic(broker, config.topics.decisions, PARTITIONS)
    assert decode_decision(message.value() or b"") == one
