from __future__ import annotations

import itertools
import random
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastreamx.config import ViewingConfig
from datastreamx.errors import StateMismatchError
from datastreamx.model import identity
from datastreamx.model.chunk import DecodedChunk
from datastreamx.model.events import BoxEvent, Consent
from datastreamx.model.facts import Rows
from datastreamx.model.keygroup import KeyGroup
from datastreamx.snapshots import seal
from operators.viewing.names import SWEEP_FIRST
from operators.viewing.snapshot import decode_snapshot, encode_snapshot
from operators.viewing.state import CONSENTS_SWEEP_FIRST, KeyGroupState, ViewingOutput
from tests.builders import KEY_GROUP, T0, ad_break, decoded, heartbeat, power, shown, tune
from tests.operators.model.reading import viewed

GOLDEN = Path(__file__).parent / "golden"

CONFIG = ViewingConfig(
    allowed_lateness_ms=10_000,
    session_gap_ms=60_000,
    state_ttl_ms=300_000,
    dwell_ms=15_000,
    min_push_interval_ms=100_000,
    decision_budget_ms=2_000,
)


def state(config: ViewingConfig = CONFIG) -> KeyGroupState:
    return KeyGroupState(KEY_GROUP, config, "box-events", partial(identity.box_key, b"secret"))


def run(*events: BoxEvent, config: ViewingConfig = CONFIG) -> tuple[KeyGroupState, ViewingOutput]:
    keeper = state(config)
    return keeper, keeper.process(decoded(*events))


def rows(emitted: Rows | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = emitted.columns().to_pylist() if emitted is not None else []
    return found


def column(out: ViewingOutput, name: str) -> list[Any]:
    return [row[name] for row in rows(out.events)]


def test_last_channel_is_the_one_before_the_current() -> None:
    _, out = run(tune(0, "a"), tune(1, "b"), tune(2, "b"), heartbeat(3))
    assert column(out, "channel_id") == ["a", "b", "b", "b"]
    assert column(out, "last_channel_id") == [None, "a", "a", "a"]


def test_last_ad_stays_across_a_session_gap() -> None:
    _, out = run(shown(0, "ad-7"), heartbeat(200_000))
    assert column(out, "last_ad_id") == ["ad-7", "ad-7"]
    assert len(rows(out.sessions)) == 1


def test_dwell_makes_an_opportunity_when_the_watermark_passes_it() -> None:
    _, out = run(tune(0, "a"), tune(1_000, "b"), heartbeat(16_500, box="stb-2", seq=1))
    (found,) = out.opportunities
    assert (found.trigger, found.channel_id, found.last_channel_id) == ("dwell", "b", "a")
    assert found.opportunity_ms == T0 + 16_000
    assert found.deadline_ms == T0 + 18_000
    assert found.offset == 2
    assert not found.expired


def test_zapping_asks_for_nothing() -> None:
    _, out = run(*(tune(5_000 * i, f"ch{i}", seq=i) for i in range(4)))
    assert out.opportunities == []


def test_ad_break_makes_an_opportunity_at_once() -> None:
    _, out = run(tune(0, "a"), ad_break(5_000, "a"))
    (found,) = out.opportunities
    assert (found.trigger, found.break_id, found.slot_ms) == ("ad_break", "break-1", 30_000)


def test_min_push_interval_caps_opportunities_per_box() -> None:
    _, out = run(*(ad_break(at) for at in (0, 50_000, 99_999, 100_000)))
    assert [found.opportunity_ms - T0 for found in out.opportunities] == [0, 100_000]


def test_standby_box_gets_no_opportunity() -> None:
    _, out = run(tune(0, "a"), power(100, "standby"), heartbeat(20_000), power(20_001, "on"), ad_break(20_002, "a"))
    assert [found.trigger for found in out.opportunities] == ["ad_break"]


def test_opportunity_that_arises_after_its_deadline_is_expired() -> None:
    _, out = run(tune(0, "a"), heartbeat(17_001))
    assert [found.expired for found in out.opportunities] == [True]


def test_auction_id_follows_from_the_tune_and_not_from_the_record_that_fired_the_timer() -> None:
    _, one = run(tune(0, "a"), heartbeat(15_000))
    _, two = run(tune(0, "a"), heartbeat(1), heartbeat(16_000))
    assert one.opportunities[0].auction_id == two.opportunities[0].auction_id
    assert one.opportunities[0].offset != two.opportunities[0].offset


AGREED = Consent(history=True, gdpr=1, tcf="CPXxRfA")
REFUSED = Consent(gdpr=1, tcf="CPYyRfA")


def test_opportunity_of_an_ad_break_carries_the_consent_of_the_break_and_not_of_the_tune() -> None:
    _, out = run(tune(0, "a", consent=AGREED), ad_break(5_000, "a", consent=REFUSED))
    assert [found.consent for found in out.opportunities] == [REFUSED]
    _, out = run(tune(0, "a", consent=AGREED), ad_break(5_000, "a"))
    assert [found.consent for found in out.opportunities] == [None]


def test_opportunity_of_a_dwell_carries_the_consent_of_its_tune() -> None:
    _, out = run(tune(0, "a", consent=REFUSED), tune(1_000, "b", consent=AGREED), heartbeat(16_500, box="stb-2", seq=1))
    assert [(found.trigger, found.consent) for found in out.opportunities] == [("dwell", AGREED)]


@pytest.mark.parametrize("channel", ["a", "b"])
def test_consent_of_an_earlier_tune_is_not_kept_for_a_later_one_that_gives_none(channel: str) -> None:
    _, out = run(tune(0, "a", consent=AGREED), tune(1_000, channel), heartbeat(16_500, box="stb-2", seq=1))
    assert [found.consent for found in out.opportunities] == [None]


def test_tune_that_arrives_out_of_order_does_not_bring_its_consent() -> None:
    _, out = run(tune(1_000, "b", consent=AGREED), tune(0, "a", consent=REFUSED), heartbeat(17_000, box="stb-2", seq=1))
    assert [found.consent for found in out.opportunities] == [AGREED]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [heartbeat(17_000)]),
        ([ad_break(0, "z")], [heartbeat(17_000)]),
        ([], [power(3_000, "standby"), heartbeat(17_000)]),
    ],
    ids=["became an opportunity", "passed over, too soon", "passed over, in standby"],
)
def test_consent_is_forgotten_when_its_dwell_is_over(before: list[BoxEvent], after: list[BoxEvent]) -> None:
    """The strings are long, and 300,000 boxes would hold them."""
    tuned = [*before, tune(1_000, "a", consent=AGREED)]
    keeper, _ = run(*tuned)
    assert viewed(keeper).boxes["stb-1"].tune_consent == AGREED
    keeper, _ = run(*tuned, *after)
    assert viewed(keeper).boxes["stb-1"].tune_consent is None
    assert b"CPXxRfA" not in encode_snapshot(keeper)


def test_duplicate_by_seq_is_dropped_and_counted() -> None:
    _, out = run(tune(0, "a"), tune(5, "b"), tune(0, "a"), tune(5, "b"))
    assert (len(rows(out.events)), out.duplicates) == (2, 2)


def test_seq_gap_is_recorded_with_the_event_after_it() -> None:
    _, out = run(heartbeat(0, seq=10), heartbeat(1, seq=14))
    assert column(out, "seq_gap") == [0, 3]
    assert out.missing == 3


def test_box_that_counts_anew_is_not_taken_for_duplicates() -> None:
    _, out = run(heartbeat(0, seq=500), heartbeat(1_000, seq=1), heartbeat(2_000, seq=2))
    assert column(out, "seq") == [500, 1, 2]
    assert out.duplicates == 0


def test_late_event_is_recorded_and_changes_nothing() -> None:
    keeper, out = run(tune(0, "a", seq=1), heartbeat(50_000, seq=4), tune(20_000, "b", seq=2), heartbeat(50_001, seq=5))
    assert column(out, "is_late") == [False, False, True, False]
    assert column(out, "channel_id")[2:] == ["b", "a"]
    assert out.late == 1
    assert viewed(keeper).boxes["stb-1"].channel_id == "a"


def test_session_closes_after_gap_and_lateness_and_counts_its_events() -> None:
    _, out = run(
        tune(0, "a"), tune(9_000, "b"), shown(30_000), heartbeat(99_999, box="stb-2"), heartbeat(100_000, box="stb-2")
    )
    (row,) = rows(out.sessions)
    assert row["events"] == 3
    assert (row["tunes"], row["ads_shown"], row["duration_ms"]) == (2, 1, 30_000)
    assert (row["first_channel_id"], row["last_channel_id"]) == ("a", "b")
    assert row["source_offset"] == 4


def test_event_between_two_sessions_joins_them() -> None:
    keeper, out = run(heartbeat(0, seq=1), heartbeat(64_000, seq=3), heartbeat(56_000, seq=2), heartbeat(60_000, seq=4))
    assert out.sessions is None
    (session,) = viewed(keeper).boxes["stb-1"].sessions
    assert (session.start_ms, session.end_ms, session.events) == (T0, T0 + 64_000, 4)


def test_silent_box_is_forgotten() -> None:
    keeper, out = run(tune(0, "a"), heartbeat(299_999, box="stb-2"))
    assert len(rows(out.sessions)) == 1
    assert set(viewed(keeper).boxes) == {"stb-1", "stb-2"}
    keeper.process(decoded(heartbeat(300_000, box="stb-2"), first_offset=2))
    assert set(viewed(keeper).boxes) == {"stb-2"}


def test_columns_that_an_event_says_nothing_about_are_null() -> None:
    _, out = run(tune(0), shown(1), ad_break(2), power(3, "on"), heartbeat(4))
    assert column(out, "type") == ["tune", "ad_shown", "ad_break", "power", "heartbeat"]
    for name, place in (("push_id", 1), ("shown_ms", 1), ("break_id", 2), ("duration_ms", 2), ("power_state", 3)):
        assert [value is not None for value in column(out, name)] == [index == place for index in range(5)], name


def test_sessions_that_close_together_come_in_the_same_order_whatever_the_secret_is() -> None:
    """Their ordinals are positions: a process that resumes with another secret must not shuffle them."""
    events = [heartbeat(0, box=f"stb-{number}") for number in range(20)] + [heartbeat(200_000, box="other")]
    ids = {secret: {identity.box_key(secret, f"stb-{n}"): n for n in range(20)} for secret in (b"one", b"two")}
    orders = []
    for secret, numbers in ids.items():
        keeper = KeyGroupState(KEY_GROUP, CONFIG, "box-events", partial(identity.box_key, secret))
        orders.append([numbers[row["box_key"]] for row in rows(keeper.process(decoded(*events)).sessions)])
    assert len(orders[0]) == 20
    assert orders[0] == orders[1]


def test_slot_of_a_forgotten_box_goes_to_another_one() -> None:
    keeper = state()
    for number in range(200):
        chunk = decoded(heartbeat(number * 400_000, box=f"stb-{number}"), first_offset=number)
        assert column(keeper.process(chunk), "box_key") == [identity.box_key(b"secret", f"stb-{number}")]
    assert set(viewed(keeper).boxes) == {"stb-199"}
    assert len(keeper.boxes) < 20


def test_records_of_sessions_that_were_joined_or_closed_are_used_again() -> None:
    keeper = state()
    for number in range(200):
        # Two sessions, a third event that joins them, and the end of it all.
        at = number * 250_000
        log = [heartbeat(at + after, seq=4 * number + place) for place, after in enumerate((0, 64_000, 56_000, 60_000))]
        keeper.process(decoded(*log, first_offset=4 * number))
    assert len(viewed(keeper).boxes["stb-1"].sessions) == 1
    assert len(keeper.sessions) < 20


def test_names_that_no_box_holds_any_more_are_dropped() -> None:
    keeper = state()
    for number in range(5_000):
        keeper.process(decoded(tune(number, f"ch{number}", seq=number), first_offset=number))
    assert len(keeper.names) <= SWEEP_FIRST + 1
    box = viewed(keeper).boxes["stb-1"]
    assert (box.channel_id, box.last_channel_id) == ("ch4999", "ch4998")
    assert box.sessions[0].first_channel_id == "ch0"


def test_consents_of_tunes_that_nobody_waits_for_are_dropped() -> None:
    keeper = state()
    for number in range(1_000):
        keeper.process(decoded(tune(number, consent=AGREED, seq=number), first_offset=number))
    assert len(keeper.consents) <= CONSENTS_SWEEP_FIRST + 1
    assert viewed(keeper).boxes["stb-1"].tune_consent == AGREED


_BOXES = st.sampled_from(["stb-1", "stb-2", "stb-3"])
_CHANNELS = st.sampled_from(["a", "b", "c"])
_CONSENTS = st.sampled_from([None, AGREED, REFUSED])


@st.composite
def _logs(draw: st.DrawFn, *, max_step_ms: int = 70_000) -> list[BoxEvent]:
    """Events in event-time order, with rising sequence numbers per box."""
    at_ms = 0
    seqs: dict[str, int] = {}
    events: list[BoxEvent] = []
    for _ in range(draw(st.integers(1, 40))):
        at_ms += draw(st.integers(0, max_step_ms))
        box = draw(_BOXES)
        seqs[box] = seqs.get(box, 0) + 1
        place: dict[str, Any] = {"box": box, "seq": seqs[box]}
        kind = draw(st.sampled_from(["tune", "shown", "break", "power", "heartbeat"]))
        if kind == "tune":
            events.append(tune(at_ms, draw(_CHANNELS), consent=draw(_CONSENTS), **place))
        elif kind == "shown":
            events.append(shown(at_ms, draw(_CHANNELS), **place))
        elif kind == "break":
            events.append(ad_break(at_ms, draw(_CHANNELS), consent=draw(_CONSENTS), **place))
        elif kind == "power":
            events.append(power(at_ms, draw(st.sampled_from(["on", "standby"])), **place))
        else:
            events.append(heartbeat(at_ms, **place))
    return events


def _messy(events: list[BoxEvent], seed: int) -> list[BoxEvent]:
    """The same log with duplicates and reordering, late ones included."""
    rng = random.Random(seed)
    log = events + [event for event in events if rng.random() < 0.2]
    return sorted(log, key=lambda event: event.event_time_ms + rng.uniform(0, 20_000))


def _everything(outputs: list[ViewingOutput]) -> dict[str, Any]:
    return {
        "events": [row for out in outputs for row in rows(out.events)],
        "sessions": [row for out in outputs for row in rows(out.sessions)],
        "opportunities": [found for out in outputs for found in out.opportunities],
        "counts": [sum(getattr(out, name) for out in outputs) for name in ("late", "duplicates", "missing")],
    }


def _cut(log: DecodedChunk, cuts: list[int]) -> list[DecodedChunk]:
    edges = [0, *sorted(cut % (len(log.events) + 1) for cut in cuts), len(log.events)]
    return [
        DecodedChunk(*KEY_GROUP, log.offsets[start:end], log.timestamps_ms[start:end], log.events[start:end], [])
        for start, end in itertools.pairwise(edges)
    ]


@settings(max_examples=150, deadline=None)
@given(_logs(), st.integers(0, 2**32), st.lists(st.integers(0, 100), max_size=8))
def test_any_chunking_of_a_log_gives_identical_output(events: list[BoxEvent], seed: int, cuts: list[int]) -> None:
    log = decoded(*_messy(events, seed))
    whole = state()
    expected = _everything([whole.process(log)])
    pieces = state()
    assert _everything([pieces.process(piece) for piece in _cut(log, cuts)]) == expected
    assert viewed(pieces) == viewed(whole)


@settings(max_examples=150, deadline=None)
@given(_logs(), st.integers(0, 2**32), st.lists(st.integers(0, 100), max_size=4))
def test_snapshot_and_resume_anywhere_changes_nothing(events: list[BoxEvent], seed: int, cuts: list[int]) -> None:
    log = decoded(*_messy(events, seed))
    expected = _everything([state().process(log)])
    keeper, outputs = state(), []
    for piece in _cut(log, cuts):
        outputs.append(keeper.process(piece))
        keeper = decode_snapshot(encode_snapshot(keeper), lambda _: state())
    assert _everything(outputs) == expected


def _viewing_facts(keeper: KeyGroupState) -> dict[str, Any]:
    """Final state without what speaks of the order of arrival: opportunities are offered as soon as they are known."""
    return {
        box_id: {
            "channel": (box.channel_id, box.channel_ms, box.last_channel_id),
            "consent": box.tune_consent,
            "ad": (box.last_ad_id, box.last_ad_ms),
            "standby": box.standby,
            "seq": (box.last_seq, box.seen),
            "event_ms": box.last_event_ms,
            "sessions": [msgspec.structs.asdict(session) for session in box.sessions],
        }
        for box_id, box in viewed(keeper).boxes.items()
    }


@settings(max_examples=200, deadline=None)
@given(_logs(max_step_ms=4_000), st.integers(0, 2**32))
def test_any_order_within_lateness_gives_the_same_final_state(events: list[BoxEvent], seed: int) -> None:
    rng = random.Random(seed)
    shuffled = sorted(events, key=lambda event: event.event_time_ms + rng.uniform(0, CONFIG.allowed_lateness_ms))
    ordered, disordered = state(), state()
    assert ordered.process(decoded(*events)).late == 0
    assert disordered.process(decoded(*shuffled)).late == 0
    assert _viewing_facts(disordered) == _viewing_facts(ordered)


@settings(max_examples=100, deadline=None)
@given(_logs(), st.integers(0, 2**32))
def test_every_record_ends_in_exactly_one_row_or_count(events: list[BoxEvent], seed: int) -> None:
    log = decoded(*_messy(events, seed))
    out = state().process(log)
    offsets = column(out, "source_offset")
    assert len(set(offsets)) == len(offsets)
    assert len(offsets) + out.duplicates == len(log.events)
    assert len({found.auction_id for found in out.opportunities}) == len(out.opportunities)


def test_snapshot_bytes_are_an_interface() -> None:
    """A change here means that running deployments cannot resume: raise VERSION and keep a reader for the old one."""
    keeper, _ = run(tune(0, "a"), tune(1_000, "b", consent=AGREED), shown(2_000), heartbeat(3_000, box="stb-2", seq=9))
    golden = GOLDEN / "viewing-snapshot-v4.msgpack"
    assert encode_snapshot(keeper) == golden.read_bytes()
    restored = decode_snapshot(golden.read_bytes(), lambda _: state())
    assert viewed(restored) == viewed(keeper)


def test_snapshot_of_another_version_is_refused() -> None:
    foreign = seal(msgspec.msgpack.encode([3, 0, 0, 0, {}]))
    with pytest.raises(StateMismatchError, match="version 3, this program reads 4"):
        decode_snapshot(foreign, lambda _: state())


@pytest.mark.parametrize("damage", [b"", b"garbage", *map(seal, [b"", b"\x00", b"\x93\x04"])])
def test_bytes_that_are_no_snapshot_are_refused(damage: bytes) -> None:
    with pytest.raises(StateMismatchError):
        decode_snapshot(damage, lambda _: state())


@given(st.lists(st.integers(0, 300), min_size=1, max_size=80), st.integers(0, 2**62))
def test_box_of_any_sequence_numbers_survives_a_snapshot(steps: list[int], first: int) -> None:
    keeper = state()
    numbers = itertools.accumulate([first % (2**62 - 30_000), *steps])
    keeper.process(decoded(*(heartbeat(at, seq=number) for at, number in enumerate(numbers))))
    restored = decode_snapshot(encode_snapshot(keeper), lambda _: state())
    assert viewed(restored) == viewed(keeper)


def test_snapshot_names_its_key_group() -> None:
    keeper = KeyGroupState(KeyGroup(7, 3), CONFIG, "box-events", partial(identity.box_key, b"secret"))
    keeper.process(decoded(tune(0)))
    seen: list[KeyGroup] = []

    def make(key_group: KeyGroup) -> KeyGroupState:
        seen.append(key_group)
        return state()

    decode_snapshot(encode_snapshot(keeper), make)
    assert seen == [KeyGroup(7, 3)]


def test_bytes_that_do_not_add_up_are_refused() -> None:
    """Sealed as they are, only another program can have written them; reading must not run out of its memory."""
    whole = run(tune(0, "a"), shown(1), heartbeat(2, box="stb-2"))[0].pack()
    for kept in range(len(whole.octets)):
        with pytest.raises(ValueError, match=r"are not the 2 boxes|cannot hold"):
            state().restore(whole._replace(octets=whole.octets[:kept]))
