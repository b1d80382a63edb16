from __future__ import annotations

import typing
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastreamx.errors import CrashError
from datastreamx.model.auction import (
    AggregatorOutcome,
    BidNotice,
    DecidedAd,
    DecidedAuction,
    DecidedOutcome,
    Decision,
    DecisionStatus,
    LateBid,
    NoticeUrls,
    Outcome,
    Trigger,
    WinningAd,
)
from datastreamx.wire.decisions import VERSION, decode_decided, decode_decision, encode_decision
from tests.kernel.wires import SAMPLE_DECISION

GOLDEN = Path(__file__).parent / "golden" / "decision-v2.json"

_INTS = st.integers(-(2**63), 2**63 - 1)
_MAYBE_INT = st.none() | _INTS
_TEXT = st.text(max_size=20)
_MAYBE_TEXT = st.none() | _TEXT

_ADS = st.builds(
    WinningAd,
    push_id=_TEXT,
    aggregator=_TEXT,
    bid_id=_TEXT,
    ad_id=_TEXT,
    price_micros=_INTS,
    currency=_TEXT,
    creative_url=_MAYBE_TEXT,
    duration_ms=_MAYBE_INT,
    advertiser_domain=_MAYBE_TEXT,
)
_OUTCOMES = st.builds(
    AggregatorOutcome,
    aggregator=_TEXT,
    code=st.sampled_from(Outcome),
    called=st.booleans(),
    propensity=st.floats(0, 1),
    attempt=_INTS,
    tmax_ms=_MAYBE_INT,
    latency_us=_MAYBE_INT,
    connection_reused=st.none() | st.booleans(),
    bids=_INTS,
    ads_won=_INTS,
    price_micros=_MAYBE_INT,
    offered_currency=_MAYBE_TEXT,
    notices=st.lists(
        st.builds(
            BidNotice,
            bid_id=_TEXT,
            code=st.sampled_from(Outcome),
            price_micros=_MAYBE_INT,
            urls=st.builds(NoticeUrls, win=_MAYBE_TEXT, loss=_MAYBE_TEXT, billing=_MAYBE_TEXT),
            push_id=_MAYBE_TEXT,
        ),
        max_size=2,
    ).map(tuple),
    detail=_MAYBE_TEXT,
)
_LATE = st.builds(
    LateBid,
    auction_id=_TEXT,
    aggregator=_TEXT,
    channel_id=_TEXT,
    decided_ms=_INTS,
    latency_us=_INTS,
    price_micros=_MAYBE_INT,
    would_have_won=st.booleans(),
)


@st.composite
def _decisions(draw: st.DrawFn) -> Decision:
    return msgspec.structs.replace(
        SAMPLE_DECISION,
        auction_id=draw(_TEXT),
        box_id=draw(_TEXT),
        offset=draw(_INTS),
        trigger=draw(st.sampled_from(typing.get_args(Trigger))),
        status=draw(st.sampled_from(typing.get_args(DecisionStatus))),
        last_channel_id=draw(_MAYBE_TEXT),
        last_ad_id=draw(_MAYBE_TEXT),
        push_id=draw(_MAYBE_TEXT),
        ads=tuple(draw(st.lists(_ADS, max_size=3))),
        outcomes=tuple(draw(st.lists(_OUTCOMES, max_size=3))),
        model_version=draw(_MAYBE_TEXT),
        explored=draw(st.booleans()),
        history_allowed=draw(st.booleans()),
        late=tuple(draw(st.lists(_LATE, max_size=2))),
        queue_us=draw(_MAYBE_INT),
    )


@settings(max_examples=200, deadline=None)
@given(_decisions())
def test_decode_inverts_encode(decision: Decision) -> None:
    value = encode_decision(decision)
    assert decode_decision(value) == decision
    assert decode_decided(value) == DecidedAuction(
        decision.auction_id,
        decision.group,
        decision.offset,
        decision.channel_id,
        tuple(DecidedAd(ad.ad_id, ad.advertiser_domain) for ad in decision.ads),
        tuple(DecidedOutcome(one.aggregator, one.code, one.called, one.price_micros) for one in decision.outcomes),
    )


def test_bytes_of_a_decision_are_an_interface() -> None:
    """Boxes and gateways read these bytes: fields are only ever added."""
    assert encode_decision(SAMPLE_DECISION) == GOLDEN.read_bytes()
    assert decode_decision(GOLDEN.read_bytes()) == SAMPLE_DECISION


def test_outcome_codes_never_change() -> None:
    """They are stored in `bids.outcome_code` and mean what OpenRTB's seat-non-bid codes mean."""
    assert {outcome.label: int(outcome) for outcome in Outcome} == {
        "no_bid": 0,
        "error": 100,
        "timeout": 101,
        "invalid_response": 102,
        "unreachable": 103,
        "unsuitable": 200,
        "not_selected": 203,
        "privacy": 204,
        "currency": 205,
        "below_floor": 301,
        "creative_rejected": 350,
        "advertiser_blocked": 356,
        "won": 500,
        "outbid": 501,
        "shed": 510,
        "expired": 511,
        "oversize": 512,
        "throttled": 513,
        "bulkhead": 514,
        "no_time": 515,
        "closed_early": 516,
    }


def test_field_of_a_newer_release_is_ignored() -> None:
    value = encode_decision(SAMPLE_DECISION)[:-1] + b',"added_later":{"a":1}}'
    assert decode_decision(value) == SAMPLE_DECISION
    assert decode_decided(value).offset == SAMPLE_DECISION.offset


@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize("decode", [decode_decision, decode_decided])
def test_record_of_another_version_is_refused(decode: Callable[[bytes], object], version: int) -> None:
    """Version 1 had one winner instead of ads: read as version 2 it would be an auction that nobody won."""
    value = encode_decision(msgspec.structs.replace(SAMPLE_DECISION, v=version))
    with pytest.raises(CrashError, match=rf"a record of version {version}, this program reads 2"):
        decode(value)


def test_version_is_that_of_the_struct() -> None:
    assert SAMPLE_DECISION.v == VERSION


FOREIGN = [
    b"",
    b"{}",
    b"[]",
    b"\xff",
    b'{"auction_id":"\xff"}',
    b'{"v":' + b"[" * 20_000,
    encode_decision(SAMPLE_DECISION)[:-1],
    encode_decision(SAMPLE_DECISION).replace(b'"won"', b'"lost"').replace(b'"group":1', b'"group":"1"'),
]


@pytest.mark.parametrize("value", FOREIGN, ids=range(len(FOREIGN)))
def test_foreign_record_stops_the_reader(value: bytes) -> None:
    with pytest.raises(CrashError, match="no decision"):
        decode_decision(value)
    with pytest.raises(CrashError, match="no decision"):
        decode_decided(value)


def test_message_about_a_foreign_record_shows_nothing_of_it() -> None:
    """Errors end up in logs, where no raw box id belongs."""
    value = encode_decision(SAMPLE_DECISION).replace(b'"status":"won"', b'"status":"lost"')
    with pytest.raises(CrashError) as caught:
        decode_decision(value)
    assert SAMPLE_DECISION.box_id not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_no_decision(value: bytes) -> None:
    with pytest.raises(CrashError):
        decode_decision(value)
    with pytest.raises(CrashError):
        decode_decided(value)
