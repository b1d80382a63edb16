"""The compiled state machine of viewing against the model, on random logs: after every chunk they must agree on all.

`make test` looks at a few hundred logs; DATASTREAMX_TEST_SEEDS=20000 makes it as many.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
import pytest

from datastreamx.config import ViewingConfig
from datastreamx.model import identity
from datastreamx.model.chunk import DecodedChunk
from datastreamx.model.events import AdBreak, AdShown, BoxEvent, Consent, Heartbeat, Power, Tune
from datastreamx.model.facts import Rows
from datastreamx.model.keygroup import KeyGroup
from datastreamx.tables import BOX_EVENTS, VIEWING_SESSIONS, Row, Table, record_batch
from operators.viewing import names, state
from operators.viewing.kernel import MANY
from operators.viewing.snapshot import decode_snapshot, encode_snapshot
from operators.viewing.state import KeyGroupState
from tests.builders import T0
from tests.operators.model.reading import viewed
from tests.operators.model.state import KeyGroupModel

KEY_GROUP = KeyGroup(3, 1)
BLOCKS = 8
SEEDS = int(os.environ.get("DATASTREAMX_TEST_SEEDS", "240"))

CONSENTS = (None, None, Consent(history=True, tcf="t0"), Consent(history=True, tcf="t1"), Consent())
STRANGE_IDS = ["é", "\U0001f4fa" * 128, "stb-1\0", "z" * 128]

WANTED = {
    "rows",
    "sessions",
    "late",
    "duplicates",
    "missing",
    "opportunities of a dwell",
    "opportunities of a break",
    "opportunities with consent",
    "opportunities expired",
    "boxes with several sessions",
    "boxes forgotten",
    "restarts",
}
"""What the logs have to contain, or a test of them proves little."""


def _config(rng: random.Random) -> ViewingConfig:
    return ViewingConfig(
        allowed_lateness_ms=rng.choice((0, 5_000, 60_000)),
        session_gap_ms=rng.choice((1, 20_000, 60_000)),
        state_ttl_ms=rng.choice((1, 30_000, 200_000, 600_000)),
        dwell_ms=rng.choice((1, 15_000, 90_000)),
        min_push_interval_ms=rng.choice((0, 50_000)),
        decision_budget_ms=rng.choice((1, 2_000, 20_000)),
        slot_ms=30_000,
    )


def _sent(rng: random.Random) -> Iterator[BoxEvent]:
    """What boxes send, with lost events, clocks that go back, and boxes that count anew."""
    ids = [f"stb-{number}" for number in range(rng.choice((1, 3, 20, 150)))] + rng.choice(([], STRANGE_IDS))
    channels = [f"ch{number}" for number in range(rng.choice((1, 3, 300)))]
    ads = rng.choice((3, 3_000))
    step_ms, back_ms, grid_ms = (
        rng.choice((10, 1_000, 20_000)),
        rng.choice((0, 3_000, 100_000)),
        rng.choice((1, 1_000, 15_000)),
    )
    seqs: dict[str, int] = {}
    now_ms = 0
    for number in range(rng.choice((5, 40, 200, 600))):
        now_ms += rng.randrange(step_ms + 1) + (rng.choice((70_000, 700_000)) if rng.random() < 0.01 else 0)
        box = rng.choice(ids)
        seq = seqs.get(box, rng.choice((0, 1, 2**62 - 5_000))) + rng.choice((1, 1, 1, 1, 1, 2, 63, 64, 65))
        seqs[box] = seq = rng.randrange(5) if rng.random() < 0.01 else min(seq, 2**62)
        # On a grid, so that timers fall due together.
        at_ms = max(0, now_ms - (rng.randrange(back_ms + 1) if rng.random() < 0.3 else 0)) // grid_ms * grid_ms
        place: dict[str, Any] = {"event_id": f"é{number}", "box_id": box, "seq": seq, "event_time_ms": T0 + at_ms}
        consent = rng.choice(CONSENTS)
        match rng.randrange(10):
            case 0 | 1 | 2:
                yield Tune(**place, channel_id=rng.choice(channels), consent=consent)
            case 3 | 4:
                yield AdShown(
                    **place, push_id=f"push-{seq}", ad_id=f"ad{rng.randrange(ads)}", shown_ms=rng.randrange(9)
                )
            case 5 | 6:
                spot: dict[str, Any] = {"break_id": f"b{seq}", "starts_in_ms": 1, "duration_ms": rng.randrange(99)}
                yield AdBreak(**place, **spot, channel_id=rng.choice([*channels, "elsewhere"]), consent=consent)
            case 7:
                yield Power(**place, state=rng.choice(("on", "on", "standby")))
            case _:
                yield Heartbeat(**place)


def _log(rng: random.Random) -> DecodedChunk:
    """The log of one key group: what was sent, some of it twice, out of order, with holes between the offsets."""
    events = [*_sent(rng)]
    if rng.random() < 0.8:
        spread = rng.choice((1, 10, 100))
        copies = [(rng.randrange(len(events)), event) for event in events if rng.random() < 0.1]
        order = [(place + rng.uniform(0, spread), event) for place, event in [*enumerate(events), *copies]]
        events = [event for _, event in sorted(order, key=lambda one: one[0])]
    offsets = itertools.accumulate((rng.choice((1, 1, 1, 7)) for _ in events[1:]), initial=rng.randrange(10**12))
    timestamps_ms = [event.event_time_ms + rng.randrange(-50, 500) for event in events]
    return DecodedChunk(*KEY_GROUP, [*offsets], timestamps_ms, events, [])


def _chunks(log: DecodedChunk, rng: random.Random) -> Iterator[DecodedChunk]:
    size_max = rng.choice((1, 4, 40, 1_000))
    start = 0
    while start < len(log.events):
        end = start + rng.randint(1, size_max)
        cut = {name: getattr(log, name)[start:end] for name in ("offsets", "timestamps_ms", "events")}
        yield msgspec.structs.replace(log, **cut)
        start = end


class _Gathered:
    """Rows of several chunks of one table, whose columns are built together."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._wanted: list[Row] = []
        self._found: list[Rows] = []

    def add(self, wanted: list[Row], found: Rows | None, where: str) -> None:
        assert (found.num_rows if found else 0) == len(wanted), where
        self._wanted += wanted
        self._found += [found] if found else []

    def check(self, where: str) -> None:
        if self._found:
            first, *later = self._found
            columns = first.columns(later)
            columns.validate(full=True)
            assert columns.schema == self._table.arrow_schema, where
            assert columns.to_pylist() == record_batch(self._table, self._wanted).to_pylist(), where
        self._wanted, self._found = [], []


def _check(seed: int, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Run both over one log; returns what it contained."""
    rng = random.Random(seed)
    config, log = _config(rng), _log(rng)
    restart_share = rng.choice((0, 0.1, 0.6))
    monkeypatch.setattr(names, "SWEEP_FIRST", rng.choice((2, 50, 1_024)))
    monkeypatch.setattr(state, "CONSENTS_SWEEP_FIRST", rng.choice((0, 64)))
    key = partial(identity.box_key, b"secret")
    make = partial(KeyGroupState, config=config, topic="box-events", pseudonym=key)
    machine, model = make(KEY_GROUP), KeyGroupModel(KEY_GROUP, config, "box-events", key)
    seen = Counter[str]()
    events, sessions = _Gathered(BOX_EVENTS), _Gathered(VIEWING_SESSIONS)
    for chunk in _chunks(log, rng):
        where = f"seed {seed}, chunk at offset {chunk.offsets[0]}"
        known = model.boxes.keys() | {event.box_id for event in chunk.events}
        wanted, found = model.process(chunk), machine.process(chunk)
        events.add(wanted.events, found.events, where)
        sessions.add(wanted.sessions, found.sessions, where)
        if rng.random() < 0.5:
            events.check(where)
            sessions.check(where)
        assert found.opportunities == wanted.opportunities, where
        for count in ("late", "duplicates", "missing"):
            assert getattr(found, count) == min(getattr(wanted, count), MANY), f"{where}: {count}"
            seen[count] += getattr(wanted, count)
        assert viewed(machine) == viewed(model), where
        if rng.random() < 0.3:
            # A snapshot that nobody resumes from: what it keeps for the next one must not outlive a change.
            encode_snapshot(machine)
        if rng.random() < restart_share:
            machine = decode_snapshot(encode_snapshot(machine), make)
            assert viewed(machine) == viewed(model), f"{where}, after a restart"
            seen["restarts"] += 1
        seen["rows"] += len(wanted.events)
        seen["sessions"] += len(wanted.sessions)
        seen["boxes forgotten"] += len(known) - len(model.boxes)
        seen["boxes with several sessions"] += sum(len(box.sessions) > 1 for box in model.boxes.values())
        for one in wanted.opportunities:
            seen[f"opportunities of a {one.trigger.removeprefix('ad_')}"] += 1
            seen["opportunities with consent"] += one.consent is not None
            seen["opportunities expired"] += one.expired
    events.check(f"seed {seed}, the last")
    sessions.check(f"seed {seed}, the last")
    return seen


@pytest.mark.parametrize("block", range(BLOCKS))
def test_compiled_machine_does_what_the_model_does(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Counter[str]()
    for seed in range(block, SEEDS, BLOCKS):
        seen += _check(seed, monkeypatch)
    assert seen.keys() >= WANTED
