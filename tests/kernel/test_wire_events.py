from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datastreamx.errors import DeadLetterError
from datastreamx.model.events import EVENT_TYPES, BoxEvent, Consent, Tune
from datastreamx.wire.dead_letters import REASONS
from datastreamx.wire.events import MAX_EVENT_BYTES, decode_event, encode_event
from datastreamx.wire.schemas import SCHEMA_DIRECTORY, TOPICS, schema_text
from tests.kernel.wires import CONSENTING_EVENTS, EVENTS, SAMPLE_CONSENT, SAMPLE_EVENTS

GOLDEN = Path(__file__).parent / "golden"
EVERY_TYPE = pytest.mark.parametrize("event_type", EVENT_TYPES)


def rejection(value: bytes) -> DeadLetterError:
    with pytest.raises(DeadLetterError) as caught:
        decode_event(value)
    return caught.value


def changed(event_type: str = "tune", **fields: Any) -> bytes:
    """A sound event with other values; `...` takes the field out."""
    raw = {**json.loads(encode_event(SAMPLE_EVENTS[event_type])), **fields}
    return json.dumps({key: value for key, value in raw.items() if value is not ...}).encode()


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_decode_inverts_encode(event: BoxEvent) -> None:
    value = encode_event(event)
    assert len(value) <= MAX_EVENT_BYTES
    assert decode_event(value) == event


@EVERY_TYPE
def test_bytes_of_an_event_are_an_interface(event_type: str) -> None:
    """Boxes in the field send these bytes: a change here is a change of their firmware."""
    golden = (GOLDEN / f"event-{event_type}.json").read_bytes()
    assert encode_event(SAMPLE_EVENTS[event_type]) == golden
    assert decode_event(golden) == SAMPLE_EVENTS[event_type]


@pytest.mark.parametrize("event_type", CONSENTING_EVENTS)
def test_bytes_of_consent_are_an_interface(event_type: str) -> None:
    golden = (GOLDEN / f"event-{event_type}-consent.json").read_bytes()
    assert encode_event(CONSENTING_EVENTS[event_type]) == golden
    assert decode_event(golden) == CONSENTING_EVENTS[event_type]


def test_no_consent_is_told_from_a_box_that_says_nothing() -> None:
    """An empty object is a viewer who was asked; the missing field is a box that does not ask."""
    asked, silent = decode_event(changed(consent={})), decode_event(changed())
    assert isinstance(asked, Tune)
    assert isinstance(silent, Tune)
    assert asked.consent == Consent()
    assert not asked.consent.history
    assert silent.consent is None


def test_longest_consent_strings_fit_a_record() -> None:
    longest = msgspec.structs.replace(SAMPLE_CONSENT, tcf="t" * 2_048, gpp="g" * 4_096, gpp_sid=(255,) * 16)
    event = decode_event(changed(consent=msgspec.to_builtins(longest)))
    assert isinstance(event, Tune)
    assert event.consent == longest


def test_field_of_consent_that_a_newer_box_sends_is_ignored() -> None:
    event = decode_event(changed(consent={"history": True, "usp2": "x"}))
    assert isinstance(event, Tune)
    assert event.consent == Consent(history=True)


@EVERY_TYPE
def test_unknown_fields_are_ignored(event_type: str) -> None:
    value = changed(event_type, firmware="9.1", nested={"a": [1, None]})
    assert decode_event(value) == SAMPLE_EVENTS[event_type]


@pytest.mark.parametrize("topic", TOPICS)
def test_committed_json_schema_is_that_of_the_structs(topic: str) -> None:
    committed = (SCHEMA_DIRECTORY / f"{topic}.schema.json").read_text(encoding="utf-8")
    assert committed == schema_text(topic), "run `python -m datastreamx.wire.schemas` and review the difference"


def test_every_schema_file_belongs_to_a_topic() -> None:
    assert {path.name for path in SCHEMA_DIRECTORY.iterdir()} == {f"{topic}.schema.json" for topic in TOPICS}


def test_unknown_type_is_told_from_an_invalid_event() -> None:
    found = rejection(changed(type="pause"))
    assert (found.reason, "'pause'" in found.detail) == ("unknown_type", True)


def test_detail_of_an_unknown_type_is_bounded() -> None:
    assert len(rejection(changed(type="x" * 10_000)).detail) < 200


@EVERY_TYPE
def test_every_field_is_required(event_type: str) -> None:
    for field in set(json.loads(encode_event(SAMPLE_EVENTS[event_type]))) - {"type"}:
        found = rejection(changed(event_type, **{field: ...}))
        assert found.reason == "invalid"
        assert field in found.detail


@pytest.mark.parametrize(
    ("event_type", "fields"),
    [
        ("tune", {"type": ...}),
        ("tune", {"type": 7}),
        ("tune", {"type": None}),
        ("tune", {"box_id": ""}),
        ("tune", {"box_id": "x" * 129}),
        ("tune", {"box_id": 5}),
        ("tune", {"channel_id": None}),
        ("tune", {"seq": -1}),
        ("tune", {"seq": 2**62 + 1}),
        ("tune", {"seq": 2**70}),
        ("tune", {"seq": "7"}),
        ("tune", {"seq": 7.5}),
        ("tune", {"event_time_ms": 946_684_799_999}),
        ("tune", {"event_time_ms": 4_102_444_800_001}),
        ("ad_shown", {"shown_ms": -1}),
        ("ad_shown", {"shown_ms": 86_400_001}),
        ("power", {"state": "off"}),
        ("tune", {"consent": "1YNN"}),
        ("ad_break", {"consent": []}),
        ("tune", {"consent": {"history": 1}}),
        ("tune", {"consent": {"history": None}}),
        ("ad_break", {"consent": {"gdpr": 2}}),
        ("tune", {"consent": {"gdpr": True}}),
        ("tune", {"consent": {"lmt": "1"}}),
        ("tune", {"consent": {"tcf": "x" * 2_049}}),
        ("tune", {"consent": {"gpp": "x" * 4_097}}),
        ("tune", {"consent": {"gpp_sid": [1] * 17}}),
        ("tune", {"consent": {"gpp_sid": [256]}}),
        ("tune", {"consent": {"gpp_sid": [-2]}}),
        ("tune", {"consent": {"us_privacy": "x" * 17}}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_value_that_no_box_may_send_is_invalid(event_type: str, fields: dict[str, Any]) -> None:
    assert rejection(changed(event_type, **fields)).reason == "invalid"


@pytest.mark.parametrize("value", [b"[]", b"null", b"7", b'"tune"'])
def test_json_that_is_no_object_is_invalid(value: bytes) -> None:
    assert rejection(value).reason == "invalid"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"tune",
        changed()[:-1],
        changed() + b"}",
        b"\xff\xfe",
        changed().replace(b"ch17", b"ch\xff"),
        changed().replace(b"ch17", b"\\ud800"),
        b'{"nested": ' + b"[" * 16_000,
        b'{"nested": ' + b"[" * 8_000 + b"]" * 8_000 + b"}",
    ],
    ids=["empty", "open", "word", "cut", "trailing", "binary", "not-utf8", "lone-surrogate", "deep-open", "deep"],
)
def test_what_is_no_json_is_malformed(value: bytes) -> None:
    assert rejection(value).reason == "malformed"


def test_record_beyond_the_limit_is_oversized_whatever_it_holds() -> None:
    padded = changed() + b" " * (MAX_EVENT_BYTES - len(changed()))
    assert decode_event(padded) == SAMPLE_EVENTS["tune"]
    assert rejection(padded + b" ").reason == "oversized"
    assert rejection(b"\xff" * (MAX_EVENT_BYTES + 1)).reason == "oversized"


def _decode(value: bytes) -> None:
    """Anything but an event or a dead letter would stop the flow, at this record again after every restart."""
    try:
        decode_event(value)
    except DeadLetterError as error:
        found = error
    else:
        return
    assert found.reason in REASONS
    assert found.detail


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
@example(b'{"type":5,"type":"\xff"}')
@example(b'{"seq":"x","type":"tune","type":"\xff"}')
def test_arbitrary_bytes_never_raise_anything_but_a_dead_letter(value: bytes) -> None:
    _decode(value)


@settings(max_examples=500, deadline=None)
@given(EVENTS, st.data())
def test_damaged_events_never_raise_anything_but_a_dead_letter(event: BoxEvent, data: st.DataObject) -> None:
    value = bytearray(encode_event(event))
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(value)))
        end = data.draw(st.integers(start, min(len(value), start + 8)))
        value[start:end] = data.draw(
            st.binary(max_size=8) | st.sampled_from([b'"type":', b'"\xff"', b"[", b"{", b"null,"])
        )
    _decode(bytes(value))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(EVENT_TYPES), st.data())
def test_any_json_in_any_field_never_raises_anything_but_a_dead_letter(event_type: str, data: st.DataObject) -> None:
    raw = json.loads(encode_event(SAMPLE_EVENTS[event_type]))
    for field in data.draw(st.sets(st.sampled_from(sorted(raw)), min_size=1)):
        raw[field] = data.draw(_JSON)
    _decode(msgspec.json.encode(raw))
