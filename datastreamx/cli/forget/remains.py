"""Where else a box is known, and until when. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from datastreamx.cli.forget.report import PartnerKey, Remain
from datastreamx.cli.format import duration
from datastreamx.config import Config

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS

TIME_TRAVEL_HOURS = 168
"""Of a BigQuery dataset for which nobody chose less: https://cloud.google.com/bigquery/docs/time-travel."""

FAIL_SAFE_MS = 7 * _DAY_MS
"""After time travel, for Google's support alone; the same page. It cannot be shortened."""

SEGMENT_MS = 7 * _DAY_MS
"""Kafka's default of `segment.ms`: only whole segments are deleted, and the newest one is not before it is closed."""


@dataclass(frozen=True)
class Retention:
    """How long a topic keeps records.

    Attributes:
        retention_ms: Negative: for ever.
        segment_ms: So much longer at most, until the segment of a record is closed.
        is_asked: The brokers said it, not our configuration.
    """

    retention_ms: int
    segment_ms: int = SEGMENT_MS
    is_asked: bool = True


def remains(  # noqa: PLR0913  facts from as many sources
    config: Config,
    retentions: Mapping[str, Retention],
    time_travel_hours: int,
    partners: list[PartnerKey],
    *,
    at_ms: int,
    heard_ms: int | None,
) -> list[Remain]:
    """All places but the tables.

    Args:
        config: Topics, durations, aggregators.
        retentions: By topic.
        time_travel_hours: Of the dataset.
        partners: Aggregators that know the box, and as whom.
        at_ms: Now: the deletion.
        heard_ms: When the box was last heard of; unset if the tables know nothing of it.
    """
    topics = config.topics
    held = {
        topics.events: "its events with its raw id",
        topics.decisions: "its decisions and pushes with its raw id",
        topics.facts: "its rows with its pseudonym",
        topics.dead_letters: "its unusable events, bytes and raw id; letters of notices carry auction ids and "
        "addresses only",
    }
    return [
        _bigquery_history(time_travel_hours, at_ms),
        *(_topic(name, holds, retentions[name], heard_ms) for name, holds in held.items()),
        *_stores(config, heard_ms),
        Remain(
            place="backups, volume snapshots, handed-over and set-aside stores",
            holds="the same as the stores at their time",
            until_ms=None,
            lasts="until you delete them",
            remedy="delete those from before the state was forgotten",
        ),
        *_aggregators(partners),
        Remain(
            place="copies of rows: exports, other datasets, saved results, models",
            holds="whatever somebody took",
            until_ms=None,
            lasts="until you delete them",
            remedy="`datastreamx replay --dataset` makes such copies: run this with that dataset, too",
        ),
    ]


def _bigquery_history(time_travel_hours: int, at_ms: int) -> Remain:
    travel_ms = time_travel_hours * _HOUR_MS
    return Remain(
        place="history of the tables",
        holds="the deleted rows: time travel, for all who may query, then fail-safe, for Google's support",
        until_ms=at_ms + travel_ms + FAIL_SAFE_MS,
        lasts=f"{duration(travel_ms)} and {duration(FAIL_SAFE_MS)} after the deletion",
    )


def _topic(name: str, holds: str, retention: Retention, heard_ms: int | None) -> Remain:
    place = f"topic {name}"
    source = "" if retention.is_asked else ", as configured: the brokers do not tell"
    if retention.retention_ms < 0:
        lasts = f"for ever (retention.ms is negative{source})"
        return Remain(place=place, holds=holds, until_ms=None, lasts=lasts, remedy="set the retention.ms of the topic")
    longest_ms = retention.retention_ms + retention.segment_ms
    return Remain(
        place=place,
        holds=holds,
        until_ms=None if heard_ms is None else heard_ms + longest_ms,
        lasts=f"{duration(retention.retention_ms)} after its last record{source}, and up to "
        f"{duration(retention.segment_ms)} until the segment is closed",
    )


def _stores(config: Config, heard_ms: int | None) -> list[Remain]:
    ttl_ms, memory_ms = config.viewing.state_ttl_ms, config.warehouse.decision_memory_ms
    return [
        Remain(
            place="recovery store of the ads flow",
            holds="its state: raw id, channels, last ad, session",
            until_ms=None if heard_ms is None else heard_ms + ttl_ms,
            lasts=f"{duration(ttl_ms)} (viewing.state_ttl_ms) after its last event, while other boxes send",
        ),
        Remain(
            place="recovery stores of the other flows",
            holds="displays that wait for their decision, with its pseudonym; notices that are not delivered yet have "
            "auction ids and addresses only",
            until_ms=None if heard_ms is None else heard_ms + memory_ms,
            lasts=f"{duration(memory_ms)} (warehouse.decision_memory_ms) after its last display, while other boxes "
            "display",
        ),
    ]


def _aggregators(partners: list[PartnerKey]) -> list[Remain]:
    if not partners:
        return []
    return [
        Remain(
            place=f"aggregators: {', '.join(partner.aggregator for partner in partners)}",
            holds="bid requests with a pseudonym of their own, auction ids, what was shown",
            until_ms=None,
            lasts="as agreed with them",
            remedy="ask each to erase the pseudonym below",
        )
    ]
