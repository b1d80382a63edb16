"""How the contract suite drives each sink. A new sink is one more class here and one more entry in `CASES`.

A case says how to make the sink, which items it takes and what of them has landed where it writes.
"""

from __future__ import annotations

import abc
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from bytewax.outputs import FixedPartitionedSink

from datastreamx.acks import AckedOffsets
from datastreamx.config import BigQueryConfig
from datastreamx.model.keygroup import KeyGroup
from datastreamx.model.log import Tick
from datastreamx.tables import BOX_EVENTS
from datastreamx.wire.dead_letters import parse_dead_letter
from datastreamx.wire.decisions import decode_decision
from datastreamx.wire.facts import decode_facts
from simulator.bigquery.handle import LocalBigQuery
from sinks.ad_push import AdPushSink
from sinks.bigquery.client import rest_client
from sinks.bigquery.schema import apply_tables
from sinks.bigquery.sink import BigQuerySink
from sinks.dead_letter import DeadLetterSink
from sinks.facts import FactsSink
from tests.integration.brokers import Broker
from tests.integration.reading import read_topic
from tests.sinks.items import dead_letter, decision, facts

PARTITIONS = 4


class SinkCase(abc.ABC):
    """One sink with a destination of its own.

    Attributes:
        name: How test ids call it.
        may_repeat: Whether a crash may leave copies of an item; the reader then tells them by their number.
    """

    name: ClassVar[str]
    may_repeat: ClassVar[bool] = True

    @abc.abstractmethod
    def sink(self) -> FixedPartitionedSink[Any, Any]:
        """A sink as a new process would make it."""

    @abc.abstractmethod
    def item(self, number: int) -> tuple[str, Any]:
        """Keyed item that `landed` will tell by `number`."""

    @abc.abstractmethod
    def landed(self) -> list[int]:
        """Numbers of all items at the destination, in the order of the destination, copies included."""

    def trailer(self) -> Sequence[tuple[str, Any]]:
        """Items that the sink needs after a snapshot before it shows what it wrote, e.g. ticks."""
        return ()


class _KafkaCase(SinkCase):
    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._config = broker.new_config(partitions=PARTITIONS)


class AdPushCase(_KafkaCase):
    name = "ad_push"

    def sink(self) -> FixedPartitionedSink[Any, Any]:
        return AdPushSink(self._config, AckedOffsets())

    def item(self, number: int) -> tuple[str, Any]:
        return KeyGroup(1, 0).key, decision(number, partition=1)

    def landed(self) -> list[int]:
        records = read_topic(self._broker, self._config.topics.decisions, PARTITIONS)
        return [decode_decision(record.value() or b"").offset for record in records]


class FactsCase(_KafkaCase):
    name = "facts"

    def sink(self) -> FixedPartitionedSink[Any, Any]:
        return FactsSink(self._config)

    def item(self, number: int) -> tuple[str, Any]:
        return KeyGroup(1, 0).key, facts(rows=1, first_offset=number, partition=1)

    def landed(self) -> list[int]:
        numbers: list[int] = []
        for record in read_topic(self._broker, self._config.topics.facts, PARTITIONS):
            headers: Any = record.headers()
            rows = decode_facts(record.value() or b"", headers, 1).rows
            numbers += rows.column("source_offset").to_pylist()
        return numbers


class DeadLetterCase(_KafkaCase):
    name = "dead_letter"

    def sink(self) -> FixedPartitionedSink[Any, Any]:
        return DeadLetterSink(self._config)

    def item(self, number: int) -> tuple[str, Any]:
        return KeyGroup(1, 0).key, dead_letter(number)

    def landed(self) -> list[int]:
        records = read_topic(self._broker, self._config.topics.dead_letters, PARTITIONS)
        letters: list[Any] = [(record.key(), record.value(), record.headers()) for record in records]
        return [parse_dead_letter(*letter).offset for letter in letters]


class BigQueryCase(SinkCase):
    """Rows of box_events; they show after a tick, or after the next start."""

    name = "bigquery"
    may_repeat = False

    def __init__(self, server: LocalBigQuery) -> None:
        self._config = BigQueryConfig(
            project="test",
            dataset=f"contract_{next(_DATASETS)}",
            rest_endpoint=server.rest_url,
            grpc_endpoint=server.grpc_target,
        )
        self._client = rest_client(self._config)
        apply_tables(self._client, self._config, [BOX_EVENTS])

    def sink(self) -> FixedPartitionedSink[Any, Any]:
        return BigQuerySink(self._config, [BOX_EVENTS], _no_dead_letters)

    def item(self, number: int) -> tuple[str, Any]:
        return BOX_EVENTS.name, facts(rows=1, first_offset=number).rows.columns()

    def trailer(self) -> Sequence[tuple[str, Any]]:
        return [(BOX_EVENTS.name, Tick())]

    def landed(self) -> list[int]:
        """By number, because a table has no order; flushes answer in the background, so look until it stands still."""
        found: list[int] = []
        for _ in range(_LOOKS):
            latest = self._numbers()
            if found and latest == found:
                break
            found = latest
            time.sleep(_LOOK_PAUSE_S)
        return found

    def _numbers(self) -> list[int]:
        table = f"`test.{self._config.dataset}.box_events`"
        sql = f"SELECT source_offset FROM {table} WHERE event_time > '2000-01-01' ORDER BY 1"  # noqa: S608 - our own
        return [row["source_offset"] for row in self._client.query(sql).result()]


_DATASETS = itertools.count()
_LOOKS = 20
_LOOK_PAUSE_S = 0.1


def _no_dead_letters() -> Any:
    raise AssertionError("no row of this suite may be refused")


def _over_kafka(case: type[_KafkaCase]) -> Callable[[pytest.FixtureRequest], SinkCase]:
    return lambda request: case(request.getfixturevalue("broker"))


CASES: dict[str, Callable[[pytest.FixtureRequest], SinkCase]] = {
    **{case.name: _over_kafka(case) for case in (AdPushCase, FactsCase, DeadLetterCase)},
    BigQueryCase.name: lambda request: BigQueryCase(request.getfixturevalue("bigquery_server")),
}
"""By name, what makes a case with an empty destination; it takes the services it needs from the request's fixtures."""
