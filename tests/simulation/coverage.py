"""What must have happened for a run to prove anything: a simulation without faults finds none."""

from __future__ import annotations

from collections import Counter

FLOORS: dict[str, float] = {
    "crash: running": 6,
    "crash: snapshot": 12,
    "crash: commit": 8,
    "crash: durable": 5,
    "crash: durable, and nobody heard": 4,
    "crash: waiting": 12,
    "crash: restoring": 4,
    "crash: ending": 1,
    "clean ends": 28,
    "fault: re-shard": 8,
    "fault: producer fails": 3,
    "fault: broker down": 25,
    "fault: outage": 25,
    "fault: ack lost": 15,
    "fault: connection cut": 14,
    "fault: append refused": 8,
    "fault: silence": 3,
    "fault: bad rows": 1,
    "fault: create refused": 25,
    "fault: flush refused": 20,
    "fault: flush reply lost": 18,
    "fault: notice reply lost": 3,
    "stray appends": 2.5,
    "stray produce requests": 1.5,
    "stale stores refused": 6,
    "auctions issued again": 4,
    "second records of an auction": 1.5,
    "decisions: won": 70,
    "decisions: no_bid": 33,
    "decisions: expired": 50,
    "late bids": 16,
    "displays": 60,
    "late events": 48,
    "duplicate events": 100,
    "dead letters": 150,
    "sessions": 28,
    "notices heard": 70,
    "histories of fewer than 10 events": 8,
    "histories of 10 to 29 events": 25,
    "histories of 30 to 89 events": 5,
    "histories of 90 events or more": 2,
}
"""Fewest of each kind in a hundred histories: about a third of what is usual."""


def missing(seen: Counter[str], histories: int) -> list[str]:
    """Kinds that happened less often than they have to, in words."""
    return [
        f"{kind}: {seen[kind]} times in {histories} histories, at least {floor * histories / 100:.0f} are wanted"
        for kind, floor in FLOORS.items()
        if seen[kind] < floor * histories / 100
    ]
