"""Strategies and samples of what travels on the topics."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from datastreamx.model.auction import AggregatorOutcome, Decision, Outcome, Winner
from datastreamx.model.events import EVENT_TYPES, AdBreak, AdShown, BoxEvent, Heartbeat, Power, Tune
from tests.builders import T0

_IDENTIFIERS = st.text(min_size=1, max_size=128)
_DURATIONS = st.integers(0, 86_400_000)
_COMMON = {
    "event_id": _IDENTIFIERS,
    "box_id": _IDENTIFIERS,
    "seq": st.integers(0, 2**62),
    "event_time_ms": st.integers(946_684_800_000, 4_102_444_800_000),
}

EVENTS: st.SearchStrategy[BoxEvent] = st.one_of(
    st.builds(Tune, channel_id=_IDENTIFIERS, **_COMMON),
    st.builds(AdShown, push_id=_IDENTIFIERS, ad_id=_IDENTIFIERS, shown_ms=_DURATIONS, **_COMMON),
    st.builds(
        AdBreak,
        break_id=_IDENTIFIERS,
        channel_id=_IDENTIFIERS,
        starts_in_ms=_DURATIONS,
        duration_ms=_DURATIONS,
        **_COMMON,
    ),
    st.builds(Power, state=st.sampled_from(["on", "standby"]), **_COMMON),
    st.builds(Heartbeat, **_COMMON),
)

_ID: dict[str, Any] = {"event_id": "01HF0000000000000000000042", "box_id": "stb-000123", "seq": 42, "event_time_ms": T0}

SAMPLE_EVENTS: dict[str, BoxEvent] = dict(
    zip(
        EVENT_TYPES,
        (
            Tune(channel_id="ch17", **_ID),
            AdShown(push_id="push-1", ad_id="ad-9", shown_ms=14_960, **_ID),
            AdBreak(break_id="break-5", channel_id="ch17", starts_in_ms=4_000, duration_ms=30_000, **_ID),
            Power(state="standby", **_ID),
            Heartbeat(**_ID),
        ),
        strict=True,
    )
)

SAMPLE_DECISION = Decision(
    auction_id="0123456789abcdef0123456789abcdef",
    box_id="stb-000123",
    box_key="fedcba9876543210fedcba9876543210",
    partition=3,
    group=1,
    offset=421,
    emitted_ms=T0 + 15_040,
    trigger="ad_break",
    opportunity_ms=T0 + 15_000,
    deadline_ms=T0 + 17_000,
    decided_ms=T0 + 15_180,
    slot_ms=30_000,
    channel_id="ch17",
    last_channel_id="ch3",
    last_ad_id=None,
    break_id="break-5",
    status="won",
    push_id="push-0123456789abcdef0123456789abcdef",
    winner=Winner(
        aggregator="adriatic",
        bid_id="bid-1",
        ad_id="ad-9",
        price_micros=2_500_000,
        currency="USD",
        creative_url="https://cdn.example.com/ad-9.xml",
        duration_ms=15_000,
        advertiser_domain="example.com",
    ),
    outcomes=(
        AggregatorOutcome(
            aggregator="adriatic",
            code=Outcome.WON,
            called=True,
            propensity=1.0,
            tmax_ms=300,
            latency_us=84_210,
            http_status=200,
            response_bytes=612,
            bid_id="bid-1",
            price_micros=2_500_000,
            currency="USD",
            ad_id="ad-9",
        ),
        AggregatorOutcome(
            aggregator="caspian",
            code=Outcome.TIMEOUT,
            called=True,
            propensity=1.0,
            attempt=2,
            tmax_ms=300,
            latency_us=300_412,
            detail="no answer",
        ),
    ),
    queue_us=512,
    auction_us=139_004,
)
