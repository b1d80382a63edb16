"""What the flows touch of the outside world, as one value each: live, replayed and tested runs share the graph."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from bytewax.inputs import Source
from bytewax.outputs import Sink

from aggregators.registry import build_adapter
from datastreamx.acks import AckedOffsets
from datastreamx.clock import SystemClock
from datastreamx.config import Config, load_config
from datastreamx.errors import ConfigError
from datastreamx.model.auction import Decision
from datastreamx.model.chunk import Chunk, DeadLetter
from datastreamx.model.log import LogBatch, Tick
from datastreamx.wire.facts import FactBatch
from operators.bidding.caller import Caller
from operators.bidding.house import AuctionHouse
from operators.bidding.step import BiddingPorts
from sinks.ad_push.sink import AdPushSink
from sinks.bigquery.sink import BigQuerySink
from sinks.dead_letter.sink import DeadLetterSink
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
