"""What the warehouse flow reads: records of the log as they stand, and ticks that prove durability."""

from __future__ import annotations

import msgspec


class LogBatch(msgspec.Struct, frozen=True, gc=False):
    """Consecutive records of one partition, in log order. The lists run in parallel.

    Attributes:
        headers: Per record, `(name, value)` pairs; empty where the producer sent none.
    """

    topic: str
    partition: int
    offsets: list[int]
    timestamps_ms: list[int]
    values: list[bytes]
    headers: list[list[tuple[str, bytes]]]


class Tick(msgspec.Struct, frozen=True):
    """Emitted by a source right after each of its snapshots, straight to the sinks (decision 0003).

    A source emits in epoch E + 1 only when the recovery store holds all of epoch E. A sink that has taken its snapshot
    for E and then sees a tick therefore knows that this snapshot is durable. Only items straight from a source prove
    this: a timer callback of an operator may run earlier.
    """
