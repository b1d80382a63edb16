"""The span of time that a replay reads, and what it cannot know because it happened before."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from datastreamx.config import ViewingConfig
from sources.kafka.start import StartPosition


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Which records are read, by Kafka's timestamps in milliseconds.

    Attributes:
        from_ms: Older ones are not read; unset: all that the broker holds.
        until_ms: From the first record of a partition that is not older than this, none is read.
    """

    from_ms: int | None
    until_ms: int


def start_of(span: Span) -> StartPosition:
    """Where a source without state begins."""
    return StartPosition("beginning") if span.from_ms is None else StartPosition("timestamp", span.from_ms)


def exact_from_ms(span: Span, viewing: ViewingConfig) -> int:
    """The latest sensible beginning: a box that was silent since then is forgotten by the end of the span anyway."""
    return span.until_ms - viewing.state_ttl_ms - viewing.allowed_lateness_ms


def caveats(span: Span, viewing: ViewingConfig, *, skips: bool, skips_needed: bool, is_cut: bool) -> list[str]:
    """What to tell whoever asked for a replay.

    Args:
        span: Of the replay.
        viewing: Rules of the boxes' state.
        skips: The broker holds older records.
        skips_needed: Some of them are younger than `exact_from_ms`.
        is_cut: The broker has deleted the beginning of the log.
    """
    unknown = (
        "a session that was open then begins there, and a box that has not tuned or shown an ad since has no channel "
        "or no last ad until it does"
    )
    if skips_needed:
        wanted = iso(exact_from_ms(span, viewing))
        return [
            f"the replay begins at {iso(span.from_ms)}, and Kafka holds more: {unknown}. Boxes are remembered for "
            f"viewing.state_ttl_ms: to know all of them begin at {wanted} or earlier, best with `--from beginning`"
        ]
    if skips:
        return [f"the replay begins at {iso(span.from_ms)}, and Kafka holds more: {unknown}"]
    if is_cut:
        return [f"Kafka has deleted the beginning of the log; at the earliest record that it still holds {unknown}"]
    return []


def iso(moment_ms: int | None) -> str:
    """A moment as a person reads it, to the second."""
    if moment_ms is None:
        return "the beginning"
    return datetime.fromtimestamp(moment_ms // 1000, UTC).isoformat().replace("+00:00", "Z")
