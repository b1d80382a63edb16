"""Who is around the product: boxes that report and display, aggregators that bid, receivers that hear notices."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import msgspec
from confluent_kafka import Message

from datastreamx.config import AggregatorConfig, Config
from datastreamx.model.auction import Bid, NoticeUrls, Outcome
from datastreamx.model.events import AdBreak, AdShown, BoxEvent, Consent, Heartbeat, Power, Tune
from datastreamx.wire.decisions import decode_decision
from datastreamx.wire.events import encode_event
from operators.bidding.auction import CallResult, Lot
from operators.notices.notice import Notice
from operators.notices.outbox import Reply, Result
from tests.simulation.kafka import Broker
from tests.simulation.loop import VirtualLoop
from tests.simulation.world import World

_CONSENTS = (None, Consent(history=True), Consent(history=False))
_CHANNELS = ("ch1", "ch2", "ch3")


class Fleet:
    """Boxes. A third have clocks that are wrong; one of them sends half of all events.

    10 % of the events arrive twice, 10 % up to a minute late, a few are no events at all. A box displays each push that
    comes in time, the first copy of it, and reports that.
    """

    def __init__(self, world: World, broker: Broker, config: Config, events: int) -> None:
        self._world = world
        self._broker = broker
        self._topic = config.topics.events
        self._decisions = config.topics.decisions
        self._partitions = config.events.partitions
        self._random = random = world.random("boxes")
        self._left = events
        # A straggler keeps a small history waiting for longer than all the rest of it takes.
        self._late_ms_max = random.choice((3_000, 12_000, 60_000))
        self._boxes = [f"stb-{number}" for number in range(random.randint(2, 6))]
        self._skews = {box: random.choice((0, 0, 0, 0, -1_500, 1_500, -40_000, 9_000)) for box in self._boxes}
        self._seqs: Counter[str] = Counter()
        # Begins to count anew now and then. A copy from before that is taken for news, so it sends no displays twice.
        self._forgetful = self._boxes[-1]
        self._seen: set[str] = set()
        self._under_way = 0
        broker.listeners.append(self._on_record)
        world.at(world.clock.now_ms() + 1, self._act)

    @property
    def is_done(self) -> bool:
        """Whether all has been sent, and has arrived."""
        return self._left <= 0 and not self._under_way

    def _act(self) -> None:
        random = self._random
        box = self._boxes[0] if random.random() < 0.5 else random.choice(self._boxes)
        self._report(box, self._draw_event(box))
        self._left -= 1
        if self._left > 0:
            gap_ms = random.choice((0, 0, 5, 40, 300, random.randint(0, 3_000), random.randint(0, 6_000)))
            self._world.at(self._world.clock.now_ms() + gap_ms, self._act)

    def _draw_event(self, box: str) -> BoxEvent:
        random = self._random
        place = self._place(box)
        match random.randrange(10):
            case 0 | 1 | 2 | 3:
                return Tune(channel_id=random.choice(_CHANNELS), consent=random.choice(_CONSENTS), **place)
            case 4 | 5:
                return AdBreak(
                    break_id=f"break-{random.randrange(100)}",
                    channel_id=random.choice(_CHANNELS),
                    starts_in_ms=2_000,
                    duration_ms=random.choice((15_000, 30_000, 60_000)),
                    consent=random.choice(_CONSENTS),
                    **place,
                )
            case 6:
                return Power(state=random.choice(("on", "on", "on", "standby")), **place)
            case _:
                return Heartbeat(**place)

    def _place(self, box: str) -> dict[str, Any]:
        self._seqs[box] += self._random.choice((1, 1, 1, 1, 1, 1, 1, 3, 70))
        seq = self._seqs[box]
        if box == self._forgetful and self._random.random() < 0.05:
            self._seqs[box] = seq = 1
        return {
            "event_id": f"{box}-{seq}-{self._random.randrange(10**6)}",
            "box_id": box,
            "seq": seq,
            "event_time_ms": self._world.clock.now_ms() + self._skews[box],
        }

    def _report(self, box: str, event: BoxEvent) -> None:
        random = self._random
        key, value = box.encode(), encode_event(event)
        is_display = isinstance(event, AdShown)
        copies = 2 if random.random() < 0.1 and not (is_display and box == self._forgetful) else 1
        for _ in range(copies):
            is_late = random.random() < 0.1 and not (is_display and copies > 1)
            delay_ms = random.randint(1_000, self._late_ms_max) if is_late else random.choice((5, 20, 150))
            self._send(box, delay_ms, key, value)
        if random.random() < 0.04:
            poison: list[tuple[bytes | None, bytes | None]] = [
                (key, b"{"),
                (key, b'{"type": "teleport"}'),
                (key, b'{"type": "tune", "box_id": ""}'),
                (b"stb-other", value),
                (key, None),
                (None, value),
            ]
            self._send(box, 10, *random.choice(poison))

    def _send(self, box: str, delay_ms: int, key: bytes | None, value: bytes | None) -> None:
        self._under_way += 1
        self._world.at(self._world.clock.now_ms() + delay_ms, partial(self._arrive, box, key, value))

    def _arrive(self, box: str, key: bytes | None, value: bytes | None) -> None:
        self._under_way -= 1
        self._broker.append(self._topic, zlib.adler32(box.encode()) % self._partitions, key, value)

    def _on_record(self, message: Message) -> None:
        if message.topic() != self._decisions:
            return
        decision = decode_decision(message.value() or b"")
        for ad in decision.ads:
            if ad.push_id in self._seen:
                continue
            self._seen.add(ad.push_id)
            if self._random.random() < 0.8:
                self._under_way += 1
                shown_ms = self._world.clock.now_ms() + self._random.choice((200, 2_000, 15_000))
                self._world.at(shown_ms, partial(self._display, decision.box_id, ad.push_id, ad.ad_id))

    def _display(self, box: str, push_id: str, ad_id: str) -> None:
        self._under_way -= 1
        self._world.seen["displays"] += 1
        self._report(box, AdShown(push_id=push_id, ad_id=ad_id, shown_ms=15_000, **self._place(box)))


class SimulatedBidder:
    """`operators.bidding.bidder.Bidder`: an aggregator that answers anything, late, or not at all."""

    def __init__(self, name: str, loop: VirtualLoop, random: Random, timeout_ms: int) -> None:
        self.name = name
        self._loop = loop
        self._random = random
        self._timeout_ms = timeout_ms

    def not_selected(self) -> CallResult:
        return CallResult(aggregator=self.name, called=False, failure=Outcome.NOT_SELECTED)

    def ask(
        self,
        lot: Lot,
        remaining_ms: int,
        handed_over_ns: int,
        *,
        report: Callable[[CallResult], None],
        late: Callable[[CallResult], None],
    ) -> CallResult | None:
        del handed_over_ns
        wait_ms = min(self._timeout_ms, remaining_ms)
        if wait_ms < 20:
            report(msgspec.structs.replace(self.not_selected(), failure=Outcome.NO_TIME))
            return None
        called = CallResult(aggregator=self.name, called=True, tmax_ms=wait_ms)
        answer_ms = self._random.choice((5, 100, 700, 1_500, 1_900, 2_300, 10_000))
        if answer_ms < wait_ms:
            self._loop.call_later(answer_ms, lambda: report(self._answer(called, lot, answer_ms)))
        else:
            timeout = msgspec.structs.replace(called, failure=Outcome.TIMEOUT, latency_us=wait_ms * 1000)
            self._loop.call_later(wait_ms, lambda: report(timeout))
            if answer_ms < wait_ms + 500:
                self._loop.call_later(answer_ms, lambda: late(self._answer(called, lot, answer_ms)))
        return called

    def _answer(self, called: CallResult, lot: Lot, answer_ms: int) -> CallResult:
        random = self._random
        answered = msgspec.structs.replace(called, latency_us=answer_ms * 1000)
        kind = random.random()
        if kind < 0.1:
            failure = random.choice((Outcome.INVALID_RESPONSE, Outcome.UNREACHABLE, Outcome.ERROR))
            return msgspec.structs.replace(answered, failure=failure)
        if kind < 0.2:
            return answered
        bids = tuple(self._bid(lot.opportunity.auction_id, place) for place in range(random.choice((1, 1, 1, 2, 3))))
        return msgspec.structs.replace(answered, bids=bids)

    def _bid(self, auction_id: str, place: int) -> Bid:
        random = self._random
        bid_id = f"{self.name}-{random.randrange(10**9)}-{place}"
        url = f"http://t.example/{auction_id}/{bid_id}/"
        notices = NoticeUrls(win=f"{url}win", loss=f"{url}loss", billing=f"{url}billing")
        return Bid(
            bid_id=bid_id,
            price_micros=random.randrange(100_000, 9_000_000),
            currency="USD" if random.random() < 0.95 else "XXX",
            ad_id=f"ad-{random.randrange(20)}",
            duration_ms=random.choice((None, 15_000, 30_000)),
            advertiser_domain=random.choice((None, "a.example", "b.example")),
            notices=notices if random.random() < 0.8 else None,
        )


class Receivers:
    """The aggregators' notice servers. They remember, whatever becomes of the sender.

    Attributes:
        heard: How often each notice was accepted, by its id.
    """

    def __init__(self, world: World, aggregators: tuple[AggregatorConfig, ...]) -> None:
        self._world = world
        self._random = world.random("receivers")
        self._hosts = {one.name: one.notice_hosts for one in aggregators}
        self.heard: Counter[str] = Counter()

    def hear(self, notice: Notice) -> Reply:
        """A request has come in: what is answered, if the answer arrives."""
        random = self._random
        kind = 1.0 if self._world.is_calm else random.random()
        if kind < 0.15:
            return Reply(Result.FAILED, "503")
        self.heard[notice.id] += 1
        if kind < 0.2:
            return Reply(Result.REFUSED, "404")
        if kind < 0.25:
            self._world.seen["fault: notice reply lost"] += 1
            return Reply(Result.UNCONFIRMED, "no reply")
        return Reply(Result.DELIVERED)

    @property
    def latency_ms(self) -> int:
        """Of one way."""
        return self._random.choice((1, 10, 80, 500))


class SimulatedSender:
    """`operators.notices.sender.HttpSender` of one process."""

    def __init__(self, world: World, loop: VirtualLoop, receivers: Receivers) -> None:
        self._world = world
        self._loop = loop
        self._receivers = receivers
        self._is_stopped = False

    async def send(self, notice: Notice) -> Reply:
        if self._is_stopped:
            return Reply(Result.UNSENT)
        replies: list[Reply] = []
        way_ms = self._receivers.latency_ms
        # What is on the wire arrives, even if its sender is dead by then.
        self._world.at(self._world.clock.now_ms() + way_ms, lambda: replies.append(self._receivers.hear(notice)))
        await self._loop.pause(way_ms + self._receivers.latency_ms)
        return replies[0]

    def stop(self) -> None:
        self._is_stopped = True
