"""Bytes in, state of every box kept, facts out: how fast, beside a loop without an engine, and other engines.

    python -m benchmarks.state [--boxes 30000,300000,1000000] [--turns 5] [--quick] [--save] [--json]

loop          our own operators called in a loop: no engine, no recovery. The yardstick
bare loop     a loop that only knows channel, last channel and last ad, and writes JSON: what Python can do at all
datastreamx   our operators in a Bytewax flow, a snapshot of everything each second
per box       what the bare loop does as Bytewax's tutorial would: `stateful_map` keyed by box, with recovery
Flink         what the bare loop does on Apache Flink: Java, heap state, a checkpoint each second; where a JDK is
Quix Streams  what the bare loop does on Quix Streams: Python, state in RocksDB, a checkpoint each second

All have core 0 to themselves; Flink runs a second time with all cores. The first events of each box are the warm-up:
all boxes are known when the clock starts. What comes in is in memory by then, packed as polls return it. What goes out
is encoded and dropped: the figures are those of state and engine alone.

Quix Streams cannot be fed from memory: it reads the same events from an Apache Kafka on core 1, so its figures contain
a Kafka client, and those of the others do not. It is left out where there is no Java or no Maven.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import bytewax.operators as op
import msgspec
from bytewax.dataflow import Dataflow

from benchmarks.contest import Contestant, compare, module, tell
from benchmarks.flink import flink
from benchmarks.quix import quix
from benchmarks.report import OURS, Comparison, Goal, conclude, parser, report
from datastreamx.config import Config
from datastreamx.interpreter import spare_garbage_collection
from datastreamx.model import identity
from datastreamx.model.facts import Facts
from datastreamx.model.keygroup import KeyGroup
from datastreamx.tables import BOX_EVENTS, VIEWING_SESSIONS
from datastreamx.wire.events import encode_event
from datastreamx.wire.facts import encode_facts, in_columns
from flows.bench.effort import Effort, Stopwatch
from flows.bench.feed import Drop, InMemory, Packed, open_chunks, open_values, pack_chunks, pack_values
from flows.bench.state import bench_config
from flows.bench.state import run_state as run_datastreamx
from flows.recovery.opening import open_store
from flows.run import execute
from operators.decode.records import decode_chunk
from operators.viewing.state import KeyGroupState
from operators.viewing.warm import warm_up as compile_viewing
from simulator.traffic import DESCRIPTION, chunks, events

PARTITIONS, GROUPS = 64, 4
EPOCH_MS = 1_000
LAPS, WARM_LAPS = 5, 2
"""Events of each box, at least; and how many of them are the warm-up, so that all boxes are known then. A chunk may
hold most of a lap of its key group, so it takes two."""


def run_loop(config: Config, polls: list[Packed], warm_up: float, directory: Path) -> Effort:  # noqa: ARG001  contestants are called alike
    """The same operators, called one after the other."""
    pseudonym = partial(identity.box_key, config.privacy.box_key_secret.reveal().encode())
    states: dict[tuple[int, int], KeyGroupState] = {}
    warm = int(len(polls) * warm_up)
    measured = Stopwatch()
    compile_viewing()
    for number, poll in enumerate(polls):
        if number == warm:
            measured.start()
        for _, chunk in open_chunks(poll.data):
            decoded = decode_chunk(chunk, config.topics.events, config.events.max_clock_skew_ms)
            place = KeyGroup(chunk.partition, chunk.group)
            state = states.get(place)
            if state is None:
                state = states[place] = KeyGroupState(place, config.viewing, config.topics.events, pseudonym)
            out = state.process(decoded)
            for table, rows in ((BOX_EVENTS, out.events), (VIEWING_SESSIONS, out.sessions)):
                if rows is not None:
                    encode_facts(in_columns([Facts(table.name, chunk.partition, chunk.group, rows)]))
    return measured.effort(sum(poll.events for poll in polls[warm:]))


class Brief(msgspec.Struct, gc=False):
    """The least state of a box."""

    channel_id: str | None = None
    last_channel_id: str | None = None
    last_ad_id: str | None = None


class Report(msgspec.Struct, gc=False):
    """The least of an event."""

    box_id: str
    type: str
    event_time_ms: int
    channel_id: str | None = None
    ad_id: str | None = None


class Enriched(msgspec.Struct, gc=False):
    """The least of a fact."""

    box_id: str
    type: str
    event_time_ms: int
    channel_id: str | None
    last_channel_id: str | None
    last_ad_id: str | None


_DECODER = msgspec.json.Decoder(Report)
_ENCODER = msgspec.json.Encoder()


def enrich(box: Brief, event: Report) -> bytes:
    """Apply one event to the least state, and write the least fact."""
    if event.type == "tune" and event.channel_id != box.channel_id:
        box.last_channel_id, box.channel_id = box.channel_id, event.channel_id
    elif event.type == "ad_shown":
        box.last_ad_id = event.ad_id
    return _ENCODER.encode(
        Enriched(event.box_id, event.type, event.event_time_ms, box.channel_id, box.last_channel_id, box.last_ad_id)
    )


def run_bare_loop(polls: list[Packed], warm_up: float) -> Effort:
    """The least state in a dict."""
    boxes: dict[str, Brief] = {}
    warm = int(len(polls) * warm_up)
    measured = Stopwatch()
    for number, poll in enumerate(polls):
        if number == warm:
            measured.start()
        for _, value in open_values(poll.data):
            event = _DECODER.decode(value)
            box = boxes.get(event.box_id)
            if box is None:
                box = boxes[event.box_id] = Brief()
            enrich(box, event)
    return measured.effort(sum(poll.events for poll in polls[warm:]))


def run_per_box(polls: list[Packed], warm_up: float, directory: Path) -> Effort:
    """The least state under one Bytewax key per box."""
    warm = int(len(polls) * warm_up)
    measured = Stopwatch()

    def keyed(item: tuple[str, bytes]) -> tuple[str, Report]:
        event = _DECODER.decode(item[1])
        return event.box_id, event

    def step(box: Brief | None, event: Report) -> tuple[Brief | None, bytes]:
        box = box or Brief()
        return box, enrich(box, event)

    flow = Dataflow("per_box")
    up = op.map("decode", op.input("events", flow, InMemory(polls, open_values, warm, measured.start)), keyed)  # type: ignore[arg-type]  # as above
    op.output("facts", op.stateful_map("state", up, step), Drop())
    execute(flow, open_store(directory / "store"), EPOCH_MS)
    return measured.effort(sum(poll.events for poll in polls[warm:]))


# Contest ---------------------------------------------------------------------------------------------------------


def _contestants(boxes: int, count: int, directory: Path, resources: ExitStack) -> Iterator[Contestant]:
    # Those with a state for each key are so slow that a small part of the events tells as much.
    few = boxes + int((count - boxes) * 0.1)
    for name, events_of in (("loop", count), ("bare loop", count), ("datastreamx", count), ("per box", few)):
        arguments = ("--contestant", name, "--boxes", str(boxes), "--events", str(events_of))
        yield Contestant(name, module("benchmarks.state", *arguments))
    values = ((event.box_id, encode_event(event)) for _, event in events(boxes, few))
    rival = resources.enter_context(quix(values, few, boxes / few, directory / f"quix-{boxes}"))
    if rival is not None:
        yield rival
    path = directory / f"events-{boxes}.jsonl"
    with path.open("wb") as file:
        file.writelines(encode_event(event) + b"\n" for _, event in events(boxes, count))
    yield from flink(path, WARM_LAPS * boxes / count, directory / "checkpoints")


def _play(name: str, boxes: int, count: int) -> None:
    """Be one contestant."""
    spare_garbage_collection()
    config = bench_config(EPOCH_MS)
    with tempfile.TemporaryDirectory(prefix="datastreamx-bench-") as folder:
        directory = Path(folder)
        if name in {"loop", "datastreamx"}:
            polls = pack_chunks(chunks(boxes, count, PARTITIONS, GROUPS))
            gc.freeze()
            run = run_loop if name == "loop" else run_datastreamx
            tell(run(config, polls, WARM_LAPS * boxes / count, directory))
        else:
            polls = pack_values(encode_event(event) for _, event in events(boxes, count))
            gc.freeze()
            if name == "bare loop":
                tell(run_bare_loop(polls, WARM_LAPS * boxes / count))
            else:
                tell(run_per_box(polls, boxes / count, directory))


def _compare(boxes: int, options: argparse.Namespace, directory: Path) -> Comparison:
    count = 40_000 if options.quick else max(options.events or 1_500_000, LAPS * boxes)
    sys.stderr.write(f"{boxes:,} boxes, {count:,} events\n")
    with ExitStack() as resources:
        contestants = [*_contestants(boxes, count, directory, resources)]
        standings = compare(contestants, 1 if options.quick else options.turns, "loop")
    return Comparison(f"{boxes:,} boxes", "events", "loop", standings)


def _goals(comparison: Comparison) -> Iterator[Goal]:
    ours, per_box = comparison.of(OURS), comparison.of("per box")
    yield Goal(f"{comparison.label}: rate over the loop without an engine", 0.75, ours.speed.median)
    times = ours.per_s.median / per_box.per_s.median
    yield Goal(f"{comparison.label}: rate over Bytewax with a key per box", 20.0, times)
    for rival in comparison.standings:
        if rival.name.startswith("Flink"):
            if rival.name.endswith("one core"):
                yield Goal(f"{comparison.label}: rate over {rival.name}", 1.0, ours.per_s.median / rival.per_s.median)
            share = ours.cpu_us.median / rival.cpu_us.median
            yield Goal(f"{comparison.label}: CPU per event over {rival.name}", 0.6, share, at_least=False)


def main() -> int:
    """Measure and print."""
    options_of = parser("benchmarks.state", __doc__ or "")
    options_of.add_argument("--boxes", default="30000,300000,1000000", help="fleets, e.g. %(default)s")
    options_of.add_argument(
        "--events", type=int, default=0, help="per turn, at least five per box; 0: 1,500,000 or more"
    )
    options_of.add_argument("--turns", type=int, default=5)
    options_of.add_argument("--contestant", help=argparse.SUPPRESS)
    options = options_of.parse_args()
    fleets = [int(one) for one in options.boxes.split(",")]
    if options.contestant:
        _play(options.contestant, fleets[0], options.events)
        return 0
    with tempfile.TemporaryDirectory(prefix="datastreamx-bench-") as folder:
        comparisons = [_compare(boxes, options, Path(folder)) for boxes in ([10_000] if options.quick else fleets)]
    goals = [goal for comparison in comparisons for goal in _goals(comparison)]
    conclude(
        report(
            question="state",
            asks="How fast is the state of all boxes kept, with a snapshot each second?",
            command="python -m benchmarks.state" + (" --quick" if options.quick else ""),
            data=f"{DESCRIPTION}; {PARTITIONS} partitions of {GROUPS} key groups",
            comparisons=comparisons,
            goals=goals,
            notes=[
                "Flink with all cores uses more than one: only its CPU per event is comparable",
                "Quix Streams reads its events from Kafka, the others from memory: its figures contain a Kafka client",
            ],
        ),
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
