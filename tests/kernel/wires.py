"""Strategies and samples of what travels on the topics."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from datastreamx.model.auction import (
    AggregatorOutcome,
    BidNotice,
    Decision,
    LateBid,
    NoticeUrls,
    Outcome,
    WinningAd,
)
from datastreamx.model.events import EVENT_TYPES, AdBreak, AdShown, BoxEvent, Consent, Heartbeat, Power, Tune
from tests.builders import T0

_IDENTIFIERS = st.text(min_size=1, max_size=128)
_DURATIONS = st.integers(0, 86_400_000)
_COMMON = {
    "event_id": _IDENTIFIERS,
    "box_id": _IDENTIFIERS,
    "seq": st.integers(0, 2**62),
    "event_time_ms": st.integers(946_684_800_000, 4_102_444_800_000),
}

_BITS = st.none() | st.sampled_from([0, 1])


def _strings(max_size: int) -> st.SearchStrategy[str | None]:
    """Consent strings are ASCII: with anything else the longest would not fit a record."""
    return st.none() | st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=max_size)


CONSENTS = st.builds(
    Consent,
    history=st.booleans(),
    gdpr=_BITS,
    tcf=_strings(2_048),
    gpp=_strings(4_096),
    gpp_sid=st.none() | st.lists(st.integers(-1, 255), max_size=16).map(tuple),
    us_privacy=_strings(16),
    lmt=_BITS,
)

EVENTS: st.SearchStrategy[BoxEvent] = st.one_of(
    st.builds(Tune, channel_id=_IDENTIFIERS, consent=st.none() | CONSENTS, **_COMMON),
    st.builds(AdShown, push_id=_IDENTIFIERS, ad_id=_IDENTIFIERS, shown_ms=_DURATIONS, **_COMMON),
    st.builds(
        AdBreak,
        break_id=_IDENTIFIERS,
        channel_id=_IDENTIFIERS,
        starts_in_ms=_DURATIONS,
        duration_ms=_DURATIONS,
        consent=st.none() | CONSENTS,
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

SAMPLE_CONSENT = Consent(
    history=True,
    gdpr=1,
    tcf="CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA",
    gpp="DBACNYA~CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA~1YNN",
    gpp_sid=(2, 6),
    us_privacy="1YNN",
    lmt=0,
)

CONSENTING_EVENTS: dict[str, BoxEvent] = {
    "tune": Tune(channel_id="ch17", consent=SAMPLE_CONSENT, **_ID),
    "ad_break": AdBreak(
        break_id="break-5",
        channel_id="ch17",
        starts_in_ms=4_000,
        duration_ms=30_000,
        consent=Consent(),
        **_ID,
    ),
}
"""Events that opportunities follow from, of a box that knows of consent."""

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
    slot_ms=60_000,
    channel_id="ch17",
    last_channel_id="ch3",
    last_ad_id=None,
    break_id="break-5",
    status="won",
    push_id="push-0123456789abcdef0123456789abcdef",
    ads=(
        WinningAd(
            push_id="push-0123456789abcdef0123456789abcdef",
            aggregator="adriatic",
            bid_id="bid-1",
            ad_id="ad-9",
            price_micros=2_500_000,
            currency="USD",
            creative_url="https://cdn.example.com/ad-9.xml",
            duration_ms=15_000,
            advertiser_domain="example.com",
        ),
        WinningAd(
            push_id="push-0123456789abcdef0123456789abcdef-1",
            aggregator="adriatic",
            bid_id="bid-2",
            ad_id="ad-4",
            price_micros=1_750_000,
            currency="USD",
        ),
    ),
    outcomes=(
        AggregatorOutcome(
            aggregator="adriatic",
            code=Outcome.WON,
            called=True,
            propensity=1.0,
            tmax_ms=300,
            latency_us=84_210,
            queue_us=530,
            dns_us=1_200,
            connect_us=18_400,
            first_byte_us=80_105,
            connection_reused=False,
            http_status=200,
            response_bytes=612,
            bids=3,
            ads_won=2,
            bid_id="bid-1",
            price_micros=2_500_000,
            currency="USD",
            offered_micros=2_300_000,
            offered_currency="EUR",
            rate_id="2023-11-14",
            floor_micros=500_000,
            ad_id="ad-9",
            advertiser_domain="example.com",
            notices=(
                BidNotice(
                    bid_id="bid-1",
                    code=Outcome.WON,
                    price_micros=2_500_000,
                    urls=NoticeUrls(
                        win="https://adriatic.example/win?p=${AUCTION_PRICE}", billing="https://adriatic.example/bill"
                    ),
                    push_id="push-0123456789abcdef0123456789abcdef",
                ),
                BidNotice(
                    bid_id="bid-3",
                    code=Outcome.ADVERTISER_BLOCKED,
                    price_micros=None,
                    urls=NoticeUrls(loss="https://adriatic.example/loss?r=${AUCTION_LOSS}"),
                ),
            ),
        ),
        AggregatorOutcome(
            aggregator="caspian",
            code=Outcome.TIMEOUT,
            called=True,
            propensity=1.0,
            attempt=2,
            tmax_ms=300,
            latency_us=300_412,
            queue_us=560,
            connection_reused=True,
            detail="no answer",
        ),
        AggregatorOutcome(
            aggregator="tyrrhenian",
            code=Outcome.NO_BID,
            called=True,
            propensity=0.25,
            latency_us=9_000,
            no_bid_reason=8,
        ),
    ),
    policy="weighted",
    explored=False,
    history_allowed=True,
    queue_us=512,
    auction_us=139_004,
    late=(
        LateBid(
            auction_id="00000000000000000000000000000007",
            aggregator="caspian",
            channel_id="ch3",
            decided_ms=T0 + 14_900,
            latency_us=412_000,
            price_micros=3_000_000,
            would_have_won=True,
        ),
    ),
    signature="c2lnbmF0dXJl",
    signature_key_id="2023-11",
)
