from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastreamx.errors import StateMismatchError
from datastreamx.place import Place
from flows.recovery.reshard import RULES, Account, Mode, Store, Terms, account, places_with_store, reshard
from sinks.ad_push.snapshot import decode_acked, encode_acked
from sinks.bigquery.ledger import FlushLedger, merge_segments, read_segments
from sources.kafka.positions import read_positions
from tests.flows import stores as made_up

FLOWS = ("ads", "warehouse", "notices")
DECISIONS = "ad-decisions"
GOLDEN = Path(__file__).parent / "golden"

shapes = st.one_of(
    st.tuples(st.just("cells"), st.integers(1, 9)),
    st.tuples(st.just("cluster"), st.integers(1, 4)),
)


def terms(partitions: int) -> Terms:
    return made_up.terms(made_up.settings(partitions))


def through(stores: Sequence[Store], places: Sequence[Place], partitions: int) -> list[Store]:
    made = reshard(stores, places, terms(partitions))
    return [Store(place, rows) for place, rows in zip(places, made, strict=True)]


def owned_rows(stores: Sequence[Store], rule: str) -> Counter[tuple[str, str, bytes | None]]:
    return Counter(
        (step_id, key, value)
        for store in stores
        for (step_id, key), value in store.rows.items()
        if RULES[step_id] == rule
    )


@settings(max_examples=60, deadline=None)
@given(
    flow=st.sampled_from(FLOWS),
    journey=st.lists(shapes, min_size=2, max_size=4),
    more=st.integers(0, 5),
    seed=st.integers(0, 2**32),
)
def test_any_journey_keeps_every_row_exactly_once(
    flow: str, journey: list[tuple[Mode, int]], more: int, seed: int
) -> None:
    partitions = max(count for _, count in journey) + more
    first = places_with_store(*journey[0])
    before = stores = made_up.stores(flow, made_up.settings(partitions), first, random.Random(seed))
    for shape in journey[1:]:
        stores = through(stores, places_with_store(*shape), partitions)

    assert owned_rows(stores, "keyed") == owned_rows(before, "keyed")
    assert offsets(stores) == offsets(before)
    assert streams(stores) == streams(before)
    assert acked(stores) == acked(before)
    for store in stores:
        for step_id, key in store.rows:
            assert step_id.startswith(f"{flow}.")
            if RULES[step_id] == "keyed":
                assert int(key[1:4]) in store.place.partitions(partitions)


def offsets(stores: Sequence[Store]) -> Counter[tuple[str, int, int, str, int]]:
    """Topic, partition, offset and lineage of everything that some reader holds."""
    found: Counter[tuple[str, int, int, str, int]] = Counter()
    for (_, _, raw), copies in owned_rows(stores, "source").items():
        assert raw is not None
        held = read_positions(raw)
        for (topic, partition), offset in held.next_offsets.items():
            lineage = held.lineages[partition]
            found[topic, partition, offset, lineage.id, lineage.taken] += copies
    return found


def streams(stores: Sequence[Store]) -> Counter[object]:
    found: Counter[object] = Counter()
    for (_, table, raw), copies in owned_rows(stores, "segments").items():
        found.update({(table, segment): copies for segment in read_segments(raw or b"", table)})
    return found


def acked(stores: Sequence[Store]) -> Counter[tuple[int, int]]:
    return Counter(
        item
        for (_, _, raw) in owned_rows(stores, "acked").elements()
        for item in decode_acked(raw or b"", DECISIONS).items()
    )


@settings(max_examples=30, deadline=None)
@given(flow=st.sampled_from(FLOWS), old=shapes, new=shapes, seed=st.integers(0, 2**32))
def test_account_is_the_same_before_and_after(
    flow: str, old: tuple[Mode, int], new: tuple[Mode, int], seed: int
) -> None:
    stores = made_up.stores(flow, made_up.settings(9), places_with_store(*old), random.Random(seed))
    assert account(through(stores, places_with_store(*new), 9), terms(9)) == account(stores, terms(9))


def test_each_reader_gets_what_a_start_in_the_new_place_asks_for() -> None:
    """A source refuses a snapshot whose layout is not exactly its own."""
    stores = made_up.stores("ads", made_up.settings(6), places_with_store("cells", 2), random.Random(1))
    (cluster,) = through(stores, places_with_store("cluster", 4), 6)
    readers = {key: read_positions(raw or b"").layout for (step, key), raw in cluster.rows.items() if "events" in step}
    assert {key: layout.partitions for key, layout in readers.items()} == {
        "reader-00": (0, 4),
        "reader-01": (1, 5),
        "reader-02": (2,),
        "reader-03": (3,),
    }
    assert {(layout.partition_count, layout.groups_per_partition, layout.topics) for layout in readers.values()} == {
        (6, 2, ("box-events",))
    }


def test_segments_of_a_cell_go_to_the_owner_of_its_first_partition() -> None:
    stores = made_up.stores("warehouse", made_up.settings(8), places_with_store("cells", 4), random.Random(3))
    halves = through(stores, places_with_store("cells", 2), 8)
    for number, half in enumerate(halves):
        for table in made_up.TABLES:
            merged = {one.stream for one in read_segments(half.rows["warehouse.bigquery", table] or b"", table)}
            assert {stream.split("/")[1] for stream in merged} <= {f"warehouse-{number}", f"warehouse-{number + 2}"}
    assert sum(streams(halves).values()) > 0


def test_a_sink_resumes_from_merged_segments_and_flushes_each_once() -> None:
    rng = random.Random(5)
    states = [made_up.ledger("bids", f"warehouse-{n}", rng) for n in range(3)]
    merged = FlushLedger("projects/p/datasets/d/tables/bids")
    merged.restore(merge_segments(states, "bids"))
    targets = Counter((target.stream, target.end) for target in merged.begin_flushes())
    assert targets == Counter((s.stream, s.end) for state in states for s in read_segments(state, "bids"))
    assert targets.total() > 0


def test_a_stream_in_two_states_is_refused() -> None:
    state = made_up.ledger("bids", "warehouse-0", random.Random(3))
    assert read_segments(state, "bids")
    with pytest.raises(StateMismatchError, match="hold the same streams"):
        merge_segments([state, state], "bids")


def test_states_of_two_tables_are_not_merged() -> None:
    rng = random.Random(2)
    with pytest.raises(StateMismatchError, match="several tables"):
        merge_segments([made_up.ledger("bids", "w", rng), made_up.ledger("box_events", "w", rng)], "bids")


def ads(cells: int = 2, partitions: int = 4) -> list[Store]:
    return made_up.stores("ads", made_up.settings(partitions), places_with_store("cells", cells), random.Random(7))


def with_rows(store: Store, **changes: bytes | None) -> Store:
    return Store(store.place, {**store.rows, **{("ads.viewing.state", key): value for key, value in changes.items()}})


def test_a_step_that_is_not_known_stops_everything() -> None:
    first, second = ads()
    foreign = Store(first.place, {**first.rows, ("ads.novelty", "p000g0"): b"x"})
    for check in (account, lambda stores, of: reshard(stores, places_with_store("cells", 3), of)):
        with pytest.raises(StateMismatchError, match=r"ads\.novelty is not known"):
            check([foreign, second], terms(4))


@pytest.mark.parametrize("key", ["p001g0", "p099g0", "box-7"])
def test_a_key_that_is_not_the_stores_own_is_refused(key: str) -> None:
    first, second = ads()
    with pytest.raises(StateMismatchError, match="which is not its own"):
        reshard([with_rows(first, **{key: b"x"}), second], places_with_store("cells", 3), terms(4))


def test_a_step_without_state_that_has_some_is_refused_and_the_other_way_round() -> None:
    first, second = ads()
    with pytest.raises(StateMismatchError, match=r"holds no state of ads\.viewing\.state"):
        reshard([with_rows(first, p000g0=None), second], places_with_store("cells", 3), terms(4))
    spoilt = Store(first.place, {**first.rows, ("ads.facts", "facts"): b"x"})
    with pytest.raises(StateMismatchError, match=r"holds a state of ads\.facts"):
        reshard([spoilt, second], places_with_store("cells", 3), terms(4))


def test_a_cell_without_a_snapshot_is_refused_while_others_have_one() -> None:
    first, second = ads()
    with pytest.raises(StateMismatchError, match=r"no positions of the partitions \[1, 3\]"):
        reshard([first, Store(second.place, {})], places_with_store("cells", 3), terms(4))


def test_state_without_any_position_is_refused() -> None:
    lost = [Store(one.place, {row: v for row, v in one.rows.items() if row[0] != "ads.events"}) for one in ads()]
    with pytest.raises(StateMismatchError, match="no position of the source"):
        reshard(lost, places_with_store("cells", 3), terms(4))


def test_the_same_store_twice_is_refused() -> None:
    first, _ = ads()
    with pytest.raises(StateMismatchError, match="two of the source's snapshots hold the partitions"):
        reshard([first, first], places_with_store("cells", 3), terms(4))


def test_another_number_of_partitions_is_refused() -> None:
    with pytest.raises(StateMismatchError, match=r"no positions of the partitions \[4, 5\]"):
        reshard(ads(), places_with_store("cells", 3), terms(6))


def test_blank_stores_make_blank_stores() -> None:
    blank = [Store(place, {}) for place in places_with_store("cells", 2)]
    assert reshard(blank, places_with_store("cells", 3), terms(4)) == ({}, {}, {})
    assert account(blank, terms(4)) == Account()


def test_a_mark_of_a_partition_that_was_not_the_stores_is_dropped() -> None:
    """A mark too high would hide decisions from the cell that reads them back; none costs it only time."""
    first, second = ads()
    rows = {**first.rows, ("ads.push", "ad-push"): encode_acked(DECISIONS, {0: 5, 2: 6, 3: 10_000})}
    (whole,) = through([Store(first.place, rows), second], places_with_store("cells", 1), 4)
    found = decode_acked(whole.rows["ads.push", "ad-push"] or b"", DECISIONS)
    assert (found[0], found[2]) == (5, 6)
    assert found[3] < 100


@pytest.mark.parametrize("spoil", ["lose", "double", "change"])
def test_account_shows_a_row_lost_doubled_or_changed(spoil: str) -> None:
    first, second = ads()
    value = first.rows["ads.viewing.state", "p000g0"] or b""
    match spoil:
        case "lose":
            other = Store(first.place, {row: v for row, v in first.rows.items() if row[1] != "p000g0"})
        case "double":
            other = with_rows(first, p002g9=value)
        case _:
            other = with_rows(first, p000g0=bytes([value[0] ^ 1]) + value[1:])
    assert account([other, second], terms(4)) != account([first, second], terms(4))


def test_every_step_with_a_snapshot_has_a_rule() -> None:
    """Bytewax stores a row for every step of these kinds."""
    kinds = {"input", "stateful_batch", "output"}
    steps = {
        step.split()[0]
        for flow in FLOWS
        for step in (GOLDEN / f"{flow}.steps.txt").read_text().splitlines()
        if step.split()[1] in kinds
    }
    assert {*RULES} == steps


def test_places_of_neighbouring_shapes_share_out_all_partitions() -> None:
    for one, other in pairwise([*(("cells", n) for n in range(1, 6)), ("cluster", 3)]):
        for mode, count in (one, other):
            owned = [p for place in places_with_store(mode, count) for p in place.partitions(7)]  # type: ignore[arg-type]
            assert sorted(owned) == [*range(7)]
