"""Ends of the ads flow that builds a lost store anew: the log as it was, nobody to call."""

from __future__ import annotations

from contextlib import ExitStack

from datastreamx.acks import AckedOffsets
from datastreamx.clock import Clock, SystemClock
from datastreamx.config import Config
from datastreamx.model.auction import Decision
from flows.ports import Process
from flows.ports.ads import AdsPorts
from flows.replaying.house import PastHouse
from flows.replaying.leaving import LeavingSource
from flows.replaying.log import RecentLog
from flows.replaying.meter import Meter
from flows.replaying.span import Span, start_of
from operators.async_map import Executor
from operators.bidding.memory import DecidedMemory, DecisionReader
from operators.bidding.step import BiddingPorts
from sinks.ad_push.sink import AdPushSink
from sinks.dead_letter.sink import DeadLetterSink
from sinks.facts.sink import FactsSink
from sinks.kafka.outside import Outside
from sources.kafka.bounds import Bounds
from sources.kafka.decision_log import DecisionLog
from sources.kafka.events import EventSource

_PLACES = 1_000_000_000
"""Nobody is called, so there is nobody to protect: no opportunity is shed."""


def store_ports(process: Process, span: Span, decisions: dict[int, Bounds], meter: Meter) -> AdsPorts:
    """Ends of the ads flow that build its state anew: facts go where they always go, nobody is called.

    Args:
        process: As for the flow itself.
        span: What is read.
        decisions: By partition, where the decision log can concern the replay.
        meter: Told of what is read.

    Raises:
        MissingTopicError: A topic to write to does not exist.
        RetryableError: No broker answers.
    """
    config = process.config
    log = DecisionLog(config)
    process.resources.callback(log.close)
    acked, outside = AckedOffsets(), Outside()
    for partition, bounds in decisions.items():
        # The log's end is a place that all decisions of this replay come after. Without one the flow that goes on
        # from here would read back all of the log.
        acked.record(partition, bounds.end - 1)
    ad_push = AdPushSink(config, acked, outside)
    facts, dead_letters = FactsSink(config, outside), DeadLetterSink(config, outside)
    for sink in (ad_push, facts, dead_letters):
        sink.connect()
    recent = RecentLog(log, {partition: bounds.first for partition, bounds in decisions.items()})
    source = EventSource(
        config,
        place=process.place,
        stop=process.stop,
        stop_at_end=True,
        start=start_of(span),
        until_ms=span.until_ms,
        accept_store=True,
    )
    return AdsPorts(
        events=LeavingSource(source, meter.passed_chunks),
        bidding=past_bidding_ports(config, recent, acked, process.resources, SystemClock()),
        ad_push=ad_push,
        facts=facts,
        dead_letters=dead_letters,
    )


def past_bidding_ports(
    config: Config, log: DecisionReader, acked: AckedOffsets, resources: ExitStack, clock: Clock
) -> BiddingPorts:
    """An auction house that calls nobody, see `PastHouse`; the rest is as in `live_bidding_ports`."""
    executor: Executor[Decision] = Executor(capacity=_PLACES, concurrency=_PLACES, clock=clock, name="replay")
    resources.callback(executor.close)
    house = PastHouse(tuple(one.name for one in config.aggregators), clock)
    return BiddingPorts(house, executor, DecidedMemory(log, acked, learn=lambda _: None))
