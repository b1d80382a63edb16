"""Boxes for a kill campaign: they zap by a seeded script in real time, and do with pushes what boxes do."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections import Counter
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from datastreamx.config import Config
from datastreamx.model.auction import Decision
from datastreamx.model.events import AdBreak, AdShown, BoxEvent, Heartbeat, Tune
from datastreamx.wire.decisions import decode_decision
from datastreamx.wire.events import encode_event
from tests.integration.pipeline import now_ms

BOXES = 48
CHANNELS = 12
TURN_S = (0.4, 2.0)
"""Time between two events of a box."""

_POLL_S = 0.01
_BATCH = 200


class Viewers:
    """Boxes in a thread of their own; a context manager.

    A box tunes, stays, goes into ad breaks long enough for several ads, or just shows that it is alive. It drops a push
    whose id it knows, and displays the others that arrive before their deadline.

    Attributes:
        sent: Events handed to the producer; `delivered` those that the broker has.
        records: Decisions received, of all boxes.
        pushes: How often each push was received, by its id.
        displayed: The decision that was displayed, by push id.
        late: Pushes that came too late to be displayed.
    """

    def __init__(self, config: Config, seed: int) -> None:
        self.sent = self.delivered = self.records = self.late = 0
        self.pushes: Counter[str] = Counter()
        self.displayed: dict[str, Decision] = {}
        self._config = config
        self._rng = random.Random(f"{seed}/viewers")
        self._channels = ["ch0"] * BOXES
        self._seqs = [0] * BOXES
        self._zapping = threading.Event()
        self._stop = threading.Event()
        self._fault: BaseException | None = None
        self._producer = Producer(
            {"bootstrap.servers": config.kafka.bootstrap, "enable.idempotence": True, "linger.ms": 2, "log_level": 2}
        )
        self._thread = threading.Thread(target=self._guarded, name="viewers", daemon=True)

    def __enter__(self) -> Self:
        self._zapping.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def lean_back(self) -> None:
        """No more zapping; pushes are received and their displays reported all the same."""
        self._zapping.clear()

    def check(self) -> None:
        """Raise what has stopped the boxes, if something has."""
        if self._fault is not None:
            raise RuntimeError(f"the boxes have stopped: {self._fault!r}") from self._fault

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as fault:  # noqa: BLE001  raised again by `check`
            self._fault = fault

    def _run(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self._config.kafka.bootstrap,
                "group.id": "viewers",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 20,
                "log_level": 2,
            }
        )
        topic, partitions = self._config.topics.decisions, range(self._config.events.partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        begin_s = time.monotonic()
        turns = [(begin_s + self._rng.uniform(0, TURN_S[1]), box) for box in range(BOXES)]
        heapq.heapify(turns)
        try:
            while not self._stop.is_set():
                for message in consumer.consume(_BATCH, _POLL_S):
                    self._receive(message)
                while self._zapping.is_set() and turns[0][0] <= time.monotonic():
                    due_s, box = turns[0]
                    self._send(box, self._next_event(box))
                    heapq.heapreplace(turns, (due_s + self._rng.uniform(*TURN_S), box))
                self._producer.poll(0)
            assert self._producer.flush(60) == 0, "the broker did not take all events"
        finally:
            consumer.close()
            self._producer.close()

    def _receive(self, message: Message) -> None:
        if message.error() is not None:
            # librdkafka goes on by itself; what is lost for good will be missed at the end.
            return
        decision = decode_decision(message.value() or b"")
        self.records += 1
        if decision.push_id is None:
            return
        self.pushes[decision.push_id] += 1
        if self.pushes[decision.push_id] > 1:
            return
        if now_ms() > decision.deadline_ms:
            self.late += 1
            return
        self.displayed[decision.push_id] = decision
        box = int(decision.box_id.removeprefix("stb-"))
        for ad in decision.ads:
            self._send(box, AdShown(push_id=ad.push_id, ad_id=ad.ad_id, shown_ms=100, **self._common(box)))

    def _next_event(self, box: int) -> BoxEvent:
        kind = self._rng.random()
        if kind < 0.55:
            self._channels[box] = f"ch{self._rng.randrange(CHANNELS)}"
            return Tune(channel_id=self._channels[box], **self._common(box))
        if kind < 0.85:
            return AdBreak(
                break_id=f"break-{self._seqs[box]}",
                channel_id=self._channels[box],
                starts_in_ms=0,
                duration_ms=self._rng.choice((30_000, 90_000)),
                **self._common(box),
            )
        return Heartbeat(**self._common(box))

    def _common(self, box: int) -> dict[str, Any]:
        self._seqs[box] += 1
        seq = self._seqs[box]
        return {"event_id": f"{box}-{seq}", "box_id": f"stb-{box}", "seq": seq, "event_time_ms": now_ms()}

    def _send(self, box: int, event: BoxEvent) -> None:
        self.sent += 1
        self._producer.produce(
            self._config.topics.events,
            encode_event(event),
            event.box_id.encode(),
            partition=box % self._config.events.partitions,
            on_delivery=self._on_delivery,
        )

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        assert error is None, error
        self.delivered += 1
