"""From box events to ads: decode, keep box state, auction each opportunity, push the winner.

Run it with `datastreamx run ads`, or as any Bytewax flow, with the configuration named by DATASTREAMX_CONFIG:

    python -m bytewax.run flows.ads:flow -r datastreamx-data/recovery/ads-0 -s 1 -b 0
"""

from __future__ import annotations

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from datastreamx.config import Config
from flows.ports import Process, config_from_environment
from flows.ports.ads import AdsPorts, live_ads_ports
from operators.bidding import bidding
from operators.decode import decode
from operators.viewing import viewing


def build(config: Config, ports: AdsPorts) -> Dataflow:
    """The graph; where its data comes from and goes to is up to `ports`."""
    flow = Dataflow("ads")
    events = op.input("events", flow, ports.events)

    decoded = decode("decode", events, config)
    boxes = viewing("viewing", decoded.chunks, config)
    auctions = bidding("bidding", boxes.opportunities, ports.bidding)

    op.output("push", auctions.decisions, ports.ad_push)
    op.output("facts", boxes.facts, ports.facts)
    op.output("dead_letters", decoded.dead_letters, ports.dead_letters)
    return flow


def flow() -> Dataflow:
    """The flow on its live ports, for `bytewax.run`, which ends with the process and closes nothing."""
    config = config_from_environment()
    return build(config, live_ads_ports(Process(config)))
