"""Short ways to make the things that tests are about."""

from __future__ import annotations

from typing import Any

from datastreamx.config import Config, parse_config
from datastreamx.model.auction import AggregatorOutcome, Decision, Opportunity, Outcome, WinningAd
from datastreamx.model.chunk import Chunk, DecodedChunk
from datastreamx.model.events import AdBreak, AdShown, BoxEvent, Consent, Heartbeat, Power, Tune
from datastreamx.model.identity import push_id
from datastreamx.model.keygroup import KeyGroup
from datastreamx.wire.events import encode_event

T0 = 1_700_000_000_000

CONFIG_TEXT = """
[kafka]
bootstrap = "127.0.0.1:9"
[bigquery]
project = "test"
[privacy]
box_key_secret = "0123456789abcdef"
[[aggregators]]
name = "alpha"
adapter = "simple"
url = "http://127.0.0.1:9/bid"
"""


def config(extra: str = "") -> Config:
    return parse_config(CONFIG_TEXT + extra)


def tune(
    at_ms: int, channel: str = "ch1", *, box: str = "stb-1", seq: int | None = None, consent: Consent | None = None
) -> Tune:
    return Tune(channel_id=channel, consent=consent, **_common(at_ms, box, seq))


def shown(at_ms: int, ad: str = "ad-1", *, box: str = "stb-1", seq: int | None = None) -> AdShown:
    return AdShown(push_id=f"push-{ad}", ad_id=ad, shown_ms=15_000, **_common(at_ms, box, seq))


def heartbeat(at_ms: int, *, box: str = "stb-1", seq: int | None = None) -> Heartbeat:
    return Heartbeat(**_common(at_ms, box, seq))


def power(at_ms: int, state: Any, *, box: str = "stb-1", seq: int | None = None) -> Power:
    return Power(state=state, **_common(at_ms, box, seq))


def ad_break(
    at_ms: int, channel: str = "ch1", *, box: str = "stb-1", seq: int | None = None, consent: Consent | None = None
) -> AdBreak:
    fields: dict[str, Any] = {"starts_in_ms": 0, "duration_ms": 30_000, "consent": consent}
    return AdBreak(break_id="break-1", channel_id=channel, **fields, **_common(at_ms, box, seq))


def decoded(*events: BoxEvent, first_offset: int = 0, lag_ms: int = 7) -> DecodedChunk:
    """A log that holds `events` in this order; Kafka received each `lag_ms` after its event time."""
    offsets = list(range(first_offset, first_offset + len(events)))
    return DecodedChunk(*KEY_GROUP, offsets, [event.event_time_ms + lag_ms for event in events], list(events), [])


def chunk(*events: BoxEvent, partition: int = 0, group: int = 0, first_offset: int = 0) -> Chunk:
    return Chunk(
        partition,
        group,
        [first_offset + index for index in range(len(events))],
        [event.event_time_ms for event in events],
        [event.box_id.encode() for event in events],
        [encode_event(event) for event in events],
    )


def opportunity(**changes: Any) -> Opportunity:
    fields: dict[str, Any] = {
        "auction_id": "a" * 32,
        "box_id": "stb-1",
        "box_key": "k" * 32,
        "partition": 0,
        "group": 0,
        "offset": 5,
        "emitted_ms": T0,
        "trigger": "dwell",
        "opportunity_ms": T0,
        "deadline_ms": T0 + 2_000,
        "slot_ms": 30_000,
        "channel_id": "ch1",
        "last_channel_id": "ch2",
        "last_ad_id": "ad-0",
    }
    return Opportunity(**{**fields, **changes})


def outcome(aggregator: str = "alpha", code: Outcome = Outcome.NO_BID, **changes: Any) -> AggregatorOutcome:
    """What an aggregator that was called did, unless `changes` say otherwise."""
    fields: dict[str, Any] = {"aggregator": aggregator, "code": code, "called": True, "propensity": 1.0}
    return AggregatorOutcome(**{**fields, **changes})


def winning_ad(auction_id: str = "a" * 32, place: int = 0, **changes: Any) -> WinningAd:
    """The ad at this place of a break, or the only one."""
    fields: dict[str, Any] = {
        "push_id": push_id(auction_id, place),
        "aggregator": "alpha",
        "bid_id": f"bid-{place}",
        "ad_id": "ad-1",
        "price_micros": 2_500_000,
        "currency": "USD",
    }
    return WinningAd(**{**fields, **changes})


def decision(
    *outcomes: AggregatorOutcome, ads: tuple[WinningAd, ...] = (), decided_ms: int = T0 + 100, **changes: Any
) -> Decision:
    """Decision about `opportunity()`: won if there are ads."""
    told = opportunity()
    fields: dict[str, Any] = {
        **{name: getattr(told, name) for name in told.__struct_fields__ if name in Decision.__struct_fields__},
        "decided_ms": decided_ms,
        "status": "won" if ads else "no_bid",
        "push_id": ads[0].push_id if ads else None,
        "ads": ads,
        "outcomes": outcomes,
    }
    return Decision(**{**fields, **changes})


KEY_GROUP = KeyGroup(0, 0)


def _common(at_ms: int, box: str, seq: int | None) -> dict[str, Any]:
    number = at_ms if seq is None else seq
    return {"event_id": f"{box}-{number}", "box_id": box, "seq": number, "event_time_ms": T0 + at_ms}
