"""The broker that a suite runs against: the local one, or Apache Kafka with `--broker=kafka`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined] # re-exported without saying so

from datastreamx.config import Config
from simulator.broker import LocalBroker
from tests import builders
from tests.kafka.cluster import KafkaCluster

_names = itertools.count()


@dataclass(frozen=True)
class Broker:
    """A running broker.

    Attributes:
        kind: `tansu` (the local broker), `kafka` or `given` (by `--broker-bootstrap`).
        cluster: What can be stopped and restarted, for `kafka`.
    """

    kind: str
    bootstrap: str
    cluster: KafkaCluster | None = None

    def create_topic(self, name: str, partitions: int) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 2})
        admin.create_topics([NewTopic(name, partitions, 1)])[name].result(20)

    def require_cluster(self) -> KafkaCluster:
        if self.cluster is None:
            pytest.skip("the local broker cannot do this; run with --broker=kafka")
        return self.cluster

    def new_config(self, *, partitions: int = 4, groups: int = 2, extra: str = "") -> Config:
        """Configuration with topics of its own, which exist."""
        number = f"{os.getpid()}-{next(_names)}"
        text = (
            f"[events]\npartitions = {partitions}\ngroups_per_partition = {groups}\n"
            f'[topics]\nevents = "events-{number}"\ndecisions = "decisions-{number}"\n'
            f'facts = "facts-{number}"\ndead_letters = "dead-{number}"\n'
        )
        config = builders.config(text + extra)
        kafka = msgspec.structs.replace(config.kafka, bootstrap=self.bootstrap)
        for topic in (config.topics.events, config.topics.decisions, config.topics.facts, config.topics.dead_letters):
            self.create_topic(topic, partitions)
        return msgspec.structs.replace(config, kafka=kafka)


Record = tuple[int, bytes | None, bytes | None]
"""(partition, key, value)."""


def produce(
    broker: Broker,
    topic: str,
    records: list[Record],
    *,
    timestamp_ms: int | None = None,
    step_ms: int = 1,
    headers: list[tuple[str, bytes]] | None = None,
) -> list[int]:
    """Write `records` in order, `step_ms` apart from `timestamp_ms` on; the offset that each was given."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True, "log_level": 2})
    offsets: dict[int, int] = {}

    def on_delivery(number: int) -> Callable[[KafkaError | None, Message], None]:
        def report(error: KafkaError | None, message: Message) -> None:
            assert error is None, error
            offsets[number] = int(message.offset() or 0)

        return report

    for number, (partition, key, value) in enumerate(records):
        # 0 means now.
        stamp = 0 if timestamp_ms is None else timestamp_ms + number * step_ms
        producer.produce(
            topic,
            value,
            key,
            partition=partition,
            on_delivery=on_delivery(number),
            timestamp=stamp,
            headers=[*(headers or [])],
        )
    assert producer.flush(30) == 0
    producer.close()
    return [offsets[number] for number in range(len(records))]


@contextmanager
def running_broker(request: pytest.FixtureRequest, directory: Path) -> Iterator[Broker]:
    """Start what the options ask for."""
    given = option(request.config, "--broker-bootstrap", "DATASTREAMX_TEST_BOOTSTRAP", "")
    kind = option(request.config, "--broker", "DATASTREAMX_TEST_BROKER", "tansu")
    if given:
        yield Broker("given", given)
    elif kind == "kafka":
        with KafkaCluster(nodes=1, directory=directory) as cluster:
            yield Broker(kind, cluster.bootstrap, cluster)
    else:
        with LocalBroker(directory) as local:
            yield Broker("tansu", local.bootstrap)


def option(config: pytest.Config, name: str, variable: str, default: str) -> str:
    """Command line before environment; the option exists only if pytest was given this folder."""
    return str(config.getoption(name, None) or os.environ.get(variable) or default)
