"""Bytewax shell of the impression join."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import cast

import bytewax.operators as op
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from datastreamx.model.auction import Decision
from datastreamx.tables import BOX_EVENTS, IMPRESSIONS, record_batch
from datastreamx.wire.facts import FactBatch
from operators.decisions.step import DecisionBatch
from operators.impressions.join import Billing, Display, Impression, ImpressionJoin, Push, impression_row
from operators.impressions.prices import in_bid_currency

_DISPLAY_COLUMNS = [
    "event_time",
    "box_key",
    "push_id",
    "ad_id",
    "shown_ms",
    "source_partition",
    "key_group",
    "source_offset",
    "ordinal",
]
_READ_COLUMNS = ["type", *_DISPLAY_COLUMNS]
_AD_SHOWN = pa.scalar("ad_shown")
_MICROS_PER_MS = pa.scalar(1000)


class ImpressionBatch(msgspec.Struct, frozen=True):
    """Impressions and their record batch."""

    impressions: list[Impression]
    rows: pa.RecordBatch


class ImpressionsLogic(StatefulBatchLogic[FactBatch | DecisionBatch, ImpressionBatch, bytes]):
    """Owns the join of one partition."""

    def __init__(self, memory_ms: int, snapshot: bytes | None, *, with_billing: bool = False) -> None:
        self._join = ImpressionJoin(memory_ms, snapshot)
        self._with_billing = with_billing

    def on_batch(self, values: list[FactBatch | DecisionBatch]) -> tuple[Iterable[ImpressionBatch], bool]:
        """Join what has come."""
        impressions: list[Impression] = []
        # In log order, but facts that follow each other at once: Arrow costs per batch, and few rows are displays.
        for are_decisions, run in groupby(values, lambda value: isinstance(value, DecisionBatch)):
            if are_decisions:
                for value in run:
                    impressions += self._on_decisions(cast("DecisionBatch", value))
            else:
                for display in displays(cast("list[FactBatch]", [*run])):
                    impressions += self._join.on_display(display)
        if not impressions:
            return [], StatefulBatchLogic.RETAIN
        rows = record_batch(IMPRESSIONS, [impression_row(impression) for impression in impressions])
        return [ImpressionBatch(impressions, rows)], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """Versioned bytes of everything that waits."""
        return self._join.snapshot()

    def _on_decisions(self, batch: DecisionBatch) -> list[Impression]:
        impressions: list[Impression] = []
        for decision in batch.decisions:
            for push_id, push in pushes(decision, with_billing=self._with_billing):
                impressions += self._join.on_push(push_id, push)
        return impressions


def pushes(decision: Decision, *, with_billing: bool) -> Iterator[tuple[str, Push]]:
    """Push id and push of every ad that the box is to display."""
    billings = dict(_billings(decision)) if with_billing else {}
    for ad in decision.ads:
        push = Push(
            decision.auction_id,
            ad.aggregator,
            ad.price_micros,
            ad.currency,
            decision.channel_id,
            decision.decided_ms,
            ad.bid_id,
            billings.get(ad.push_id),
        )
        yield ad.push_id, push


def _billings(decision: Decision) -> Iterator[tuple[str, Billing]]:
    ads = {ad.push_id: ad for ad in decision.ads}
    for outcome in decision.outcomes:
        for notice in outcome.notices:
            ad = ads.get(notice.push_id or "")
            if ad is not None and notice.urls.billing is not None:
                yield (
                    ad.push_id,
                    Billing(notice.urls.billing, *in_bid_currency(outcome, ad.price_micros, ad.currency)),
                )


def displays(facts: Sequence[FactBatch]) -> list[Display]:
    """Displayed ads among facts, in order. Only these few rows ever become Python objects."""
    # Few columns first, then one batch, then one filter: Arrow costs per column and batch, and there are 22 columns.
    batches = [batch.rows.select(_READ_COLUMNS) for batch in facts if batch.table == BOX_EVENTS.name]
    if not batches:
        return []
    rows = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
    is_display = pc.equal(rows.column("type"), _AD_SHOWN)
    if not is_display.true_count:
        return []
    shown = rows.filter(is_display)
    columns = [shown.column(name) for name in _DISPLAY_COLUMNS]
    columns[0] = pc.divide(columns[0].view(pa.int64()), _MICROS_PER_MS)
    return [Display(*values) for values in zip(*(column.to_pylist() for column in columns), strict=True)]


@operator
def join_impressions(
    step_id: str,
    facts: KeyedStream[FactBatch],
    decisions: KeyedStream[DecisionBatch],
    memory_ms: int,
    *,
    with_billing: bool = False,
) -> KeyedStream[ImpressionBatch]:
    """Join displayed ads to decisions.

    Args:
        step_id: Unique id of the step; what waits is stored under it.
        facts: Facts, each row once, keyed by partition.
        decisions: Decisions, each auction once, keyed by the same partition.
        memory_ms: How long one side waits for the other.
        with_billing: Keep the addresses of billing notices. They are most of the state, so only who sends notices
            keeps them.

    Returns:
        Impressions, keyed by partition.
    """
    both: KeyedStream[FactBatch | DecisionBatch] = op.merge("both", facts, decisions)
    return op.stateful_batch(
        "join", both, lambda snapshot: ImpressionsLogic(memory_ms, snapshot, with_billing=with_billing)
    )
