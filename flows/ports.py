"""What the flows touch of the outside world, as one value each: live, replayed and tested runs share the graph."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from bytewax.inputs import Source
from bytewax.outputs import Sink

from aggregators.registry import build_adapters
from datastreamx.acks import AckedOffsets
from datastreamx.clock import Clock, SystemClock
from datastreamx.config import Config, load_config
from datastreamx.errors import ConfigError
from datastreamx.model.auction import Decision
from datastreamx.model.chunk import Chunk, DeadLetter
from datastreamx.model.log import LogBatch, Tick
from datastreamx.tables import TABLES
from datastreamx.wire.facts import FactBatch
from operators.bidding.caller import Caller
from operators.bidding.house import AuctionHouse
from operators.bidding.step import BiddingPorts
from sinks.ad_push.sink import AdPushSink
from sinks.bigquery.sink import BigQuerySink
from sinks.dead_letter.sink import DeadLetterSink
from sinks.dead_letter.writer import DeadLetterWriter
from sinks.facts.sink import FactsSink
from sources.kafka.decision_log import DecisionLog
from sources.kafka.events import EventSource
from sources.kafka.warehouse import WarehouseSource

CONFIG_VARIABLE = "DATASTREAMX_CONFIG"


@dataclass(frozen=True)
class AdsPorts:
    """Ends of the ads flow."""

    events: Source[tuple[str, Chunk]]
    bidding: BiddingPorts
    ad_push: Sink[tuple[str, Decision]]
    facts: Sink[tuple[str, FactBatch]]
    dead_letters: Sink[tuple[str, DeadLetter]]


@dataclass(frozen=True)
class WarehousePorts:
    """Ends of the warehouse flow."""

    log: Source[LogBatch | Tick]
    bigquery: Sink[tuple[str, pa.RecordBatch | Tick]]


def config_from_environment() -> Config:
    """Configuration that the environment names.

    Raises:
        ConfigError: It names none, or one that is not usable.
    """
    path = os.environ.get(CONFIG_VARIABLE)
    if not path:
        raise ConfigError("the environment", [f"{CONFIG_VARIABLE} is not set; let it name the configuration file"])
    return load_config(Path(path))


def live_bidding_ports(config: Config, clock: Clock) -> BiddingPorts:
    """Real aggregators and the real decision log."""
    adapters = build_adapters(config.aggregators)
    callers = [Caller(one, adapters[one.name], config.auction) for one in config.aggregators]
    house = AuctionHouse(callers, config.auction, clock)
    return BiddingPorts(house, DecisionLog(config), AckedOffsets(), clock)


def live_ads_ports(config: Config, stop: threading.Event | None = None) -> AdsPorts:
    """Kafka and the configured aggregators; `stop` ends the flow with a last snapshot."""
    auctions = live_bidding_ports(config, SystemClock())
    return AdsPorts(
        events=EventSource(config, stop=stop),
        bidding=auctions,
        ad_push=AdPushSink(config, auctions.acked),
        facts=FactsSink(config),
        dead_letters=DeadLetterSink(config),
    )


def live_warehouse_ports(config: Config, stop: threading.Event | None = None) -> WarehousePorts:
    """Kafka and BigQuery; `stop` ends the flow with a last snapshot."""
    tables = tuple(TABLES.values())

    def dead_letters() -> DeadLetterWriter:
        return DeadLetterWriter(config, "warehouse.dead_letters")

    return WarehousePorts(
        log=WarehouseSource(config, stop=stop),
        bigquery=BigQuerySink(config.bigquery, tables, dead_letters, topics=config.topics),
    )
