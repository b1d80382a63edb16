"""An explanation for a person. Pure."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from datastreamx.cli.explain.report import BidTold, DecisionTold, Explanation
from datastreamx.cli.format import cpm, duration, plural, utc
from datastreamx.cli.terminal import indented, table

_STYLES = {"won": "green", "outbid": "", "no_bid": "dim"}


def render(box: str, explanation: Explanation, now_ms: int) -> list[RenderableType]:
    """All decisions, newest first."""
    found = plural(len(explanation.decisions), "decision")
    parts: list[RenderableType] = [Text(f"{box} is {explanation.box_key} in the tables; last {found}, newest first")]
    for decision in explanation.decisions:
        parts += [Text(), *_decision(decision, now_ms)]
    return parts


def _decision(told: DecisionTold, now_ms: int) -> list[RenderableType]:
    head = Text.assemble(
        (f"{utc(told.decided_ms)}", "bold"),
        f"  {duration(now_ms - told.decided_ms)} ago  ",
        (told.status, "bold green" if told.status == "won" else "bold yellow"),
        f"  auction {told.auction_id}",
    )
    facts = [
        ("State", _state(told)),
        ("Trigger", _trigger(told)),
        ("Timing", _timing(told)),
        ("Winner", _winner(told)),
        ("Push", told.push_id or "none"),
        ("Shown", _shown(told)),
    ]
    grid = Table.grid(padding=(0, 2))
    for label, text in facts[:3]:
        grid.add_row(Text(label, "dim"), Text(text))
    ending = Table.grid(padding=(0, 2))
    for label, text in facts[3:]:
        ending.add_row(Text(label.ljust(len("Trigger")), "dim"), Text(text))
    parts: list[RenderableType] = [grid, *([_bids(told.bids)] if told.bids else []), ending]
    return [head, *(indented(part) for part in parts)]


def _state(told: DecisionTold) -> str:
    return (
        f"watching {told.channel_id}, before that {told.last_channel_id or 'no channel'}, "
        f"last ad {told.last_ad_id or 'none'}"
    )


def _trigger(told: DecisionTold) -> str:
    if told.trigger == "ad_break":
        return f"ad break {told.break_id or ''} of {duration(told.slot_ms)} at {utc(told.opportunity_ms)}"
    return f"stayed on the channel ({told.trigger}) until {utc(told.opportunity_ms)}; slot of {duration(told.slot_ms)}"


def _timing(told: DecisionTold) -> str:
    spare = told.deadline_ms - told.decided_ms
    margin = f"{duration(spare)} before" if spare >= 0 else f"{duration(-spare)} after"
    parts = [f"decided {margin} the deadline"]
    if told.queue_us is not None:
        parts.append(f"waited {told.queue_us / 1000:.1f} ms")
    if told.auction_us is not None:
        parts.append(f"auction {told.auction_us / 1000:.1f} ms")
    model = f", model {told.model_version}" if told.model_version else ""
    return f"{', '.join(parts)}; policy {told.policy}{model}"


def _winner(told: DecisionTold) -> str:
    if told.aggregator is None or told.price_micros is None:
        return _NO_WINNER.get(told.status, "none")
    return f"{told.aggregator} with {told.ad_id} at {cpm(told.price_micros, told.currency)} CPM"


_NO_WINNER = {
    "no_bid": "none: no aggregator offered an acceptable ad",
    "expired": "none: the deadline had passed, or came too near, before anybody could be asked",
    "shed": "none: too many auctions were in flight (auction.capacity)",
}


def _shown(told: DecisionTold) -> str:
    if told.push_id is None:
        return "nothing was pushed"
    if told.display is None:
        return "not reported by the box (yet)"
    return f"{utc(told.display.shown_time_ms)} for {duration(told.display.shown_ms)}"


def _bids(bids: list[BidTold]) -> Table:
    is_plain = all(bid.propensity == 1.0 and bid.attempt == 1 for bid in bids)
    more = () if is_plain else ("Propensity", "Attempt")
    made = table("Aggregator", "Outcome", "CPM", "Latency", *more, "Ad", "Why", numbers=("CPM", "Latency", *more))
    for bid in bids:
        made.add_row(
            Text(bid.aggregator),
            Text(bid.outcome if bid.called else f"{bid.outcome} (not called)", _STYLES.get(bid.outcome, "yellow")),
            "" if bid.price_micros is None else cpm(bid.price_micros, bid.currency),
            "" if bid.latency_us is None else f"{bid.latency_us / 1000:.1f} ms",
            *(() if is_plain else (f"{bid.propensity:.3f}", str(bid.attempt))),
            Text(bid.ad_id or ""),
            Text(bid.detail or ""),
        )
    return made
