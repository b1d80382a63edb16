"""Why records were set aside, read from the dead-letter topic: metrics are gone with the process that counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, Message, TopicPartition

from datastreamx.cli.status.report import DeadLetterReason
from datastreamx.clock import Clock
from sources.kafka.codes import END_OF_PARTITION

LETTERS_MAX = 10_000
"""So many of the newest are looked at: a roll-out that went wrong may have left millions."""

READ_TIMEOUT_S = 3.0
UNKNOWN = "unknown"
_POLL_S = 0.1
_POLL_RECORDS = 500

PartitionId = tuple[str, int]


def read_reasons(
    consumer: Consumer, held: Mapping[PartitionId, tuple[int, int]], clock: Clock
) -> list[DeadLetterReason]:
    """Count the newest `LETTERS_MAX` letters, or as many of them as can be read within `READ_TIMEOUT_S`.

    Args:
        consumer: Assigned to what it likes; afterwards to these partitions.
        held: First offset and end of each partition.
        clock: Monotonic time.
    """
    share = LETTERS_MAX // max(1, len(held))
    left = {partition: end for partition, (low, end) in held.items() if low < end}
    if not left:
        return []
    consumer.assign([TopicPartition(*one, max(held[one][0], end - share)) for one, end in left.items()])
    found: list[tuple[str, int]] = []
    give_up_s = clock.monotonic_s() + READ_TIMEOUT_S
    while left and clock.monotonic_s() < give_up_s:
        for message in [*consumer.consume(1, _POLL_S), *consumer.consume(_POLL_RECORDS, 0)]:
            partition, error = (str(message.topic()), int(message.partition() or 0)), message.error()
            if partition not in left:
                # Came in the meantime, beyond the end.
                continue
            if error is None:
                found.append((_reason(message), message.timestamp()[1]))
                is_last = int(message.offset() or 0) + 1 >= left[partition]
            else:
                is_last = error.code() == END_OF_PARTITION
            if is_last:
                del left[partition]
    return count_reasons(found)


def count_reasons(letters: Iterable[tuple[str, int]]) -> list[DeadLetterReason]:
    """Sum up (reason, time in milliseconds) by reason, the most frequent first. Pure."""
    counts: dict[str, tuple[int, int]] = {}
    for reason, time_ms in letters:
        records, newest_ms = counts.get(reason, (0, 0))
        counts[reason] = (records + 1, max(newest_ms, time_ms))
    ordered = sorted(counts.items(), key=lambda item: (-item[1][0], item[0]))
    return [DeadLetterReason(reason=reason, records=count[0], newest_ms=count[1]) for reason, count in ordered]


def _reason(message: Message) -> str:
    """What its header says; anybody may write to the topic."""
    headers = dict(message.headers() or ())
    raw = headers.get("reason")
    return raw.decode("ascii", "replace") if isinstance(raw, bytes) else UNKNOWN
