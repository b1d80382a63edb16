from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from datastreamx.config import KafkaConfig
from datastreamx.errors import RetryableError, StaleStoreError
from sources.kafka.history import Beginning, History
from sources.kafka.positions import decode_positions
from sources.kafka.reader import PartitionReader
from sources.kafka.start import StartPosition
from sources.kafka.witness import Evidence, Held, Lineage, agree, complaint, parse_evidence
from tests.sources.fake_kafka import LAYOUT, TOPIC, FakeConsumer, failure, record


def held(
    offset: int = 10,
    lineage: str = "aa",
    taken: int = 5,
    instead_of: str | None = None,
    replaced_at: int | None = None,
) -> Held:
    return Held(offset, Lineage(id=lineage, taken=taken, instead_of=instead_of), replaced_at)


@pytest.mark.parametrize(
    ("offset", "metadata", "expected"),
    [
        (-1001, None, None),
        (-1001, "aa:3", None),
        (7, "aa:3", Evidence(7, "aa", 3)),
        (7, None, Evidence(7)),
        (7, "", Evidence(7)),
        (7, "set by hand", Evidence(7)),
        (7, "aa:three", Evidence(7)),
        (7, ":3", Evidence(7)),
    ],
)
def test_committed_offsets_are_understood(offset: int, metadata: str | None, expected: Evidence | None) -> None:
    assert parse_evidence(offset, metadata) == expected


def test_metadata_is_read_back_as_written() -> None:
    assert parse_evidence(1, Lineage(id="00ff00ff", taken=12).metadata) == Evidence(1, "00ff00ff", 12)


@pytest.mark.parametrize(
    ("store", "evidence", "said"),
    [
        pytest.param(held(taken=5), Evidence(10, "aa", 5), None, id="the same snapshot"),
        pytest.param(held(taken=6), Evidence(10, "aa", 5), None, id="the store has one that was never proven"),
        pytest.param(held(taken=5), Evidence(10, "aa", 9), "4 snapshots behind", id="an old copy"),
        pytest.param(held(99, taken=5), Evidence(10, "aa", 6), "1 snapshots behind", id="offsets do not excuse it"),
        pytest.param(held(taken=5), Evidence(10, "bb", 1), "another history", id="foreign"),
        pytest.param(held(instead_of="bb"), Evidence(10, "bb", 99), None, id="accepted, and not yet proven"),
        pytest.param(held(instead_of="bb"), Evidence(10, "cc", 1), "another history", id="accepted another one"),
        pytest.param(held(9), Evidence(10), "1 records behind", id="old, by the offset alone"),
        pytest.param(held(10), Evidence(10), None, id="at the offset"),
        pytest.param(held(11), Evidence(10), None, id="beyond the offset"),
        pytest.param(held(9, replaced_at=10), Evidence(10), None, id="accepted by the offset, and not yet proven"),
        pytest.param(held(9, replaced_at=10), Evidence(11), "2 records behind", id="accepted, and proven since"),
        pytest.param(None, Evidence(10, "aa", 5), "there is no state", id="gone"),
        pytest.param(None, Evidence(0), "there is no state", id="gone, by the offset alone"),
    ],
)
def test_a_store_is_compared_with_its_witness(store: Held | None, evidence: Evidence, said: str | None) -> None:
    found = complaint(store, evidence)
    assert found is None if said is None else said in str(found)


A, B = (TOPIC, 0), (TOPIC, 1)


def names() -> Callable[[], str]:
    numbers = itertools.count()
    return lambda: f"new-{next(numbers)}"


def test_without_state_and_without_witness_every_partition_begins_a_lineage() -> None:
    lineages, accepted = agree(None, {}, (0, 1), accept=False, make_lineage=names())
    assert lineages == {0: Lineage(id="new-0"), 1: Lineage(id="new-1")}
    assert accepted == []


def test_lineages_go_on_where_store_and_witness_agree() -> None:
    store = {A: held(), B: held(lineage="bb")}
    lineages, accepted = agree(store, {A: Evidence(10, "aa", 5)}, (0, 1), accept=True, make_lineage=names())
    assert lineages == {0: store[A].lineage, 1: store[B].lineage}
    assert accepted == []


def test_the_refusal_says_what_is_wrong_and_names_all_three_choices() -> None:
    evidence = {A: Evidence(10, "aa", 8), B: Evidence(10, "aa", 8)}
    choices = r"`datastreamx restore`.*`datastreamx replay`.*`datastreamx run FLOW --accept-store`"
    with pytest.raises(
        StaleStoreError, match=rf"events\[0\]: it is 3 snapshots behind .* \(and 1 partitions more\).*{choices}"
    ):
        agree({A: held(), B: held()}, evidence, (0, 1), accept=False, make_lineage=names())
    with pytest.raises(StaleStoreError, match=rf"is empty although the flow ran before.*{choices}"):
        agree(None, evidence, (0, 1), accept=False, make_lineage=names())


def test_what_is_accepted_begins_a_new_lineage_and_remembers_the_old_one() -> None:
    evidence = {A: Evidence(10, "aa", 8), B: Evidence(10, "bb", 5)}
    store = {A: held(), B: held(lineage="bb")}
    lineages, accepted = agree(store, evidence, (0, 1), accept=True, make_lineage=names())
    assert lineages == {0: Lineage(id="new-0", instead_of="aa"), 1: store[B].lineage}
    assert len(accepted) == 1


# Reader, snapshots and broker together


def begin(consumer: FakeConsumer, state: bytes | None = None, *, accept: bool = False, group: str | None = "g") -> Any:
    reader = PartitionReader(
        KafkaConfig(bootstrap="broker:9092"), LAYOUT, client_id="test", group=group, outside=consumer.outside()
    )
    beginning = Beginning(StartPosition("beginning"), accept_store=accept)
    return History.begin(reader, LAYOUT, state, beginning), reader


def test_only_a_snapshot_that_was_proven_is_committed() -> None:
    consumer = FakeConsumer(polls=[[record(0)], [record(1)]], watermarks={0: (0, 9), 1: (0, 0)})
    history, reader = begin(consumer)
    assert not history.prove()
    reader.poll(10)
    taken = decode_positions(history.take(), LAYOUT)
    assert consumer.commits == []
    reader.poll(10)
    assert history.prove()
    assert not history.prove()
    (committed,) = consumer.commits
    # What was read since the snapshot is not proven.
    assert [(one.partition, one.offset, one.metadata) for one in committed] == [
        (0, 1, taken.lineages[0].metadata),
        (1, 0, taken.lineages[1].metadata),
    ]
    history.take()
    reader.close()
    assert len(consumer.commits) == 1


def test_an_old_copy_of_the_store_is_refused_and_the_newest_one_is_not() -> None:
    consumer = FakeConsumer()
    history, _ = begin(consumer)
    old = history.take()
    history.prove()
    new = history.take()
    history.prove()
    with pytest.raises(StaleStoreError, match="1 snapshots behind"):
        begin(consumer, old)
    begin(consumer, new)


def test_a_lost_store_is_refused_and_so_is_another_one() -> None:
    consumer = FakeConsumer()
    history, _ = begin(consumer)
    history.take()
    history.prove()
    with pytest.raises(StaleStoreError, match="empty"):
        begin(consumer)
    foreign, _ = begin(FakeConsumer())
    with pytest.raises(StaleStoreError, match="another history"):
        begin(consumer, foreign.take())
    assert not consumer.assigned or consumer.assigned[0].offset == 0


@pytest.mark.parametrize("is_proven", [True, False], ids=["proven", "crashed before the first proof"])
def test_an_accepted_store_is_the_right_one_from_then_on(*, is_proven: bool) -> None:
    consumer = FakeConsumer()
    history, _ = begin(consumer)
    old = history.take()
    history.prove()
    history.take()
    history.prove()
    accepted, _ = begin(consumer, old, accept=True)
    state = accepted.take()
    if is_proven:
        accepted.prove()
    begin(consumer, state)
    if is_proven:
        with pytest.raises(StaleStoreError, match="another history"):
            begin(consumer, old)


def test_a_broker_that_keeps_no_metadata_still_testifies_by_the_offset() -> None:
    consumer = FakeConsumer(polls=[[record(0)]], watermarks={0: (0, 9), 1: (0, 0)})
    history, reader = begin(consumer)
    old = history.take()
    reader.poll(10)
    new = history.take()
    history.prove()
    forget_metadata(consumer)
    with pytest.raises(StaleStoreError, match=r"events\[0\]: it is 1 records behind"):
        begin(consumer, old)
    begin(consumer, new)


@pytest.mark.parametrize("lost", ["an old store", "all of it"])
def test_what_was_accepted_without_metadata_stays_so_until_the_first_proof_and_no_longer(lost: str) -> None:
    consumer = FakeConsumer(polls=[[record(0), record(1)]], watermarks={0: (0, 2), 1: (0, 0)})
    history, reader = begin(consumer)
    old = history.take()
    reader.poll(10)
    history.take()
    history.prove()
    forget_metadata(consumer)

    accepted, reader = begin(consumer, old if lost == "an old store" else None, accept=True)
    state = accepted.take()
    begin(consumer, state)  # crashed before the first proof: the broker still tells of what was replaced
    consumer.confirms = False
    accepted.prove()
    forget_metadata(consumer)
    begin(consumer, state)

    # Lost on the way, as far as anybody knows.
    assert unsealed(accepted.take()).replaced_at(TOPIC) == 2
    reader._on_commit(None, [])
    proven = accepted.take()
    assert unsealed(proven) == Lineage(id=unsealed(state).id, taken=unsealed(state).taken + 2)
    consumer.evidence[A] = (2, "")  # the flow has come there again
    with pytest.raises(StaleStoreError, match="2 records behind"):
        begin(consumer, proven)


def forget_metadata(consumer: FakeConsumer) -> None:
    consumer.evidence = {one: (offset, "") for one, (offset, _) in consumer.evidence.items()}


def unsealed(state: bytes) -> Lineage:
    return decode_positions(state, LAYOUT).lineages[0]


def test_a_commit_that_the_brokers_refuse_for_one_partition_is_none() -> None:
    consumer = FakeConsumer()
    _, reader = begin(consumer)
    refused = SimpleNamespace(error=KafkaError(KafkaError.NOT_COORDINATOR))
    reader._on_commit(None, [refused])
    assert not reader.has_committed
    reader._on_commit(None, [TopicPartition(*A)])
    assert reader.has_committed


def test_a_reader_without_a_group_asks_nobody_and_commits_nothing() -> None:
    consumer = FakeConsumer()
    consumer.evidence = {A: (5, "aa:1")}
    history, _ = begin(consumer, group=None)
    history.take()
    assert history.prove()
    assert consumer.commits == []


def test_brokers_that_do_not_tell_are_asked_for_a_bounded_time() -> None:
    consumer = FakeConsumer()
    consumer.failures = [failure(KafkaError._TIMED_OUT)] * 100
    with pytest.raises(RetryableError, match="did not tell the offsets that the group has committed within 10 s"):
        begin(consumer)
    consumer.failures = [failure(KafkaError._TIMED_OUT)] * 2
    begin(consumer)
