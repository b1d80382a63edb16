"""How much of what Kafka's client can do is left when the flow does its work in between?

    python -m benchmarks.kafka [--boxes 300000] [--events 2500000] [--turns 3]

JSON events in one topic of a real broker, until all that follows from them is acknowledged in others. Contestants:

copy         consume() and produce() each value unchanged to another topic, with the same properties of the client: what
             its I/O costs. The yardstick
consume      consume() alone, which counts
datastreamx  the flow from events to facts: source, decode, the state of all boxes, facts to their topic, a snapshot
             each second
whole flow   flows/ads.py on its live ports. The log is old, so no aggregator is asked; but every opportunity has its
             decision, that it has expired, and that is a message of its own: about one per eight events

All have one core, and the broker the other one. What comes first, one event of each box, is warm-up: it makes state.
CPU is that of all threads of the process; the broker's is not in it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from benchmarks.contest import Contestant, compare, module, tell
from benchmarks.kafka_log import FLOW_CORE, GROUPS, PARTITIONS, Watched, config_of, filled_broker, log_parser
from benchmarks.report import OURS, Comparison, Goal, conclude, report
from datastreamx.config import Config
from datastreamx.interpreter import spare_garbage_collection
from datastreamx.kafka import producer_properties
from datastreamx.model.chunk import Chunk
from datastreamx.topics import apply_topics
from flows import ads
from flows.bench.effort import Effort, Stopwatch
from flows.ports import Process
from flows.ports.ads import live_ads_ports
from flows.recovery.opening import open_store
from flows.run import execute
from operators.decode import decode
from operators.viewing import viewing
from operators.viewing.warm import warm_up
from simulator.traffic import DESCRIPTION
from sinks.dead_letter.sink import DeadLetterSink
from sinks.facts.sink import FactsSink
from sources.kafka.events import EventSource
from sources.kafka.health import BrokerHealth
from sources.kafka.reader import reading_properties

POLL_RECORDS = 5_000
COPY = "copy"


class Measured:
    """A stopwatch that starts when `warm` records have passed."""

    def __init__(self, warm: int, count: int) -> None:
        self._warm = warm
        self._count = count
        self._passed = 0
        self._started_at = -1
        self._watch = Stopwatch()

    @property
    def is_over(self) -> bool:
        """Whether all records have passed."""
        return self._passed >= self._count

    def passed(self, records: int) -> None:
        """Note records; those that come with the last of the warm-up are not measured either."""
        self._passed += records
        if self._started_at < 0 and self._passed >= self._warm:
            self._started_at = self._passed
            self._watch = Stopwatch()

    def effort(self) -> Effort:
        """Since then.

        Raises:
            SystemExit: Not all records have passed.
        """
        if not self.is_over:
            raise SystemExit(f"only {self._passed:,} of {self._count:,} records have passed")
        return self._watch.effort(self._passed - self._started_at)


def run_copy(config: Config, measured: Measured) -> None:
    """Consume and produce."""
    producer = Producer(producer_properties(config.kafka, "benchmark-copy"))
    topic = config.topics.facts
    for messages in _consumed(config, measured):
        for message in messages:
            while True:
                try:
                    producer.produce(topic, message.value(), partition=message.partition())  # type: ignore[arg-type]  # None only for messages never sent
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.poll(0)
    producer.flush()


def run_consume(config: Config, measured: Measured) -> None:
    """Consume and count."""
    for _ in _consumed(config, measured):
        pass


def _consumed(config: Config, measured: Measured) -> Iterator[list[Message]]:
    health = BrokerHealth(config.kafka.bootstrap)
    consumer = Consumer(reading_properties(config.kafka, "benchmark", "benchmark", health))
    consumer.assign([TopicPartition(config.topics.events, partition, 0) for partition in range(PARTITIONS)])
    while not measured.is_over:
        messages = [one for one in consumer.consume(POLL_RECORDS, 0.1) if one.error() is None]
        measured.passed(len(messages))
        yield messages
    consumer.close()


def run_datastreamx(config: Config, measured: Measured) -> None:
    """From events to facts."""
    warm_up()
    facts, dead_letters = FactsSink(config), DeadLetterSink(config)
    for sink in (facts, dead_letters):
        sink.connect()
    flow = Dataflow("ads")
    decoded = decode("decode", op.input("events", flow, _source(config, measured)), config)
    boxes = viewing("viewing", decoded.chunks, config)
    op.output("facts", boxes.facts, facts)
    op.output("dead_letters", decoded.dead_letters, dead_letters)
    _execute(flow, config)


def run_whole(config: Config, measured: Measured) -> None:
    """As in production."""
    with ExitStack() as resources:
        ports = live_ads_ports(Process(config, resources=resources, accept_store=True))
        _execute(ads.build(config, replace(ports, events=_source(config, measured))), config)


def _source(config: Config, measured: Measured) -> Watched[tuple[str, Chunk]]:
    def passed(items: list[tuple[str, Chunk]]) -> None:
        measured.passed(sum(len(chunk.offsets) for _, chunk in items))

    # Each contestant begins without a store, and the broker remembers the one before.
    return Watched(EventSource(config, stop_at_end=True, accept_store=True), passed)


def _execute(flow: Dataflow, config: Config) -> None:
    spare_garbage_collection()
    execute(flow, open_store(Path(config.recovery.directory) / "ads-0"), config.recovery.epoch_ms)


_RUN: dict[str, Callable[[Config, Measured], None]] = {
    COPY: run_copy,
    "consume": run_consume,
    OURS: run_datastreamx,
    "whole flow": run_whole,
}


def _play(options: argparse.Namespace) -> None:
    """Be one contestant."""
    with tempfile.TemporaryDirectory(prefix="datastreamx-bench-") as folder:
        config = config_of(options.bootstrap, Path(folder), f"-{os.getpid()}")
        apply_topics(config)
        measured = Measured(min(options.boxes, options.events // 2), options.events)
        _RUN[options.contestant](config, measured)
        tell(measured.effort())


def main() -> int:
    """Measure and print."""
    options_of = log_parser("benchmarks.kafka", __doc__ or "")
    options_of.add_argument("--only", default=",".join(_RUN), help="contestants, e.g. %(default)s")
    options = options_of.parse_args()
    if options.contestant:
        _play(options)
        return 0
    if options.quick:
        options.boxes, options.events, options.turns = 10_000, 60_000, 1
    names = options.only.split(",")
    with (
        tempfile.TemporaryDirectory(prefix="datastreamx-bench-") as folder,
        filled_broker(Path(folder), options.boxes, options.events) as bootstrap,
    ):
        arguments = ("--bootstrap", bootstrap, "--boxes", str(options.boxes), "--events", str(options.events))
        contestants = [
            Contestant(name, module("benchmarks.kafka", "--contestant", name, *arguments), FLOW_CORE) for name in names
        ]
        standings = compare(contestants, options.turns, COPY)
    comparison = Comparison(f"{options.boxes:,} boxes", "events", COPY, standings)
    conclude(
        report(
            question="kafka",
            asks="How fast does the ads flow go from Kafka to Kafka, with the state of all boxes and recovery on?",
            command="python -m benchmarks.kafka" + (" --quick" if options.quick else ""),
            data=f"{DESCRIPTION}; {PARTITIONS} partitions of {GROUPS} key groups",
            comparisons=[comparison],
            goals=[Goal("rate over a bare loop of consume and produce", 0.4, comparison.of(OURS).speed.median)],
        ),
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
