"""Bytes in, state of every box kept, facts out, a snapshot of everything each epoch: our operators, nothing around."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from datastreamx.config import Config, parse_config
from datastreamx.model.facts import Facts
from datastreamx.wire.facts import encode_facts, in_columns
from flows.bench.effort import Effort, Stopwatch
from flows.bench.feed import Drop, Gaps, InMemory, Packed, open_chunks
from flows.recovery.opening import open_store
from flows.run import execute
from operators.decode import decode
from operators.viewing import viewing
from operators.viewing.warm import warm_up as compile_viewing

_CONFIG = """\
[kafka]
bootstrap = "none:1"
[privacy]
box_key_secret = "0123456789abcdef"
[[aggregators]]
name = "none"
adapter = "simple"
url = "http://127.0.0.1:9"
[bigquery]
project = "none"
"""


def unconnected(more: str) -> Config:
    """A configuration that reaches nothing outside; `more` are settings of `bigquery`, and then other sections."""
    return parse_config(_CONFIG + more)


def bench_config(epoch_ms: int = 1_000) -> Config:
    """The same with `epoch_ms` from one snapshot to the next."""
    return unconnected(f"[recovery]\nepoch_ms = {epoch_ms}\n")


def run_state(
    config: Config, polls: Sequence[Packed], warm_up: float, directory: Path, gaps: Gaps | None = None
) -> Effort:
    """Run the flow over `polls` from an empty state, in this thread.

    Args:
        config: Of the operators.
        polls: Chunks in log order.
        warm_up: Share of the polls that are not measured.
        directory: An empty folder for the recovery store.
        gaps: Gets the times from which the pause of a snapshot follows.

    Returns:
        Of the events after the warm-up; `opportunities` are all that arose, the warm-up included.
    """
    warm = int(len(polls) * warm_up)
    watch = Stopwatch()
    opportunities = 0

    def land(pieces: list[tuple[str, Facts]]) -> None:
        for _, facts in pieces:
            encode_facts(in_columns([facts]))

    def count(batches: list[tuple[str, list[object]]]) -> None:
        nonlocal opportunities
        opportunities += sum(len(batch) for _, batch in batches)

    compile_viewing()
    flow = Dataflow("bench")
    decoded = decode("decode", op.input("chunks", flow, InMemory(polls, open_chunks, warm, watch.start, gaps)), config)  # type: ignore[arg-type]  # the feed is for all
    boxes = viewing("viewing", decoded.chunks, config)
    op.output("facts", boxes.facts, Drop(land))  # type: ignore[arg-type]  # likewise
    op.output("opportunities", boxes.opportunities, Drop(count))  # type: ignore[arg-type]  # likewise
    op.output("dead_letters", decoded.dead_letters, Drop())
    execute(flow, open_store(directory / "store"), config.recovery.epoch_ms)
    return watch.effort(sum(one.events for one in polls[warm:]), {"opportunities": opportunities})
