from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastreamx.config import ViewingConfig
from datastreamx.errors import StateMismatchError
from datastreamx.model.auction import BidNotice, Decision, NoticeUrls, Outcome
from datastreamx.model.events import BoxEvent
from datastreamx.snapshots import seal, unseal
from datastreamx.tables import BOX_EVENTS, IMPRESSIONS, VIEWING_SESSIONS, record_batch
from datastreamx.wire.facts import FactBatch
from operators.decisions.step import DecisionBatch
from operators.impressions.join import Billing, Display, Impression, ImpressionJoin, Push, impression_row
from operators.impressions.prices import in_bid_currency
from operators.impressions.step import ImpressionsLogic, displays, pushes
from operators.viewing.state import KeyGroupState
from tests.builders import KEY_GROUP, T0, decision, decoded, heartbeat, outcome, shown, tune, winning_ad
from tests.operators.test_decisions import undecided, won

GOLDEN = Path(__file__).parent / "golden" / "impressions-snapshot-v3.msgpack"
MEMORY_MS = 600_000
FAR_MS = 10 * MEMORY_MS


def push(number: int, at_ms: int = 0) -> Push:
    return Push(f"auction-{number}", "alpha", 2_500_000, "USD", "ch1", T0 + at_ms, f"bid-{number}")


def display(number: int, at_ms: int = 0, *, offset: int = 0) -> Display:
    return Display(T0 + at_ms, "key-1", f"push-{number}", "ad-1", 15_000, 0, 0, offset, 0)


def give_up_all(join: ImpressionJoin) -> list[Impression]:
    """What is left when nothing more comes for long."""
    return join.on_push("push-of-the-far-future", push(-1, FAR_MS))


def matched(impressions: list[Impression]) -> set[str]:
    return {impression.display.push_id for impression in impressions if impression.push}


def test_display_after_its_push_is_matched_at_once() -> None:
    join = ImpressionJoin(MEMORY_MS)
    assert join.on_push("push-1", push(1)) == []
    assert join.on_display(display(1, 500)) == [Impression(display(1, 500), push(1))]


def test_display_before_its_push_waits_for_it() -> None:
    join = ImpressionJoin(MEMORY_MS)
    assert join.on_display(display(1, 500)) == []
    assert join.on_push("push-1", push(1)) == [Impression(display(1, 500), push(1))]


def test_display_whose_push_does_not_come_is_given_up_unmatched_after_the_memory() -> None:
    join = ImpressionJoin(MEMORY_MS)
    join.on_display(display(1))
    assert join.on_display(display(2, MEMORY_MS)) == []
    assert join.on_display(display(3, MEMORY_MS + MEMORY_MS // 8)) == [Impression(display(1), None)]


def test_push_that_is_never_displayed_is_forgotten_after_the_memory() -> None:
    join = ImpressionJoin(MEMORY_MS)
    join.on_push("push-1", push(1))
    join.on_push("push-2", push(2, MEMORY_MS + MEMORY_MS // 8))
    assert join.on_display(display(1, MEMORY_MS)) == []
    assert matched(join.on_display(display(2, MEMORY_MS))) == {"push-2"}


def test_push_is_matched_with_one_display_only() -> None:
    join = ImpressionJoin(MEMORY_MS)
    join.on_push("push-1", push(1))
    out = join.on_display(display(1, 10, offset=1)) + join.on_display(display(1, 20, offset=2)) + give_up_all(join)
    assert [(impression.display.source_offset, impression.push is not None) for impression in out] == [
        (1, True),
        (2, False),
    ]


def test_only_the_last_of_the_displays_that_wait_for_one_push_is_matched() -> None:
    join = ImpressionJoin(MEMORY_MS)
    out = join.on_display(display(1, 10, offset=1)) + join.on_display(display(1, 20, offset=2))
    out += join.on_push("push-1", push(1)) + give_up_all(join)
    assert [(impression.display.source_offset, impression.push is not None) for impression in out] == [
        (1, False),
        (2, True),
    ]


Step = Push | Display


def _apply(join: ImpressionJoin, step: Step) -> list[Impression]:
    if isinstance(step, Push):
        return join.on_push(step.auction_id.replace("auction", "push"), step)
    return join.on_display(step)


@st.composite
def _steps(draw: st.DrawFn, within_ms: int) -> list[Step]:
    """Pushes, at most one per id, and displays, any number, in any order."""
    at = st.integers(0, within_ms)
    steps: list[Step] = [push(number, draw(at)) for number in draw(st.sets(st.integers(0, 9)))]
    shown_ids = draw(st.lists(st.integers(0, 9), max_size=12))
    steps += [display(number, draw(at), offset=offset) for offset, number in enumerate(shown_ids)]
    return draw(st.permutations(steps))


@settings(max_examples=300, deadline=None)
@given(_steps(within_ms=MEMORY_MS))
def test_any_interleaving_gives_the_same_matches_and_each_display_one_impression(steps: list[Step]) -> None:
    join = ImpressionJoin(MEMORY_MS)
    out = [impression for step in steps for impression in _apply(join, step)]
    pushed = {step.auction_id.replace("auction", "push") for step in steps if isinstance(step, Push)}
    displayed = [step for step in steps if isinstance(step, Display)]
    assert matched(out) == pushed & {found.push_id for found in displayed}
    out += give_up_all(join)
    assert sorted(impression.display.source_offset for impression in out) == list(range(len(displayed)))
    assert sum(impression.push is not None for impression in out) == len(matched(out))


@settings(max_examples=300, deadline=None)
@given(_steps(within_ms=4 * MEMORY_MS), st.sets(st.integers(0, 22)))
def test_snapshot_and_resume_anywhere_changes_nothing(steps: list[Step], resumes: set[int]) -> None:
    whole, resumed = ImpressionJoin(MEMORY_MS), ImpressionJoin(MEMORY_MS)
    for index, step in enumerate(steps):
        if index in resumes:
            resumed = ImpressionJoin(MEMORY_MS, resumed.snapshot())
        assert _apply(resumed, step) == _apply(whole, step)
    assert resumed.snapshot() == whole.snapshot()
    assert give_up_all(resumed) == give_up_all(whole)


def test_memory_is_bounded_by_time() -> None:
    join = ImpressionJoin(MEMORY_MS)
    for number in range(5_000):
        join.on_push(f"push-{number}", push(number, number * 1_000))
        join.on_display(display(-number, number * 1_000))
    _, _, pushes, waiting = msgspec.msgpack.decode(unseal(join.snapshot(), "join"))
    bound = (MEMORY_MS + MEMORY_MS // 16) // 1_000
    assert MEMORY_MS // 1_000 <= len(pushes) <= bound + 1
    assert MEMORY_MS // 1_000 <= len(waiting) <= bound + 1


BOX_KEY = "0f" * 16


def facts(*events: BoxEvent, first_offset: int = 0) -> FactBatch:
    state = KeyGroupState(KEY_GROUP, ViewingConfig(), "box-events", lambda _: BOX_KEY)
    rows = state.process(decoded(*events, first_offset=first_offset)).events
    assert rows is not None
    return FactBatch(BOX_EVENTS.name, 0, 0, rows.columns())


def with_billing(number: int = 7, *, aggregator: str = "alpha", **changes: Any) -> Decision:
    """Won with two ads, of which only the second wants to hear of its display."""
    auction_id = f"{number:032x}"
    first = winning_ad(auction_id, 0, aggregator=aggregator)
    second = winning_ad(auction_id, 1, aggregator=aggregator, price_micros=4_000_000)
    notices = (
        BidNotice(bid_id="bid-0", code=Outcome.WON, price_micros=2_500_000, urls=NoticeUrls(), push_id=first.push_id),
        BidNotice(
            bid_id="bid-1",
            code=Outcome.WON,
            price_micros=4_000_000,
            urls=NoticeUrls(billing="https://a.example/b"),
            push_id=second.push_id,
        ),
        BidNotice(
            bid_id="bid-2", code=Outcome.OUTBID, price_micros=1, urls=NoticeUrls(billing="https://a.example/never")
        ),
    )
    told = outcome(aggregator, Outcome.WON, notices=notices, price_micros=4_000_000, **changes)
    return decision(told, auction_id=auction_id, ads=(first, second))


def decided(*decisions: Decision) -> DecisionBatch:
    return DecisionBatch(list(decisions), {})


def test_displays_are_read_from_the_rows_of_ad_shown_alone() -> None:
    found = displays([facts(tune(0), shown(1, "a"), heartbeat(2), shown(3, "b"), first_offset=40)])
    assert found == [
        Display(T0 + 1, BOX_KEY, "push-a", "a", 15_000, 0, 0, 41, 0),
        Display(T0 + 3, BOX_KEY, "push-b", "b", 15_000, 0, 0, 43, 0),
    ]


def test_display_that_came_late_still_counts() -> None:
    late = facts(heartbeat(200_000, seq=9), shown(0, "a", seq=8))
    assert late.rows.column("is_late").to_pylist() == [False, True]
    assert [found.push_id for found in displays([late])] == ["push-a"]


def test_other_tables_hold_no_displays() -> None:
    row = (T0 * 1000, T0 * 1000, "k", "s", 0, 1, 0, 0, None, None, 0, 0, 0, 0)
    sessions = FactBatch(VIEWING_SESSIONS.name, 0, 0, record_batch(VIEWING_SESSIONS, [row]))
    assert displays([sessions]) == []


def test_displays_of_several_batches_keep_the_order_of_the_log() -> None:
    batches = [facts(shown(1, "a"), tune(2)), facts(heartbeat(3)), facts(shown(4, "b"), shown(5, "c"))]
    assert [found.ad_id for found in displays(batches)] == ["a", "b", "c"]


def test_matched_impression_becomes_a_row_with_its_decision() -> None:
    told = won(7, last_ad_id=None)
    logic = ImpressionsLogic(MEMORY_MS, None)
    (out,), _ = logic.on_batch([decided(told), facts(shown(500, f"{7:032x}"), first_offset=40)])
    (row,) = out.rows.to_pylist()
    assert out.rows.schema == IMPRESSIONS.arrow_schema
    assert (row["is_matched"], row["auction_id"], row["push_id"]) == (True, told.auction_id, told.push_id)
    assert (row["aggregator"], row["price_micros"], row["currency"]) == ("alpha", 2_500_000, "USD")
    assert (row["channel_id"], row["source_offset"]) == ("ch1", 40)
    assert row["shown_time"].timestamp() * 1000 == T0 + 500
    assert row["decided_time"].timestamp() * 1000 == told.decided_ms


def test_every_ad_of_a_break_waits_for_its_own_display() -> None:
    told = with_billing(7)
    logic = ImpressionsLogic(MEMORY_MS, None)
    second = facts(shown(500, f"{7:032x}-1"), first_offset=40)
    first = facts(shown(900, f"{7:032x}"), first_offset=41)
    (out,), _ = logic.on_batch([decided(told), second, first])
    assert [row["push_id"] for row in out.rows.to_pylist()] == [told.ads[1].push_id, told.ads[0].push_id]
    assert [row["price_micros"] for row in out.rows.to_pylist()] == [4_000_000, 2_500_000]
    assert [found.push.bid_id for found in out.impressions if found.push] == ["bid-1", "bid-0"]


def test_billing_address_belongs_to_the_ad_whose_bid_named_it() -> None:
    found = dict(pushes(with_billing(7), with_billing=True))
    assert [push.billing for push in found.values()] == [None, Billing("https://a.example/b", 4_000_000, "USD")]


def test_billing_addresses_are_left_out_unless_they_are_wanted() -> None:
    assert {push.billing for _, push in pushes(with_billing(7), with_billing=False)} == {None}


def test_billing_names_the_price_in_the_currency_of_the_bid() -> None:
    told = with_billing(7, offered_micros=3_600_000, offered_currency="EUR")
    assert dict(pushes(told, with_billing=True))[told.ads[1].push_id].billing == Billing(
        "https://a.example/b", 3_600_000, "EUR"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (5_000_000, "USD")),
        ({"offered_currency": "USD", "offered_micros": 7, "price_micros": 9}, (5_000_000, "USD")),
        ({"offered_currency": "EUR", "offered_micros": 2, "price_micros": 3}, (3_333_333, "EUR")),
        ({"offered_currency": "XXX", "offered_micros": 2_000_000, "price_micros": None}, (5_000_000, "USD")),
    ],
    ids=["rate unknown", "same currency", "rounded to the nearest micro", "not convertible"],
)
def test_price_is_told_in_the_currency_of_the_bid_if_the_rate_is_known(
    changes: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert in_bid_currency(outcome("alpha", **changes), 5_000_000, "USD") == expected


def test_unmatched_impression_is_a_row_without_a_decision() -> None:
    row = dict(zip(IMPRESSIONS.arrow_schema.names, impression_row(Impression(display(1), None)), strict=True))
    assert row["is_matched"] is False
    assert [row[name] for name in ("auction_id", "aggregator", "price_micros", "channel_id", "decided_time")] == [
        None
    ] * 5
    assert (row["push_id"], row["ad_id"]) == ("push-1", "ad-1")


def test_decision_without_a_push_waits_for_no_display() -> None:
    logic = ImpressionsLogic(MEMORY_MS, None)
    logic.on_batch([decided(undecided(Outcome.SHED, "alpha"))])
    assert msgspec.msgpack.decode(unseal(logic.snapshot(), "join"))[2] == {}


def test_logic_resumes_with_what_waits() -> None:
    logic = ImpressionsLogic(MEMORY_MS, None)
    assert logic.on_batch([decided(won(7))])[0] == []
    resumed = ImpressionsLogic(MEMORY_MS, logic.snapshot())
    (out,), _ = resumed.on_batch([facts(shown(500, f"{7:032x}"))])
    assert matched(out.impressions) == {f"push-{7:032x}"}


def test_snapshot_bytes_are_an_interface() -> None:
    """A change here means that running deployments cannot resume: raise VERSION and keep a reader for the old one."""
    join = ImpressionJoin(MEMORY_MS)
    join.on_push("push-1", msgspec.structs.replace(push(1), billing=Billing("https://a.example/b", 2_500_000, "USD")))
    join.on_display(display(2, 500, offset=421))
    assert join.snapshot() == GOLDEN.read_bytes()
    restored = ImpressionJoin(MEMORY_MS, GOLDEN.read_bytes())
    assert matched(restored.on_display(display(1)) + restored.on_push("push-2", push(2))) == {"push-1", "push-2"}


@pytest.mark.parametrize("version", [2, 4])
def test_snapshot_of_another_version_is_refused(version: int) -> None:
    foreign = seal(msgspec.msgpack.encode([version, 0, {"push-1": ["fields of another version"]}, {}]))
    with pytest.raises(StateMismatchError, match=f"version {version}"):
        ImpressionJoin(MEMORY_MS, foreign)


@pytest.mark.parametrize("damage", [b"", *map(seal, [b"", b"\x00", b"\x94\x03"])])
def test_bytes_that_are_no_snapshot_are_refused(damage: bytes) -> None:
    with pytest.raises(StateMismatchError):
        ImpressionJoin(MEMORY_MS, damage)
