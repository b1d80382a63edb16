from __future__ import annotations

import os
import select
import socket
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, Message, TopicPartition

from datastreamx.errors import CrashError

from .clients import make_consumer, make_producer, poll_one, position, produce_all, read_partition
from .cluster import KafkaCluster
from .properties import MESSAGE_BYTES_MAX

pytestmark = pytest.mark.kafka

TIMEOUT_S = 60.0
HOUR_MS = 3_600_000


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_restart_keeps_address_records_and_group_offsets(kafka_single: KafkaCluster) -> None:
    topic = "restart"
    kafka_single.create_topic(topic, partitions=1)
    produce_all(kafka_single.bootstrap, topic, numbered(100))
    before = make_consumer(kafka_single.bootstrap, group="restart")
    before.commit(offsets=[TopicPartition(topic, 0, 40)], asynchronous=False)
    before.close()
    bootstrap, processes = kafka_single.bootstrap, kafka_single.running

    kafka_single.restart()

    assert kafka_single.bootstrap == bootstrap
    assert kafka_single.running != processes
    assert read_partition(bootstrap, topic) == list(enumerate(numbered(100)))
    after = make_consumer(bootstrap, group="restart")
    after.subscribe([topic])
    assert poll_one(after).offset() == 40
    after.close()


def test_killed_single_node_comes_back_with_every_acknowledged_record(kafka_single: KafkaCluster) -> None:
    topic = "killed"
    kafka_single.create_topic(topic)
    produce_all(kafka_single.bootstrap, topic, numbered(100))

    kafka_single.kill_node(1)
    kafka_single.start_node(1)

    assert read_partition(kafka_single.bootstrap, topic) == list(enumerate(numbered(100)))


def test_clients_connected_over_a_restart_go_on(kafka_single: KafkaCluster) -> None:
    topic = "survivors"
    kafka_single.create_topic(topic)
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error)

    producer = make_producer(kafka_single.bootstrap)
    consumer = make_consumer(kafka_single.bootstrap)
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    producer.produce(topic, b"before", on_delivery=delivered)
    assert poll_one(consumer).value() == b"before"

    kafka_single.stop()
    producer.produce(topic, b"while down", on_delivery=delivered)
    kafka_single.start()

    assert poll_one(consumer).value() == b"while down"
    assert producer.flush(TIMEOUT_S) == 0
    assert failed == []
    consumer.close()


def test_port_of_a_stopped_node_cannot_be_taken(kafka_single: KafkaCluster) -> None:
    host, port = kafka_single.bootstrap.split(":")
    kafka_single.stop_node(1)
    try:
        with socket.socket() as thief, pytest.raises(OSError, match="in use"):
            thief.bind((host, int(port)))
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect((host, int(port)))
    finally:
        kafka_single.start_node(1)


def test_end_offsets_and_offsets_for_times_are_true(kafka_single: KafkaCluster) -> None:
    topic = "times"
    kafka_single.create_topic(topic)
    start_ms = 1_700_000_000_000
    stamps = [start_ms + 1_000 * number for number in range(50)]
    produce_all(kafka_single.bootstrap, topic, numbered(50), timestamps_ms=stamps)
    consumer = make_consumer(kafka_single.bootstrap)

    def offset_at(time_ms: int) -> int:
        [found] = consumer.offsets_for_times([TopicPartition(topic, 0, time_ms)], timeout=TIMEOUT_S)
        return int(found.offset)

    assert consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=TIMEOUT_S) == (0, 50)
    assert offset_at(start_ms - HOUR_MS) == 0
    assert offset_at(start_ms + 7_000) == 7
    assert offset_at(start_ms + 7_001) == 8
    assert offset_at(start_ms + HOUR_MS) == OFFSET_END
    consumer.close()


@pytest.mark.parametrize("offset", [2, 99], ids=["expired", "beyond the end"])
def test_offset_that_the_log_does_not_hold_is_reported(kafka_single: KafkaCluster, offset: int) -> None:
    topic = f"out-of-range-{offset}"
    kafka_single.create_topic(topic)
    produce_all(kafka_single.bootstrap, topic, numbered(10))
    kafka_single.delete_records_before(topic, 0, 5)
    consumer = make_consumer(kafka_single.bootstrap)
    assert consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=TIMEOUT_S) == (5, 10)

    consumer.assign([TopicPartition(topic, 0, offset)])

    error = poll_one(consumer).error()
    assert error is not None
    assert error.code() == KafkaError._AUTO_OFFSET_RESET
    assert [at for at, _ in read_partition(kafka_single.bootstrap, topic)] == [5, 6, 7, 8, 9]
    consumer.close()


def test_retention_of_a_topic_expires_old_records(kafka_single: KafkaCluster) -> None:
    topic = "retention"
    kafka_single.create_topic(topic, config={"retention.ms": str(HOUR_MS)})
    long_ago_ms = 1_700_000_000_000
    produce_all(kafka_single.bootstrap, topic, numbered(10), timestamps_ms=[long_ago_ms] * 10)
    consumer = make_consumer(kafka_single.bootstrap)

    # Reading offset 0 again and again is the wait: it answers the record until retention has removed it.
    error = None
    while error is None:
        consumer.assign([TopicPartition(topic, 0, 0)])
        error = poll_one(consumer).error()

    assert error.code() == KafkaError._AUTO_OFFSET_RESET
    assert consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=TIMEOUT_S) == (10, 10)
    consumer.close()


def test_topics_are_not_made_by_writing_to_them(kafka_single: KafkaCluster) -> None:
    producer = make_producer(kafka_single.bootstrap, {"topic.metadata.propagation.max.ms": 0})
    errors: list[KafkaError | None] = []
    try:
        producer.produce("nobody-made-this", b"x", on_delivery=lambda error, _: errors.append(error))
        producer.flush(TIMEOUT_S)
        [error] = errors
    except KafkaException as refused:  # the client knows already that the topic is missing
        error = refused.args[0]
    assert error is not None
    assert error.code() in {KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART}


def test_record_of_almost_10_mib_passes_all_replicas(kafka_three: KafkaCluster) -> None:
    topic = "large"
    kafka_three.create_topic(topic)
    value = os.urandom(MESSAGE_BYTES_MAX - 1_024)
    produce_all(kafka_three.bootstrap, topic, [value])
    kafka_three.wait_in_sync(topic, 0)

    kafka_three.kill_node(first := kafka_three.leader_of(topic, 0))
    try:
        assert kafka_three.leader_of(topic, 0) != first
        assert read_partition(kafka_three.bootstrap, topic) == [(0, value)]
    finally:
        kafka_three.start_node(first)
        kafka_three.wait_in_sync(topic, 0)


def test_kill_of_the_leader_loses_repeats_and_reorders_no_acknowledged_record(kafka_three: KafkaCluster) -> None:
    topic = "leader-kill"
    kafka_three.create_topic(topic)
    values = numbered(12_000)
    acknowledged: list[tuple[int, bytes]] = []
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed.append(error)
        else:
            acknowledged.append(position(message))

    # Small batches: several are in flight whenever the leader dies.
    producer = make_producer(kafka_three.bootstrap, {"batch.num.messages": 50, "linger.ms": 1})
    killed = kafka_three.leader_of(topic, 0)
    for number, value in enumerate(values):
        if number == 3_000:
            while not acknowledged:
                producer.poll(0.01)
        if number == 6_000:
            kafka_three.kill_node(killed)
        producer.produce(topic, value, partition=0, on_delivery=delivered)
    assert producer.flush(TIMEOUT_S) == 0

    assert failed == []
    successor = kafka_three.leader_of(topic, 0)
    assert successor != killed
    assert acknowledged == list(enumerate(values))
    assert read_partition(kafka_three.bootstrap, topic) == acknowledged

    # The former leader may hold records that nobody acknowledged; led by it the log has to read the same.
    kafka_three.start_node(killed)
    kafka_three.wait_in_sync(topic, 0)
    kafka_three.stop_node(successor)
    try:
        assert kafka_three.leader_of(topic, 0) != successor
        assert read_partition(kafka_three.bootstrap, topic) == acknowledged
    finally:
        kafka_three.start_node(successor)
        kafka_three.wait_in_sync(topic, 0)


def test_cluster_of_three_restarts_as_a_whole(kafka_three: KafkaCluster) -> None:
    topic = "whole"
    kafka_three.create_topic(topic, partitions=3)
    produce_all(kafka_three.bootstrap, topic, numbered(100))

    kafka_three.restart()

    assert sorted(kafka_three.running) == [1, 2, 3]
    assert read_partition(kafka_three.bootstrap, topic) == list(enumerate(numbered(100)))
    for partition in range(3):
        kafka_three.wait_in_sync(topic, partition)


def test_error_inside_the_block_leaves_no_broker_behind(tmp_path: Path) -> None:
    watched = select.poll()

    def fail_with_a_running_broker() -> None:
        with KafkaCluster(nodes=1, directory=tmp_path) as kafka:
            for process in kafka.running.values():
                watched.register(os.pidfd_open(process), select.POLLIN)
            raise LookupError("the test failed")

    with pytest.raises(LookupError):
        fail_with_a_running_broker()

    [(pidfd, _)] = watched.poll(0)
    os.close(pidfd)


def test_unknown_node_is_named(kafka_single: KafkaCluster) -> None:
    with pytest.raises(CrashError, match=r"no Kafka node 2: the nodes are \[1\]"):
        kafka_single.kill_node(2)
