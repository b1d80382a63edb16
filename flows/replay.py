"""Rows anew: from events and decisions alone to another dataset, by the rules of today.

Nothing is auctioned, pushed or told to anybody, and box-facts is not needed: viewing makes the facts again. Run it with
`datastreamx replay --from TIME --dataset NAME`.
"""

from __future__ import annotations

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.operators import KeyedStream

from datastreamx.config import Config
from datastreamx.model.chunk import Chunk
from datastreamx.model.keygroup import KeyGroup
from datastreamx.model.log import LogBatch, Tick
from datastreamx.wire.facts import FactBatch, in_columns
from flows.ports.replay import RowsPorts
from operators.decisions import read_decisions
from operators.decode import decode
from operators.impressions import join_impressions
from operators.land import land
from operators.rollups import roll_up
from operators.split import partition_key
from operators.viewing import viewing
from sources.kafka.replay import ReplayItem


def build(config: Config, ports: RowsPorts) -> Dataflow:
    """The graph; where its data comes from and goes to is up to `ports`."""
    flow = Dataflow("replay")
    log = op.input("topics", flow, ports.log)
    events = op.filter_map("events", log, _keyed_chunk)
    ticks = op.filter_map("ticks", log, lambda item: item if isinstance(item, Tick) else None)

    decoded = decode("decode", events, config)
    boxes = viewing("viewing", decoded.chunks, config)
    facts: KeyedStream[FactBatch] = op.map(
        "facts", boxes.facts, lambda pair: (partition_key(pair[1].partition), in_columns([pair[1]]))
    )
    decisions = read_decisions("decisions", op.filter_map("records", log, _keyed_batch))
    impressions = join_impressions("impressions", facts, decisions, config.warehouse.decision_memory_ms)
    rollups = roll_up(
        "rollups", op.merge("countable", facts, decisions, impressions), config.warehouse.rollup_interval_ms
    )

    op.output("bigquery", land("land", facts, decisions, impressions, rollups, ticks), ports.bigquery)
    op.output("dead_letters", decoded.dead_letters, ports.dead_letters)
    return flow


def _keyed_chunk(item: ReplayItem) -> tuple[str, Chunk] | None:
    return (KeyGroup(item.partition, item.group).key, item) if isinstance(item, Chunk) else None


def _keyed_batch(item: ReplayItem) -> tuple[str, LogBatch] | None:
    return (partition_key(item.partition), item) if isinstance(item, LogBatch) else None
