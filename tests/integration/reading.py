"""Read a topic the way a stranger would: with a plain consumer, to the end of every partition."""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from tests.integration.brokers import Broker


def read_topic(broker: Broker, topic: str, partitions: int) -> list[Message]:
    """All records, in log order within each partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": "reading",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "log_level": 2,
        }
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    records: list[Message] = []
    ended: set[int | None] = set()
    while len(ended) < partitions:
        message = consumer.poll(30)
        assert message is not None, f"{topic} fell silent"
        error = message.error()
        if error is None:
            records.append(message)
        else:
            assert error.code() == KafkaError._PARTITION_EOF, error
            ended.add(message.partition())
    consumer.close()
    return records
