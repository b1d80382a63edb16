from __future__ import annotations

import random
from collections import defaultdict, deque

import pytest
from confluent_kafka import KafkaError, KafkaException

from datastreamx.clock import ManualClock
from simulator.fleet import sender as sender_module
from simulator.fleet.faults import Record
from simulator.fleet.sender import RETRY_AFTER_S, OnDelivery, Sender


class Message:
    def __init__(self, partition: int, offset: int) -> None:
        self._place = (partition, offset)

    def partition(self) -> int:
        return self._place[0]

    def offset(self) -> int:
        return self._place[1]


class FakeBroker:
    """The log, and what goes wrong: a producer that dies after some deliveries, and a bounded queue."""

    def __init__(self, queue_size: int = 1_000_000) -> None:
        self.log: list[Record] = []
        self.producers = 0
        self.queue_size = queue_size
        self.deliveries_until_death = 10**9
        self.reports_death = True

    def make(self) -> FakeProducer:
        self.producers += 1
        return FakeProducer(self)


class FakeProducer:
    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._queue: deque[tuple[Record, OnDelivery]] = deque()
        self._dead = False

    def produce(self, topic: str, value: bytes | None, key: bytes, *, on_delivery: OnDelivery) -> None:
        assert topic == "events"
        if self._dead:
            raise KafkaException(KafkaError(KafkaError._FATAL))
        if len(self._queue) >= self._broker.queue_size:
            raise BufferError("Local: Queue full")
        self._queue.append((Record(key, value, "tune"), on_delivery))

    def poll(self, _timeout: float) -> int:
        while self._queue and not self._dead:
            self._broker.deliveries_until_death -= 1
            self._dead = self._broker.deliveries_until_death < 0
            if self._dead and not self._broker.reports_death:
                break
            record, on_delivery = self._queue.popleft()
            if self._dead:
                on_delivery(KafkaError(KafkaError._GAPLESS_GUARANTEE), None)
            else:
                self._broker.log.append(record)
                on_delivery(None, Message(0, len(self._broker.log) - 1))
        return 0

    def flush(self, _timeout: float) -> int:
        return self.poll(0.0)

    def purge(self, *, in_queue: bool, in_flight: bool) -> None:
        assert in_queue
        assert in_flight
        self._dead = True
        # In any order, as partitions are purged one after another.
        pending = list(self._queue)
        self._queue.clear()
        random.Random(1).shuffle(pending)
        for _, on_delivery in pending:
            on_delivery(KafkaError(KafkaError._PURGE_QUEUE), None)


def record(number: int) -> Record:
    return Record(f"stb-{number % 7:06d}".encode(), str(number).encode(), "tune")


class Story:
    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker
        self.clock = ManualClock()
        self.acknowledged: list[tuple[Record, int]] = []
        self.sender = Sender(
            broker.make,
            "events",
            lambda record, _partition, offset: self.acknowledged.append((record, offset)),
            self.clock,
        )

    def assert_complete_and_in_order(self, count: int) -> None:
        assert sorted(int(record.value or b"") for record in self.broker.log) == list(range(count))
        by_box: dict[bytes, list[int]] = defaultdict(list)
        for entry in self.broker.log:
            by_box[entry.key].append(int(entry.value or b""))
        assert all(numbers == sorted(numbers) for numbers in by_box.values())
        assert [entry for entry, _ in self.acknowledged] == self.broker.log
        assert [offset for _, offset in self.acknowledged] == list(range(count))
        assert self.sender.waiting == 0


def test_records_are_acknowledged_with_their_offset() -> None:
    story = Story(FakeBroker())
    for number in range(100):
        story.sender.send(record(number))
    assert story.sender.waiting == 100
    story.sender.poll()
    story.assert_complete_and_in_order(100)


def test_a_full_queue_delays_records_and_loses_none() -> None:
    story = Story(FakeBroker(queue_size=10))
    for number in range(100):
        story.sender.send(record(number))
    for _ in range(20):
        story.sender.poll()
    story.assert_complete_and_in_order(100)
    assert story.broker.producers == 1


@pytest.mark.parametrize("deaths", [1, 4])
def test_after_a_failed_delivery_everything_is_sent_again_in_order(deaths: int) -> None:
    story = Story(FakeBroker())
    number = 0
    for death in range(deaths):
        for _ in range(50):
            story.sender.send(record(number))
            number += 1
        story.broker.deliveries_until_death = 20
        story.sender.poll()
        for _ in range(10):  # while the producer is being replaced
            story.sender.send(record(number))
            number += 1
        assert len(story.broker.log) < number
        story.sender.poll()
        assert story.broker.producers == death + 2, "it must not try again before the pause is over"
        story.clock.advance(int(RETRY_AFTER_S * 1000))
        story.broker.deliveries_until_death = 10**9
        story.sender.poll()
        story.sender.poll()
    story.assert_complete_and_in_order(number)
    assert story.sender.sent_again >= 30


def test_a_dead_producer_found_by_sending_is_replaced_too() -> None:
    story = Story(FakeBroker())
    story.broker.deliveries_until_death = 0
    story.broker.reports_death = False
    story.sender.send(record(0))
    story.sender.poll()
    story.sender.send(record(1))
    assert story.sender.waiting == 2
    story.sender.poll()
    story.clock.advance(int(RETRY_AFTER_S * 1000))
    story.broker.deliveries_until_death = 10**9
    story.sender.poll()
    story.sender.poll()
    story.assert_complete_and_in_order(2)


def test_too_many_unacknowledged_records_ask_the_caller_to_hold_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "MAX_WAITING", 10)
    story = Story(FakeBroker())
    for number in range(9):
        story.sender.send(record(number))
    found = [story.sender.is_full]
    story.sender.send(record(9))
    found.append(story.sender.is_full)
    story.sender.poll()
    found.append(story.sender.is_full)
    assert found == [False, True, False]


def test_flush_says_how_many_records_are_left() -> None:
    story = Story(FakeBroker())
    story.sender.send(record(0))
    assert story.sender.flush(0.0) == 1
    assert story.sender.flush(1.0) == 0
