"""How long the ads flow is away: killed, hung, or behind. Real processes, a real broker, as in production.

    python -m benchmarks.restart [--boxes 100000] [--kills 30] [--outage 60] [--quick] [--save] [--json]

crash     SIGKILL of the worker; then until the first fact about an event that was sent after the kill
hang      SIGSTOP of the worker, for good; likewise. The supervisor has to find out
backlog   clean stop, for `--outage` seconds; then from the start until the flow has read everything, while events go on
          arriving at the pace of `--boxes` boxes, one event per 30 s each

The state is loaded first: one event of each box.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from benchmarks.machine import percentile, spread
from benchmarks.report import Figure, Goal, Report, conclude, parser, report
from datastreamx.config import Config, load_config
from datastreamx.kafka import consumer_properties, producer_properties
from datastreamx.model.events import Heartbeat
from datastreamx.place import Place
from datastreamx.supervisor import read_status, status_path
from datastreamx.topics import apply_topics
from datastreamx.wire.events import encode_event
from datastreamx.wire.facts import decode_facts
from simulator.broker import LocalBroker
from simulator.processes import Child

PARTITIONS = 8
INTERVAL_S = 30.0
"""A box reports itself this often."""
PATIENCE_S = 120.0
KILLS_PER_SUPERVISOR = 3
"""A supervisor gives up after a few failures in a short time, for the service manager to see: it gets a successor."""

CONFIG = """\
[kafka]
bootstrap = "{bootstrap}"
[events]
partitions = {partitions}
groups_per_partition = 4
[bigquery]
project = "unused"
[recovery]
directory = "{recovery}"
[privacy]
box_key_secret = "0123456789abcdef"
[[aggregators]]
name = "unused"
adapter = "simple"
url = "http://127.0.0.1:9"
"""


class Boxes:
    """Sends heartbeats of `count` boxes, and follows the facts about them.

    Args:
        config: Whole configuration.
        count: Of boxes; box B is in partition B % `PARTITIONS`.
        flow: Whose log is quoted when it makes no progress.
    """

    def __init__(self, config: Config, count: int, flow: Child) -> None:
        self._config = config
        self._flow = flow
        self._count = count
        self._sent = 0
        self._offsets = dict.fromkeys(range(PARTITIONS), -1)
        self._read = dict.fromkeys(range(PARTITIONS), -1)
        self._lock = threading.Lock()
        self._producer = Producer(producer_properties(config.kafka, "benchmark-boxes"))
        self._consumer = Consumer(
            {**consumer_properties(config.kafka, "benchmark-facts", "benchmark"), "fetch.wait.max.ms": 5}
        )
        self._consumer.assign([TopicPartition(config.topics.facts, partition, 0) for partition in range(PARTITIONS)])

    @property
    def waiting(self) -> int:
        """Events that the broker has and no fact tells of."""
        return sum(self._offsets[partition] - self._read[partition] for partition in range(PARTITIONS))

    def close(self) -> None:
        """Leave the broker."""
        self._producer.flush(10)
        self._consumer.close()

    def send(self, events: int) -> None:
        """The next boxes in turn report themselves."""
        topic, at_ms = self._config.topics.events, time.time_ns() // 1_000_000
        for number in range(self._sent, self._sent + events):
            box_id, seq = f"stb-{number % self._count:06d}", number // self._count + 1
            event = Heartbeat(event_id=f"{number}", box_id=box_id, seq=seq, event_time_ms=at_ms)
            while True:
                try:
                    self._producer.produce(
                        topic,
                        encode_event(event),
                        box_id.encode(),
                        partition=number % PARTITIONS,
                        on_delivery=self._on_delivery,
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
        self._sent += events
        self._producer.poll(0)

    def settle(self) -> None:
        """Wait until the broker has all that was sent."""
        self._producer.flush(PATIENCE_S)

    def follow(self, until: Callable[[], bool]) -> None:
        """Read facts until something holds."""
        give_up_s = time.monotonic() + PATIENCE_S
        while not until():
            if time.monotonic() > give_up_s:
                raise SystemExit(
                    f"no progress for {PATIENCE_S:g} s; {self.waiting} events wait for their facts; the flow says\n"
                    + self._flow.log_tail()
                )
            messages: list[Message] = self._consumer.consume(500, 0.01)
            for message in messages:
                if message.error() is None:
                    partition = int(message.partition() or 0)
                    rows = decode_facts(message.value() or b"", message.headers() or [], partition).rows  # type: ignore[arg-type]
                    newest = rows.column("source_offset")[rows.num_rows - 1].as_py()
                    if newest > self._read[partition]:
                        self._read[partition] = newest
                        give_up_s = time.monotonic() + PATIENCE_S

    def first_new(self) -> float:
        """Send one event to each partition; seconds until a fact tells of one of them."""
        begin_s, before = time.monotonic(), dict(self._read)
        self.send(PARTITIONS)
        self.settle()
        sent = dict(self._offsets)
        self.follow(lambda: any(self._read[p] >= sent[p] > before[p] for p in range(PARTITIONS)))
        took_s = time.monotonic() - begin_s
        self.follow(lambda: self.waiting == 0)
        return took_s

    def _on_delivery(self, error: object, message: Message) -> None:
        if error is not None:
            raise SystemExit(f"the broker refused an event: {error}")
        with self._lock:
            partition = int(message.partition() or 0)
            self._offsets[partition] = max(self._offsets[partition], int(message.offset() or 0))


class Flow:
    """The ads flow under its supervisor."""

    def __init__(self, config_path: Path, config: Config, logs: Path) -> None:
        argv = [sys.executable, "-m", "datastreamx.cli", "run", "ads", "--config", str(config_path)]
        self.child = Child("flow ads", argv, log_path=logs / "flow-ads.log")
        self._status = status_path(Path(config.recovery.directory), Place().store_name("ads"))

    def signal_worker(self, number: int) -> None:
        """Send a signal to the worker alone."""
        status = read_status(self._status)
        if status is None or status.pid is None:
            raise SystemExit(f"there is no worker:\n{self.child.log_tail()}")
        os.kill(status.pid, number)

    def stop(self) -> None:
        """Stop it as a service manager does."""
        if self.child.stop(30) != 0:
            raise SystemExit(f"the flow did not stop cleanly:\n{self.child.log_tail()}")


@contextmanager
def service(boxes: int) -> Iterator[tuple[Flow, Boxes]]:
    """Broker, topics, the flow with the state of all boxes."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="datastreamx-restart-")))
        broker = stack.enter_context(LocalBroker(directory))
        path = directory / "datastreamx.toml"
        path.write_text(
            CONFIG.format(bootstrap=broker.bootstrap, partitions=PARTITIONS, recovery=directory / "recovery"),
            encoding="utf-8",
        )
        config = load_config(path)
        apply_topics(config)
        flow = Flow(path, config, directory)
        stack.callback(flow.child.stop, 30)
        flow.child.start()
        made = Boxes(config, boxes, flow.child)
        stack.callback(made.close)
        for first in range(0, boxes, 10_000):
            made.send(min(10_000, boxes - first))
            made.settle()
        made.follow(lambda: made.waiting == 0)
        yield flow, made


def _crashes(flow: Flow, boxes: Boxes, kills: int) -> list[float]:
    taken = []
    for number in range(kills):
        # Long enough for the snapshot of the whole state to be the one that is resumed from.
        time.sleep(2.0)
        if number % KILLS_PER_SUPERVISOR == KILLS_PER_SUPERVISOR - 1:
            flow.stop()
            flow.child.start()
            boxes.first_new()
        flow.signal_worker(signal.SIGKILL)
        taken.append(boxes.first_new())
        _say(f"crash {number + 1} of {kills}: {taken[-1]:.2f} s")
    return taken


def _hang(flow: Flow, boxes: Boxes) -> float:
    time.sleep(2.0)
    flow.signal_worker(signal.SIGSTOP)
    took_s = boxes.first_new()
    _say(f"hang: {took_s:.1f} s")
    return took_s


def _backlog(flow: Flow, boxes: Boxes, count: int, outage_s: float) -> tuple[int, float]:
    per_tenth = max(1, round(count / INTERVAL_S / 10))
    flow.stop()
    arriving = threading.Event()
    over = threading.Event()

    def arrive() -> None:
        due_s = time.monotonic()
        while not over.is_set():
            boxes.send(per_tenth)
            due_s += 0.1
            over.wait(max(0.0, due_s - time.monotonic()))
            arriving.set()

    thread = threading.Thread(target=arrive, daemon=True)
    thread.start()
    arriving.wait()
    time.sleep(outage_s)
    backlog, begin_s = boxes.waiting, time.monotonic()
    flow.child.start()
    # A second of traffic is under way at any time.
    boxes.follow(lambda: boxes.waiting < 10 * per_tenth)
    drained_s = time.monotonic() - begin_s
    over.set()
    thread.join()
    _say(f"backlog of {backlog:,} events: {drained_s:.1f} s")
    return backlog, drained_s


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def measure(boxes: int, kills: int, outage_s: float, command: str, *, with_hang: bool) -> Report:
    """All three; the hang alone takes half a minute."""
    with service(boxes) as (flow, made):
        _say(f"{boxes:,} boxes have state")
        crashes = _crashes(flow, made, kills)
        hangs = [_hang(flow, made)] if with_hang else []
        backlog, drained_s = _backlog(flow, made, boxes, outage_s)
    crash_s = spread(crashes)
    return report(
        question="restart",
        asks="How long is a flow away that was killed, hung or behind?",
        command=command,
        data=f"{boxes:,} boxes with state, one event per box and {INTERVAL_S:g} s, {PARTITIONS} partitions",
        figures=[
            Figure("crash to first new output", "s", crash_s),
            Figure("crash to first new output, p99", "s", spread([percentile(crashes, 0.99)])),
            *(Figure("hang to first new output", "s", spread([one])) for one in hangs),
            Figure(f"backlog of {outage_s:g} s", "events", spread([backlog])),
            Figure("backlog read after", "s", spread([drained_s])),
        ],
        goals=[Goal("crash to first new output, median in s", 5.0, crash_s.median, at_least=False)],
        notes=["real processes on the local broker; a backlog is read while events go on arriving"],
    )


def main() -> None:
    """Measure and print."""
    options_of = parser("benchmarks.restart", __doc__ or "")
    options_of.add_argument("--boxes", type=int, default=100_000)
    options_of.add_argument("--kills", type=int, default=30)
    options_of.add_argument("--outage", type=float, default=60.0, metavar="SECONDS")
    options = options_of.parse_args()
    boxes, kills, outage_s = options.boxes, options.kills, options.outage
    command = f"python -m benchmarks.restart --boxes {boxes} --kills {kills} --outage {outage_s:g}"
    if options.quick:
        boxes, kills, outage_s, command = 2_000, 2, 3.0, "python -m benchmarks.restart --quick"
    conclude(measure(boxes, kills, outage_s, command, with_hang=not options.quick), options)


if __name__ == "__main__":
    main()
