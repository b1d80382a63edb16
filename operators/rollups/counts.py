"""Counting. Rows are increments: appended, never updated, and summed by whoever reads them."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from datastreamx.model.auction import Decision, Outcome
from datastreamx.snapshots import decode_versioned, encode_versioned
from datastreamx.tables import BOX_EVENTS, Row
from datastreamx.wire.facts import FactBatch
from operators.impressions.join import Impression

VERSION = 2

_MINUTE_MS = 60_000
_MICROS_PER_MINUTE = _MINUTE_MS * 1000

GATHERED_ROWS = 2_000
"""Events that wait to be counted together: Arrow's grouping takes as long for a hundred rows as for a thousand. They
may hold the messages in memory that they came in, hence not more."""
_EVENT_COLUMNS = ["event_time", "channel_id", "type", "is_late"]
_GROUPED_BY = ["minute", "channel_id", "type", "is_late"]

Key = tuple[int, str | None, str | None]
"""(start of the minute in ms, channel, aggregator)."""


class Counts(msgspec.Struct, array_like=True):
    """Increments since the last emission, in the order of the table's columns."""

    events: int = 0
    late_events: int = 0
    tunes: int = 0
    opportunities: int = 0
    wins: int = 0
    calls: int = 0
    bids: int = 0
    timeouts: int = 0
    errors: int = 0
    impressions: int = 0
    revenue_micros: int = 0


class _Snapshot(msgspec.Struct, array_like=True):
    version: int
    counts: list[tuple[Key, Counts]]


_DECODER = msgspec.msgpack.Decoder(_Snapshot)
_BID_CODES = frozenset(
    {
        Outcome.WON,
        Outcome.OUTBID,
        Outcome.BELOW_FLOOR,
        Outcome.CURRENCY,
        Outcome.CREATIVE_REJECTED,
        Outcome.ADVERTISER_BLOCKED,
        # Of a call: its bids wanted what was not promised. Without a call it counts as nothing.
        Outcome.UNSUITABLE,
    }
)
_ERROR_CODES = frozenset({Outcome.ERROR, Outcome.INVALID_RESPONSE, Outcome.UNREACHABLE, Outcome.OVERSIZE})


class Rollup:
    """Counts of one partition since the last emission."""

    def __init__(self, snapshot: bytes | None = None) -> None:
        self._counts: dict[Key, Counts] = {}
        self._gathered: list[pa.RecordBatch] = []
        self._gathered_rows = 0
        if snapshot is not None:
            self._counts = dict(decode_versioned(snapshot, _DECODER, VERSION, "rollup counts").counts)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was counted."""
        return not self._counts and not self._gathered

    def add_facts(self, facts: FactBatch) -> None:
        """Count events, at the latest when somebody wants to know."""
        if facts.table != BOX_EVENTS.name:
            return
        self._gathered.append(facts.rows.select(_EVENT_COLUMNS))
        self._gathered_rows += facts.rows.num_rows
        if self._gathered_rows >= GATHERED_ROWS:
            self._count_gathered()

    def add_decision(self, decision: Decision) -> None:
        """Count an opportunity, its calls and its bids."""
        self._at(decision.decided_ms, decision.channel_id, None).opportunities += 1
        for outcome in decision.outcomes:
            counts = self._at(decision.decided_ms, decision.channel_id, outcome.aggregator)
            if not outcome.called:
                continue
            counts.calls += 1
            # A called aggregator's outcome is `expired` only when its winning bid was withdrawn.
            counts.bids += outcome.code in _BID_CODES or outcome.code is Outcome.EXPIRED
            counts.wins += outcome.ads_won
            counts.timeouts += outcome.code is Outcome.TIMEOUT
            counts.errors += outcome.code in _ERROR_CODES

    def add_impression(self, impression: Impression) -> None:
        """Count a displayed ad and what it earned: a CPM is the price of a thousand."""
        push = impression.push
        channel_id, aggregator = (push.channel_id, push.aggregator) if push else (None, None)
        counts = self._at(impression.display.shown_time_ms, channel_id, aggregator)
        counts.impressions += 1
        counts.revenue_micros += round(push.price_micros / 1000) if push else 0

    def take(self) -> list[Row]:
        """Rows of minute_rollups for everything counted, and start anew."""
        self._count_gathered()
        rows = [
            (minute_ms * 1000, channel_id, aggregator, *msgspec.structs.astuple(counts))
            for (minute_ms, channel_id, aggregator), counts in self._counts.items()
        ]
        self._counts = {}
        return rows

    def snapshot(self) -> bytes:
        """Sealed, versioned bytes of the counts."""
        self._count_gathered()
        return encode_versioned(_Snapshot(VERSION, list(self._counts.items())))

    def _count_gathered(self) -> None:
        """Grouped by Arrow, so Python sees one entry per group and not one per row."""
        if not self._gathered:
            return
        rows = pa.Table.from_batches(self._gathered)
        self._gathered, self._gathered_rows = [], 0
        minute = pc.multiply(pc.divide(rows.column("event_time").cast(pa.int64()), _MICROS_PER_MINUTE), _MINUTE_MS)
        grouped = (
            rows.set_column(0, "minute", minute)
            .group_by(_GROUPED_BY, use_threads=False)  # waking them costs more than the work
            .aggregate([([], "count_all")])
        )
        for minute_ms, channel_id, event_type, is_late, count in zip(
            *(grouped.column(name).to_pylist() for name in (*_GROUPED_BY, "count_all")), strict=True
        ):
            counts = self._at(minute_ms, channel_id, None)
            counts.events += count
            counts.late_events += count if is_late else 0
            counts.tunes += count if event_type == "tune" else 0

    def _at(self, time_ms: int, channel_id: str | None, aggregator: str | None) -> Counts:
        key = (time_ms - time_ms % _MINUTE_MS, channel_id, aggregator)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = Counts()
        return counts
