"""Ends of the ads flow."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass

from bytewax.inputs import Source
from bytewax.outputs import Sink

from aggregators.registry import build_adapters
from datastreamx.acks import AckedOffsets
from datastreamx.clock import SystemClock
from datastreamx.config import Config
from datastreamx.model.auction import Decision
from datastreamx.model.chunk import Chunk, DeadLetter
from datastreamx.wire.facts import FactBatch
from operators.bidding.caller import Caller
from operators.bidding.house import AuctionHouse
from operators.bidding.memory import DecidedMemory
from operators.bidding.step import BiddingPorts
from sinks.ad_push.sink import AdPushSink
from sinks.dead_letter.sink import DeadLetterSink
from sinks.facts.sink import FactsSink
from sources.kafka.decision_log import DecisionLog
from sources.kafka.events import EventSource


@dataclass(frozen=True)
class AdsPorts:
    """Where events come from; what auctions need; where pushes, facts and dead letters go."""

    events: Source[tuple[str, Chunk]]
    bidding: BiddingPorts
    ad_push: Sink[tuple[str, Decision]]
    facts: Sink[tuple[str, FactBatch]]
    dead_letters: Sink[tuple[str, DeadLetter]]


def live_ads_ports(config: Config, stop: threading.Event, resources: ExitStack) -> AdsPorts:
    """Kafka and the configured aggregators.

    Args:
        config: Whole configuration.
        stop: Ends the flow with a last snapshot.
        resources: What has to be closed after the flow goes onto this stack.

    Raises:
        MissingTopicError: A topic to write to does not exist.
        RetryableError: No broker answers.
    """
    clock = SystemClock()
    adapters = build_adapters(config.aggregators)
    callers = [Caller(one, adapters[one.name], config.auction) for one in config.aggregators]
    house = AuctionHouse(callers, config.auction, clock)
    resources.callback(house.close)
    log = DecisionLog(config)
    resources.callback(log.close)
    acked = AckedOffsets()
    ad_push, facts, dead_letters = AdPushSink(config, acked), FactsSink(config), DeadLetterSink(config)
    for sink in (ad_push, facts, dead_letters):
        sink.connect()
    return AdsPorts(
        events=EventSource(config, stop=stop),
        bidding=BiddingPorts(house, DecidedMemory(log), acked, clock),
        ad_push=ad_push,
        facts=facts,
        dead_letters=dead_letters,
    )
