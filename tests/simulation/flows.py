"""The three flows of the product, their graphs built once, and one incarnation of a process that runs one of them.

The graphs are the product's own. What a process brings along, e.g. its auction house, changes with every restart; the
graph refers to it through the forwarders of this module.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cache, partial
from random import Random
from typing import Any, cast
from unittest.mock import patch

from bytewax.testing import TestingSink, TestingSource

import sinks.bigquery.sink
from datastreamx.acks import AckedOffsets
from datastreamx.model.auction import Decision, Opportunity, Outcome
from datastreamx.place import Place
from datastreamx.pulse import Pulse
from datastreamx.tables import TABLES
from flows import ads, notices, warehouse
from flows.ports.ads import AdsPorts
from flows.ports.notices import NoticesPorts
from flows.ports.warehouse import WarehousePorts
from operators.bidding.auction import Rules
from operators.bidding.house import AuctionHouse, HouseParts
from operators.bidding.memory import DecidedMemory
from operators.bidding.rates import RateTable
from operators.bidding.selection import build_policy
from operators.bidding.step import BiddingPorts
from operators.notices.step import NoticePorts
from sinks.ad_push.sink import AdPushSink
from sinks.bigquery.breaker import Backoff
from sinks.bigquery.loader import Environment, LoaderSettings
from sinks.bigquery.sink import BigQuerySink
from sinks.dead_letter.sink import DeadLetterSink
from sinks.dead_letter.writer import DeadLetterWriter
from sinks.facts.sink import FactsSink
from sources.kafka.events import EventSource
from sources.kafka.positions import Layout
from sources.kafka.reader import PartitionReader
from sources.kafka.start import StartPosition
from sources.kafka.warehouse import WarehouseSource, slack_ms
from tests.builders import config
from tests.simulation.actors import Receivers, SimulatedBidder, SimulatedSender
from tests.simulation.bigquery import SimulatedBigQuery, SimulatedTransport
from tests.simulation.engine import Graph
from tests.simulation.kafka import Broker, Client, SimulatedConsumer, SimulatedDecisionLog
from tests.simulation.loop import VirtualExecutor, VirtualLoop
from tests.simulation.world import World

FLOWS = ("ads", "warehouse", "notices")

_NOTICES = 'notices = ["win", "loss", "billing"]\nnotice_hosts = ["t.example"]\nnotice_network = "any"\n'
CONFIG = config(
    f"""
    {_NOTICES}
    [[aggregators]]
    name = "beta"
    adapter = "simple"
    url = "http://127.0.0.1:9/bid"
    {_NOTICES}
    [events]
    partitions = 2
    groups_per_partition = 2
    [viewing]
    allowed_lateness_ms = 8000
    session_gap_ms = 9000
    state_ttl_ms = 60000
    dwell_ms = 1500
    min_push_interval_ms = 4000
    decision_budget_ms = 5000
    [auction]
    timeout_ms = 2000
    [warehouse]
    rollup_interval_ms = 500
    [notices]
    attempts = 3
    retry_interval_ms = 1000
    """
)
"""Times are shorter than in production, so that sessions close and boxes are forgotten within a history."""


Cell = tuple[str, int]
"""(flow, ordinal)."""

_running: dict[Cell, Process] = {}
"""The present incarnation of each cell."""


class _House:
    """The auction house of a cell."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def auction(self, opportunity: Opportunity, attempt: int, handed_over_ns: int) -> Coroutine[Any, Any, Decision]:
        return self._house.auction(opportunity, attempt, handed_over_ns)

    def undecided(self, opportunity: Opportunity, reason: Outcome, attempt: int = 1) -> Decision:
        return self._house.undecided(opportunity, reason, attempt)

    def failed(self, opportunity: Opportunity, attempt: int, error: Exception) -> Decision:
        return self._house.failed(opportunity, attempt, error)

    def finish(self, decision: Decision, now_ms: int) -> Decision:
        return self._house.finish(decision, now_ms)

    @property
    def _house(self) -> AuctionHouse:
        return _running[self._cell].part("house")  # type: ignore[no-any-return]


class _Forward:
    """Passes every access on to a part of a cell's running process."""

    def __init__(self, cell: Cell, part: str) -> None:
        self._cell = cell
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(_running[self._cell].part(self._part), name)


@cache
def graph_of(cell: Cell) -> Graph:
    """The product's own graph of a flow, for one cell; building it takes as long as a whole history."""
    source: Any = TestingSource([])
    sink: Any = TestingSink([])
    executor = cast("Any", _Forward(cell, "executor"))
    match cell[0]:
        case "ads":
            bidding = BiddingPorts(_House(cell), executor, cast("Any", _Forward(cell, "memory")))
            return Graph(ads.build(CONFIG, AdsPorts(source, bidding, sink, sink, sink)))
        case "warehouse":
            return Graph(warehouse.build(CONFIG, WarehousePorts(source, sink)))
        case _:
            sending = NoticePorts(executor, cast("Any", _Forward(cell, "sender")), cast("Any", _Forward(cell, "clock")))
            return Graph(notices.build(CONFIG, NoticesPorts(source, sending, sink)))


@dataclass
class Surroundings:
    """What outlives every process."""

    world: World
    broker: Broker
    bigquery: SimulatedBigQuery
    receivers: Receivers


class Process:
    """One incarnation of a cell: everything that dies with it.

    Args:
        sleep: Lets milliseconds pass while this process waits; may raise `Killed`.
        on_wait: Called by whatever waits for long; may raise `Killed`.
    """

    def __init__(  # noqa: PLR0917
        self,
        cell: Cell,
        place: Place,
        surroundings: Surroundings,
        random: Random,
        sleep: Callable[[int], None],
        on_wait: Callable[[], None],
    ) -> None:
        self.cell = cell
        self.stop = threading.Event()
        self._around = surroundings
        self._random = random
        self._sleep = sleep
        self._on_wait = on_wait
        world = surroundings.world
        self.loop = VirtualLoop(world)
        self.client = Client(surroundings.broker, f"{cell[0]}-{cell[1]}", random, sleep)
        self._transports: list[SimulatedTransport] = []
        self._consumers: list[SimulatedConsumer] = []
        self._readers: list[PartitionReader] = []
        self._idle_since = -1
        self._executor = VirtualExecutor(world, self.loop, capacity=random.choice((3, 50)))
        self._parts: dict[str, Any] = {
            "executor": self._executor,
            "clock": world.clock,
            "sender": SimulatedSender(world, self.loop, surroundings.receivers),
        }
        self._outside = self.client.outside(on_wait)
        self.ends: dict[str, Any] = getattr(self, f"_{cell[0]}_ends")(place)
        _running[cell] = self

    def part(self, name: str) -> Any:
        """Something that the graph refers to."""
        return self._parts[name]

    @property
    def is_idle(self) -> bool:
        """Whether no job is under way whose output has not left."""
        return self._executor.is_idle

    @property
    def records_read(self) -> int:
        """How far its consumers are, all partitions together."""
        return sum(consumer.position for consumer in self._consumers)

    def has_input(self) -> bool:
        """Whether its source has something to say: records, or that it ends."""
        if self.stop.is_set():
            return True
        if self._idle_since == self._around.broker.appends:
            return False
        if any(consumer.has_news for consumer in self._consumers) or not all(one.caught_up for one in self._readers):
            return True
        self._idle_since = self._around.broker.appends
        return False

    def kill(self) -> None:
        """The process is dead: nobody waits for anything any more."""
        self.loop.is_alive = False
        self.client.kill()
        for transport in self._transports:
            transport.kill()

    def _ads_ends(self, place: Place) -> dict[str, Any]:
        clock = self._around.world.clock
        acked = AckedOffsets()
        bidders: Any = tuple(
            SimulatedBidder(one.name, self.loop, self._random, CONFIG.auction.timeout_ms) for one in CONFIG.aggregators
        )
        rates = RateTable(None, CONFIG.auction.currency, CONFIG.auction.rates_max_age_hours, clock)
        policy = build_policy(CONFIG.selection, tuple(one.name for one in CONFIG.aggregators))
        rules = Rules(CONFIG.auction, rates, CONFIG.viewing.slot_ms)
        house = AuctionHouse(HouseParts(bidders, policy, rules), CONFIG, clock)
        log = SimulatedDecisionLog(self._around.broker, CONFIG.topics.decisions)
        self._parts["house"] = house
        self._parts["memory"] = DecidedMemory(log, acked, house.learn)
        executor = self._executor
        return {
            "ads.events": EventSource(
                CONFIG,
                place=place,
                pulse=Pulse(),
                stop=self.stop,
                drained=lambda: executor.is_idle,
                make_reader=self._make_reader,
            ),
            "ads.push": AdPushSink(CONFIG, acked, self._outside),
            "ads.facts": FactsSink(CONFIG, self._outside),
            "ads.dead_letters": DeadLetterSink(CONFIG, self._outside),
        }

    def _warehouse_ends(self, place: Place) -> dict[str, Any]:
        return {
            "warehouse.topics": WarehouseSource(CONFIG, place=place, stop=self.stop, make_reader=self._make_reader),
            "warehouse.bigquery": _Sink(
                self._make_transport,
                self._make_letters,
                self._on_wait,
                partial(
                    Environment,
                    clock=self._around.world.clock,
                    random=self._random,
                    sleep=lambda seconds: self._sleep(max(1, round(seconds * 1000))),
                ),
                are_strangers=self._random.random() < 0.95,
            ),
        }

    def _notices_ends(self, place: Place) -> dict[str, Any]:
        return {
            "notices.topics": WarehouseSource(
                CONFIG, place=place, stop=self.stop, start=StartPosition("beginning"), make_reader=self._make_reader
            ),
            "notices.dead_letters": DeadLetterSink(CONFIG, self._outside),
        }

    def _make_reader(self, layout: Layout, client_id: str) -> PartitionReader:
        consumer = SimulatedConsumer(self._around.broker, self.cell[0], self._random)
        self._consumers.append(consumer)
        reader = PartitionReader(
            CONFIG.kafka,
            layout,
            client_id=client_id,
            group=self.cell[0],
            slack_ms=None if self.cell[0] == "ads" else slack_ms(CONFIG),
            outside=consumer.outside(self._sleep),
        )
        self._readers.append(reader)
        return reader

    def _make_transport(self) -> SimulatedTransport:
        self._transports.append(SimulatedTransport(self._around.bigquery, self._sleep))
        return self._transports[-1]

    def _make_letters(self) -> DeadLetterWriter:
        return DeadLetterWriter(CONFIG, "warehouse.dead_letters", self._outside)


class _Sink(BigQuerySink):
    """The product's sink, with loaders in virtual time; it takes everything but the clock from outside."""

    def __init__(
        self,
        make_transport: Callable[[], SimulatedTransport],
        make_letters: Callable[[], DeadLetterWriter],
        on_wait: Callable[[], None],
        environment: Callable[..., Environment],
        *,
        are_strangers: bool,
    ) -> None:
        super().__init__(
            CONFIG.bigquery,
            tuple(TABLES.values()),
            make_letters,
            topics=CONFIG.topics,
            settings=LoaderSettings(ack_timeout_s=5.0, backoff=Backoff(0.1, 2.0)),
            connect=make_transport,
            on_wait=on_wait,
        )
        self._environment = environment
        self._are_strangers = are_strangers

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> Any:
        if self._are_strangers:
            # Siblings look after each other before a snapshot, which takes a fifth of a history's time.
            self._siblings.loaders = []
        with patch.object(sinks.bigquery.sink, "Environment", self._environment):
            return super().build_part(step_id, for_part, resume_state)
