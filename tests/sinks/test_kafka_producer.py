from __future__ import annotations

import pytest
from confluent_kafka import KafkaError
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from datastreamx.config import KafkaConfig
from datastreamx.errors import ConfigError, CrashError, MissingTopicError, RetryableError
from sinks.kafka import SettlingProducer
from tests.sinks.fake_producer import FakeBroker

KAFKA = KafkaConfig(bootstrap="broker:9092")
LOST = KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


def producer_of(broker: FakeBroker) -> SettlingProducer:
    return SettlingProducer(KAFKA, "test", broker.outside())


def send(producer: SettlingProducer, *numbers: int, partition: int = 0) -> None:
    for n in numbers:
        producer.send("t", partition=partition, key=None, value=b"%d" % n)


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_settling_waits_for_the_broker_however_long_it_takes_and_says_so_once(
    broker: FakeBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    producer = producer_of(broker)
    broker.is_up = False
    send(producer, 1, 2)
    outage_ends_ms = broker.clock.now_ms() + 3_600_000
    flush = broker.clients[0].flush

    def flush_in_outage(timeout: float) -> int:
        broker.is_up = broker.clock.now_ms() >= outage_ends_ms
        return flush(timeout)

    broker.clients[0].flush = flush_in_outage  # type: ignore[method-assign]
    producer.settle()
    assert broker.values() == [b"1", b"2"]
    assert broker.waits > 1_000
    log = "".join(capsys.readouterr())
    assert log.count("sink.waits_for_broker") == 1
    assert log.count("sink.settled") == 1


def test_acknowledged_offsets_and_counts_are_reported(broker: FakeBroker) -> None:
    before = metric("datastreamx_sink_messages_total", topic="t")
    acked: list[tuple[int, int]] = []
    producer = producer_of(broker)
    for partition in (0, 2, 0):
        producer.send("t", partition=partition, key=b"k", value=b"v", on_ack=lambda p, o: acked.append((p, o)))
    assert acked == []
    producer.poll()
    assert acked == [(0, 0), (2, 0), (0, 1)]
    assert metric("datastreamx_sink_messages_total", topic="t") == before + 3


def test_a_full_queue_makes_the_sender_wait_and_loses_nothing(broker: FakeBroker) -> None:
    broker.queue_max = 3
    producer = producer_of(broker)
    send(producer, *range(50))
    producer.settle()
    assert broker.values() == [b"%d" % n for n in range(50)]
    assert broker.waits > 0


def test_what_a_failed_client_owes_is_sent_again_in_order(broker: FakeBroker) -> None:
    before = metric("datastreamx_sink_errors_total", topic="t", reason=LOST.name())
    producer = producer_of(broker)
    broker.refusals = [None, None, LOST]
    send(producer, *range(10))
    producer.settle()
    assert broker.values() == [b"%d" % n for n in range(10)]
    assert len(broker.clients) == 2
    assert broker.clients[0].is_closed
    assert metric("datastreamx_sink_errors_total", topic="t", reason=LOST.name()) == before + 1


def test_a_client_that_fails_without_a_message_is_replaced_too(broker: FakeBroker) -> None:
    producer = producer_of(broker)
    broker.is_up = False
    send(producer, 1)
    broker.is_up = True
    fatal = KafkaError(KafkaError._FATAL, "fenced", True)
    broker.clients[0].properties["error_cb"](fatal)
    producer.settle()
    assert broker.values() == [b"1"]
    assert len(broker.clients) == 2


def test_clients_that_fail_in_vain_are_replaced_ever_more_slowly(broker: FakeBroker) -> None:
    producer = producer_of(broker)
    broker.refusals = [LOST] * 12
    send(producer, 1)
    producer.settle()
    assert broker.values() == [b"1"]
    assert len(broker.sleeps) == 11
    assert broker.sleeps[0] < 0.2
    assert max(broker.sleeps) <= 2.0
    broker.sleeps.clear()
    broker.refusals = [LOST]
    send(producer, 2)
    producer.settle()
    assert broker.sleeps == []


def test_a_message_that_is_too_large_stops_at_the_sender(broker: FakeBroker) -> None:
    with pytest.raises(CrashError, match=r"8,000,001 bytes for topic t is refused as too large"):
        producer_of(broker).send("t", partition=0, key=None, value=bytes(8_000_001))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, "1 bytes for topic t is refused as too large"),
        (KafkaError._UNKNOWN_PARTITION, "topic t has no partition 0"),
    ],
)
def test_a_message_that_can_never_be_delivered_stops_instead_of_being_sent_for_ever(
    broker: FakeBroker, code: int, says: str
) -> None:
    producer = producer_of(broker)
    broker.refusals = [KafkaError(code)]
    send(producer, 1)
    with pytest.raises(CrashError, match=says):
        producer.settle()


def test_a_topic_that_was_deleted_is_not_created_by_sending_again(broker: FakeBroker) -> None:
    producer = producer_of(broker)
    broker.refusals = [KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)]
    send(producer, 1)
    broker.topics = {"other": 1}
    with pytest.raises(MissingTopicError, match="topic t was deleted while it was written"):
        producer.settle()


def test_topics_are_checked_by_name_and_partition_count(broker: FakeBroker) -> None:
    producer = producer_of(broker)
    producer.require_topic("t")
    producer.require_topic("t", 4)
    with pytest.raises(ConfigError, match=r"it has 4 partitions, events\.partitions is 8"):
        producer.require_topic("t", 8)
    with pytest.raises(MissingTopicError, match=r"topic u does not exist at broker:9092; create it"):
        producer.require_topic("u")


def test_without_brokers_the_check_gives_up_with_the_reason(broker: FakeBroker) -> None:
    broker.is_up = False
    with pytest.raises(RetryableError, match=r"broker:9092 did not answer within 10 s: connection refused"):
        producer_of(broker).require_topic("t")
    assert broker.waits > 0


@settings(deadline=None)
@given(
    refusals=st.lists(st.sampled_from([None, None, None, LOST]), max_size=40),
    polls=st.sets(st.integers(0, 29)),
    queue_max=st.integers(1, 30),
)
def test_whatever_fails_first_copies_arrive_all_and_in_order(
    refusals: list[KafkaError | None], polls: set[int], queue_max: int
) -> None:
    broker = FakeBroker()
    broker.refusals = [*refusals]
    broker.queue_max = queue_max
    producer = producer_of(broker)
    for n in range(30):
        send(producer, n, partition=n % 2)
        if n in polls:
            producer.poll()
    producer.close()
    for partition in (0, 1):
        first_copies = [*dict.fromkeys(broker.values(partition=partition))]
        assert first_copies == [b"%d" % n for n in range(partition, 30, 2)]
