from __future__ import annotations

import typing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastreamx.errors import CrashError
from datastreamx.model.auction import (
    AggregatorOutcome,
    DecidedAuction,
    Decision,
    DecisionStatus,
    Outcome,
    Trigger,
    Winner,
)
from datastreamx.wire.decisions import decode_decided, decode_decision, encode_decision
from tests.kernel.wires import SAMPLE_DECISION

GOLDEN = Path(__file__).parent / "golden" / "decision-v1.json"

_INTS = st.integers(-(2**63), 2**63 - 1)
_MAYBE_INT = st.none() | _INTS
_TEXT = st.text(max_size=20)
_MAYBE_TEXT = st.none() | _TEXT

_WINNERS = st.builds(
    Winner,
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
    price_micros=_MAYBE_INT,
    detail=_MAYBE_TEXT,
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
        winner=draw(st.none() | _WINNERS),
        outcomes=tuple(draw(st.lists(_OUTCOMES, max_size=3))),
        model_version=draw(_MAYBE_TEXT),
        queue_us=draw(_MAYBE_INT),
    )


@settings(max_examples=200, deadline=None)
@given(_decisions())
def test_decode_inverts_encode(decision: Decision) -> None:
    value = encode_decision(decision)
    assert decode_decision(value) == decision
    assert decode_decided(value) == DecidedAuction(decision.auction_id, decision.group, decision.offset)


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
        "currency": 205,
        "below_floor": 301,
        "creative_rejected": 350,
        "won": 500,
        "outbid": 501,
        "shed": 510,
        "expired": 511,
        "oversize": 512,
    }


def test_field_of_a_newer_release_is_ignored() -> None:
    value = encode_decision(SAMPLE_DECISION)[:-1] + b',"added_later":{"a":1}}'
    assert decode_decision(value) == SAMPLE_DECISION
    assert decode_decided(value).offset == SAMPLE_DECISION.offset


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
