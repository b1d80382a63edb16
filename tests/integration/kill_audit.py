"""What has to hold after a kill campaign, whatever was killed when. Pure: from the logs and what the outside has seen.

Opportunities follow from box-events by the pure viewing state; everything else is compared with the decision log, read
as its consumers do: the first record of an auction counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Literal, Protocol

import msgspec
from confluent_kafka import Message

from datastreamx.config import Config
from datastreamx.model.auction import Decision, Outcome, WinningAd
from datastreamx.model.events import AdShown
from datastreamx.model.identity import push_id
from datastreamx.wire.decisions import decode_decision
from datastreamx.wire.events import decode_event
from simulator.aggregators.notices import Notice
from tests.integration.oracle import Decided, Expected, decided, expect, opportunity_of

Moment = Literal["working", "snapshot", "starting"]

_UNHEARD = {"notice_failed", "notice_unconfirmed"}


@dataclass(frozen=True)
class Kill:
    """One SIGKILL of the ads flow.

    Attributes:
        at_ms: Wall clock.
        in_flight: Auctions in flight shortly before; `None` when the process was not yet so far as to tell.
        reused: Decisions that this process had found in the log; likewise.
        with_notices: The notices flow was killed shortly before.
    """

    moment: Moment
    at_ms: int
    in_flight: int | None
    reused: int | None
    with_notices: bool


@dataclass(frozen=True)
class Aftermath:
    """What a campaign has left behind.

    Attributes:
        events: All of box-events, `decisions` all of ad-decisions.
        told: What each aggregator was told of its bids.
        letters: Reasons of dead letters, by notice.
        sent: Events that the boxes have sent.
        pushes: How often the boxes received each push.
        displayed: The decision that a box displayed, by push id.
        late: Pushes that arrived after their deadline.
        reused: Decisions that restarted processes found in the log.
    """

    config: Config
    events: list[Message]
    decisions: list[Message]
    told: dict[str, list[Notice]]
    letters: dict[str, set[str]]
    sent: int
    pushes: Counter[str]
    displayed: dict[str, Decision]
    late: int
    kills: list[Kill]
    reused: int

    @cached_property
    def expected(self) -> Expected:
        """What follows from the events."""
        return expect(self.config, self.events)

    @cached_property
    def log(self) -> Decided:
        """The decision log, as its consumers read it."""
        return decided(self.decisions)

    @cached_property
    def owed(self) -> dict[str, WinningAd | None]:
        """Notices that aggregators are owed."""
        return owed(self.config, self.log, self.events)

    @cached_property
    def attempts(self) -> Counter[int]:
        """Auctions by the attempt that decided them: 1, and one more for every crash that found them in flight."""
        return Counter(max(outcome.attempt for outcome in decision.outcomes) for decision in self.log.decisions)

    @property
    def second_records(self) -> Iterator[tuple[Decision, Message]]:
        """Records of auctions that had been decided before, each with the first one."""
        for message in self.decisions:
            first, offset = self.log.firsts[decode_decision(message.value() or b"").auction_id]
            if (message.partition(), message.offset()) != (first.partition, offset):
                yield first, message


def wrong_decisions(left: Aftermath) -> list[str]:
    """Every opportunity has its decision, about nothing else, and no ad after the deadline."""
    opportunities, firsts = left.expected.opportunities, left.log.firsts
    found = [f"opportunity {auction} has no decision" for auction in opportunities.keys() - firsts.keys()]
    found += [f"auction {auction} was decided without an opportunity" for auction in firsts.keys() - opportunities]
    aggregators = [one.name for one in left.config.aggregators]
    for decision in left.log.decisions:
        who = f"auction {decision.auction_id}"
        opportunity = opportunities.get(decision.auction_id)
        if opportunity is not None:
            # All of it that a decision tells.
            context = msgspec.structs.replace(opportunity, expired=False, consent=None)
            if opportunity_of(decision) != context:
                found.append(f"{who} was decided about {opportunity_of(decision)} instead of {context}")
            if opportunity.expired and decision.status != "expired":
                found.append(f"{who} had expired and is {decision.status}")
        if [outcome.aggregator for outcome in decision.outcomes] != aggregators:
            found.append(f"{who} has outcomes of {[outcome.aggregator for outcome in decision.outcomes]}")
        if [ad.push_id for ad in decision.ads] != [push_id(decision.auction_id, n) for n in range(len(decision.ads))]:
            found.append(f"{who} has the pushes {[ad.push_id for ad in decision.ads]}")
        if (decision.status == "won") != bool(decision.ads) or bool(decision.ads) != (decision.push_id is not None):
            found.append(f"{who} is {decision.status} with {len(decision.ads)} ads and the push {decision.push_id}")
        if decision.ads and decision.decided_ms > decision.deadline_ms:
            found.append(f"{who} was won {decision.decided_ms - decision.deadline_ms} ms after its deadline")
    if len(left.events) != left.sent:
        found.append(f"the boxes sent {left.sent} events, the topic holds {len(left.events)}")
    return found


def wrong_repeats(left: Aftermath) -> list[str]:
    """A second record of an auction may only say what the first one did."""
    found = []
    for first, message in left.second_records:
        second = decode_decision(message.value() or b"")
        if (second.push_id, second.ads) != (first.push_id, first.ads):
            found.append(f"auction {first.auction_id} has another record that pushes {second.ads} beside {first.ads}")
    return found


def wrong_pushes(left: Aftermath) -> list[str]:
    """A box has displayed at most one push of an auction, and it is that of the first record."""
    found = []
    displays = Counter(decision.auction_id for decision in left.displayed.values())
    found += [
        f"a box displayed {count} pushes of auction {auction}" for auction, count in displays.items() if count > 1
    ]
    for decision in left.displayed.values():
        first = left.log.firsts.get(decision.auction_id)
        if first is None or first[0] != decision:
            found.append(f"the box displayed {decision}, the first record of the auction is {first}")
    shown = Counter(event.push_id for event in shown_events(left.events))
    found += [f"push {push} was displayed {count} times" for push, count in shown.items() if count > 1]
    won = {decision.push_id for decision in left.log.decisions if decision.push_id is not None}
    found += [f"push {push} never reached its box" for push in won - left.pushes.keys()]
    return found


class Notices(Protocol):
    """What is owed, what was told, and what was given up; see `Aftermath`."""

    @property
    def told(self) -> dict[str, list[Notice]]: ...
    @property
    def letters(self) -> dict[str, set[str]]: ...
    @property
    def owed(self) -> dict[str, WinningAd | None]: ...


def wrong_notices(left: Notices) -> list[str]:
    """Every notice owed was heard once or is accounted for; nothing else was heard."""
    found: list[str] = []
    told = {notice_id(name, one): one for name, notices in left.told.items() for one in notices}
    heard = {name: notice for name, notice in told.items() if notice.count}
    found += [f"notice {name} was heard {one.count} times" for name, one in heard.items() if one.count > 1]
    found += [f"notice {name} was sent, and nobody is owed it" for name in told.keys() - left.owed.keys()]
    found += [f"notice {name} is lost" for name in left.owed.keys() - heard.keys() - left.letters.keys()]
    found += [f"dead letter of {name}, which nobody is owed" for name in left.letters.keys() - left.owed.keys()]
    for name, reasons in left.letters.items():
        if not reasons <= _UNHEARD:
            found.append(f"notice {name} is a dead letter: {reasons}")
        if "notice_failed" in reasons and name in heard:
            found.append(f"notice {name} is said to have failed, but was heard")
    for name in told.keys() & left.owed.keys():
        _, event, aggregator, bid_id = name.split("/")
        ad, notice = left.owed[name], told[name]
        if event != "loss" and (ad is None or (ad.aggregator, ad.bid_id) != (aggregator, bid_id)):
            found.append(f"notice {name} is about an ad that did not win: {ad}")
        if ad is not None and Decimal(notice.price) * 1_000_000 != ad.price_micros:
            found.append(f"notice {name} told the price {notice.price}, the winner pays {ad.price_micros} micros")
    return found


def figures(left: Aftermath) -> dict[str, object]:
    """What happened, in numbers."""
    told = [notice for notices in left.told.values() for notice in notices]
    heard = heard_of(left.told)
    known = [kill.in_flight for kill in left.kills if kill.in_flight is not None]
    return {
        "kills": dict(Counter(kill.moment for kill in left.kills)),
        "kills of the notices flow": sum(kill.with_notices for kill in left.kills),
        "kills with auctions in flight": sum(count > 0 for count in known),
        "auctions in flight at kills": sum(known),
        "events": len(left.events),
        "opportunities": len(left.expected.opportunities),
        "auctions decided": len(left.log.firsts),
        "records in ad-decisions": len(left.decisions),
        "by status": dict(Counter(decision.status for decision in left.log.decisions)),
        "by attempt": dict(sorted(left.attempts.items())),
        "decisions found in the log after a restart": left.reused,
        "auctions with a second record": len(left.log.repeated),
        "second records": [_repeat(left, first, message) for first, message in left.second_records],
        "records with ads stamped after the deadline": sum(map(_is_stamped_late, left.decisions)),
        "pushes received": left.pushes.total(),
        "repeats that boxes had to drop": left.pushes.total() - len(left.pushes),
        "pushes displayed": len(left.displayed),
        "pushes too late for the box": left.late,
        "notices owed": dict(Counter(name.split("/")[1] for name in left.owed)),
        "notices heard": dict(Counter(notice.event for notice in told if notice.count)),
        "notices heard twice": sum(notice.count > 1 for notice in told),
        "notices unheard, by reason": dict(
            Counter(reason for name, reasons in left.letters.items() if name not in heard for reason in reasons)
        ),
        "notices heard and unconfirmed": len(heard.keys() & left.letters.keys()),
    }


def owed(config: Config, log: Decided, events: Iterable[Message]) -> dict[str, WinningAd | None]:
    """Notices that follow from the first records and the displays, each with the ad that won, if it did."""
    wants = {(one.name, event) for one in config.aggregators for event in one.notices}
    displayed = {event.push_id for event in shown_events(events)}
    found: dict[str, WinningAd | None] = {}
    for decision in log.decisions:
        ads = {ad.push_id: ad for ad in decision.ads}
        for outcome in decision.outcomes:
            for bid in outcome.notices:
                ad = ads.get(bid.push_id or "")
                won = bid.code is Outcome.WON
                urls = {
                    "win": bid.urls.win if won else None,
                    "loss": None if won else bid.urls.loss,
                    "billing": bid.urls.billing if bid.push_id in displayed else None,
                }
                for event, url in urls.items():
                    if url is not None and (outcome.aggregator, event) in wants:
                        found[f"{decision.auction_id}/{event}/{outcome.aggregator}/{bid.bid_id}"] = ad
    return found


def notice_id(aggregator: str, notice: Notice) -> str:
    """As dead letters name it."""
    return f"{notice.auction}/{notice.event}/{aggregator}/{notice.bid}"


def heard_of(told: Mapping[str, list[Notice]]) -> dict[str, Notice]:
    """Notices that were accepted; some others were refused."""
    return {notice_id(name, notice): notice for name, notices in told.items() for notice in notices if notice.count}


def shown_events(events: Iterable[Message]) -> list[AdShown]:
    """What boxes reported as displayed."""
    decoded = (decode_event(message.value() or b"") for message in events)
    return [event for event in decoded if isinstance(event, AdShown)]


def _is_stamped_late(message: Message) -> bool:
    decision = decode_decision(message.value() or b"")
    return bool(decision.ads) and message.timestamp()[1] > decision.deadline_ms


def _repeat(left: Aftermath, first: Decision, message: Message) -> str:
    """Where a second record stands, and when the flow was killed before it was written."""
    second = decode_decision(message.value() or b"")
    _, offset = left.log.firsts[first.auction_id]
    killed_ms = [kill.at_ms for kill in left.kills if kill.at_ms <= message.timestamp()[1]]
    same = "the same" if second.ads == first.ads else "other"
    since_ms = message.timestamp()[1] - killed_ms[-1] if killed_ms else None
    return (
        f"{first.auction_id} in partition {message.partition()} at {offset} and {message.offset()}, {same} ads, "
        f"decided {first.decided_ms} and {second.decided_ms}, {since_ms} ms after a kill"
    )
