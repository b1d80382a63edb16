"""What the Kafka sinks send and when they take a snapshot, without a broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from datastreamx.acks import AckedOffsets
from datastreamx.errors import StateMismatchError
from datastreamx.snapshots import seal
from datastreamx.wire.dead_letters import parse_dead_letter
from sinks.ad_push import AdPushSink
from sinks.ad_push.snapshot import decode_acked, encode_acked
from sinks.dead_letter import DeadLetterSink, DeadLetterWriter
from sinks.dead_letter.writer import KEY_BYTES_MAX, VALUE_BYTES_MAX, fit
from sinks.facts import FactsSink
from sinks.kafka.outside import Outside
from tests import builders
from tests.sinks.fake_producer import FakeBroker
from tests.sinks.items import dead_letter, decision, facts


@pytest.fixture
def broker() -> FakeBroker:
    broker = FakeBroker()
    broker.topics = {"ad-decisions": 8, "box-facts": 8, "dead-letters": 1}
    return broker


def test_decoding_inverts_encoding_and_version_2_is_read_for_ever() -> None:
    acked = {0: 0, 7: 2**40}
    assert decode_acked(encode_acked("d", acked), "d") == acked
    assert encode_acked("d", acked) == seal(msgspec.msgpack.encode([2, "d", acked]))


@pytest.mark.parametrize(
    "raw", [b"", b"?", *map(seal, [b"", b"{}", *map(msgspec.msgpack.encode, [[1, "d", {}], [2, "e", {}], [2, "d"]])])]
)
def test_any_other_snapshot_is_refused(raw: bytes) -> None:
    with pytest.raises(StateMismatchError):
        decode_acked(raw, "d")


def test_a_decision_is_sent_at_once_and_known_at_the_next_write(broker: FakeBroker) -> None:
    acked = AckedOffsets()
    part = AdPushSink(builders.config(), acked, broker.outside()).build_part("out", "ad-push", None)
    part.write_batch([decision(1, partition=3)])
    assert len(broker.values("ad-decisions", 3)) == 1
    assert acked.snapshot() == {3: 0}


@pytest.mark.parametrize(
    ("make_sink", "item"),
    [
        (lambda outside: AdPushSink(builders.config(), AckedOffsets(), outside), decision(1)),
        (lambda outside: FactsSink(builders.config(), outside), facts(rows=3, first_offset=0)),
        (lambda outside: DeadLetterSink(builders.config(), outside), dead_letter(1)),
    ],
    ids=["ad_push", "facts", "dead_letter"],
)
def test_a_snapshot_is_taken_only_when_the_broker_has_everything(
    broker: FakeBroker, make_sink: Callable[[Outside], Any], item: object
) -> None:
    sink = make_sink(broker.outside())
    part = sink.build_part("out", sink.list_parts()[0], None)
    broker.is_up = False
    part.write_batch([item])
    flush = broker.clients[0].flush

    def flush_in_outage(timeout: float) -> int:
        assert not any(broker.logs.values())
        broker.is_up = broker.waits > 5
        return flush(timeout)

    broker.clients[0].flush = flush_in_outage  # type: ignore[method-assign]  # an outage that ends
    part.snapshot()
    assert sum(map(len, broker.logs.values())) == 1


def test_offsets_known_before_the_crash_stay_in_the_snapshot(broker: FakeBroker) -> None:
    sink = AdPushSink(builders.config(), AckedOffsets(), broker.outside())
    part = sink.build_part("out", "ad-push", encode_acked("ad-decisions", {2: 40, 3: 50}))
    part.write_batch([decision(1, partition=1)])
    assert decode_acked(part.snapshot(), "ad-decisions") == {1: 0, 2: 40, 3: 50}


def test_a_written_dead_letter_is_counted_by_reason_and_stands_in_the_log_once_settled(broker: FakeBroker) -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("datastreamx_dead_letters_total", {"reason": "invalid"}) or 0.0

    before = count()
    writer = DeadLetterWriter(builders.config(), "test", broker.outside())
    letter = dead_letter(5, reason="invalid")
    writer.write(letter)
    writer.settle()
    (sent,) = broker.logs["dead-letters", 0]
    assert parse_dead_letter(sent.key, sent.value, sent.headers) == letter
    assert count() == before + 1


def test_a_letter_that_fits_is_untouched() -> None:
    for letter in (dead_letter(1, key=None, value=None), dead_letter(2, value=bytes(VALUE_BYTES_MAX))):
        fitting, headers = fit(letter)
        assert fitting is letter
        assert "cut_from_bytes" not in dict(headers)


def test_a_letter_that_does_not_fit_is_cut_and_says_so() -> None:
    key, value = b"k" * (KEY_BYTES_MAX + 1), b"v" * (VALUE_BYTES_MAX + 1)
    fitting, headers = fit(dead_letter(1, key=key, value=value))
    assert (fitting.key, fitting.value) == (key[:-1], value[:-1])
    assert dict(headers)["cut_from_bytes"] == b"%d" % len(value)
    without_value, _ = fit(dead_letter(1, key=key, value=None))
    assert without_value.value is None
