"""The Bytewax sink of dead letters."""

from __future__ import annotations

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from datastreamx.config import Config
from datastreamx.model.chunk import DeadLetter
from sinks.dead_letter.writer import DeadLetterWriter
from sinks.kafka.outside import Outside
from sinks.kafka.prepared import Prepared

PART = "dead-letters"


class DeadLetterSink(FixedPartitionedSink[DeadLetter, bytes | None]):
    """Takes `(KeyGroup.key, DeadLetter)` and writes each to `topics.dead_letters`.

    After a crash letters may be there twice; (topic, partition, offset) in the headers identifies them.
    """

    def __init__(self, config: Config, outside: Outside | None = None) -> None:
        self._writer = Prepared(lambda: DeadLetterWriter(config, "datastreamx-dead-letters", outside))

    def connect(self) -> None:
        """Connect before the first item, so that it does not hold up the flow; raises what `DeadLetterWriter` does."""
        self._writer.prepare()

    def list_parts(self) -> list[str]:
        """One: a producer serves any number of partitions."""
        return [PART]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> DeadLetterPartition:  # noqa: ARG002  there is no state
        """Begin to write; connects unless `connect` has done so, and raises the same."""
        return DeadLetterPartition(self._writer.take())


class DeadLetterPartition(StatefulSinkPartition[DeadLetter, bytes | None]):
    """One writer."""

    def __init__(self, writer: DeadLetterWriter) -> None:
        self._writer = writer

    def write_batch(self, values: list[DeadLetter]) -> None:
        """Send; waits only while the local queue is full."""
        for letter in values:
            self._writer.write(letter)
        self._writer.poll()

    def snapshot(self) -> None:
        """Wait until all is acknowledged. There is nothing to remember."""
        self._writer.settle()

    def close(self) -> None:
        """Settle and leave the brokers."""
        self._writer.close()
