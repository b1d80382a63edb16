"""Ends of the ads flow."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bytewax.inputs import Source
from bytewax.outputs import Sink

from aggregators.registry import build_adapters
from datastreamx import metrics
from datastreamx.acks import AckedOffsets
from datastreamx.clock import Clock, SystemClock
from datastreamx.config import Config, PushConfig
from datastreamx.model.auction import Decision
from datastreamx.model.chunk import Chunk, DeadLetter
from datastreamx.model.facts import Facts
from datastreamx.wire.signing import SigningKey
from flows.ports import Process
from operators.async_map import Executor
from operators.bidding.auction import Rules
from operators.bidding.bidder import Bidder
from operators.bidding.caller import Caller
from operators.bidding.house import AuctionHouse, HouseParts
from operators.bidding.memory import DecidedMemory, DecisionReader
from operators.bidding.rates import RateTable
from operators.bidding.selection import build_policy
from operators.bidding.step import BiddingPorts
from operators.viewing.warm import warm_up
from sinks.ad_push.sink import AdPushSink
from sinks.dead_letter.sink import DeadLetterSink
from sinks.facts.sink import FactsSink
from sinks.kafka.outside import Outside
from sources.kafka.decision_log import DecisionLog
from sources.kafka.ends import LogEnds, decision_ends
from sources.kafka.events import EventSource


@dataclass(frozen=True)
class AdsPorts:
    """Where events come from; what auctions need; where pushes, facts and dead letters go."""

    events: Source[tuple[str, Chunk]]
    bidding: BiddingPorts
    ad_push: Sink[tuple[str, Decision]]
    facts: Sink[tuple[str, Facts]]
    dead_letters: Sink[tuple[str, DeadLetter]]


def live_ads_ports(process: Process) -> AdsPorts:
    """Kafka and the configured aggregators.

    Raises:
        MissingTopicError: A topic to write to does not exist.
        RetryableError: No broker answers.
    """
    config, pulse = process.config, process.pulse
    pulse.enter("starting", "compiling")
    warm_up()
    pulse.enter("starting", "connecting")
    log = DecisionLog(config, on_wait=pulse.beat)
    process.resources.callback(log.close)
    acked, outside = AckedOffsets(), Outside(on_wait=pulse.beat)
    ad_push = AdPushSink(config, acked, outside)
    facts, dead_letters = FactsSink(config, outside), DeadLetterSink(config, outside)
    for sink in (ad_push, facts, dead_letters):
        sink.connect()
    if process.place.mode == "cluster":
        # Another process may write what is decided here.
        ends = LogEnds(decision_ends(config), acked)
        process.resources.callback(ends.close)
        ends.start()
    bidding = live_bidding_ports(config, log, acked, process.resources, SystemClock())
    pulse.watch(lambda: bidding.executor.is_alive)
    return AdsPorts(
        events=EventSource(
            config,
            place=process.place,
            pulse=pulse,
            stop=process.stop,
            accept_store=process.accept_store,
            drained=lambda: bidding.executor.is_idle,
        ),
        bidding=bidding,
        ad_push=ad_push,
        facts=facts,
        dead_letters=dead_letters,
    )


def live_bidding_ports(
    config: Config, log: DecisionReader, acked: AckedOffsets, resources: ExitStack, clock: Clock
) -> BiddingPorts:
    """An auction house that asks the configured aggregators; connects to them at once.

    Args:
        config: Whole configuration.
        log: Where decisions of earlier processes are read back from.
        acked: What the broker has acknowledged of this process's decisions.
        resources: As in `live_ads_ports`.
        clock: Wall clock that deadlines are compared with.

    Raises:
        ConfigError: An adapter's options, a certificate or the file of exchange rates cannot be used.
    """
    auction = config.auction
    adapters = build_adapters(config.aggregators)
    rates_file = Path(auction.rates_file) if auction.rates_file is not None else None
    rates = RateTable(rates_file, auction.currency, auction.rates_max_age_hours, clock)
    bidders = tuple(
        Bidder(one, adapters[one.name], Caller(one, auction.max_response_bytes, clock), auction, config.privacy)
        for one in config.aggregators
    )
    parts = HouseParts(
        bidders=bidders,
        policy=build_policy(config.selection, tuple(one.name for one in config.aggregators)),
        rules=Rules(auction, rates, config.viewing.slot_ms),
        signing_key=_signing_key(config.push),
    )
    house = AuctionHouse(parts, config, clock)
    executor: Executor[Decision] = Executor(
        capacity=auction.capacity,
        concurrency=auction.concurrency,
        clock=clock,
        name="auctions",
        longest_wait_ms=auction.max_wait_ms,
        in_flight=metrics.AUCTIONS_IN_FLIGHT,
    )
    executor.on_close(house.close)
    resources.callback(executor.close)
    executor.run_soon(house.keep_warm())
    return BiddingPorts(house, executor, DecidedMemory(log, acked, house.learn))


def _signing_key(config: PushConfig) -> SigningKey | None:
    if config.signing_key is None or config.signing_key_id is None:
        return None
    return SigningKey.from_hex(config.signing_key.reveal(), config.signing_key_id)
