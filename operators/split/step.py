"""Bytewax shell of the split; stateless, so that a tick passes through unharmed (see `Tick`)."""

from __future__ import annotations

from dataclasses import dataclass

import bytewax.operators as op
from bytewax.dataflow import Stream, operator
from bytewax.operators import KeyedStream

from datastreamx.config import TopicsConfig
from datastreamx.model.log import LogBatch, Tick


@dataclass(frozen=True)
class LogStreams:
    """Streams out of `split_log`.

    Attributes:
        facts: Messages of box-facts, keyed by partition.
        decisions: Records of ad-decisions, keyed by partition.
        ticks: Proofs of durability, unkeyed.
    """

    facts: KeyedStream[LogBatch]
    decisions: KeyedStream[LogBatch]
    ticks: Stream[Tick]


def partition_key(partition: int) -> str:
    """The Bytewax key under which a partition's facts and decisions meet."""
    return f"p{partition:03d}"


@operator
def split_log(step_id: str, up: Stream[LogBatch | Tick], topics: TopicsConfig) -> LogStreams:
    """Route items by topic.

    Args:
        step_id: Unique id of the step.
        up: Batches and ticks, straight from a source.
        topics: Names of the topics.

    Returns:
        Facts and decisions, keyed by their common partition, and ticks.
    """

    def from_topic(topic: str) -> KeyedStream[LogBatch]:
        def select(item: LogBatch | Tick) -> tuple[str, LogBatch] | None:
            return (partition_key(item.partition), item) if isinstance(item, LogBatch) and item.topic == topic else None

        return op.filter_map(f"from_{'facts' if topic == topics.facts else 'decisions'}", up, select)

    ticks = op.filter_map("ticks", up, lambda item: item if isinstance(item, Tick) else None)
    return LogStreams(from_topic(topics.facts), from_topic(topics.decisions), ticks)
