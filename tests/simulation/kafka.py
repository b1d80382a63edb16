"""Kafka as far as the product can tell: logs that only grow, producers with requests under way, readers.

What is true to the original: a partition takes the requests of one client in order or not at all from some point on
(idempotent producer); an acknowledgement comes any time after the append, or never; requests that were under way when
their client died may still be appended, a prefix of them, seconds later; retries of the client never double a record; a
commit of positions may be late or lost.
What is left out: retention, leader changes, batching (a request is one record), transactions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

from confluent_kafka import OFFSET_INVALID, KafkaError, Message, TopicPartition

from datastreamx.model.auction import DecidedAuction
from datastreamx.wire.decisions import decode_decided
from sinks.kafka.outside import Outside as SinkOutside
from sources.kafka.outside import Outside
from sources.kafka.start import PartitionId
from tests.simulation.world import World

Report = Callable[[KafkaError | None, Message], None]

STRAY_MS_MAX = 4_000
"""How long a request of a dead client may still take; a fraction of what `FirstWins` remembers."""


class Broker:
    """All topics. `down_until_ms`: until then nothing is appended, and nothing acknowledged."""

    def __init__(self, world: World, topics: Mapping[str, int]) -> None:
        self.world = world
        self.topics = dict(topics)
        self.logs: dict[PartitionId, list[Message]] = {
            (topic, partition): [] for topic, count in topics.items() for partition in range(count)
        }
        self.origins: dict[PartitionId, list[Client | None]] = {place: [] for place in self.logs}
        self.down_until_ms = 0
        self.appends = 0
        self.committed: dict[tuple[str, str, int], tuple[int, str]] = {}
        self.listeners: list[Callable[[Message], None]] = []

    def append(  # noqa: PLR0917  the parts of a record
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes]] | None = None,
        origin: Client | None = None,
    ) -> Message:
        """Store a record at the present time; returns it with its offset. `origin` is who sent it."""
        log = self.logs[topic, partition]
        message = Message(
            topic=topic,
            partition=partition,
            offset=len(log),
            key=key,
            value=value,
            headers=[*(headers or [])],
            timestamp=(1, self.world.clock.now_ms()),
        )
        log.append(message)
        self.origins[topic, partition].append(origin)
        self.appends += 1
        for listener in self.listeners:
            listener(message)
        return message

    def records(self, topic: str) -> list[Message]:
        """All records of a topic, partition by partition."""
        return [message for (name, _), log in self.logs.items() if name == topic for message in log]


class Client:
    """The producers of one process, and what their death leaves behind.

    Attributes:
        log_at_start: Lengths of all partitions when the process started; what it reads back is no shorter.
        has_failed: A producer of it had a fatal error.
    """

    def __init__(self, broker: Broker, name: str, random: Random, sleep: Callable[[int], None]) -> None:
        self.broker = broker
        self.name = name
        self.random = random
        self.sleep = sleep
        self.log_at_start = {place: len(log) for place, log in broker.logs.items()}
        self.has_failed = False
        self._producers: list[SimulatedProducer] = []

    def outside(self, on_wait: Callable[[], None]) -> SinkOutside:
        """What the sinks take from outside."""
        return SinkOutside(
            clock=self.broker.world.clock,
            rng=self.random,
            sleep=lambda seconds: self.sleep(round(seconds * 1000)),
            on_wait=on_wait,
            make_producer=self._make,
        )

    def kill(self) -> None:
        """The process died."""
        for producer in self._producers:
            producer.abandon()

    def fail_one(self) -> bool:
        """Give one producer a fatal error, as an idempotent one has when its sequence is lost."""
        alive = [producer for producer in self._producers if producer.has_unacked]
        if alive:
            self.random.choice(alive).fail()
        return bool(alive)

    def _make(self, properties: dict[str, Any]) -> SimulatedProducer:
        self._producers.append(SimulatedProducer(self, properties))
        return self._producers[-1]


class _Request:
    __slots__ = (
        "ack_ms",
        "arrive_ms",
        "headers",
        "is_dropped",
        "key",
        "message",
        "partition",
        "report",
        "topic",
        "value",
    )

    def __init__(
        self,
        place: PartitionId,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes]],
        report: Report,
    ) -> None:
        self.topic, self.partition = place
        self.key = key
        self.value = value
        self.headers = headers
        self.report = report
        self.arrive_ms = 0
        self.ack_ms = 0
        self.message: Message | None = None
        self.is_dropped = False


class SimulatedProducer:
    """`confluent_kafka.Producer`, idempotent."""

    def __init__(self, client: Client, properties: dict[str, Any]) -> None:
        self._client = client
        self._broker = client.broker
        self._world = client.broker.world
        self._properties = properties
        self._unacked: deque[_Request] = deque()
        self._under_way: dict[PartitionId, deque[_Request]] = {}
        self._has_failed = False
        self._reports: list[tuple[Report, KafkaError, Message]] = []

    @property
    def has_unacked(self) -> bool:
        return bool(self._unacked) and not self._has_failed

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        *,
        partition: int = 0,
        headers: list[tuple[str, bytes]],
        on_delivery: Report,
    ) -> None:
        if self._has_failed:
            self._reports.append((on_delivery, KafkaError(KafkaError._FATAL), _told(topic, partition)))
            return
        random, now_ms = self._client.random, self._world.clock.now_ms()
        request = _Request((topic, partition), key, value, headers, on_delivery)
        queue = self._under_way.setdefault((topic, partition), deque())
        after_ms = queue[-1].arrive_ms if queue else now_ms
        request.arrive_ms = max(after_ms, now_ms + _delay_ms(random))
        request.ack_ms = request.arrive_ms + _delay_ms(random)
        queue.append(request)
        self._unacked.append(request)
        self._world.at(request.arrive_ms, partial(self._arrive, queue))

    def poll(self, timeout: float) -> None:
        if timeout and not self._reports:
            self._client.sleep(round(timeout * 1000))
        reports, self._reports = self._reports, []
        for report, error, message in reports:
            report(error, message)
        now_ms = self._world.clock.now_ms()
        # One connection answers in order; those of other partitions may be elsewhere.
        waiting: deque[_Request] = deque()
        answered: list[tuple[Report, Message]] = []
        held_back: set[PartitionId] = set()
        for request in self._unacked:
            place = (request.topic, request.partition)
            if request.message is None or request.ack_ms > now_ms or place in held_back:
                held_back.add(place)
                waiting.append(request)
            else:
                answered.append((request.report, request.message))
        self._unacked = waiting
        for answer, stored in answered:
            answer(None, stored)

    def flush(self, timeout: float) -> int:
        self.poll(0)
        if self._unacked and not self._reports:
            # As the original: returns as soon as all is answered.
            first_ms = max(min(request.ack_ms for request in self._unacked), self._broker.down_until_ms)
            self._client.sleep(min(round(timeout * 1000), max(1, first_ms - self._world.clock.now_ms())))
            self.poll(0)
        return len(self._unacked)

    def purge(self) -> None:
        for request in self._unacked:
            self._reports.append(
                (request.report, KafkaError(KafkaError._PURGE_QUEUE), _told(request.topic, request.partition))
            )
        self._unacked.clear()

    def close(self) -> None:
        self.abandon()

    def list_topics(self, timeout: float) -> Any:
        del timeout
        return SimpleNamespace(
            topics={
                name: SimpleNamespace(partitions=dict.fromkeys(range(n))) for name, n in self._broker.topics.items()
            }
        )

    def fail(self) -> None:
        """A fatal error: nothing more is sent; what was under way may arrive, and nobody will hear of it."""
        self._world.fault(self._client.name, "producer fails", f"{len(self._unacked)} unacknowledged")
        self._has_failed = self._client.has_failed = True
        for request in self._unacked:
            self._reports.append(
                (request.report, KafkaError(KafkaError._FATAL), _told(request.topic, request.partition))
            )
        self._unacked.clear()
        self.abandon()

    def abandon(self) -> None:
        """Nobody waits for answers any more: a prefix of what is under way arrives, seconds later at worst."""
        random, now_ms = self._client.random, self._world.clock.now_ms()
        for queue in self._under_way.values():
            if not queue:
                continue
            arriving = random.randint(0, len(queue))
            for index, request in enumerate(queue):
                request.is_dropped = request.is_dropped or index >= arriving
            late_ms = random.choice((0, 0, random.randint(0, STRAY_MS_MAX)))
            if arriving and not queue[0].is_dropped:
                self._world.seen["stray produce requests"] += 1
            if late_ms:
                # The agenda's own entries find the queue empty then.
                strays = deque(queue)
                queue.clear()
                for request in strays:
                    request.arrive_ms = max(request.arrive_ms, now_ms) + late_ms
                    self._world.at(request.arrive_ms, partial(self._arrive, strays))

    def _arrive(self, queue: deque[_Request]) -> None:
        now_ms = self._world.clock.now_ms()
        if not queue or queue[0].arrive_ms > now_ms:
            return
        if self._broker.down_until_ms > now_ms:
            self._world.at(self._broker.down_until_ms, partial(self._arrive, queue))
            return
        request = queue.popleft()
        if not request.is_dropped:
            request.message = self._broker.append(
                request.topic, request.partition, request.key, request.value, request.headers, self._client
            )
            request.ack_ms = max(request.ack_ms, now_ms)


class SimulatedConsumer:
    """`confluent_kafka.Consumer` with assigned partitions: what has arrived, cut anywhere, partitions in any order.

    What a group commits is told to the next start as a broker tells it: it may have come late, or never.

    Args:
        group: Under which positions are committed.
    """

    def __init__(self, broker: Broker, group: str, random: Random) -> None:
        self._broker = broker
        self._group = group
        self._random = random
        self._next: dict[PartitionId, int] = {}
        self._told_end: dict[PartitionId, int] = {}
        self._paused: set[PartitionId] = set()

    @property
    def has_news(self) -> bool:
        """Whether `consume` would return anything."""
        logs, told = self._broker.logs, self._told_end
        for place, offset in self._next.items():
            end = len(logs[place])
            if (offset < end or told[place] != end) and place not in self._paused:
                return True
        return False

    @property
    def position(self) -> int:
        """Sum of the next offsets."""
        return sum(self._next.values())

    def outside(self, sleep: Callable[[int], None]) -> Outside:
        """What a reader takes from outside."""
        return Outside(
            clock=self._broker.world.clock,
            rng=self._random,
            sleep=lambda seconds: sleep(round(seconds * 1000)),
            make_consumer=lambda _: self,
        )

    def assign(self, partitions: list[TopicPartition]) -> None:
        self._next = {(one.topic, one.partition): one.offset for one in partitions}
        self._told_end = dict.fromkeys(self._next, -1)

    def consume(self, count: int, timeout: float) -> list[Message]:
        del timeout
        logs, random = self._broker.logs, self._random
        places = [
            place
            for place, offset in self._next.items()
            if place not in self._paused and (offset < len(logs[place]) or self._told_end[place] != offset)
        ]
        if not places:
            return []
        random.shuffle(places)
        found: list[Message] = []
        for place in places[: random.randint(1, len(places))]:
            log, offset = logs[place], self._next[place]
            some = log[offset : offset + min(count - len(found), random.choice((1, 3, 10, 100)))]
            found += some
            self._next[place] = offset = offset + len(some)
            if offset == len(log) and len(found) < count:
                self._told_end[place] = offset
                error = KafkaError(KafkaError._PARTITION_EOF)
                found.append(Message(topic=place[0], partition=place[1], offset=offset, error=error))
        return found

    def poll(self, timeout: float) -> None:
        """Serves callbacks; there are none."""

    def pause(self, partitions: list[TopicPartition]) -> None:
        self._paused |= {(one.topic, one.partition) for one in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self._paused -= {(one.topic, one.partition) for one in partitions}

    def list_topics(self, topic: str, timeout: float) -> Any:
        del timeout
        partitions = dict.fromkeys(range(self._broker.topics[topic]))
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None, partitions=partitions)})

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float = 0, *, cached: bool = False
    ) -> tuple[int, int]:
        del timeout, cached
        return 0, len(self._broker.logs[partition.topic, partition.partition])

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        del asynchronous
        kind = self._random.random()
        if kind < 0.1:
            return
        told = {(self._group, one.topic, one.partition): (one.offset, one.metadata) for one in offsets}
        world = self._broker.world
        world.at(world.clock.now_ms() + (0 if kind < 0.5 else 150), partial(self._broker.committed.update, told))

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        del timeout
        told = self._broker.committed
        return [
            TopicPartition(
                one.topic, one.partition, *told.get((self._group, one.topic, one.partition), (OFFSET_INVALID, ""))
            )
            for one in partitions
        ]

    def close(self) -> None:
        """Leaves no trace."""


class SimulatedDecisionLog:
    """Reads the decision topic back, up to its end at the time of asking."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self._broker = broker
        self._topic = topic

    def read_back(self, partition: int, from_offset: int | None) -> list[DecidedAuction]:
        first = 0 if from_offset is None else from_offset + 1
        log = self._broker.logs[self._topic, partition]
        return [decode_decided(message.value() or b"") for message in log[first:]]


def _delay_ms(random: Random) -> int:
    return random.choice((0, 0, 1, 3, 10, random.randint(0, 400)))


def _told(topic: str, partition: int) -> Message:
    return Message(topic=topic, partition=partition)
