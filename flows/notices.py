"""From the topics to the aggregators: what became of their bids, each notice at most once, whatever crashes.

A flow of its own, so that neither the auctions nor an outage of BigQuery and a slow receiver of notices disturb each
other. Run it with `datastreamx run notices`, or as any Bytewax flow, with the configuration named by
DATASTREAMX_CONFIG:

    python -m bytewax.run flows.notices:flow -r datastreamx-data/recovery/notices-0 -s 1 -b 0
"""

from __future__ import annotations

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from datastreamx.config import Config
from flows.ports import Process, config_from_environment
from flows.ports.notices import NoticesPorts, live_notices_ports
from operators.decisions import read_decisions
from operators.impressions import join_impressions
from operators.notices import send_notices
from operators.repeats import drop_repeats
from operators.split import split_log


def build(config: Config, ports: NoticesPorts) -> Dataflow:
    """The graph; where its data comes from and goes to is up to `ports`."""
    flow = Dataflow("notices")
    log = split_log("log", op.input("topics", flow, ports.log), config.topics)

    facts = drop_repeats("repeats", log.facts)
    decisions = read_decisions("decisions", log.decisions)
    memory_ms = config.warehouse.decision_memory_ms
    impressions = join_impressions("impressions", facts, decisions, memory_ms, with_billing=True)

    undelivered = send_notices("send", decisions, impressions, log.ticks, config, ports.sending)
    op.output("dead_letters", undelivered, ports.dead_letters)
    return flow


def flow() -> Dataflow:
    """The flow on its live ports, for `bytewax.run`, which ends with the process and closes nothing."""
    config = config_from_environment()
    return build(config, live_notices_ports(Process(config)))
