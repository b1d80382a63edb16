"""Bytewax shell of the viewing operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial

import bytewax.operators as op
import msgspec
import prometheus_client
from bytewax.dataflow import operator
from bytewax.operators import KeyedStream, StatefulBatchLogic

from datastreamx import metrics
from datastreamx.config import Config
from datastreamx.model import identity
from datastreamx.model.auction import Opportunity
from datastreamx.model.chunk import DecodedChunk
from datastreamx.model.events import TYPE_NAMES, BoxEvent
from datastreamx.model.facts import Facts
from datastreamx.model.keygroup import KeyGroup
from datastreamx.tables import BOX_EVENTS, VIEWING_SESSIONS
from operators.viewing.snapshot import decode_snapshot, encode_snapshot
from operators.viewing.state import KeyGroupState, ViewingOutput


class ViewingBatch(msgspec.Struct, frozen=True, gc=False):
    """What one chunk led to."""

    facts: list[Facts]
    opportunities: list[Opportunity]


@dataclass(frozen=True)
class ViewingOut:
    """Streams out of `viewing`, keyed by key group.

    Attributes:
        facts: Rows of box_events and viewing_sessions, in columns only when asked for.
        opportunities: Moments at which a box may be shown an ad, in batches; expired ones included.
    """

    facts: KeyedStream[Facts]
    opportunities: KeyedStream[list[Opportunity]]


class ViewingLogic(StatefulBatchLogic[DecodedChunk, ViewingBatch, bytes]):
    """Owns the boxes of one key group; which one, it learns from its snapshot or its first chunk."""

    def __init__(self, make_state: Callable[[KeyGroup], KeyGroupState], snapshot: bytes | None) -> None:
        self._make_state = make_state
        self._state = decode_snapshot(snapshot, make_state) if snapshot is not None else None
        self._boxes_counted = 0

    def on_batch(self, values: list[DecodedChunk]) -> tuple[Iterable[ViewingBatch], bool]:
        """Apply chunks in order."""
        if self._state is None:
            self._state = self._make_state(KeyGroup(values[0].partition, values[0].group))
        state = self._state
        return [self._process(state, chunk) for chunk in values if chunk.events], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        """Versioned bytes of all boxes."""
        if self._state is None:
            raise AssertionError("Bytewax takes snapshots only of logics that have had a batch")
        return encode_snapshot(self._state)

    def _process(self, state: KeyGroupState, chunk: DecodedChunk) -> ViewingBatch:
        out = state.process(chunk)
        self._count(state, chunk, out)
        facts = [
            Facts(table.name, chunk.partition, chunk.group, rows)
            for table, rows in ((BOX_EVENTS, out.events), (VIEWING_SESSIONS, out.sessions))
            if rows is not None
        ]
        return ViewingBatch(facts, out.opportunities)

    def _count(self, state: KeyGroupState, chunk: DecodedChunk, out: ViewingOutput) -> None:
        for event_type, count in Counter(map(type, chunk.events)).items():
            _events_of(event_type).inc(count)
        if out.opportunities:
            for trigger, count in Counter(opportunity.trigger for opportunity in out.opportunities).items():
                metrics.OPPORTUNITIES.labels(trigger).inc(count)
        if out.late:
            metrics.LATE_EVENTS.inc(out.late)
        if out.duplicates:
            metrics.DUPLICATE_EVENTS.inc(out.duplicates)
        if out.missing:
            metrics.MISSING_SEQS.inc(out.missing)
        if out.sessions is not None:
            metrics.SESSIONS_CLOSED.inc(out.sessions.num_rows)
        boxes = len(state)
        if boxes != self._boxes_counted:
            metrics.BOXES.labels(chunk.partition).inc(boxes - self._boxes_counted)
            self._boxes_counted = boxes


@cache
def _events_of(event_type: type[BoxEvent]) -> prometheus_client.Counter:
    """Counter of one type: looking it up by label costs as much as a live chunk's share of the kernel."""
    return metrics.EVENTS.labels(TYPE_NAMES[event_type])


@operator
def viewing(step_id: str, up: KeyedStream[DecodedChunk], config: Config) -> ViewingOut:
    """Keep the state of every box and emit what follows from it.

    Args:
        step_id: Unique id of the step; state is stored under it.
        up: Decoded chunks keyed by key group, each key in log order.
        config: `viewing`, `topics.events` and the secret of the pseudonyms matter here.

    Returns:
        Facts and opportunities.
    """
    pseudonym = partial(identity.box_key, config.privacy.box_key_secret.reveal().encode())

    def make_state(key_group: KeyGroup) -> KeyGroupState:
        return KeyGroupState(key_group, config.viewing, config.topics.events, pseudonym)

    batches = op.stateful_batch("state", up, partial(ViewingLogic, make_state))
    facts = op.flat_map_value("facts", batches, lambda batch: batch.facts)
    opportunities = op.filter_map_value("opportunities", batches, lambda batch: batch.opportunities or None)
    return ViewingOut(facts, opportunities)
