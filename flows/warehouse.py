"""From the topics to BigQuery: every row once, within seconds, whatever crashes.

Run it with `datastreamx run warehouse`, or as any Bytewax flow, with the configuration named by DATASTREAMX_CONFIG:

    python -m bytewax.run flows.warehouse:flow -r datastreamx-data/recovery/warehouse-0 -s 1 -b 0
"""

from __future__ import annotations

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from datastreamx.config import Config
from flows.ports import Process, config_from_environment
from flows.ports.warehouse import WarehousePorts, live_warehouse_ports
from operators.decisions import read_decisions
from operators.impressions import join_impressions
from operators.land import land
from operators.repeats import drop_repeats
from operators.rollups import roll_up
from operators.split import split_log


def build(config: Config, ports: WarehousePorts) -> Dataflow:
    """The graph; where its data comes from and goes to is up to `ports`."""
    flow = Dataflow("warehouse")
    log = split_log("log", op.input("topics", flow, ports.log), config.topics)

    facts = drop_repeats("repeats", log.facts)
    decisions = read_decisions("decisions", log.decisions)
    impressions = join_impressions("impressions", facts, decisions, config.warehouse.decision_memory_ms)
    rollups = roll_up(
        "rollups", op.merge("countable", facts, decisions, impressions), config.warehouse.rollup_interval_ms
    )

    rows = land("land", facts, decisions, impressions, rollups, log.ticks)
    op.output("bigquery", rows, ports.bigquery)
    return flow


def flow() -> Dataflow:
    """The flow on its live ports, for `bytewax.run`."""
    config = config_from_environment()
    return build(config, live_warehouse_ports(Process(config)))
