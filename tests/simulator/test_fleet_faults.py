from __future__ import annotations

from collections import Counter, defaultdict

import msgspec
import pytest

from datastreamx.errors import DeadLetterError
from datastreamx.model.events import AdShown, BoxEvent
from datastreamx.wire.dead_letters import REASONS
from datastreamx.wire.events import decode_event
from simulator.fleet.faults import (
    FAULTS,
    PRESETS,
    FaultBounds,
    FaultInjector,
    FaultRates,
    Landing,
    Record,
    parse_faults,
)
from simulator.fleet.log import generate_events

SEED = 42
BOUNDS = FaultBounds()
MANY = PRESETS["many"]


def events() -> list[BoxEvent]:
    return list(generate_events(SEED, 400, 15 * 60_000, shown_share=0.3))


def transformed(rates: FaultRates, seed: int = SEED) -> list[tuple[int, Record]]:
    return list(FaultInjector(rates, seed, BOUNDS).transform(events()))


def decoded(record: Record) -> BoxEvent:
    assert record.value is not None
    return decode_event(record.value)


def test_without_faults_every_event_is_one_intact_record() -> None:
    records = transformed(FaultRates())
    assert [decoded(record) for _, record in records] == events()
    assert [now_ms for now_ms, _ in records] == [event.event_time_ms for event in events()]


def test_every_kind_happens_as_often_as_asked() -> None:
    originals = events()
    counts = Counter(record.fault for _, record in transformed(MANY))
    print(f"seed {SEED}: {len(originals)} events, {counts}")  # noqa: T201  shown when the test fails
    honest = 1 - sum(getattr(MANY, kind) for kind in FAULTS if kind.startswith("clock"))
    for kind in FAULTS:
        if kind.startswith("clock"):
            # A share of 400 boxes, which report unequally: only that it happens at all.
            assert counts[kind] > 0, kind
        elif kind:
            wanted = getattr(MANY, kind) * honest * len(originals)
            assert counts[kind] == pytest.approx(wanted, rel=0.15, abs=4 * wanted**0.5), kind


def test_every_event_ends_once_where_its_fault_says() -> None:
    originals = {event.event_id: event for event in events()}
    landed: dict[str, set[str]] = defaultdict(set)
    for _, record in transformed(MANY):
        if record.landing is Landing.DEAD_LETTER:
            landed["dead"].add(f"{record.key!r} {record.value!r}")
            continue
        event = decoded(record)
        original = originals[event.event_id]
        assert record.key == event.box_id.encode()
        assert msgspec.structs.replace(event, event_time_ms=original.event_time_ms) == original
        copies = "copies" if record.landing is Landing.DROPPED else "rows"
        assert event.event_id not in landed[copies], f"{event.event_id} twice among {copies}"
        landed[copies].add(event.event_id)
    dead = sum(record.landing is Landing.DEAD_LETTER for _, record in transformed(MANY))
    assert len(landed["rows"]) + dead == len(originals)
    assert landed["copies"] <= landed["rows"]


@pytest.mark.parametrize("first_seq", [0, 10**6, 1_700_000_000_000])
def test_malformed_is_malformed_however_long_the_numbers_in_it_are(first_seq: int) -> None:
    numbered = [msgspec.structs.replace(event, seq=first_seq + event.seq) for event in events()]
    records = [record for _, record in FaultInjector(FaultRates(malformed=1.0), SEED, BOUNDS).transform(numbered)]
    for record in records:
        if record.fault:
            with pytest.raises(DeadLetterError) as caught:
                decoded(record)
            assert caught.value.reason == "malformed", record
    assert sum(record.fault == "malformed" for record in records) > 0.9 * len(records)


def test_dead_letters_are_refused_by_the_decoder_for_the_reason_in_the_books() -> None:
    reasons = Counter[str]()
    for _, record in transformed(MANY):
        fault = FAULTS[record.fault]
        if fault.landing is not Landing.DEAD_LETTER or record.fault == "clock_far_ahead":
            continue
        assert fault.reason in REASONS
        reasons[fault.reason] += 1
        if record.fault == "no_value":
            assert record.value is None
        elif record.fault == "key_mismatch":
            assert decoded(record).box_id.encode() != record.key
        else:
            assert record.value is not None
            with pytest.raises(DeadLetterError) as refusal:
                decode_event(record.value)
            assert refusal.value.reason == fault.reason
    assert set(reasons) == {"malformed", "invalid", "unknown_type", "oversized", "no_value", "key_mismatch"}


def test_a_copy_has_the_same_bytes_and_comes_behind_its_original() -> None:
    sent: dict[bytes, int] = {}
    delays = []
    for now_ms, record in transformed(FaultRates(duplicate=0.2)):
        assert record.value is not None
        if record.fault:
            delays.append(now_ms - sent[record.value])
        else:
            sent[record.value] = now_ms
    assert min(delays) == 0
    assert 4_000 < max(delays) <= BOUNDS.duplicate_ms
    assert delays.count(0) / len(delays) == pytest.approx(0.25, abs=0.06)


def test_reordered_records_are_overtaken_within_the_bound() -> None:
    overtaken = 0
    last_seq: dict[bytes, int] = {}
    for now_ms, record in transformed(FaultRates(reorder=0.2)):
        event = decoded(record)
        delay_ms = now_ms - event.event_time_ms
        assert 1 <= delay_ms <= BOUNDS.reorder_ms if record.fault else delay_ms == 0
        overtaken += event.seq < last_seq.get(record.key, -1)
        last_seq[record.key] = max(event.seq, last_seq.get(record.key, -1))
    assert overtaken > 100


def test_clock_faults_stay_on_their_side_of_the_bounds_and_with_their_box() -> None:
    rates = FaultRates(clock_ahead=0.2, clock_behind=0.2, clock_far_ahead=0.2, clock_far_behind=0.2)
    offsets: dict[bytes, set[tuple[str, int]]] = defaultdict(set)
    for now_ms, record in transformed(rates):
        offsets[record.key].add((record.fault, decoded(record).event_time_ms - now_ms))
    kinds = Counter[str]()
    for of_box in offsets.values():
        ((kind, offset_ms),) = of_box
        kinds[kind] += 1
        low, high = {
            "": (0, 0),
            "clock_ahead": (0, BOUNDS.max_clock_skew_ms // 2),
            "clock_behind": (-BOUNDS.allowed_lateness_ms // 2, 0),
            "clock_far_ahead": (BOUNDS.max_clock_skew_ms + 60_000, 10**9),
            "clock_far_behind": (-(10**9), -BOUNDS.allowed_lateness_ms - 60_000),
        }[kind]
        assert low <= offset_ms <= high, kind
    assert len(kinds) == 5


def test_displays_stay_readable() -> None:
    faults = Counter(record.fault for _, record in transformed(MANY) if record.event_type == "ad_shown")
    dead = {kind for kind in faults if FAULTS[kind].landing is Landing.DEAD_LETTER} - {"clock_far_ahead"}
    assert any(isinstance(event, AdShown) for event in events())
    assert not dead
    assert faults["duplicate"] > 0


def test_faults_follow_from_the_seed_and_not_from_batches() -> None:
    whole = transformed(MANY)
    assert transformed(MANY) == whole
    assert transformed(MANY, SEED + 1) != whole
    injector = FaultInjector(MANY, SEED, BOUNDS)
    fed = [record for event in events() for record in injector.feed(event, event.event_time_ms)]
    assert injector.held > 0
    fed += [record for _, record in injector.release_all()]
    assert injector.held == 0
    assert Counter((r.fault, r.value) for r in fed) == Counter((r.fault, r.value) for _, r in whole)


def test_presets_and_lists_of_rates_are_understood() -> None:
    assert parse_faults("none") == FaultRates()
    assert parse_faults("many") == MANY
    assert parse_faults("duplicate=0.1,clock_ahead=0.5") == FaultRates(duplicate=0.1, clock_ahead=0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("duplicates=0.1", "neither one of none, some, many nor KIND=RATE"),
        ("duplicate", "neither one of"),
        ("=0.1", "neither one of"),
        ("duplicate=lots", "'lots' is no number"),
        ("duplicate=0.6,reorder=0.6", "sum to at most 1"),
        ("reorder=-0.1", "at least 0"),
    ],
)
def test_unusable_faults_are_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_faults(text)


def test_bounds_under_which_a_reordered_record_could_be_late_are_refused() -> None:
    bounds = FaultBounds(allowed_lateness_ms=10_000)
    for rates in (FaultRates(reorder=0.1), FaultRates(clock_behind=0.1)):
        with pytest.raises(ValueError, match="exceed allowed_lateness_ms"):
            FaultInjector(rates, SEED, bounds)
    assert FaultInjector(FaultRates(duplicate=0.1), SEED, bounds).held == 0


def test_bounds_fit_a_pipeline_that_allows_little_lateness() -> None:
    assert FaultBounds.fitting(max_clock_skew_ms=5_000, allowed_lateness_ms=60_000) == FaultBounds()
    tight = FaultBounds.fitting(max_clock_skew_ms=1_000, allowed_lateness_ms=5_000)
    assert tight.reorder_ms == 2_000
    assert FaultInjector(MANY, SEED, tight).held == 0
