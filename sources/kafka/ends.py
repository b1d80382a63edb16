"""Where the decision log ends, for processes whose decisions another process writes.

In a cluster the worker that auctions and the one that writes may be two processes, so the first hears of no
acknowledgement. But whatever it decides from now on comes behind any end of the log that it has seen, and what lies
before that end is on the replicas. So an end is as good a mark as an acknowledgement, and one that is some seconds old
only means that a restart reads a little more back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined] # re-exported without saying so

from datastreamx.acks import AckedOffsets
from datastreamx.config import Config
from datastreamx.kafka import client_properties
from datastreamx.metrics import SOURCE_ERRORS

INTERVAL_S = 2.0
ANSWER_TIMEOUT_S = 5.0

AskEnds = Callable[[], Mapping[int, int]]
"""End offset by partition, as far as the brokers tell; blocks. May be too low, never too high."""


def decision_ends(config: Config) -> AskEnds:
    """Ask the configured brokers for the ends of `topics.decisions`."""
    topic = config.topics.decisions
    admin = AdminClient({**client_properties(config.kafka, "datastreamx-ends"), "log_level": 0})
    wanted = {
        TopicPartition(topic, number): OffsetSpec.latest()  # type: ignore[no-untyped-call]  # as above
        for number in range(config.events.partitions)
    }

    def ask() -> dict[int, int]:
        ends: dict[int, int] = {}
        try:
            answers = admin.list_offsets(wanted, request_timeout=ANSWER_TIMEOUT_S)
        except KafkaException as failure:
            count(failure)
            return ends
        for partition, answer in answers.items():
            try:
                ends[partition.partition] = answer.result().offset
            except KafkaException as failure:
                count(failure)
        return ends

    def count(failure: KafkaException) -> None:
        SOURCE_ERRORS.labels(topic, f"ends_{failure.args[0].name()}").inc()

    return ask


class LogEnds:
    """Notes the ends every few seconds, on a thread of its own: no worker ever waits for them.

    Args:
        ask: Tells the ends.
        acked: Where to note the last offset before each.
    """

    def __init__(self, ask: AskEnds, acked: AckedOffsets) -> None:
        self._ask = ask
        self._acked = acked
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="log-ends", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def refresh(self) -> None:
        """Ask once; blocks for up to `ANSWER_TIMEOUT_S`."""
        for partition, end in self._ask().items():
            if end > 0:
                self._acked.record(partition, end - 1)

    def close(self) -> None:
        """Ask no more. A question under way is not waited for: the thread ends with its answer, or the process."""
        self._closed.set()

    def _follow(self) -> None:
        self.refresh()
        while not self._closed.wait(INTERVAL_S):
            self.refresh()
