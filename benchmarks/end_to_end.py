"""What DatastreamX adds between an event and its push, at a steady pace, on this machine alone.

    python -m benchmarks.end_to_end [--minutes 5] [--boxes 100000] [--quick] [--save] [--json]

10,000 events and 500 auctions per second, three aggregators over HTTP that answer after 20 ms, the ads flow under its
supervisor with a snapshot of all boxes each second, Apache Kafka (needs Java 17 and Maven). Broker, boxes and
aggregators share the cores with the flow.

Overhead of a push = its time in ad-decisions, as the broker tells it (LogAppendTime), minus the time of the causing
event, as its producer tells it (CreateTime), minus how long the slowest of its aggregators held the request, as the
aggregator tells it. The causing event is the ad break itself, or the event that let a dwell end. Everything else is
overhead: the event's way into Kafka and out of it, waiting, HTTP, the push's way into Kafka.

The yardstick, in the same run and at the same pace: benchmarks/echo.py, a bare loop without state that asks one
aggregator. What it takes is the broker's and the machine's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Self

import matplotlib as mpl
import msgspec
from confluent_kafka import OFFSET_END, Consumer, TopicPartition
from matplotlib import pyplot as plt

from benchmarks.contest import ROOT
from benchmarks.machine import Spread, percentile
from benchmarks.report import Figure, Goal, Report, conclude, parser, report
from benchmarks.restart import Flow
from benchmarks.steady_load import DESCRIPTION, EVENTS_PER_AUCTION, Sent
from datastreamx.config import Config, load_config
from datastreamx.kafka import consumer_properties
from datastreamx.model.auction import Outcome
from datastreamx.place import Place
from datastreamx.supervisor import read_status, status_path
from datastreamx.topics import apply_topics
from tests.kafka.cluster import KafkaCluster

RATE = 10_000
DELAY_MS = 20
AGGREGATORS = ("adriatic", "baltic", "caspian")
WARM_UP_S = 40.0
"""Connections, compilers of the JVM, dwells (15 s)."""
ECHO = "echoes"
PATIENCE_S = 180.0

CONFIG = """\
[kafka]
bootstrap = "{bootstrap}"
[bigquery]
project = "unused"
[recovery]
directory = "{directory}/recovery"
[privacy]
box_key_secret = "0123456789abcdef"
"""
AGGREGATOR = """\
[[aggregators]]
name = "{name}"
adapter = "openrtb"
url = "http://127.0.0.1:{port}/bid"
options = {{ publisher_id = "p", app_bundle = "b" }}
"""


class _Outcome(msgspec.Struct):
    code: Outcome
    called: bool
    bid_id: str | None = None


class _Decision(msgspec.Struct):
    """What is measured of a decision."""

    emitted_ms: int
    decided_ms: int
    status: str
    trigger: str
    queue_us: int | None = None
    auction_us: int | None = None
    outcomes: tuple[_Outcome, ...] = ()


class Push(msgspec.Struct, frozen=True):
    """One push and where its time went, in milliseconds.

    Attributes:
        at_s: When it was appended, epoch seconds.
        overhead_ms: The sum of the others.
        in_ms: From the event's production to the hand-over of its auction: Kafka, decoding, viewing.
        queue_ms: From the hand-over to the first call.
        auction_ms: From the first call to the decision, without the time for which the slowest aggregator held it.
        out_ms: From the decision to the append.
    """

    at_s: float
    overhead_ms: float
    in_ms: float
    queue_ms: float
    auction_ms: float
    out_ms: float


PARTS = {
    "in_ms": "event to hand-over (Kafka, decoding, viewing)",
    "queue_ms": "hand-over to first call",
    "auction_ms": "first call to decision, without the aggregators",
    "out_ms": "decision to append",
}


class Log:
    """Reads a topic of decisions from now on, at its leisure: times are those of the broker. A context manager.

    Attributes:
        pushes: In the order of their arrival.
        endings: How many decisions ended in each status.
        calls: How many calls ended in each outcome.
    """

    def __init__(self, config: Config, topic: str) -> None:
        self._config = config
        self._topic = topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.pushes: list[Push] = []
        self.endings: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        properties = consumer_properties(self._config.kafka, "benchmark-log", "benchmark")
        consumer = Consumer({**properties, "fetch.wait.max.ms": 200, "fetch.min.bytes": 1_000_000})
        partitions = range(self._config.events.partitions)
        consumer.assign([TopicPartition(self._topic, partition, OFFSET_END) for partition in partitions])
        decoder = msgspec.json.Decoder(_Decision)
        while not self._stop.is_set():
            for message in consumer.consume(1_000, 0.2):
                if message.error() is None:
                    self._note(message.timestamp()[1], decoder.decode(message.value() or b""))
        consumer.close()

    def _note(self, appended_ms: int, decision: _Decision) -> None:
        self.endings[decision.status] += 1
        self.calls.update(one.code.label if one.called else f"not_called_{one.code.label}" for one in decision.outcomes)
        held = [int(one.bid_id[1:]) for one in decision.outcomes if one.bid_id is not None]
        if decision.queue_us is None or decision.auction_us is None or not held:
            return
        held_ms, auction_ms, queue_ms = max(held) / 1000, decision.auction_us / 1000, decision.queue_us / 1000
        self.pushes.append(
            Push(
                at_s=appended_ms / 1000,
                overhead_ms=appended_ms - decision.emitted_ms - held_ms,
                in_ms=decision.decided_ms - decision.emitted_ms - auction_ms - queue_ms,
                queue_ms=queue_ms,
                auction_ms=auction_ms - held_ms,
                out_ms=appended_ms - decision.decided_ms,
            )
        )


class Phase(msgspec.Struct, frozen=True):
    """One run at the pace.

    Attributes:
        pushes: In the order of their arrival.
        endings: How many decisions ended in each status.
        calls: How many calls ended in each outcome.
        cores: CPU of each process, in cores, and of all that is not part of this.
    """

    seconds: float
    pushes: list[Push]
    endings: dict[str, int]
    calls: dict[str, int]
    cores: dict[str, float]


class Processes:
    """CPU that each process has taken since this was made."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._begin_s = time.monotonic()
        self._ticks = {name: _ticks(pid) for name, pid in pids.items()}
        self._busy = _busy_ticks()

    def cores(self) -> dict[str, float]:
        """Cores by name; `strangers` is what the machine did besides, kernel threads and neighbours."""
        ticks_per_core = (time.monotonic() - self._begin_s) * os.sysconf("SC_CLK_TCK")
        found = {name: (_ticks(pid) - self._ticks[name]) / ticks_per_core for name, pid in self._pids.items()}
        return {**found, "strangers": (_busy_ticks() - self._busy) / ticks_per_core - sum(found.values())}


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _busy_ticks() -> int:
    """Of all cores: user, nice, system, interrupts, time stolen by other machines; neither idle nor waiting."""
    fields = [int(one) for one in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4]


class Load:
    """The boxes, in a process of their own."""

    def __init__(self, config: Config, boxes: int) -> None:
        names = (config.kafka.bootstrap, config.topics.events, config.events.partitions, boxes, RATE)
        self._child = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "benchmarks.steady_load", *map(str, names)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._expect("READY")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._child.pid

    def load(self) -> None:
        """One event of each box."""
        self._say("load")
        self._expect("LOADED")

    def go(self) -> None:
        """Begin at the pace."""
        self._say("go")

    def end(self) -> Sent:
        """Stop, and hear what was sent."""
        self._say("stop")
        return msgspec.json.decode(self._hear(), type=Sent)

    def close(self) -> None:
        """End the process, whatever it does."""
        self._child.terminate()
        self._child.wait()

    def _say(self, text: str) -> None:
        if self._child.stdin is not None:
            self._child.stdin.write(text + "\n")
            self._child.stdin.flush()

    def _hear(self) -> str:
        return self._child.stdout.readline().strip() if self._child.stdout else ""

    def _expect(self, text: str) -> None:
        heard = self._hear()
        if heard != text:
            raise SystemExit(f"the boxes said {heard!r} instead of {text!r}")


class Rig:
    """Everything but the flow. Use `rig`."""

    def __init__(self, directory: Path, config_path: Path, kafka_pid: int, boxes: int, resources: ExitStack) -> None:
        self.directory = directory
        self.config_path = config_path
        self.config = load_config(config_path)
        self.load = Load(self.config, boxes)
        resources.callback(self.load.close)
        self._pids = {"Kafka": kafka_pid, "boxes": self.load.pid, "this": os.getpid()}

    def measure(self, topic: str, seconds: float, pids: dict[str, int]) -> Phase:
        """Look on while others work."""
        with Log(self.config, topic) as log:
            processes = Processes({**pids, **self._pids})
            begin_s = time.monotonic()
            time.sleep(seconds)
            cores, seconds = processes.cores(), time.monotonic() - begin_s
        if not log.pushes:
            raise SystemExit(f"no push came to {topic} in {seconds:.0f} s, but {log.endings}, {log.calls}")
        return Phase(seconds, log.pushes, dict(log.endings), dict(log.calls), cores)


@contextmanager
def _stub(log: Path) -> Iterator[tuple[int, int]]:
    """The aggregators, in one process: (port, process id)."""
    with (
        log.open("ab") as errors,
        subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "benchmarks.stub", str(DELAY_MS)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
        ) as child,
    ):
        try:
            ready = child.stdout.readline() if child.stdout else ""
            if not ready.startswith("READY "):
                raise SystemExit(f"the aggregators did not start: {log.read_text()}")
            yield int(ready.split()[1]), child.pid
        finally:
            child.terminate()


def measure(boxes: int, seconds: float, echo_s: float, warm_up_s: float) -> tuple[Phase, Phase, Sent]:
    """Ours, the yardstick, and what the boxes did during both."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="datastreamx-end-to-end-")))
        kafka = stack.enter_context(KafkaCluster(nodes=1, directory=directory / "kafka"))
        port, stub_pid = stack.enter_context(_stub(directory / "stub.log"))
        path = directory / "datastreamx.toml"
        text = CONFIG.format(bootstrap=kafka.bootstrap, directory=directory)
        path.write_text(text + "".join(AGGREGATOR.format(name=name, port=port) for name in AGGREGATORS))
        config = load_config(path)
        for topic in (config.topics.decisions, ECHO):
            clock = {"message.timestamp.type": "LogAppendTime"}
            kafka.create_topic(topic, partitions=config.events.partitions, config=clock)
        apply_topics(config)
        (kafka_pid,) = kafka.running.values()
        rig = Rig(directory, path, kafka_pid, boxes, stack)
        flow = Flow(path, config, directory)
        stack.callback(flow.child.stop, 30)
        flow.child.start()
        rig.load.load()
        pid = _settled(config, flow)
        _say(f"{boxes:,} boxes have state, worker {pid}; warming up for {warm_up_s:g} s")
        rig.load.go()
        time.sleep(warm_up_s)
        _say(f"measuring for {seconds:g} s")
        ours = rig.measure(config.topics.decisions, seconds, {"ads worker": pid, "aggregators": stub_pid})
        flow.stop()
        _say(f"the yardstick, for {echo_s:g} s")
        with _echo(path, port) as echo_pid:
            time.sleep(warm_up_s / 4)
            echo = rig.measure(ECHO, echo_s, {"echo": echo_pid, "aggregators": stub_pid})
        return ours, echo, rig.load.end()


def _settled(config: Config, flow: Flow) -> int:
    """Wait until the flow has read all there is; its worker's process id."""
    path = status_path(Path(config.recovery.directory), Place().store_name("ads"))
    give_up_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_s:
        status = read_status(path)
        lag = status.lag_records if status is not None and status.stage == "running" else None
        # Two snapshots: the first of all boxes is the one that makes room for the others.
        if status is not None and status.pid is not None and lag == 0 and status.epochs > 1:
            return status.pid
        time.sleep(0.5)
    raise SystemExit(f"the flow has not caught up within {PATIENCE_S:g} s:\n{flow.child.log_tail()}")


@contextmanager
def _echo(config_path: Path, port: int) -> Iterator[int]:
    argv = [sys.executable, "-m", "benchmarks.echo", str(config_path), ECHO, f"http://127.0.0.1:{port}/bid"]
    with subprocess.Popen(argv, cwd=ROOT) as child:  # noqa: S603 - our own command
        try:
            yield child.pid
        finally:
            child.terminate()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


# The report ------------------------------------------------------------------------------------------------------


def _overhead(phase: Phase, share: float, part: str = "overhead_ms") -> Spread:
    """Of the whole phase, with the lowest and the highest of its minutes."""
    figures = [getattr(push, part) for push in phase.pushes]
    minutes: dict[int, list[float]] = {}
    for push in phase.pushes:
        minutes.setdefault(int(push.at_s - phase.pushes[0].at_s) // 60, []).append(getattr(push, part))
    each = [percentile(minute, share) for minute in minutes.values()]
    return Spread(percentile(figures, share), min(each), max(each), len(each))


def _one(value: float) -> Spread:
    return Spread(value, value, value, 1)


def _figures(name: str, phase: Phase) -> Iterator[Figure]:
    for share in (0.5, 0.99, 0.999):
        yield Figure(f"{name}: overhead p{share * 100:g}", "ms", _overhead(phase, share))
    yield Figure(f"{name}: overhead, longest", "ms", _one(max(push.overhead_ms for push in phase.pushes)))
    for part, title in PARTS.items():
        for share in (0.5, 0.99, 0.999):
            yield Figure(f"{name}: p{share * 100:g} of {title}", "ms", _overhead(phase, share, part))
    for process, cores in phase.cores.items():
        yield Figure(f"{name}: CPU of {process}", "cores", _one(cores))
    for ending, count in sorted(phase.endings.items()):
        yield Figure(f"{name}: decisions {ending}", "per s", _one(count / phase.seconds))
    for code, count in sorted(phase.calls.items()):
        yield Figure(f"{name}: calls {code}", "per s", _one(count / phase.seconds))


def chart(ours: Phase, echo: Phase, _: Report, path: Path) -> None:
    """Above: how many pushes have at most this overhead. Below: percentiles of each five seconds over time."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "datastreamx"  # without it the same data gives another file each time
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 7))
    ranks = [share / 1000 for share in range(1, 1000)] + [0.9995, 0.9999]
    for name, phase, colour in (("datastreamx", ours, "#2a6f97"), ("echo, one call", echo, "#a9bcd0")):
        ordered = sorted(push.overhead_ms for push in phase.pushes)
        values = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in ranks]
        above.plot(values, [1 - share for share in ranks], label=name, color=colour)
    above.set_yscale("log")
    above.set_xscale("log")
    above.set_yticks([1, 0.5, 0.1, 0.01, 0.001, 0.0001], ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"])
    above.invert_yaxis()
    above.set_xlabel("overhead at most, ms")
    above.set_ylabel("share of the pushes")
    above.legend()
    slices: dict[int, list[float]] = {}
    for push in ours.pushes:
        slices.setdefault(int(push.at_s - ours.pushes[0].at_s) // 5, []).append(push.overhead_ms)
    times = [number * 5 for number in sorted(slices)]
    for share, colour in ((0.5, "#a9bcd0"), (0.99, "#2a6f97"), (1.0, "#c1666b")):
        label = "longest" if share == 1.0 else f"p{share * 100:g}"
        below.plot(times, [percentile(slices[at // 5], share) for at in times], label=label, color=colour)
    below.set_xlabel("seconds")
    below.set_ylabel("overhead, ms")
    below.set_ylim(bottom=0)
    below.legend()
    for axis in (above, below):
        axis.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _goals(ours: Phase) -> Sequence[Goal]:
    return (
        Goal("overhead p99, ms", 50, _overhead(ours, 0.99).median, at_least=False),
        Goal("overhead p99.9, ms", 150, _overhead(ours, 0.999).median, at_least=False),
        Goal(
            "auctions shed or expired", 0, sum(ours.endings.get(one, 0) for one in ("shed", "expired")), at_least=False
        ),
    )


def main() -> int:
    """Measure and print."""
    options_of = parser("benchmarks.end_to_end", __doc__ or "")
    options_of.add_argument("--minutes", type=float, default=5.0, help="at the pace, besides a minute of the yardstick")
    options_of.add_argument(
        "--boxes", type=int, default=100_000, help="at least 60,000: one push per box and 2 minutes"
    )
    options = options_of.parse_args()
    boxes, minutes = (60_000, 0.2) if options.quick else (options.boxes, options.minutes)
    ours, echo, sent = measure(boxes, minutes * 60, min(60.0, minutes * 60), 20.0 if options.quick else WARM_UP_S)
    found = report(
        question="end_to_end",
        asks="What does DatastreamX add between an event and its push, at a steady pace, on this machine alone?",
        command=_command(options),
        data=f"{RATE:,} events/s of {boxes:,} boxes, {RATE // EVENTS_PER_AUCTION} auctions/s; {DESCRIPTION}; "
        f"{len(AGGREGATORS)} aggregators that answer after {DELAY_MS} ms; {minutes:g} minutes",
        figures=[*_figures("datastreamx", ours), *_figures("echo", echo)],
        goals=_goals(ours),
        notes=[
            "broker, boxes and aggregators run on the same cores; the echo asks one aggregator and keeps no state",
            "strangers: what the machine did besides; with more than a few hundredths of a core the figures are theirs",
            f"the boxes were at most {sent.late_ms:.0f} ms behind their pace",
        ],
    )
    conclude(found, options, partial(chart, ours, echo))
    return 0


def _command(options: argparse.Namespace) -> str:
    if options.quick:
        return "python -m benchmarks.end_to_end --quick"
    return f"python -m benchmarks.end_to_end --minutes {options.minutes:g} --boxes {options.boxes}"


if __name__ == "__main__":
    sys.exit(main())
