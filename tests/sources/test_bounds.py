from __future__ import annotations

import bisect

import pytest
from confluent_kafka import OFFSET_END, TopicPartition

from datastreamx.config import KafkaConfig
from datastreamx.errors import ConfigError, MissingTopicError
from sources.kafka.bounds import Bounds, LogSurvey
from tests.sources.fake_kafka import TOPIC, FakeConsumer

KAFKA = KafkaConfig(bootstrap="127.0.0.1:9")


class TimedConsumer(FakeConsumer):
    """A broker whose record at offset N of a partition has the timestamp `stamps[N - earliest]`."""

    def __init__(self, earliest: int, stamps: list[int], *, knows_times: bool = True) -> None:
        super().__init__(watermarks={0: (earliest, earliest + len(stamps)), 1: (0, 0)})
        self._earliest, self._stamps, self._knows_times = earliest, stamps, knows_times

    def offsets_for_times(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        del timeout
        return [TopicPartition(one.topic, one.partition, self._offset(one.partition, one.offset)) for one in partitions]

    def _offset(self, partition: int, stamp: int) -> int:
        if not self._knows_times:
            return 0
        place = bisect.bisect_left(self._stamps, stamp)
        return OFFSET_END if partition == 1 or place == len(self._stamps) else self._earliest + place


def bounds(consumer: FakeConsumer, from_ms: int | None, until_ms: int | None) -> dict[int, Bounds]:
    with LogSurvey(KAFKA, consumer.outside()) as survey:
        found = survey.bounds(TOPIC, [0, 1], 2, from_ms, until_ms)
    assert consumer.closed
    return found


@pytest.mark.parametrize(
    ("from_ms", "until_ms", "wanted"),
    [
        (None, None, Bounds(10, 10, 14)),
        (200, 400, Bounds(10, 11, 13)),
        (201, None, Bounds(10, 12, 14)),
        (50, 150, Bounds(10, 10, 11)),
        (None, 999, Bounds(10, 10, 14)),
        (999, None, Bounds(10, 14, 14)),
        (300, 200, Bounds(10, 11, 11)),
    ],
)
def test_span_of_time_becomes_offsets(from_ms: int | None, until_ms: int | None, wanted: Bounds) -> None:
    assert bounds(TimedConsumer(10, [100, 200, 300, 400]), from_ms, until_ms) == {0: wanted, 1: Bounds(0, 0, 0)}


def test_broker_that_knows_no_times_gives_all_that_it_holds() -> None:
    consumer = TimedConsumer(10, [100, 200, 300, 400], knows_times=False)
    assert bounds(consumer, 300, 350)[0] == Bounds(10, 10, 14)


def test_topic_that_is_missing_or_has_other_partitions_is_refused() -> None:
    with pytest.raises(MissingTopicError), LogSurvey(KAFKA, FakeConsumer().outside()) as survey:
        survey.bounds("other", [0], 2, None, None)
    with pytest.raises(ConfigError, match="it has 2 partitions"), LogSurvey(KAFKA, FakeConsumer().outside()) as survey:
        survey.bounds(TOPIC, [0], 3, None, None)
