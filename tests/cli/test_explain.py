from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from datastreamx.cli.explain.render import render
from datastreamx.cli.explain.report import BidTold, Explanation, Rows, assemble
from datastreamx.cli.explain.timeline import WIDTH, timeline
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
        "explored": False,
        "history_allowed": True,
        "ads": 1,
        "break_ads": None,
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
        "queue_us": 300,
        "dns_us": None,
        "connect_us": None,
        "first_byte_us": 44_000,
        "connection_reused": True,
        "http_status": 200,
        "bids": 0 if price_micros is None else 1,
        "ads_won": int(outcome == "won"),
        "price_micros": price_micros,
        "currency": None if price_micros is None else "USD",
        "offered_micros": price_micros,
        "offered_currency": None if price_micros is None else "USD",
        "rate_id": None,
        "floor_micros": 500_000,
        "advertiser_domain": None,
        "no_bid_reason": None,
        "notices": None,
        "ad_id": None if price_micros is None else f"ad-{aggregator}",
        "detail": None,
    }
    return row | changes


def late_row(aggregator: str, price_micros: int | None, auction: str = "a1", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"auction_id": auction, "aggregator": aggregator, "latency_us": 412_000}
    return row | {"price_micros": price_micros, "would_have_won": False} | changes


def display_row(at_ms: int, push: str = "push-a1") -> dict[str, Any]:
    return {"shown_time": MOMENT + timedelta(milliseconds=at_ms), "push_id": push, "ad_id": "ad-1", "shown_ms": 15_000}


def told(explanation: Explanation, capsys: pytest.CaptureFixture[str]) -> str:
    show(*render("stb-1", explanation, T0 + 12_000))
    return capsys.readouterr().out


BREAK_ADS = msgspec.json.encode(
    [
        {
            "push_id": "push-a1",
            "aggregator": "alpha",
            "bid_id": "1",
            "ad_id": "ad-1",
            "price_micros": 2_500_000,
            "duration_ms": 15_000,
            "advertiser_domain": "example.com",
        },
        {
            "push_id": "push-a1-1",
            "aggregator": "beta",
            "bid_id": "2",
            "ad_id": "ad-2",
            "price_micros": 1_750_000,
            "duration_ms": None,
            "advertiser_domain": None,
        },
    ]
).decode()


def test_winner_comes_first_then_falling_prices_then_the_rest() -> None:
    bids = [
        bid_row("zeta", "timeout"),
        bid_row("cheap", "outbid", 1_000_000),
        bid_row("beta", "no_bid"),
        bid_row("dear", "below_floor", 9_000_000),
        bid_row("alpha", "won", 4_250_000),
    ]
    (decision,) = assemble("k", 24, Rows([decision_row()], bids)).decisions
    assert [bid.aggregator for bid in decision.bids] == ["alpha", "dear", "cheap", "beta", "zeta"]


def test_bids_late_answers_and_displays_belong_to_their_own_decision() -> None:
    bids = [bid_row("alpha", "won", 1), bid_row("alpha", "no_bid", auction_id="a2"), bid_row("beta", "timeout")]
    rows = [decision_row("a2", status="no_bid", push_id=None), decision_row("a1")]
    late = [late_row("alpha", 7, "a2"), late_row("beta", 8, "a1")]
    shown = [display_row(2_000), display_row(1_000)]
    second, first = assemble("k", 24, Rows(rows, bids, late, shown)).decisions
    assert [bid.outcome for bid in second.bids] == ["no_bid"]
    assert second.ads == []
    assert [bid.late and bid.late.price_micros for bid in second.bids] == [7]
    assert [bid.late and bid.late.price_micros for bid in first.bids] == [None, 8]
    (ad,) = first.ads
    assert ad.display is not None
    assert ad.display.shown_time_ms == T0 + 1_000


def test_every_ad_of_a_break_is_told_with_its_own_display(capsys: pytest.CaptureFixture[str]) -> None:
    row = decision_row(ads=2, break_ads=BREAK_ADS, trigger="ad_break", break_id="b7", slot_ms=60_000)
    explanation = assemble("k", 24, Rows([row], displays=[display_row(1_000, "push-a1-1")]))
    assert [(ad.push_id, ad.price_micros, ad.display is None) for ad in explanation.decisions[0].ads] == [
        ("push-a1", 2_500_000, True),
        ("push-a1-1", 1_750_000, False),
    ]
    out = told(explanation, capsys)
    first, second = out.index("ad-1 of alpha at 2.50 USD CPM, 15.0 s"), out.index("ad-2 of beta at 1.75 USD CPM")
    assert (
        first
        < out.index("not reported by the box (yet)")
        < second
        < out.index("2023-11-14 22:13:21.000 UTC for 15.0 s")
    )


def test_row_of_a_table_from_before_breaks_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    row = decision_row(explored=None, history_allowed=None, ads=None)
    unknown = {
        "queue_us",
        "first_byte_us",
        "connection_reused",
        "bids",
        "ads_won",
        "offered_micros",
        "offered_currency",
    }
    bid = bid_row("alpha", "won", 4_250_000) | dict.fromkeys(unknown, None)
    out = told(assemble("k", 24, Rows([row], [bid])), capsys)
    assert "ad-1 of alpha at 4.25 USD CPM" in out
    assert "viewing history" not in out


def test_the_story_is_told_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    bids = [
        bid_row("alpha", "won", 4_250_000, advertiser_domain="example.com", bids=3, notices="win,billing"),
        bid_row("beta", "timeout", detail="no reply within 300 ms", first_byte_us=None),
        bid_row("gamma", "no_bid", no_bid_reason=8),
        bid_row("delta", "outbid", 3_300_000, offered_micros=3_000_000, offered_currency="EUR", rate_id="2023-11-14"),
    ]
    late = [late_row("beta", 5_000_000, would_have_won=True)]
    out = told(assemble("k", 24, Rows([decision_row()], bids, late, [display_row(1_000)])), capsys)
    for part in (
        "12.0 s ago",
        "watching ch07, before that ch03, last ad none",
        "stayed on the channel (dwell)",
        "decided 1.8 s before the deadline, waited 0.3 ms, auction 45.6 ms",
        "all, viewing history allowed",
        "4.25 USD",
        "45.0 ms",
        "ad-alpha (example.com)",
        "best of 3 bids",
        "win,billing",
        "no reply within 300 ms; answered late after 412.0 ms: 5.00, would have won",
        "no-bid reason 8",
        "3.30 USD (3.00 EUR)",
        "rates 2023-11-14",
        "ad-1 of alpha at 4.25 USD CPM",
        "push-a1",
        "2023-11-14 22:13:21.000 UTC for 15.0 s",
    ):
        assert part in out, out
    assert "Propensity" not in out


def test_notices_have_a_column_only_if_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    out = told(assemble("k", 24, Rows([decision_row()], [bid_row("alpha", "won", 1)])), capsys)
    assert "Notices" not in out


def test_a_push_that_was_not_displayed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    out = told(assemble("k", 24, Rows([decision_row()])), capsys)
    assert "not reported by the box (yet)" in out


@pytest.mark.parametrize("status", ["no_bid", "expired", "shed"])
def test_a_decision_without_an_ad_says_why(status: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = decision_row(status=status, push_id=None, aggregator=None, ad_id=None, price_micros=None, currency=None)
    assert "nothing: " in told(assemble("k", 24, Rows([row])), capsys)


def test_exploration_and_reissues_show_their_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    bids = [
        bid_row("alpha", "won", 1, propensity=0.25),
        bid_row("beta", "shed", called=False, attempt=2, latency_us=None),
        bid_row("gamma", "won", 1, ads_won=2),
    ]
    row = decision_row(policy="thompson", model_version="7", explored=True, history_allowed=False)
    out = told(assemble("k", 24, Rows([row], bids)), capsys)
    assert "0.250" in out
    assert "shed (not called)" in out
    assert "won 2 ads" in out
    assert "thompson, model 7, exploring: everyone is called, viewing history kept back" in out


def bid_told(aggregator: str, **changes: Any) -> BidTold:
    (decision,) = assemble("k", 24, Rows([decision_row()], [bid_row(aggregator, "no_bid", **changes)])).decisions
    return decision.bids[0]


def drawn(line: str) -> str:
    return line.split()[1]


def test_timeline_draws_every_phase_to_scale() -> None:
    phases = {"queue_us": 1_000, "dns_us": 1_000, "connect_us": 2_000, "first_byte_us": 5_000, "latency_us": 7_000}
    scale, line, legend = timeline([bid_told("alpha", **phases)], 4_000)
    unit = WIDTH // 8
    assert drawn(line) == "." * unit + "d" * unit + "c" * 2 * unit + "=" * 2 * unit + "#" * 2 * unit
    assert scale.split() == ["0", "8.0", "ms"]
    assert legend.count("  ") >= 4


def test_timeline_ends_with_the_later_of_decision_and_last_call() -> None:
    bids = [bid_told("slow", queue_us=0, latency_us=60_000), bid_told("a", queue_us=0, latency_us=30_000)]
    assert "60.0 ms" in timeline(bids, 10_000)[0]
    scale, slow, fast, _ = timeline(bids, 120_000)
    assert "120.0 ms" in scale
    assert (len(drawn(slow)), len(drawn(fast))) == (WIDTH // 2, WIDTH // 4)
    assert slow.index("=") == fast.index("=") == len("slow  ")


def test_timeline_of_phases_that_do_not_add_up_stays_within_the_call() -> None:
    """They are measured by several readings of the clock, and the columns of old rows may be unset."""
    phases = {"queue_us": 0, "dns_us": 9_000, "connect_us": 9_000, "first_byte_us": 2_000, "latency_us": 4_000}
    assert drawn(timeline([bid_told("a", **phases)], 0)[1]) == "d" * WIDTH
    unset = dict.fromkeys(("queue_us", "dns_us", "connect_us", "first_byte_us"), None)
    assert drawn(timeline([bid_told("a", **unset)], 0)[1]) == "=" * WIDTH


def test_timeline_of_nobody_called_is_empty() -> None:
    assert timeline([bid_told("a", called=False, latency_us=None)], 5_000) == []
