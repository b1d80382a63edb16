"""Topic `dead-letters`: the original key and bytes untouched; why and from where in the headers."""

from __future__ import annotations

from datastreamx.model.chunk import DeadLetter

REASONS = (
    "oversized",
    "malformed",
    "unknown_type",
    "invalid",
    "no_value",
    "key_mismatch",
    "clock_skew",
    "bigquery_row",
    "notice_refused",
    "notice_failed",
    "notice_unconfirmed",
    "notice_forbidden",
)
"""All reasons, so that the metric label is bounded."""


def dead_letter_headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """Headers of the message; (topic, partition, offset) identify the record, so repeats can be recognised."""
    return [
        ("reason", letter.reason.encode()),
        ("detail", letter.detail[:1024].encode()),
        ("origin_topic", letter.topic.encode()),
        ("origin_partition", str(letter.partition).encode()),
        ("origin_offset", str(letter.offset).encode()),
        ("origin_timestamp_ms", str(letter.timestamp_ms).encode()),
    ]


def parse_dead_letter(key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]) -> DeadLetter:
    """Invert `dead_letter_headers`; raises KeyError or ValueError for a message that is no dead letter."""
    fields = {name: raw.decode() for name, raw in headers}
    return DeadLetter(
        reason=fields["reason"],
        detail=fields["detail"],
        topic=fields["origin_topic"],
        partition=int(fields["origin_partition"]),
        offset=int(fields["origin_offset"]),
        timestamp_ms=int(fields["origin_timestamp_ms"]),
        key=key,
        value=value,
    )
