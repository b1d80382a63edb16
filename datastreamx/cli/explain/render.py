"""An explanation for a person. Pure."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from datastreamx.cli.explain.report import AdTold, BidTold, DecisionTold, Explanation
from datastreamx.cli.explain.timeline import timeline
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
        ("Policy", _policy(told)),
    ]
    ending = [("Pushed", _NOTHING_PUSHED.get(told.status, "nothing"))]
    if told.ads:
        ending = [
            pair for ad in told.ads for pair in (("Pushed", _ad(told, ad)), ("", ad.push_id), ("Shown", _shown(ad)))
        ]
    parts: list[RenderableType] = [_grid(facts), *(_bids(told) if told.bids else []), _grid(ending)]
    return [head, *(indented(part) for part in parts)]


def _grid(lines: list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for label, text in lines:
        grid.add_row(Text(label.ljust(len("Trigger")), "dim"), Text(text))
    return grid


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
    return ", ".join(parts)


def _policy(told: DecisionTold) -> str:
    parts = [told.policy]
    if told.model_version:
        parts.append(f"model {told.model_version}")
    if told.explored:
        parts.append("exploring: everyone is called")
    if told.history_allowed is not None:
        parts.append(f"viewing history {'allowed' if told.history_allowed else 'kept back'}")
    return ", ".join(parts)


def _ad(told: DecisionTold, ad: AdTold) -> str:
    length = "" if ad.duration_ms is None else f", {duration(ad.duration_ms)}"
    return f"{ad.ad_id} of {ad.aggregator} at {cpm(ad.price_micros, told.currency)} CPM{length}"


_NOTHING_PUSHED = {
    "no_bid": "nothing: no aggregator offered an acceptable ad",
    "expired": "nothing: the deadline had passed, or came too near",
    "shed": "nothing: too many auctions were in flight (auction.capacity)",
}


def _shown(ad: AdTold) -> str:
    if ad.display is None:
        return "not reported by the box (yet)"
    return f"{utc(ad.display.shown_time_ms)} for {duration(ad.display.shown_ms)}"


def _bids(told: DecisionTold) -> list[RenderableType]:
    bids = told.bids
    more: dict[str, list[str]] = {}
    if any(bid.propensity != 1.0 or bid.attempt > 1 for bid in bids):
        more["Propensity"] = [f"{bid.propensity:.3f}" for bid in bids]
        more["Attempt"] = [str(bid.attempt) for bid in bids]
    if any(bid.notices for bid in bids):
        more["Notices"] = [bid.notices or "" for bid in bids]
    made = table(
        "Aggregator",
        "Outcome",
        "CPM",
        "Latency",
        *more,
        "Ad",
        "Why",
        numbers=("CPM", "Latency", "Propensity", "Attempt"),
    )
    for place, bid in enumerate(bids):
        made.add_row(
            Text(bid.aggregator),
            Text(_outcome(bid), _STYLES.get(bid.outcome, "yellow")),
            _price(bid),
            "" if bid.latency_us is None else f"{bid.latency_us / 1000:.1f} ms",
            *(Text(column[place]) for column in more.values()),
            Text(f"{bid.ad_id} ({bid.advertiser_domain})" if bid.advertiser_domain else bid.ad_id or ""),
            Text(_why(bid)),
        )
    picture = timeline(bids, (told.queue_us or 0) + (told.auction_us or 0))
    return [made, *([Text("\n".join(["", *picture]), "dim")] if picture else [])]


def _outcome(bid: BidTold) -> str:
    if not bid.called:
        return f"{bid.outcome} (not called)"
    return f"{bid.outcome} {plural(bid.ads_won, 'ad')}" if bid.ads_won and bid.ads_won > 1 else bid.outcome


def _price(bid: BidTold) -> str:
    """The price compared and, if it was converted, the price offered."""
    price = "" if bid.price_micros is None else cpm(bid.price_micros, bid.currency)
    if bid.offered_micros is None or bid.offered_currency == bid.currency:
        return price
    return f"{price} ({cpm(bid.offered_micros, bid.offered_currency)})".lstrip()


def _why(bid: BidTold) -> str:
    parts = [bid.detail] if bid.detail else []
    if bid.no_bid_reason is not None:
        parts.append(f"no-bid reason {bid.no_bid_reason}")
    if bid.bids is not None and bid.bids > 1:
        parts.append(f"best of {bid.bids} bids")
    if bid.rate_id is not None:
        parts.append(f"rates {bid.rate_id}")
    if bid.late is not None:
        offer = "no bid" if bid.late.price_micros is None else cpm(bid.late.price_micros, bid.currency)
        won = ", would have won" if bid.late.would_have_won else ""
        parts.append(f"answered late after {bid.late.latency_us / 1000:.1f} ms: {offer}{won}")
    return "; ".join(parts)
