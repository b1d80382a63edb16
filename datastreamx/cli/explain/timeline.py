"""A picture of where the time of an auction went, one line per call. Pure."""

from __future__ import annotations

from datastreamx.cli.explain.report import BidTold

WIDTH = 48
"""Characters from the hand-over of the auction to its end."""

LEGEND = ". waiting  d DNS  c connecting  = until the first byte  # reading"


def timeline(bids: list[BidTold], decided_us: int) -> list[str]:
    """Lines of equal scale for every call, in the order of `bids`; empty if there was none.

    Args:
        bids: What the aggregators did. A phase that was not measured is drawn as time until the first byte.
        decided_us: From the hand-over of the auction to its decision.
    """
    spans = {bid.aggregator: _spans(bid) for bid in bids if bid.latency_us is not None}
    if not spans:
        return []
    end_us = max(decided_us, *(ends[-1][1] for ends in spans.values()), 1)
    width = max(map(len, spans))
    return [
        f"{'':{width}}  0{f'{end_us / 1000:.1f} ms':>{WIDTH - 1}}",
        *(f"{name:{width}}  {_drawn(ends, end_us)}" for name, ends in spans.items()),
        f"{'':{width}}  {LEGEND}",
    ]


def _spans(bid: BidTold) -> list[tuple[str, int]]:
    """Sign of every phase and when it ended, microseconds since the hand-over; none ends after the call."""
    sent_us = bid.queue_us or 0
    last_us = sent_us + (bid.latency_us or 0)
    resolved_us = min(sent_us + (bid.dns_us or 0), last_us)
    connected_us = min(resolved_us + (bid.connect_us or 0), last_us)
    head_us = last_us
    if bid.first_byte_us is not None:
        head_us = max(connected_us, min(sent_us + bid.first_byte_us, last_us))
    return [(".", sent_us), ("d", resolved_us), ("c", connected_us), ("=", head_us), ("#", last_us)]


def _drawn(spans: list[tuple[str, int]], end_us: int) -> str:
    line = ""
    for sign, until_us in spans:
        line += sign * (round(until_us * WIDTH / end_us) - len(line))
    return line
