"""What the local broker does, and what it does wrong, as seen by the client that all flows use."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from simulator import broker as broker_module
from simulator.broker import LocalBroker, executable
from simulator.processes import ChildError, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def topic(broker: LocalBroker) -> str:
    name = f"topic-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.create_topics([NewTopic(name, num_partitions=3)])[name].result(PATIENCE_S)
    return name


def produce(broker: LocalBroker, topic: str, values: list[bytes], **settings: Any) -> list[Message]:
    """Send all values to partition 0 and return their delivery reports."""
    config = {"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "message.max.bytes": 20_000_000}
    producer = Producer(config | settings)
    reports: list[Message] = []

    def on_delivery(error: KafkaError | None, message: Message) -> None:
        assert error is None, error
        reports.append(message)

    for number, value in enumerate(values):
        producer.produce(
            topic,
            value,
            key=b"box",
            partition=0,
            timestamp=1_700_000_000_000 + number,
            headers=[("table", b"bids"), ("empty", b""), ("none", None)],
            on_delivery=on_delivery,
        )
    assert producer.flush(PATIENCE_S) == 0
    return reports


def consume(broker: LocalBroker, topic: str, offset: int, partition: int = 0) -> tuple[list[Message], int]:
    """Read from `offset` to the end; returns the records and the offset of the end as partition-EOF tells it."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": "test",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "fetch.message.max.bytes": 20_000_000,
        }
    )
    records: list[Message] = []
    try:
        consumer.assign([TopicPartition(topic, partition, offset)])
        while (message := consumer.poll(PATIENCE_S)) is not None:
            error = message.error()
            if error is None:
                records.append(message)
                continue
            assert error.code() == KafkaError._PARTITION_EOF, error
            end = message.offset()
            assert end is not None
            return records, end
        pytest.fail(f"neither a record nor the end of {topic} within {PATIENCE_S:g} s, after {len(records)} records")
    finally:
        consumer.close()


def test_topic_has_the_partitions_that_were_asked_for(broker: LocalBroker, topic: str) -> None:
    found = AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(topic, timeout=PATIENCE_S)
    assert sorted(found.topics[topic].partitions) == [0, 1, 2]


def test_delivery_reports_carry_contiguous_offsets(broker: LocalBroker, topic: str) -> None:
    reports = produce(broker, topic, [b"%d" % n for n in range(500)])
    assert [report.offset() for report in reports] == list(range(500))


def test_records_keep_time_headers_key_and_order(broker: LocalBroker, topic: str) -> None:
    produce(broker, topic, [b"%d" % n for n in range(300)])
    records, end = consume(broker, topic, offset=0)
    assert [record.value() for record in records] == [b"%d" % n for n in range(300)]
    assert [record.timestamp()[1] for record in records] == [1_700_000_000_000 + n for n in range(300)]
    assert (records[0].key(), records[0].headers()) == (b"box", [("table", b"bids"), ("empty", b""), ("none", None)])
    assert end == 300


def test_assigned_offset_is_where_reading_starts(broker: LocalBroker, topic: str) -> None:
    produce(broker, topic, [b"%d" % n for n in range(50)])
    records, end = consume(broker, topic, offset=20)
    assert ([record.offset() for record in records], end) == (list(range(20, 50)), 50)
    assert consume(broker, topic, offset=50) == ([], 50)


def test_empty_partition_ends_at_zero(broker: LocalBroker, topic: str) -> None:
    assert consume(broker, topic, offset=0, partition=2) == ([], 0)


@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
def test_nine_megabyte_message_passes(broker: LocalBroker, topic: str, compression: str) -> None:
    value = os.urandom(9_000_000)
    produce(broker, topic, [value, b"after"], **{"compression.type": compression})
    records, _ = consume(broker, topic, offset=0)
    assert [record.value() for record in records] == [value, b"after"]


def test_log_end_offset_cannot_be_trusted(broker: LocalBroker, topic: str) -> None:
    """Guards the rule that nothing rests on it: once this fails, the broker was fixed and the rule can go."""
    produce(broker, topic, [b"%d" % n for n in range(500)])
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "test"})
    try:
        _, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=PATIENCE_S)
    finally:
        consumer.close()
    assert high < 500


def test_restart_keeps_the_port_and_begins_empty(tmp_path: Path) -> None:
    with LocalBroker(tmp_path) as restarted:
        before = restarted.bootstrap
        admin = AdminClient({"bootstrap.servers": before})
        admin.create_topics([NewTopic("t", 1)])["t"].result(PATIENCE_S)
        restarted.kill()
        restarted.start()
        assert restarted.bootstrap == before
        assert not AdminClient({"bootstrap.servers": before}).list_topics(timeout=PATIENCE_S).topics


def test_port_taken_between_choice_and_bind_is_replaced(
    tmp_path: Path, broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = free_port()
    choices = iter([int(broker.bootstrap.rpartition(":")[2]), other])
    monkeypatch.setattr(broker_module, "free_port", lambda: next(choices))
    with LocalBroker(tmp_path) as late:
        assert late.bootstrap == f"127.0.0.1:{other}"


def test_fixed_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ChildError, match="in use"):
            LocalBroker(tmp_path, taken.getsockname()[1]).start()


def test_program_without_executable_bit_is_copied_below_the_given_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    copy = executable(tmp_path)
    assert copy == tmp_path / "bin" / "tansu"
    assert copy.stat().st_mode & 0o111
    assert "tansu" in subprocess.run([copy, "--version"], capture_output=True, text=True, check=True).stdout


def test_module_prints_ready_and_ends_on_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "simulator.broker", "--port", "0", "--log-dir", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        word, bootstrap = process.stdout.readline().split()
        assert word == "READY"
        AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=PATIENCE_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    host, _, port = bootstrap.rpartition(":")
    deadline = time.monotonic() + PATIENCE_S
    while _accepts(host, int(port)):
        assert time.monotonic() < deadline, "the broker outlived its parent"
        time.sleep(0.01)


def _accepts(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
