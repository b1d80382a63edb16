"""Where a flow without state begins, and whether the broker can still serve a position."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from datastreamx.errors import ConfigError, ExpiredOffsetError

PartitionId = tuple[str, int]
"""(topic, partition)."""

_FORM = re.compile(r"(beginning|end)|(offset|timestamp):(\d+)")


@dataclass(frozen=True, slots=True)
class StartPosition:
    """Parsed `events.start`.

    Attributes:
        kind: How to choose the first offset of each partition.
        value: Kafka offset for `offset`, milliseconds since the epoch for `timestamp`, else 0.
    """

    kind: Literal["beginning", "end", "offset", "timestamp"]
    value: int = 0

    @classmethod
    def parse(cls, text: str) -> StartPosition:
        """Read `beginning`, `end`, `offset:N` or `timestamp:MILLISECONDS`.

        Raises:
            ConfigError: It is none of these.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ConfigError(
                "events.start", [f"{text!r} is no start; write beginning, end, offset:N or timestamp:MILLISECONDS"]
            )
        if match[1] == "beginning":
            return cls("beginning")
        if match[1] == "end":
            return cls("end")
        return cls("offset" if match[2] == "offset" else "timestamp", int(match[3]))


class Watermarks(NamedTuple):
    """What the broker says about one partition: the earliest offset that it holds and one past the newest.

    `high` may be too low (the local broker answers the base offset of the last batch + 1), never too high.
    """

    low: int
    high: int


def first_offset(start: StartPosition, watermarks: Watermarks, offset_at_time: int | None) -> int:
    """First offset to read, always a concrete one.

    A partition that is empty today must get a number too: a snapshot that said "the end" would, after a crash, skip
    what arrived in between.

    Args:
        start: What the configuration says.
        watermarks: What the broker holds.
        offset_at_time: Answer to the timestamp, `None` where no record is that young.
    """
    match start.kind:
        case "beginning":
            return watermarks.low
        case "end":
            return watermarks.high
        case "offset":
            return start.value
        case "timestamp":
            return watermarks.high if offset_at_time is None else offset_at_time


def expired(partition: PartitionId, wanted: int, earliest: int) -> ExpiredOffsetError:
    """Error for a position whose records retention has deleted."""
    topic, number = partition
    return ExpiredOffsetError(
        f"{topic}[{number}]: offset {wanted} is gone, the earliest that the broker still holds is {earliest}: "
        f"{earliest - wanted} records were deleted before they were read. {_remedy()} "
        "To prevent it, keep topics.retention_hours above the longest outage."
    )


def beyond_end(partition: PartitionId, wanted: int, low: int, end: int) -> ExpiredOffsetError:
    """Error for a position that the log never reached, or no longer reaches."""
    topic, number = partition
    return ExpiredOffsetError(
        f"{topic}[{number}]: offset {wanted} lies beyond the end; the broker holds {low} (earliest) up to {end}. "
        f"The topic was made anew, or lost acknowledged records in an unclean leader election. {_remedy()}"
    )


def _remedy() -> str:
    return (
        "To go on with what there is, the flow needs an empty recovery store; what that costs each flow, and how to "
        'avoid rows loaded twice, is told under "Expired offset" in docs/runbook.md.'
    )


def split_among(partitions: Iterable[int], readers: int) -> list[tuple[int, ...]]:
    """Share `partitions` out: reader r of R gets each R-th; of all partitions those with `p % R == r`."""
    ordered = sorted(partitions)
    return [tuple(ordered[reader::readers]) for reader in range(readers)]
