from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastreamx.config import ViewingConfig
from datastreamx.errors import StateMismatchError
from datastreamx.model.auction import Decision, Outcome
from datastreamx.model.events import BoxEvent
from datastreamx.snapshots import seal, unseal
from datastreamx.tables import BOX_EVENTS, MINUTE_ROLLUPS, VIEWING_SESSIONS, Row, record_batch
from datastreamx.wire.facts import FactBatch
from operators.decisions.step import DecisionBatch
from operators.impressions.join import Display, Impression, Push
from operators.impressions.step import ImpressionBatch
from operators.rollups.counts import GATHERED_ROWS, Rollup
from operators.rollups.step import Countable, RollupsLogic
from tests.builders import KEY_GROUP, T0, decision, decoded, heartbeat, outcome, shown, tune, winning_ad
from tests.operators.model.state import KeyGroupModel
from tests.operators.naive import MEASURES, naive_totals, summed
from tests.operators.test_decisions import undecided, won

GOLDEN = Path(__file__).parent / "golden" / "rollups-snapshot-v2.msgpack"
MINUTE_MS = 60_000
INTERVAL = timedelta(milliseconds=50)


def event_rows(*events: BoxEvent) -> list[Row]:
    return KeyGroupModel(KEY_GROUP, ViewingConfig(), "box-events", str).process(decoded(*events)).events


def facts(rows: list[Row]) -> FactBatch:
    return FactBatch(BOX_EVENTS.name, 0, 0, record_batch(BOX_EVENTS, rows))


def impression(at_ms: int, *, price_micros: int | None = 2_500_000) -> Impression:
    push = None if price_micros is None else Push("auction-1", "alpha", price_micros, "USD", "ch1", T0, "bid-1")
    return Impression(Display(T0 + at_ms, "key-1", "push-1", "ad-1", 15_000, 0, 0, 0, 0), push)


def taken(rollup: Rollup) -> list[dict[str, Any]]:
    rows = rollup.take()
    found: list[dict[str, Any]] = record_batch(MINUTE_ROLLUPS, rows).to_pylist() if rows else []
    return found


def nonzero(row: dict[str, Any]) -> dict[str, int]:
    return {measure: row[measure] for measure in MEASURES if row[measure]}


def test_events_are_counted_by_minute_and_channel_and_have_no_aggregator() -> None:
    start = -(T0 % MINUTE_MS)
    rollup = Rollup()
    rollup.add_facts(
        facts(event_rows(tune(start, "a", seq=1), heartbeat(start + MINUTE_MS - 1), heartbeat(start + MINUTE_MS)))
    )
    rows = taken(rollup)
    assert [(row["channel_id"], row["aggregator"]) for row in rows] == [("a", None)] * 2
    assert sorted((row["minute"].timestamp() * 1000 - T0 - start, row["events"], row["tunes"]) for row in rows) == [
        (0, 2, 1),
        (MINUTE_MS, 1, 0),
    ]


def test_late_events_are_counted_in_their_own_minute() -> None:
    rollup = Rollup()
    rollup.add_facts(facts(event_rows(heartbeat(600_000, seq=9), tune(0, "b", seq=8))))
    rows = {row["channel_id"]: nonzero(row) for row in taken(rollup)}
    assert rows == {None: {"events": 1}, "b": {"events": 1, "late_events": 1, "tunes": 1}}


def test_events_beyond_what_may_wait_are_counted_with_those_that_wait() -> None:
    rollup = Rollup()
    waiting = facts(event_rows(*(heartbeat(at) for at in range(GATHERED_ROWS // 2))))
    for _ in range(5):
        rollup.add_facts(waiting)
        assert rollup._gathered_rows < GATHERED_ROWS
    assert sum(row["events"] for row in taken(rollup)) == 5 * waiting.rows.num_rows


def test_sessions_are_not_events() -> None:
    rollup = Rollup()
    row = (T0 * 1000, T0 * 1000, "k", "s", 0, 1, 0, 0, None, None, 0, 0, 0, 0)
    rollup.add_facts(FactBatch(VIEWING_SESSIONS.name, 0, 0, record_batch(VIEWING_SESSIONS, [row])))
    assert rollup.is_empty


def test_decision_counts_the_opportunity_without_and_the_calls_with_their_aggregator() -> None:
    rollup = Rollup()
    rollup.add_decision(won(1))
    assert {row["aggregator"]: nonzero(row) for row in taken(rollup)} == {
        None: {"opportunities": 1},
        "alpha": {"calls": 1, "bids": 1, "wins": 1},
        "beta": {"calls": 1, "timeouts": 1},
    }


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (Outcome.NO_BID, {"calls": 1}),
        (Outcome.TIMEOUT, {"calls": 1, "timeouts": 1}),
        (Outcome.ERROR, {"calls": 1, "errors": 1}),
        (Outcome.INVALID_RESPONSE, {"calls": 1, "errors": 1}),
        (Outcome.UNREACHABLE, {"calls": 1, "errors": 1}),
        (Outcome.OVERSIZE, {"calls": 1, "errors": 1}),
        (Outcome.OUTBID, {"calls": 1, "bids": 1}),
        (Outcome.BELOW_FLOOR, {"calls": 1, "bids": 1}),
        (Outcome.CURRENCY, {"calls": 1, "bids": 1}),
        (Outcome.CREATIVE_REJECTED, {"calls": 1, "bids": 1}),
        (Outcome.ADVERTISER_BLOCKED, {"calls": 1, "bids": 1}),
        (Outcome.UNSUITABLE, {"calls": 1, "bids": 1}),
        (Outcome.CLOSED_EARLY, {"calls": 1}),
    ],
)
def test_every_outcome_of_a_call_is_counted(code: Outcome, expected: dict[str, int]) -> None:
    rollup = Rollup()
    rollup.add_decision(decision(outcome("alpha", code)))
    assert {row["aggregator"]: nonzero(row) for row in taken(rollup)}["alpha"] == expected


NOT_CALLED = [
    # An auction that failed as a whole: no aggregator's fault.
    Outcome.ERROR,
    Outcome.EXPIRED,
    Outcome.SHED,
    Outcome.UNSUITABLE,
    Outcome.NOT_SELECTED,
    Outcome.PRIVACY,
    Outcome.THROTTLED,
    Outcome.BULKHEAD,
    Outcome.NO_TIME,
    Outcome.CLOSED_EARLY,
]


@pytest.mark.parametrize("reason", NOT_CALLED)
def test_aggregator_that_was_not_called_counts_nothing(reason: Outcome) -> None:
    rollup = Rollup()
    rollup.add_decision(undecided(reason, "alpha"))
    assert {row["aggregator"]: nonzero(row) for row in taken(rollup)} == {None: {"opportunities": 1}, "alpha": {}}


def withdrawn(told: Decision) -> Decision:
    """The same without its push: its deadline passed before it could leave."""
    outcomes = tuple(
        msgspec.structs.replace(one, code=Outcome.EXPIRED, ads_won=0) if one.code is Outcome.WON else one
        for one in told.outcomes
    )
    return msgspec.structs.replace(told, status="expired", push_id=None, ads=(), outcomes=outcomes)


def test_every_ad_of_a_break_is_a_win_but_its_aggregator_has_bid_once() -> None:
    ads = (winning_ad(place=0), winning_ad(place=1))
    rollup = Rollup()
    rollup.add_decision(decision(outcome("alpha", Outcome.WON, bids=3, ads_won=2), ads=ads))
    assert {row["aggregator"]: nonzero(row) for row in taken(rollup)} == {
        None: {"opportunities": 1},
        "alpha": {"calls": 1, "bids": 1, "wins": 2},
    }


def test_bid_whose_win_was_withdrawn_is_still_a_bid() -> None:
    rollup = Rollup()
    rollup.add_decision(withdrawn(won(1)))
    assert {row["aggregator"]: nonzero(row) for row in taken(rollup)} == {
        None: {"opportunities": 1},
        "alpha": {"calls": 1, "bids": 1},
        "beta": {"calls": 1, "timeouts": 1},
    }


def test_impression_earns_a_thousandth_of_its_price() -> None:
    rollup = Rollup()
    rollup.add_impression(impression(0))
    rollup.add_impression(impression(0, price_micros=1_000))
    rollup.add_impression(impression(0, price_micros=None))
    assert {(row["channel_id"], row["aggregator"]): nonzero(row) for row in taken(rollup)} == {
        ("ch1", "alpha"): {"impressions": 2, "revenue_micros": 2_501},
        (None, None): {"impressions": 1},
    }


def test_taking_starts_anew() -> None:
    rollup = Rollup()
    rollup.add_impression(impression(0))
    assert len(rollup.take()) == 1
    assert rollup.is_empty
    assert rollup.take() == []


_TIMES = st.integers(0, 3 * MINUTE_MS)
_EVENTS = st.lists(
    st.one_of(
        st.builds(tune, _TIMES, st.sampled_from(["a", "b"])),
        st.builds(heartbeat, _TIMES, box=st.sampled_from(["stb-1", "stb-2"])),
        st.builds(shown, _TIMES),
    ),
    max_size=25,
)
_CALLED = [code for code in Outcome if code not in {Outcome.WON, Outcome.EXPIRED}]


@st.composite
def _decisions(draw: st.DrawFn) -> Decision:
    place: dict[str, Any] = {"decided_ms": T0 + draw(_TIMES), "channel_id": draw(st.sampled_from(["a", "b"]))}
    match draw(st.sampled_from(["won", "break", "failed", "not called", "withdrawn"])):
        case "won":
            return won(1, **place)
        case "break":
            ads = tuple(winning_ad(place=number) for number in range(draw(st.integers(2, 4))))
            return decision(outcome("alpha", Outcome.WON, bids=5, ads_won=len(ads)), ads=ads, **place)
        case "failed":
            return decision(outcome("alpha", draw(st.sampled_from(_CALLED))), **place)
        case "not called":
            return undecided(draw(st.sampled_from(NOT_CALLED)), "alpha", "beta", **place)
        case _:
            return withdrawn(won(1, **place))


_IMPRESSIONS = st.builds(impression, _TIMES, price_micros=st.none() | st.integers(0, 10_000_000))


def _countables(
    rows: list[Row], decisions: list[Decision], impressions: list[Impression], data: st.DataObject
) -> list[Countable]:
    """The same things in batches of any size, in any order of the batches."""
    batches: list[Countable] = []
    while rows:
        size = data.draw(st.integers(1, len(rows)))
        batches.append(facts(rows[:size]))
        rows = rows[size:]
    while decisions:
        size = data.draw(st.integers(1, len(decisions)))
        batches.append(DecisionBatch(decisions[:size], {}))
        decisions = decisions[size:]
    while impressions:
        size = data.draw(st.integers(1, len(impressions)))
        batches.append(ImpressionBatch(impressions[:size], None))
        impressions = impressions[size:]
    return data.draw(st.permutations(batches))


@settings(max_examples=200, deadline=None)
@given(_EVENTS, st.lists(_decisions(), max_size=6), st.lists(_IMPRESSIONS, max_size=6), st.data())
def test_increments_sum_to_a_naive_count_whatever_the_batching_emission_and_resume(
    events: list[BoxEvent], decisions: list[Decision], impressions: list[Impression], data: st.DataObject
) -> None:
    rows = event_rows(*events)
    logic = RollupsLogic(INTERVAL, None)
    emitted: list[pa.RecordBatch] = []
    for value in _countables(rows, decisions, impressions, data):
        assert logic.on_batch([value])[0] == []
        match data.draw(st.sampled_from(["emit", "resume", "go on"])):
            case "emit":
                emitted += logic.on_notify()[0]
            case "resume":
                logic = RollupsLogic(INTERVAL, logic.snapshot())
            case _:
                pass
    emitted += logic.on_eof()[0]
    assert summed(row for batch in emitted for row in batch.to_pylist()) == naive_totals(rows, decisions, impressions)


def test_no_row_of_events_has_an_aggregator() -> None:
    rollup = Rollup()
    rollup.add_facts(facts(event_rows(tune(0), shown(1), heartbeat(2))))
    rollup.add_decision(won(1))
    rollup.add_impression(impression(0))
    for row in taken(rollup):
        assert not (row["aggregator"] and (row["events"] or row["tunes"] or row["opportunities"]))


def test_emission_is_due_an_interval_after_the_first_count_and_not_before() -> None:
    logic = RollupsLogic(timedelta(hours=1), None)
    assert logic.notify_at() is None
    before = datetime.now(UTC)
    logic.on_batch([facts(event_rows(tune(0)))])
    due = logic.notify_at()
    assert due is not None
    assert due >= before + timedelta(hours=1)
    logic.on_batch([facts(event_rows(tune(1)))])
    assert logic.notify_at() == due
    (batch,), _ = logic.on_notify()
    assert batch.schema == MINUTE_ROLLUPS.arrow_schema
    assert logic.notify_at() is None


def test_resumed_counts_are_due_again_and_an_empty_rollup_never_is() -> None:
    logic = RollupsLogic(INTERVAL, None)
    assert RollupsLogic(INTERVAL, logic.snapshot()).notify_at() is None
    logic.on_batch([facts(event_rows(tune(0)))])
    assert RollupsLogic(INTERVAL, logic.snapshot()).notify_at() is not None


def test_nothing_counted_emits_nothing_at_the_end() -> None:
    assert RollupsLogic(INTERVAL, None).on_eof()[0] == []


def test_snapshot_bytes_are_an_interface() -> None:
    """A change here means that running deployments cannot resume: raise VERSION and keep a reader for the old one."""
    rollup = Rollup()
    rollup.add_facts(facts(event_rows(tune(0, "a", seq=1), heartbeat(1, box="stb-2"))))
    rollup.add_decision(won(1))
    rollup.add_impression(impression(0))
    # Groups come from Arrow in no promised order.
    written = msgspec.msgpack.decode(unseal(rollup.snapshot(), "counts"))
    golden = msgspec.msgpack.decode(unseal(GOLDEN.read_bytes(), "counts"))
    assert (written[0], sorted(written[1], key=repr)) == (golden[0], sorted(golden[1], key=repr))
    assert summed(taken(Rollup(GOLDEN.read_bytes()))) == summed(taken(rollup))


def test_snapshot_of_another_version_is_refused() -> None:
    with pytest.raises(StateMismatchError, match="version 1"):
        Rollup(seal(msgspec.msgpack.encode([1, []])))


@pytest.mark.parametrize("damage", [b"", *map(seal, [b"", b"\x00", b"\x92\x02"])])
def test_bytes_that_are_no_snapshot_are_refused(damage: bytes) -> None:
    with pytest.raises(StateMismatchError):
        Rollup(damage)
