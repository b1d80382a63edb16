from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from datastreamx.cli.explain.render import render
from datastreamx.cli.explain.report import Explanation, assemble
from datastreamx.cli.terminal import show
from tests.builders import T0

MOMENT = datetime.fromtimestamp(T0 / 1000, UTC)


def decision_row(auction: str = "a1", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "decided_time": MOMENT,
        "opportunity_time": MOMENT - timedelta(milliseconds=200),
        "deadline_time": MOMENT + timedelta(milliseconds=1_800),
        "auction_id": auction,
        "box_key": "k",
        "trigger": "dwell",
        "status": "won",
        "channel_id": "ch07",
        "last_channel_id": "ch03",
        "last_ad_id": None,
        "break_id": None,
        "slot_ms": 30_000,
        "push_id": f"push-{auction}",
        "aggregator": "alpha",
        "ad_id": "ad-1",
        "price_micros": 4_250_000,
        "currency": "USD",
        "policy": "all",
        "model_version": None,
        "queue_us": 300,
        "auction_us": 45_600,
        "candidates": "[]",
    }
    return row | changes


def bid_row(aggregator: str, outcome: str, price_micros: int | None = None, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "auction_id": "a1",
        "aggregator": aggregator,
        "outcome": outcome,
        "called": True,
        "propensity": 1.0,
        "attempt": 1,
        "tmax_ms": 300,
        "latency_us": 45_000,
        "http_status": 200,
        "price_micros": price_micros,
        "currency": None if price_micros is None else "USD",
        "ad_id": None if price_micros is None else f"ad-{aggregator}",
        "detail": None,
    }
    return row | changes


def display_row(at_ms: int, push: str = "push-a1") -> dict[str, Any]:
    return {"shown_time": MOMENT + timedelta(milliseconds=at_ms), "push_id": push, "ad_id": "ad-1", "shown_ms": 15_000}


def told(explanation: Explanation, capsys: pytest.CaptureFixture[str]) -> str:
    show(*render("stb-1", explanation, T0 + 12_000))
    return capsys.readouterr().out


def test_winner_comes_first_then_falling_prices_then_the_rest() -> None:
    bids = [
        bid_row("zeta", "timeout"),
        bid_row("cheap", "outbid", 1_000_000),
        bid_row("beta", "no_bid"),
        bid_row("dear", "below_floor", 9_000_000),
        bid_row("alpha", "won", 4_250_000),
    ]
    (decision,) = assemble("k", 24, [decision_row()], bids, []).decisions
    assert [bid.aggregator for bid in decision.bids] == ["alpha", "dear", "cheap", "beta", "zeta"]


def test_bids_and_displays_belong_to_their_own_decision() -> None:
    bids = [bid_row("alpha", "won", 1), bid_row("alpha", "no_bid", auction_id="a2")]
    rows = [decision_row("a2", status="no_bid", push_id=None), decision_row("a1")]
    second, first = assemble("k", 24, rows, bids, [display_row(2_000), display_row(1_000)]).decisions
    assert [bid.outcome for bid in second.bids] == ["no_bid"]
    assert second.display is None
    assert first.display is not None
    assert first.display.shown_time_ms == T0 + 1_000


def test_the_story_is_told_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    bids = [bid_row("alpha", "won", 4_250_000), bid_row("beta", "timeout", detail="no reply within 300 ms")]
    out = told(assemble("k", 24, [decision_row()], bids, [display_row(1_000)]), capsys)
    for part in (
        "12.0 s ago",
        "watching ch07, before that ch03, last ad none",
        "stayed on the channel (dwell)",
        "decided 1.8 s before the deadline, waited 0.3 ms, auction 45.6 ms; policy all",
        "4.25 USD",
        "45.0 ms",
        "no reply within 300 ms",
        "alpha with ad-1 at 4.25 USD CPM",
        "push-a1",
        "2023-11-14 22:13:21.000 UTC for 15.0 s",
    ):
        assert part in out, out
    assert "Propensity" not in out


def test_a_push_that_was_not_displayed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    out = told(assemble("k", 24, [decision_row()], [], []), capsys)
    assert "not reported by the box (yet)" in out


@pytest.mark.parametrize("status", ["no_bid", "expired", "shed"])
def test_a_decision_without_winner_says_why(status: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = decision_row(status=status, push_id=None, aggregator=None, ad_id=None, price_micros=None, currency=None)
    out = told(assemble("k", 24, [row], [], []), capsys)
    assert "none: " in out
    assert "nothing was pushed" in out


def test_exploration_and_reissues_show_their_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    bids = [bid_row("alpha", "won", 1, propensity=0.25), bid_row("beta", "shed", called=False, attempt=2)]
    out = told(assemble("k", 24, [decision_row()], bids, []), capsys)
    assert "0.250" in out
    assert "shed (not called)" in out
