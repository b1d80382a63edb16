"""Logs for whole flows, drawn from a seed: what boxes sent and what follows from it by the pure state machine alone."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datastreamx.config import Config
from datastreamx.model.auction import Opportunity
from datastreamx.model.chunk import Chunk, DecodedChunk
from datastreamx.model.events import BoxEvent, Consent
from datastreamx.model.keygroup import KeyGroup, group_of
from datastreamx.tables import BOX_EVENTS, VIEWING_SESSIONS, Row, record_batch
from datastreamx.wire.events import decode_event, encode_event
from datastreamx.wire.facts import FactBatch
from tests.builders import T0, ad_break, config, heartbeat, power, shown, tune
from tests.operators.model.reading import model_of
from tests.operators.model.state import KeyGroupModel

PARTITIONS = 2
GROUPS = 2

CONSENTS = (None, Consent(), Consent(history=True, gdpr=1, tcf="CPXxRfA"))

LAG_MS = 7
_BROKEN = b"{"


def story_config(extra: str = "") -> Config:
    return config(
        f"""
        [events]
        partitions = {PARTITIONS}
        groups_per_partition = {GROUPS}
        [viewing]
        allowed_lateness_ms = 10000
        session_gap_ms = 12000
        state_ttl_ms = 300000
        dwell_ms = 4000
        min_push_interval_ms = 20000
        {extra}
        """
    )


@dataclass
class BoxLog:
    """Records of one partition of box-events, by offset; `None` stands for a record that cannot be decoded."""

    partition: int
    events: list[BoxEvent | None] = field(default_factory=list)

    def chunks(self, start: int, end: int) -> list[tuple[str, Chunk]]:
        """Records `[start, end)` as the source hands them on: one chunk per key group."""
        grouped: defaultdict[KeyGroup, list[tuple[int, BoxEvent | None]]] = defaultdict(list)
        for offset in range(start, end):
            event = self.events[offset]
            key = event.box_id.encode() if event else b"stb-bad"
            grouped[KeyGroup(self.partition, group_of(key, GROUPS))].append((offset, event))
        return [(group.key, _chunk(group, found)) for group, found in grouped.items()]


def _chunk(group: KeyGroup, found: Sequence[tuple[int, BoxEvent | None]]) -> Chunk:
    return Chunk(
        *group,
        [offset for offset, _ in found],
        [event.event_time_ms + LAG_MS if event else T0 for _, event in found],
        [event.box_id.encode() if event else b"stb-bad" for _, event in found],
        [encode_event(event) if event else _BROKEN for _, event in found],
    )


def draw_logs(seed: int, records: int) -> list[BoxLog]:
    """Logs of all partitions: tunes, breaks, displays, power; duplicates, late events, gaps and broken records."""
    rng = random.Random(seed)
    logs = [BoxLog(partition) for partition in range(PARTITIONS)]
    boxes = {partition: [f"stb-{partition}{number}" for number in range(5)] for partition in range(PARTITIONS)}
    seqs: defaultdict[str, int] = defaultdict(int)
    at_ms = 0
    for _ in range(records):
        at_ms += rng.randrange(0, 1_500)
        partition = rng.randrange(PARTITIONS)
        box = rng.choice(boxes[partition])
        seqs[box] += rng.choice((1, 1, 1, 40))
        event = _draw_event(rng, at_ms, box, seqs[box])
        log = logs[partition].events
        place = len(log) - rng.randrange(0, min(4, len(log) + 1))
        log.insert(place, event)
        if rng.random() < 0.1:
            log.append(event)
        if rng.random() < 0.05:
            log.append(None)
    return logs


def _draw_event(rng: random.Random, at_ms: int, box: str, seq: int) -> BoxEvent:
    place: dict[str, Any] = {"box": box, "seq": seq}
    late_ms = at_ms - 30_000 if rng.random() < 0.05 else at_ms
    match rng.randrange(8):
        case 0 | 1 | 2:
            return tune(late_ms, rng.choice("abc"), consent=rng.choice(CONSENTS), **place)
        case 3:
            return ad_break(late_ms, rng.choice("abc"), consent=rng.choice(CONSENTS), **place)
        case 4:
            # Displays have ids of their own: which of two displays of one push is matched is up to their order.
            return shown(late_ms, f"{box}-{seq}", **place)
        case 5:
            return power(late_ms, rng.choice(("on", "on", "standby")), **place)
        case _:
            return heartbeat(late_ms, **place)


def cut(logs: Iterable[BoxLog], seed: int, starts: Mapping[int, int] | None = None) -> list[tuple[str, Chunk]]:
    """All logs, from the offsets `starts` by partition, as chunks of drawn sizes, partitions interleaved."""
    rng = random.Random(seed)
    pending = {log.partition: log for log in logs}
    places = {partition: 0 if starts is None else starts[partition] for partition in pending}
    items: list[tuple[str, Chunk]] = []
    while pending:
        log = pending[rng.choice(sorted(pending))]
        start = places[log.partition]
        end = min(len(log.events), start + rng.randint(1, 12))
        items += log.chunks(start, end)
        places[log.partition] = end
        if end == len(log.events):
            del pending[log.partition]
    return items


@dataclass
class Oracle:
    """What must come out, computed without an engine: the whole log of a key group in one call.

    Attributes:
        rows: By key group and table, in order.
        dead_letters: Positions (partition, offset) of what cannot be decoded.
    """

    rows: dict[tuple[KeyGroup, str], list[Row]] = field(default_factory=dict)
    opportunities: list[Opportunity] = field(default_factory=list)
    dead_letters: set[tuple[int, int]] = field(default_factory=set)


def oracle_of(logs: Iterable[BoxLog], settings: Config) -> Oracle:
    """Run the state machine over every key group's log."""
    oracle = Oracle()
    for log in logs:
        oracle.dead_letters |= {(log.partition, at) for at, event in enumerate(log.events) if event is None}
        for _, chunk in log.chunks(0, len(log.events)):
            group = KeyGroup(chunk.partition, chunk.group)
            out = model_of(settings, group).process(_decoded(chunk))
            oracle.rows[group, BOX_EVENTS.name] = out.events
            oracle.rows[group, VIEWING_SESSIONS.name] = out.sessions
            oracle.opportunities += out.opportunities
    return oracle


def facts_from(logs: Sequence[BoxLog], settings: Config, seed: int, starts: Mapping[int, int]) -> list[FactBatch]:
    """What an ads flow writes that resumes from a snapshot at the offsets `starts`."""
    states: dict[KeyGroup, KeyGroupModel] = {}
    for log in logs:
        for key, chunk in log.chunks(0, starts[log.partition]):
            state = states[KeyGroup.parse(key)] = model_of(settings, KeyGroup.parse(key))
            state.process(_decoded(chunk))
    written: list[FactBatch] = []
    for key, chunk in cut(logs, seed, starts):
        group = KeyGroup.parse(key)
        out = states.setdefault(group, model_of(settings, group)).process(_decoded(chunk))
        written += [
            FactBatch(table.name, chunk.partition, chunk.group, record_batch(table, rows))
            for table, rows in ((BOX_EVENTS, out.events), (VIEWING_SESSIONS, out.sessions))
            if rows
        ]
    return written


def _decoded(chunk: Chunk) -> DecodedChunk:
    found = DecodedChunk(chunk.partition, chunk.group, [], [], [], [])
    for offset, timestamp_ms, value in zip(chunk.offsets, chunk.timestamps_ms, chunk.values, strict=True):
        if value is not None and value != _BROKEN:
            found.offsets.append(offset)
            found.timestamps_ms.append(timestamp_ms)
            found.events.append(decode_event(value))
    return found
