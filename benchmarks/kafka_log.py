"""A log of box events in a real broker that has a core of its own, for the benchmarks that read one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import Producer

from benchmarks.report import parser
from datastreamx.config import Config, parse_config
from datastreamx.kafka import producer_properties
from datastreamx.topics import apply_topics
from datastreamx.wire.events import encode_event
from simulator.traffic import events
from tests.kafka.cluster import KafkaCluster

X = TypeVar("X")

PARTITIONS, GROUPS = 64, 4
FLOW_CORE, BROKER_CORE = 0, 1

CONFIG = """\
[kafka]
bootstrap = "{bootstrap}"
[topics]
decisions = "{decisions}"
facts = "box-facts{suffix}"
dead_letters = "dead-letters{suffix}"
retention_hours = 1000000
[events]
partitions = {partitions}
groups_per_partition = {groups}
[bigquery]
project = "unused"
[recovery]
directory = "{recovery}"
epoch_ms = 1000
[privacy]
box_key_secret = "0123456789abcdef"
[[aggregators]]
name = "unused"
adapter = "simple"
url = "http://127.0.0.1:9"
"""
"""Nothing expires: the traffic is years old."""


def config_of(bootstrap: str, directory: Path, suffix: str = "", decisions: str | None = None) -> Config:
    """Configuration of one contestant.

    Args:
        bootstrap: Of the broker.
        directory: Where recovery stores go.
        suffix: Of the topics that it writes to; each contestant has topics of its own.
        decisions: Topic of the decisions, if it is not to be a new one either.
    """
    return parse_config(
        CONFIG.format(
            bootstrap=bootstrap,
            suffix=suffix,
            decisions=decisions or f"ad-decisions{suffix}",
            partitions=PARTITIONS,
            groups=GROUPS,
            recovery=directory,
        )
    )


@contextmanager
def filled_broker(directory: Path, boxes: int, count: int) -> Iterator[str]:
    """A broker on `BROKER_CORE` whose box-events hold `count` events of `boxes` boxes; its bootstrap servers."""
    cluster = KafkaCluster(nodes=1, directory=directory)
    allowed = os.sched_getaffinity(0)
    try:
        if {FLOW_CORE, BROKER_CORE} <= allowed:
            os.sched_setaffinity(0, {BROKER_CORE})
        cluster.start()
        os.sched_setaffinity(0, allowed)
        config = config_of(cluster.bootstrap, directory)
        apply_topics(config)
        sys.stderr.write(f"  {count:,} events of {boxes:,} boxes go into the log\n")
        _fill(config, boxes, count)
        yield cluster.bootstrap
    finally:
        os.sched_setaffinity(0, allowed)
        cluster.close()


def _fill(config: Config, boxes: int, count: int) -> None:
    producer = Producer({**producer_properties(config.kafka, "benchmark-boxes"), "linger.ms": 100})
    for number, (timestamp_ms, event) in enumerate(events(boxes, count)):
        key = event.box_id.encode()
        producer.produce(
            config.topics.events,
            encode_event(event),
            key,
            partition=int(event.box_id[4:]) % PARTITIONS,
            timestamp=timestamp_ms,
        )
        if number % 50_000 == 0:
            producer.flush()
    producer.flush()


class Watched(FixedPartitionedSource[X, bytes]):
    """A source that tells of every batch.

    Args:
        inner: Where items come from.
        passed: Told of them before they go on.
    """

    def __init__(self, inner: FixedPartitionedSource[X, bytes], passed: Callable[[list[X]], None]) -> None:
        self._inner = inner
        self._passed = passed

    def list_parts(self) -> list[str]:
        """As the inner source."""
        return self._inner.list_parts()

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> StatefulSourcePartition[X, bytes]:
        """As the inner source."""
        return _WatchedPartition(self._inner.build_part(step_id, for_part, resume_state), self._passed)


class _WatchedPartition(StatefulSourcePartition[X, bytes]):
    def __init__(self, inner: StatefulSourcePartition[X, bytes], passed: Callable[[list[X]], None]) -> None:
        self._inner = inner
        self._passed = passed

    def next_batch(self) -> Iterable[X]:
        items = [*self._inner.next_batch()]
        self._passed(items)
        return items

    def snapshot(self) -> bytes:
        return self._inner.snapshot()

    def close(self) -> None:
        self._inner.close()


def log_parser(module: str, doc: str) -> argparse.ArgumentParser:
    """Options of a benchmark that reads such a log."""
    found = parser(module, doc)
    found.add_argument("--boxes", type=int, default=300_000)
    found.add_argument("--events", type=int, default=2_500_000)
    found.add_argument("--turns", type=int, default=3)
    found.add_argument("--contestant", help=argparse.SUPPRESS)
    found.add_argument("--bootstrap", help=argparse.SUPPRESS)
    return found
