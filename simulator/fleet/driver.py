"""Play a fleet against Kafka in real time: boxes report, receive pushes, display them and report that too."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

from datastreamx.clock import Clock, SystemClock
from datastreamx.config import Config
from datastreamx.errors import CrashError, MissingTopicError
from datastreamx.kafka import client_properties, consumer_properties
from datastreamx.log import get_logger
from datastreamx.model.events import BoxEvent
from datastreamx.wire.signing import verify_push
from simulator.fleet.behaviour import Fleet
from simulator.fleet.faults import FaultBounds, FaultInjector, FaultRates, Landing
from simulator.fleet.ledger import EventBook, Ledger, write_ledger
from simulator.fleet.loud import LoudBox
from simulator.fleet.outages import OutageLog
from simulator.fleet.parameters import Behaviour
from simulator.fleet.pushes import PushDesk
from simulator.fleet.receiver import Receiver
from simulator.fleet.sender import Sender, make_producer
from simulator.fleet.timeline import Timeline

TICK_S = 0.025
MAX_STEP_MS = 250
"""Longest time for which behaviour catches up; beyond it time slips, so that event time stays the time of sending."""
BURST_S = 0.25
LEDGER_EVERY_S = 1.0
METADATA_TIMEOUT_S = 2.0
TOPIC_WAIT_S = 15.0
TOPIC_POLL_S = 0.2
CLIENT_ID = "datastreamx-fleet"
KEY_BYTES = 32

Watch = Callable[[Ledger], None]

_LOG = get_logger("fleet")


class FleetOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a fleet.

    Attributes:
        ledger: Where the books are kept, written once a second and at the end.
        start_hour: Hour of the day at which viewers live at the start; `None` takes the real one (UTC).
        loud_share: Share of all events that one more box sends, see `simulator.fleet.loud`.
        duration_s: Behaviour ends after this time; `None` goes on until it is stopped.
        rate_limit: Most events per second; beyond it behaviour slows down. `None` has no limit.
        drain_limit_s: After the end, displays may run on for this long; then they are cut short and reported.
        drain_quiet_s: After the end, wait for pushes on the way until none came for this long (within the limit).
        flush_limit_s: How long the end waits for a broker that does not acknowledge.
        public_key: Key of 32 bytes with which pushes must be signed; `None` looks at no signature.
    """

    ledger: Path
    boxes: int
    seed: int = 1
    speed_up: float = 1.0
    start_hour: float | None = 20.0
    faults: FaultRates = FaultRates()
    behaviour: Behaviour = Behaviour()
    loud_share: float = 0.0
    duration_s: float | None = None
    rate_limit: float | None = None
    drain_limit_s: float = 5.0
    drain_quiet_s: float = 1.0
    flush_limit_s: float = 30.0
    public_key: bytes | None = None

    def __post_init__(self) -> None:
        """Refuse a key of the wrong length; raises ValueError."""
        if self.public_key is not None and len(self.public_key) != KEY_BYTES:
            raise ValueError(f"the public key has {len(self.public_key)} bytes, Ed25519 keys have {KEY_BYTES}")


class StopRequest:
    """A flag that a signal handler may set; `threading.Event` may deadlock there, because its lock is not reentrant."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        """Ask for the end."""
        self.is_set = True


def run_fleet(
    config: Config,
    options: FleetOptions,
    stop: StopRequest,
    watch: Watch = lambda _ledger: None,
    clock: Clock | None = None,
) -> Ledger:
    """Play a fleet until `stop` is set or the duration is over. Then displays finish and everything is acknowledged.

    Args:
        config: The pipeline's.
        options: The fleet's.
        stop: Set by a signal handler or another thread.
        watch: Called with the books whenever they are written.
        clock: Another than the machine's, for tests.

    Returns:
        The final books; `finished` is false when the broker did not acknowledge everything in time.

    Raises:
        MissingTopicError: A topic does not exist.
        CrashError: The topics do not fit the configuration, or ad-decisions holds something that is no decision.
        ValueError: The options contradict each other or the configuration.
    """
    clock = clock or SystemClock()
    await_topics(config, clock, stop)
    return _Run(config, options, stop, watch, clock).play()


class _Run:
    def __init__(
        self,
        config: Config,
        options: FleetOptions,
        stop: StopRequest,
        watch: Watch,
        clock: Clock,
    ) -> None:
        self._options = options
        self._stop = stop
        self._watch = watch
        self._clock = clock
        self._started_ms = self._last_ms = clock.now_ms()
        # Boxes count on across restarts of the fleet: no box sends a thousand events a second.
        self._fleet = Fleet(
            options.seed,
            options.boxes,
            Timeline.starting(self._started_ms, start_hour=options.start_hour, speed_up=options.speed_up),
            options.behaviour,
            first_seq=self._started_ms,
        )
        bounds = FaultBounds.fitting(
            max_clock_skew_ms=config.events.max_clock_skew_ms,
            allowed_lateness_ms=config.viewing.allowed_lateness_ms,
        )
        self._injector = FaultInjector(options.faults, options.seed, bounds)
        self._loud = LoudBox(options.loud_share, self._started_ms)
        key = options.public_key
        verify = None if key is None else partial(verify_push, public_key=key)
        self._desk = PushDesk(self._fleet, self._started_ms, verify)
        self._book = EventBook()
        outages = OutageLog(clock)
        self._sender = Sender(
            lambda: make_producer(config.kafka, CLIENT_ID, outages),
            config.topics.events,
            self._book.acknowledged,
            clock,
        )
        self._receiver = Receiver(
            lambda: Consumer({**consumer_properties(config.kafka, CLIENT_ID, CLIENT_ID), **outages.properties()}),
            config.topics.decisions,
            config.events.partitions,
            clock,
        )
        self._slipped_ms = 0
        self._tokens = 0.0
        self._ledger_due_s = 0.0

    def play(self) -> Ledger:
        """See `run_fleet`."""
        self._receiver.start()
        try:
            self._behave_in_real_time()
            self._drain()
        finally:
            self._receiver.stop()
        self._receive()
        for event in self._desk.cut_short(self._last_ms):
            self._report(event)
        for _, record in self._injector.release_all():
            self._sender.send(record)
        left = self._sender.flush(self._options.flush_limit_s)
        if left:
            _LOG.error("not_acknowledged", records=left, waited_s=self._options.flush_limit_s)
        return self._write_ledger(finished=left == 0)

    def _behave_in_real_time(self) -> None:
        clock, duration_s = self._clock, self._options.duration_s
        ends_s = None if duration_s is None else clock.monotonic_s() + duration_s
        tick_s = clock.monotonic_s()
        while not self._stop.is_set and (ends_s is None or clock.monotonic_s() < ends_s):
            self._behave()
            self._tick()
            tick_s = max(tick_s + TICK_S, clock.monotonic_s())
            time.sleep(max(0.0, tick_s - clock.monotonic_s()))

    def _drain(self) -> None:
        """Finish displays and receive pushes that are on their way, within the limit."""
        clock = self._clock
        ends_s = clock.monotonic_s() + self._options.drain_limit_s
        quiet_s = clock.monotonic_s() + self._options.drain_quiet_s
        received = self._desk.counts().received
        while clock.monotonic_s() < ends_s and (self._desk.displaying or clock.monotonic_s() < quiet_s):
            self._last_ms = max(clock.now_ms(), self._last_ms)
            self._tick()
            if self._desk.counts().received != received:
                received = self._desk.counts().received
                quiet_s = clock.monotonic_s() + self._options.drain_quiet_s
            time.sleep(TICK_S)

    def _behave(self) -> None:
        """Let viewers act up to now, as far as the rate and the broker allow; the rest of the time slips."""
        now_ms = max(self._clock.now_ms(), self._last_ms)
        elapsed_ms, self._last_ms = now_ms - self._last_ms, now_ms
        fleet, limit = self._fleet, self._options.rate_limit
        if self._sender.is_full:
            self._slip(elapsed_ms)
            return
        if elapsed_ms > MAX_STEP_MS:
            self._slip(elapsed_ms - MAX_STEP_MS)
        until_ms = fleet.timeline.to_behaviour_ms(now_ms)
        if limit is None:
            for event in fleet.advance(until_ms):
                self._report(event)
            return
        self._tokens = min(self._tokens + limit * elapsed_ms / 1000, limit * BURST_S)
        if self._tokens >= 1:
            for event in fleet.advance(until_ms):
                self._report(event)
                self._tokens -= 1
                if self._tokens < 1:
                    break
        behind_ms = now_ms - fleet.timeline.to_event_ms(fleet.next_ms)
        if behind_ms > 0:
            self._slip(behind_ms)

    def _tick(self) -> None:
        """Everything but behaviour: pushes, displays, held back records, acknowledgements, books."""
        self._receive()
        # Displays are stamped with the time that behaviour has come to, so that no box's event time goes back.
        for event in self._desk.reports(self._last_ms):
            self._report(event)
        for _, record in self._injector.release(self._last_ms):
            self._sender.send(record)
        self._sender.poll()
        if self._clock.monotonic_s() >= self._ledger_due_s:
            self._ledger_due_s = self._clock.monotonic_s() + LEDGER_EVERY_S
            self._write_ledger(finished=False)

    def _receive(self) -> None:
        for received_ms, decisions in self._receiver.received():
            for decision in decisions:
                self._desk.receive(decision, received_ms)

    def _report(self, event: BoxEvent) -> None:
        for one in (event, *self._loud.after(event)):
            for record in self._injector.feed(one, self._last_ms):
                self._sender.send(record)

    def _slip(self, by_ms: int) -> None:
        self._slipped_ms += by_ms
        self._fleet.timeline = self._fleet.timeline.slipped(by_ms)

    def _write_ledger(self, *, finished: bool) -> Ledger:
        book, options = self._book, self._options
        by_type = book.events_by_type()
        ledger = Ledger(
            finished=finished,
            seed=options.seed,
            boxes=options.boxes,
            boxes_on=self._fleet.boxes_on,
            speed_up=options.speed_up,
            started_ms=self._started_ms,
            updated_ms=self._clock.now_ms(),
            events=sum(by_type.values()),
            events_by_type=by_type,
            faults=book.faults(),
            expected_rows=book.landing(Landing.ROW, Landing.LATE_ROW),
            expected_late=book.landing(Landing.LATE_ROW),
            expected_dropped=book.landing(Landing.DROPPED),
            expected_dead_letters=book.dead_letters(),
            partitions=book.partitions(),
            records_waiting=self._sender.waiting + self._injector.held,
            records_sent_again=self._sender.sent_again,
            slipped_ms=self._slipped_ms,
            displays_reported=by_type.get("ad_shown", 0),
            pushes=self._desk.counts(),
            event_to_push_ms=self._desk.latency.summary(),
            event_to_push_without_auction_ms=self._desk.latency_without_auction.summary(),
        )
        write_ledger(self._options.ledger, ledger)
        self._watch(ledger)
        return ledger


def await_topics(config: Config, clock: Clock, stop: StopRequest) -> None:
    """Wait until the broker answers (for ever) and holds both topics (for a while), or `stop` is set.

    Raises:
        MissingTopicError: A topic does not exist.
        CrashError: A topic has another number of partitions than the configuration says.
    """
    outages = OutageLog(clock)
    client = AdminClient({**client_properties(config.kafka, CLIENT_ID), **outages.properties()})
    gives_up_s: float | None = None
    while not stop.is_set:
        try:
            found = client.list_topics(timeout=METADATA_TIMEOUT_S).topics
        except KafkaException as error:
            outages.report(error.args[0])
            continue
        partitions = {
            name: len(found[name].partitions) if name in found else 0
            for name in (config.topics.events, config.topics.decisions)
        }
        if all(count == config.events.partitions for count in partitions.values()):
            return
        gives_up_s = gives_up_s or clock.monotonic_s() + TOPIC_WAIT_S
        if clock.monotonic_s() >= gives_up_s:
            _refuse(partitions, config)
        time.sleep(TOPIC_POLL_S)


def _refuse(partitions: dict[str, int], config: Config) -> None:
    missing = [name for name, count in partitions.items() if count == 0]
    if missing:
        raise MissingTopicError(
            f"{config.kafka.bootstrap} has no topic {' and no topic '.join(missing)}; "
            "create them with `datastreamx apply`"
        )
    raise CrashError(
        f"topics have {partitions} partitions, events.partitions says {config.events.partitions}; "
        "set it to what the topics have"
    )
