from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastreamx.config import ViewingConfig
from datastreamx.errors import CrashError
from datastreamx.tables import BOX_EVENTS, FACT_TABLES, VIEWING_SESSIONS, record_batch
from datastreamx.wire.facts import FactBatch, decode_facts, encode_facts
from tests.builders import KEY_GROUP, ad_break, decoded, heartbeat, power, shown, tune
from tests.operators.model.state import KeyGroupModel

GOLDEN = Path(__file__).parent / "golden"


def sample(table: str = "box_events") -> FactBatch:
    state = KeyGroupModel(KEY_GROUP, ViewingConfig(), "box-events", lambda box_id: f"key-of-{box_id}")
    out = state.process(
        decoded(tune(0), shown(1, "ad-\u00e9"), ad_break(2), power(3, "on"), heartbeat(2_000_000, box="stb-2"))
    )
    rows = {BOX_EVENTS: out.events, VIEWING_SESSIONS: out.sessions}
    return FactBatch(table, 7, 3, record_batch(FACT_TABLES[table], rows[FACT_TABLES[table]]))


@pytest.mark.parametrize("table", FACT_TABLES)
def test_decode_inverts_encode(table: str) -> None:
    facts = sample(table)
    value, headers = encode_facts(facts)
    decoded = decode_facts(value, headers, partition=7)
    assert (decoded.table, decoded.partition, decoded.group) == (table, 7, 3)
    assert decoded.rows.equals(facts.rows)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 4), st.integers(1, 5))
def test_slice_of_a_batch_is_encoded_without_what_it_leaves_out(start: int, count: int) -> None:
    facts = sample()
    rows = facts.rows.slice(start, count)
    value, headers = encode_facts(FactBatch(facts.table, 7, 3, rows))
    assert decode_facts(value, headers, 7).rows.equals(rows)


@pytest.mark.parametrize("table", FACT_TABLES)
def test_messages_of_earlier_releases_stay_readable(table: str) -> None:
    """Kafka holds days of these: when columns are added, this file stays and another joins it."""
    value = (GOLDEN / f"facts-{table}-v1.arrow").read_bytes()
    headers = [("table", table.encode()), ("schema_version", b"1"), ("key_group", b"3")]
    assert encode_facts(sample(table))[1] == headers
    assert decode_facts(value, headers, 7).rows.equals(sample(table).rows)


def test_unknown_headers_are_ignored() -> None:
    value, headers = encode_facts(sample())
    assert decode_facts(value, [*headers, ("traceparent", b"\xff")], 7).table == "box_events"


@pytest.mark.parametrize(
    ("header", "content"),
    [
        ("table", None),
        ("table", b"bids"),
        ("table", b"\xff"),
        ("schema_version", None),
        ("schema_version", b"one"),
        ("key_group", None),
        ("key_group", b""),
    ],
)
def test_message_with_foreign_headers_is_refused(header: str, content: bytes | None) -> None:
    value, headers = encode_facts(sample())
    fields = {**dict(headers), header: content}
    with pytest.raises(CrashError, match="is another program writing"):
        decode_facts(value, [(name, found) for name, found in fields.items() if found is not None], 7)


def test_newer_schema_is_refused_with_the_order_of_deployment() -> None:
    value, headers = encode_facts(sample())
    with pytest.raises(CrashError, match=r"version 2, this program knows 1: deploy the warehouse flow before"):
        decode_facts(value, [*headers, ("schema_version", b"2")], 7)


@pytest.mark.parametrize("value", [b"", b"\0" * 8, b"\xff\xff\xff\xff\0\0\0\0", b"garbage, no batch at all"])
def test_bytes_that_are_no_batch_are_refused(value: bytes) -> None:
    _, headers = encode_facts(sample())
    with pytest.raises(CrashError, match="no record batch"):
        decode_facts(value, headers, 7)


def test_cut_message_is_refused() -> None:
    value, headers = encode_facts(sample())
    body_bytes = pa.ipc.read_message(pa.py_buffer(value)).body.size
    for end in range(0, len(value) - body_bytes, 7):
        with pytest.raises(CrashError):
            decode_facts(value[:end], headers, 7)
    with pytest.raises(CrashError):
        decode_facts(value[: len(value) - body_bytes // 2], headers, 7)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_damaged_message_never_raises_anything_but_a_crash(seed: int) -> None:
    """Kafka's checksum finds bits that flipped on the way; this is about messages that were written wrongly."""
    rng = random.Random(seed)
    value, headers = encode_facts(sample())
    damaged = bytearray(value)
    for _ in range(rng.randint(1, 5)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    try:
        decoded = decode_facts(bytes(damaged), headers, 7)
    except CrashError:
        return
    assert decoded.rows.schema == BOX_EVENTS.arrow_schema
