"""What must have happened for a run to prove anything: a simulation without faults finds none."""

from __future__ import annotations

from collections import Counter

FLOORS: dict[str, float] = {
    "crash: running": 30,
    "crash: snapshot": 20,
    "crash: commit": 5,
    "crash: durable": 5,
    "crash: durable, and nobody heard": 2,
    "crash: waiting": 20,
    "crash: restoring": 10,
    "crash: ending": 1,
    "clean ends": 20,
    "fault: re-shard": 10,
    "fault: producer fails": 3,
    "fault: broker down": 20,
    "fault: outage": 20,
    "fault: ack lost": 20,
    "fault: connection cut": 20,
    "fault: append refused": 10,
    "fault: silence": 4,
    "fault: bad rows": 3,
    "fault: create refused": 10,
    "fault: flush refused": 20,
    "fault: flush reply lost": 20,
    "fault: notice reply lost": 5,
    "stray appends": 5,
    "stray produce requests": 3,
    "stale stores refused": 8,
    "auctions issued again": 4,
    "second records of an auction": 2,
    "decisions: won": 100,
    "decisions: no_bid": 30,
    "decisions: expired": 50,
    "late bids": 20,
    "displays": 80,
    "late events": 100,
    "duplicate events": 100,
    "dead letters": 100,
    "sessions": 50,
    "notices heard": 100,
}
"""Fewest of each kind in a hundred histories: about a third of what is usual."""


def missing(seen: Counter[str], histories: int) -> list[str]:
    """Kinds that happened less often than they have to, in words."""
    return [
        f"{kind}: {seen[kind]} times in {histories} histories, at least {floor * histories / 100:.0f} are wanted"
        for kind, floor in FLOORS.items()
        if seen[kind] < floor * histories / 100
    ]
