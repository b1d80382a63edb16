"""Boxes at a steady pace, in a process of its own, as cheap as it goes: text with numbers put in, and no model.

    python -m benchmarks.steady_load BOOTSTRAP TOPIC PARTITIONS BOXES RATE

Obeys lines on standard input. `load`: one event of each box as fast as it goes, answered with `LOADED`. `go`: events at
the pace until the next line or the end of the input, answered with `Sent`.
"""

from __future__ import annotations

import sys
import threading
import time
from random import Random

import msgspec
from confluent_kafka import KafkaError, Producer

EVENTS_PER_AUCTION = 20
TICK_S = 0.002

DESCRIPTION = (
    "JSON of 105 bytes on average, boxes in shuffled order; of 20 events 19 are heartbeats and one is to end in an "
    "auction: 3 of 5 ad breaks, 2 of 5 tunes, whose dwell is due 15 s later"
)

_HEAD = b'{"type":"%s","event_id":"%07d-%x","box_id":"stb-%07d","seq":%d,"event_time_ms":%d'
_AD_BREAK = b',"break_id":"b%d","channel_id":"ch%d","starts_in_ms":5000,"duration_ms":30000}'
_TUNE = b',"channel_id":"ch%d"}'


class Sent(msgspec.Struct, frozen=True):
    """What was sent at the pace.

    Attributes:
        late_ms: Longest that an event was behind its time, because this process had no core or no answer.
    """

    events: int
    late_ms: float


class Boxes:
    """Sends events of `boxes` boxes in turns; box B is in partition B % `partitions`."""

    def __init__(self, producer: Producer, topic: str, partitions: int, boxes: int) -> None:
        self._producer = producer
        self._topic = topic
        self._partitions = partitions
        self._order = [*range(boxes)]
        Random(1).shuffle(self._order)  # noqa: S311  traffic, not secrets
        self._next = 0

    def load(self) -> None:
        """A heartbeat of each box."""
        for _ in range(0, len(self._order), 1_000):
            self.send(1_000, with_auctions=False)
        self._producer.flush()

    def send(self, count: int, *, with_auctions: bool = True) -> None:
        """The next `count` events, which happen now."""
        produce, topic, partitions, order = self._producer.produce, self._topic, self._partitions, self._order
        now_ms = time.time_ns() // 1_000_000
        for at in range(self._next, self._next + count):
            turn, place = divmod(at, len(order))
            number, seq = order[place], turn + 1
            end, kind = b"}", b"heartbeat"
            rota, rest = divmod(number + turn, EVENTS_PER_AUCTION)
            if with_auctions and not rest:
                if rota % 5 < 3:  # noqa: PLR2004 - see DESCRIPTION
                    kind, end = b"ad_break", _AD_BREAK % (seq, number % 200)
                else:
                    kind, end = b"tune", _TUNE % (seq % 200)
            head = _HEAD % (kind, number, seq, number, seq, now_ms)
            produce(topic, head + end, b"stb-%07d" % number, partition=number % partitions, timestamp=now_ms)
        self._next += count
        self._producer.poll(0)

    def go(self, rate: int, over: threading.Event) -> Sent:
        """Events at the pace until told that it is over; whatever comes late is sent at once."""
        begin_s, sent, late_s = time.monotonic(), 0, 0.0
        while not over.is_set():
            now_s = time.monotonic()
            late_s = max(late_s, now_s - begin_s - sent / rate)
            count = int((now_s - begin_s) * rate) - sent
            self.send(count)
            sent += count
            time.sleep(TICK_S)
        self._producer.flush()
        return Sent(sent, late_s * 1000)


def _on_error(error: KafkaError) -> None:
    sys.stderr.write(f"steady_load: {error.str()}\n")


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(bootstrap: str, topic: str, partitions: int, boxes: int, rate: int) -> None:
    """Obey."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 1,
            "acks": "1",
            "queue.buffering.max.messages": 1_000_000,
            "error_cb": _on_error,
        }
    )
    made, over = Boxes(producer, topic, partitions, boxes), threading.Event()
    _tell("READY")
    if _heard() == "load":
        made.load()
        _tell("LOADED")
    if _heard() == "go":
        threading.Thread(target=_end_when_told, args=(over,), daemon=True).start()
        _tell(msgspec.json.encode(made.go(rate, over)).decode())


def _heard() -> str:
    return sys.stdin.readline().strip()


def _end_when_told(over: threading.Event) -> None:
    _heard()
    over.set()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
