"""What the topics and the events of the pods tell: repeats, gaps, delays, disruptions. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec
from confluent_kafka import Message

from datastreamx.wire.decisions import decode_decision
from tests.chaos.facts import places
from tests.k8s.podlet import Event

Span = tuple[float, float]
"""From one moment to another, both included."""


class Percentiles(msgspec.Struct, frozen=True):
    """Of a number of values; `None` of none."""

    count: int
    p50: float | None = None
    p99: float | None = None
    max: float | None = None

    def __str__(self) -> str:
        return "none" if self.p50 is None else f"p50 {self.p50:g}, p99 {self.p99:g}, max {self.max:g} of {self.count}"


def percentiles(values: Iterable[float]) -> Percentiles:
    """By the nearest rank: one of the values that were seen, the largest as p99 of fewer than a hundred."""
    found = sorted(values)
    if not found:
        return Percentiles(0)
    ranks = (max(0, math.ceil(share * len(found)) - 1) for share in (0.5, 0.99, 1.0))
    return Percentiles(len(found), *(round(found[rank], 3) for rank in ranks))


@dataclass(frozen=True)
class Log:
    """What the ads flow has written.

    Attributes:
        facts: All of box-facts, in log order within each partition; `decisions` all of ad-decisions.
    """

    facts: Sequence[Message]
    decisions: Sequence[Message]

    def repeats(self) -> Counter[str]:
        """Facts and decisions that were written more than once, by topic: copies beyond the first."""
        facts = Counter(place for message in self.facts for place in places(message))
        decisions = Counter(decode_decision(message.value() or b"").auction_id for message in self.decisions)
        return Counter({"facts": facts.total() - len(facts), "decisions": decisions.total() - len(decisions)})

    def stamps_s(self, partitions: Collection[int]) -> list[float]:
        """When something was written to any of the partitions: wall clock, sorted."""
        messages = (*self.facts, *self.decisions)
        return sorted(one.timestamp()[1] / 1000 for one in messages if one.partition() in partitions)

    def delays_ms(self, holds: Callable[[int, float], bool]) -> list[float]:
        """From the event that gave rise to a decision until that was in the log, for first decisions.

        Args:
            holds: Given the partition and the moment (wall clock) of the event: whether it is meant.
        """
        seen: set[str] = set()
        found: list[float] = []
        for message in self.decisions:
            decision = decode_decision(message.value() or b"")
            if decision.auction_id not in seen and holds(int(message.partition() or 0), decision.emitted_ms / 1000):
                found.append(float(message.timestamp()[1] - decision.emitted_ms))
            seen.add(decision.auction_id)
        return found


def first_after(stamps_s: Iterable[float], moment_s: float) -> float | None:
    """The first moment after another; `None` if there is none. `stamps_s` is sorted."""
    return next((stamp for stamp in stamps_s if stamp > moment_s), None)


def longest_gap_s(stamps_s: Iterable[float], span: Span) -> float:
    """Longest time without anything, from the start of the span to its end."""
    begin_s, end_s = span
    moments = [begin_s, *(stamp for stamp in stamps_s if begin_s < stamp < end_s), end_s]
    return max(later - sooner for sooner, later in pairwise(moments))


def is_within(moment_s: float, spans: Iterable[Span]) -> bool:
    """Whether a moment is in one of the spans."""
    return any(begin_s <= moment_s <= end_s for begin_s, end_s in spans)


def absences(events: Iterable[Event], pods: Collection[str]) -> dict[str, list[Span]]:
    """When pods were asked to end until they, or those after them, were ready; monotonic, by pod."""
    open_since: dict[str, float] = {}
    found: defaultdict[str, list[Span]] = defaultdict(list)
    for event in events:
        if event.pod in pods and event.what == "terminating":
            open_since.setdefault(event.pod, event.at_s)
        elif event.what == "ready" and event.pod in open_since:
            found[event.pod].append((open_since.pop(event.pod), event.at_s))
    return dict(found)


def overlaps(spans: Mapping[str, Sequence[Span]]) -> list[str]:
    """Pods that were away at the same time, in words."""
    ordered = sorted((span, pod) for pod, found in spans.items() for span in found)
    found: list[str] = []
    back_s, before = float("-inf"), ""
    for (begin_s, end_s), pod in ordered:
        if begin_s < back_s:
            found.append(f"{pod} went while {before} was away")
        if end_s > back_s:
            back_s, before = end_s, pod
    return found


def unclean_stops(events: Iterable[Event], container_of: Callable[[str], str]) -> list[str]:
    """Containers that were asked to end and did not end by themselves with code 0, in words.

    Args:
        events: In order.
        container_of: Name of the container of a pod, or nothing for pods that do not matter.
    """
    asked: set[str] = set()
    found: list[str] = []
    for event in events:
        container = container_of(event.pod)
        if event.what == "terminating":
            asked.add(event.pod)
        elif event.what == "deleted":
            asked.discard(event.pod)
        elif event.what == "exited" and event.pod in asked and event.detail.startswith(f"{container} "):
            code = event.detail.rpartition(" ")[2]
            if code != "0":
                found.append(f"{event.pod} ended with {code} when it was asked to")
    return found
