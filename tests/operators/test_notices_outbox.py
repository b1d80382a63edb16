from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path

import msgspec
import pytest

from datastreamx.errors import CrashError, StateMismatchError
from datastreamx.snapshots import seal
from operators.decisions.firsts import MEMORY_MS
from operators.notices.notice import Notice
from operators.notices.outbox import (
    AILING_AFTER,
    ARMED_MAX,
    ARMED_WHILE_AILING_MAX,
    CROWDED,
    WAITING_MAX,
    Ended,
    Outbox,
    Reply,
    Result,
    Terms,
)
from operators.notices.recent import KEYS_MAX, RecentKeys
from tests.builders import T0

GOLDEN = Path(__file__).parent / "golden" / "notices-snapshot-v2.msgpack"
TERMS = Terms(attempts=3, retry_interval_ms=10_000)
DELIVERED, FAILED, UNSENT = Reply(Result.DELIVERED), Reply(Result.FAILED, "refused"), Reply(Result.UNSENT)


def notice(number: int = 1, aggregator: str = "alpha") -> Notice:
    return Notice(f"{number:032x}", aggregator, "bid-1", "win", f"https://a.example/{number}", 0, number, T0)


def filled(*numbers: int, aggregator: str = "alpha") -> Outbox:
    outbox = Outbox(TERMS)
    for number in numbers:
        outbox.add(notice(number, aggregator))
    return outbox


def released(outbox: Outbox, now_ms: int = T0) -> list[bytes]:
    """Keys released by the tick after the next snapshot."""
    outbox.snapshot(now_ms)
    return [key for key, _ in outbox.tick()]


def unconfirmed(outbox: Outbox) -> list[Notice]:
    lost = outbox.take_untold(T0)
    assert {one.result for one in lost} <= {Result.UNCONFIRMED}
    return [one.notice for one in lost]


def test_new_notice_is_not_sent_before_a_snapshot_holds_it() -> None:
    outbox = filled(1)
    assert outbox.tick() == []


def test_snapshot_alone_sends_nothing_and_the_tick_after_it_sends_once() -> None:
    outbox = filled(1)
    outbox.snapshot(T0)
    assert outbox.tick() == [(notice(1).key, notice(1))]
    outbox.snapshot(T0)
    assert outbox.tick() == []


def test_notice_that_came_after_the_snapshot_waits_for_the_next() -> None:
    outbox = filled(1)
    outbox.snapshot(T0)
    outbox.add(notice(2))
    assert [key for key, _ in outbox.tick()] == [notice(1).key]
    assert released(outbox) == [notice(2).key]


def test_armed_notice_is_unconfirmed_after_a_crash_and_never_sent_again() -> None:
    resumed = Outbox(TERMS, filled(1).snapshot(T0))
    assert released(resumed) == []
    assert unconfirmed(resumed) == [notice(1)]
    assert (len(resumed), resumed.has_untold) == (0, False)
    resumed.add(notice(1))
    assert len(resumed) == 0
    assert released(resumed) == []


def test_unconfirmed_notice_survives_a_crash_before_it_was_told() -> None:
    again = Outbox(TERMS, Outbox(TERMS, filled(1).snapshot(T0)).snapshot(T0))
    assert unconfirmed(again) == [notice(1)]


def test_delivered_notice_is_gone() -> None:
    outbox = filled(1)
    (key,) = released(outbox)
    assert outbox.attempted(key, DELIVERED, T0) == Ended(notice(1), Result.DELIVERED, 1, "")
    assert len(outbox) == 0
    assert unconfirmed(Outbox(TERMS, outbox.snapshot(T0))) == []


@pytest.mark.parametrize("result", [Result.REFUSED, Result.UNCONFIRMED, Result.FORBIDDEN])
def test_attempt_that_may_have_been_heard_is_the_last(result: Result) -> None:
    outbox = filled(1)
    (key,) = released(outbox)
    assert outbox.attempted(key, Reply(result, "why"), T0) == Ended(notice(1), result, 1, "why")
    assert released(outbox, T0 + 3_600_000) == []


def test_refused_connection_is_tried_again_at_the_interval_up_to_the_last_attempt() -> None:
    outbox = filled(1)
    now_ms = T0
    told = []
    for _ in range(TERMS.attempts):
        (key,) = released(outbox, now_ms)
        told.append(outbox.attempted(key, FAILED, now_ms))
        assert released(outbox, now_ms + TERMS.retry_interval_ms - 1) == []
        now_ms += TERMS.retry_interval_ms
    assert told == [None, None, Ended(notice(1), Result.FAILED, TERMS.attempts, "refused")]
    assert released(outbox, now_ms) == []


def test_notice_that_waits_for_its_next_attempt_survives_a_crash() -> None:
    """It was not sent since the snapshot, because every attempt is written ahead."""
    outbox = filled(1)
    (key,) = released(outbox)
    outbox.attempted(key, FAILED, T0)
    resumed = Outbox(TERMS, outbox.snapshot(T0))
    assert unconfirmed(resumed) == []
    (key,) = released(resumed, T0 + TERMS.retry_interval_ms)
    resumed.attempted(key, FAILED, T0)
    (key,) = released(resumed, T0 + TERMS.retry_interval_ms)
    last = resumed.attempted(key, FAILED, T0)
    assert last is not None
    assert last.attempts == TERMS.attempts


def test_clean_stop_leaves_nothing_unconfirmed_and_the_next_process_writes_ahead_anew() -> None:
    outbox = filled(1, 2)
    first, second = released(outbox)
    outbox.attempted(first, DELIVERED, T0)
    outbox.attempted(second, UNSENT, T0)
    outbox.add(notice(3))
    outbox.snapshot(T0)
    outbox.close()
    assert outbox.tick() == []
    last = outbox.snapshot(T0)
    # A crash of the next process resumes from the same snapshot; so nothing may be sent on the strength of it.
    resumed = Outbox(TERMS, last)
    assert unconfirmed(resumed) == []
    assert resumed.tick() == []
    assert released(resumed) == [notice(2).key, notice(3).key]


def test_closing_with_an_attempt_under_way_is_a_fault() -> None:
    outbox = filled(1)
    released(outbox)
    with pytest.raises(CrashError, match="on its way"):
        outbox.close()


def test_attempt_that_was_never_released_is_a_fault() -> None:
    outbox = filled(1)
    with pytest.raises(CrashError, match="not released"):
        outbox.attempted(notice(1).key, DELIVERED, T0)


def test_same_notice_is_taken_once_while_it_is_pending_and_lately_after() -> None:
    outbox = filled(1)
    outbox.add(notice(1))
    assert len(outbox) == 1
    (key,) = released(outbox)
    outbox.attempted(key, DELIVERED, T0)
    outbox.add(notice(1))
    resumed = Outbox(TERMS, outbox.snapshot(T0 + MEMORY_MS))
    resumed.add(notice(1))
    assert (len(outbox), len(resumed)) == (0, 0)


@pytest.mark.parametrize(
    "other",
    [
        msgspec.structs.replace(notice(1), aggregator="beta"),
        msgspec.structs.replace(notice(1), event="billing"),
        msgspec.structs.replace(notice(1), bid_id="bid-2"),
        msgspec.structs.replace(notice(1), auction_id="f" * 32),
    ],
    ids=["aggregator", "event", "bid", "auction"],
)
def test_notices_differ_by_auction_aggregator_bid_and_event(other: Notice) -> None:
    outbox = filled(1)
    outbox.add(other)
    assert len(outbox) == 2


def test_crash_risks_a_bounded_number_of_notices_to_each_aggregator() -> None:
    outbox = filled(*range(ARMED_MAX + 50))
    for number in range(5):
        outbox.add(notice(number, "beta"))
    assert Counter(one.aggregator for one in unconfirmed(Outbox(TERMS, outbox.snapshot(T0)))) == {
        "alpha": ARMED_MAX,
        "beta": 5,
    }


def test_few_notices_are_risked_while_the_aggregator_takes_none() -> None:
    outbox = filled(*range(100))
    keys = released(outbox)
    for key in keys:
        outbox.attempted(key, FAILED, T0)
    later_ms = T0 + TERMS.retry_interval_ms
    probes = released(outbox, later_ms)
    assert len(probes) == ARMED_WHILE_AILING_MAX
    outbox.attempted(probes[0], DELIVERED, later_ms)
    assert len(released(outbox, later_ms)) == len(keys) - len(probes)


def test_notices_to_an_aggregator_that_takes_none_are_bounded_and_those_beyond_fail() -> None:
    outbox = filled(*range(AILING_AFTER))
    for key in released(outbox):
        outbox.attempted(key, FAILED, T0)
    for number in range(AILING_AFTER, WAITING_MAX + 11):
        outbox.add(notice(number))
    outbox.add(notice(1, "beta"))
    assert not outbox.is_crowded
    released(outbox)
    refused = outbox.take_untold(T0)
    assert [(one.notice.aggregator, one.result, one.attempts) for one in refused] == [("alpha", Result.FAILED, 0)] * 11
    assert len(outbox) == WAITING_MAX + 1


def test_notice_that_is_not_to_be_sent_is_told_only_when_no_replay_can_send_it() -> None:
    """Else its letter says that it was surely not heard, and the process after a crash sends it."""
    outbox = Outbox(TERMS)
    outbox.add(notice(1), Reply(Result.FORBIDDEN, "why"))
    assert not outbox.has_untold
    held = outbox.snapshot(T0)
    assert not outbox.has_untold
    assert (outbox.tick(), outbox.has_untold) == ([], True)
    resumed = Outbox(TERMS, held)
    resumed.add(notice(1))
    assert released(resumed) == []
    for one in (outbox, resumed, Outbox(TERMS, outbox.snapshot(T0))):
        assert one.take_untold(T0) == [Ended(notice(1), Result.FORBIDDEN, 0, "why")]


def test_notice_that_is_not_to_be_sent_survives_a_clean_stop() -> None:
    outbox = Outbox(TERMS)
    outbox.add(notice(1), Reply(Result.FORBIDDEN, "why"))
    outbox.snapshot(T0)
    outbox.close()
    resumed = Outbox(TERMS, outbox.snapshot(T0))
    assert [one.result for one in resumed.take_untold(T0)] == [Result.FORBIDDEN]
    assert released(resumed) == []


def test_failures_among_successes_fail_no_notice_of_a_backlog() -> None:
    outbox = filled(*range(WAITING_MAX + ARMED_MAX))
    keys = released(outbox)
    for place, key in enumerate(keys):
        # As many failures in a row as there may be, the last attempts among them.
        outbox.attempted(key, FAILED if place % AILING_AFTER else DELIVERED, T0)
    outbox.add(notice(WAITING_MAX + ARMED_MAX))
    assert outbox.is_crowded
    released(outbox)
    assert not outbox.has_untold


def test_healthy_aggregator_with_many_notices_waiting_asks_for_a_pause() -> None:
    outbox = filled(*range(CROWDED - 1))
    crowded = [outbox.is_crowded]
    outbox.add(notice(CROWDED))
    crowded.append(outbox.is_crowded)
    released(outbox)
    assert [*crowded, outbox.is_crowded] == [False, True, False]


def test_memory_of_ended_notices_is_bounded() -> None:
    recent = RecentKeys()
    for number in range(3 * KEYS_MAX):
        recent.add(number.to_bytes(8, "big"), T0 + number * 2)
    assert sum(map(len, recent.dump(T0 + 6 * KEYS_MAX).values())) <= 8 * KEYS_MAX
    assert recent.dump(T0 + 6 * KEYS_MAX + MEMORY_MS + 20_000) == {}


# A model: the log, the recovery store and the wire, and crashes at any point ---------------------------------------


BRISK = Terms(attempts=3, retry_interval_ms=1_000)
"""Such that a story ends long before its notices are forgotten."""


class World:
    """Everything that outlives a crash, and what must hold of it.

    Letters that were emitted since the last durable snapshot are lost by a crash, as those of a sink are at worst.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.log = [notice(number, self.rng.choice(("alpha", "beta"))) for number in range(60)]
        # Some follow twice, not long after.
        for place in sorted(self.rng.sample(range(60), 8), reverse=True):
            self.log.insert(place + self.rng.randrange(1, 6), self.log[place])
        self.now_ms = T0
        self.wire: defaultdict[str, list[str]] = defaultdict(list)
        self.letters: list[Ended] = []
        self.stored: tuple[bytes | None, int, int] = (None, 0, 0)
        self.start()

    def start(self) -> None:
        snapshot, self.place, letters = self.stored
        del self.letters[letters:]
        self.outbox = Outbox(BRISK, snapshot)
        self.under_way: dict[bytes, Notice] = {}
        self.letters += self.outbox.take_untold(self.now_ms) if self.rng.random() < 0.8 else []

    def step(self) -> None:
        self.now_ms += self.rng.randrange(600)
        match self.rng.randrange(8):
            case 0 | 1:
                self.read(self.rng.randrange(6))
            case 2 | 3:
                self.end_epoch()
            case 4 | 5:
                self.answer(self.rng.randrange(4))
            case 6 if self.rng.random() < 0.15:
                self.crash()
            case 7 if self.rng.random() < 0.3:
                self.stop()
            case _:
                self.letters += self.outbox.take_untold(self.now_ms)

    def read(self, count: int) -> None:
        for one in self.log[self.place : self.place + count]:
            self.outbox.add(one)
            self.place += 1

    def end_epoch(self) -> None:
        held = self.outbox.snapshot(self.now_ms), self.place, len(self.letters)
        if self.rng.random() < 0.05:
            # It died before the snapshot was durable, whatever this step had done by then.
            self.start()
            return
        self.stored = held
        if self.rng.random() < 0.05:
            self.crash()
            return
        for key, one in self.outbox.tick():
            self.under_way[key] = one

    def answer(self, count: int) -> None:
        for key in self.rng.sample(sorted(self.under_way), min(count, len(self.under_way))):
            one = self.under_way.pop(key)
            reply = Reply(self.rng.choice([Result.DELIVERED] * 3 + [Result.FAILED] * 3 + [*Result]))
            if reply.result not in {Result.UNSENT, Result.FORBIDDEN}:
                self.wire[one.id].append(reply.result.value)
            self.note(self.outbox.attempted(key, reply, self.now_ms))

    def crash(self) -> None:
        for one in self.under_way.values():
            if self.rng.random() < 0.7:
                self.wire[one.id].append("heard of by nobody here")
        self.start()

    def stop(self) -> None:
        while self.under_way:
            self.answer(10)
        self.outbox.close()
        self.stored = self.outbox.snapshot(self.now_ms), self.place, len(self.letters)
        self.start()

    def note(self, ended: Ended | None) -> None:
        if ended is not None:
            self.letters.append(ended)

    def settle(self) -> None:
        """No more crashes: everything must come to its end."""
        self.letters += self.outbox.take_untold(self.now_ms)
        for _ in range(200):
            self.now_ms += BRISK.retry_interval_ms
            self.read(1)
            self.outbox.snapshot(self.now_ms)
            self.under_way |= dict(self.outbox.tick())
            while self.under_way:
                self.answer(10)

    def check(self, seed: int) -> None:
        for name, attempts in self.wire.items():
            sure = [attempt for attempt in attempts[:-1] if attempt != Result.FAILED.value]
            assert not sure, f"seed {seed}: {name} was sent again after {sure}: {attempts}"
            assert len(attempts) <= BRISK.attempts, f"seed {seed}: {name}: {attempts}"


@pytest.mark.parametrize("first_seed", range(0, 400, 100))
def test_no_notice_is_sent_twice_or_vanishes_whatever_crashes(first_seed: int) -> None:
    results: Counter[Result] = Counter()
    for seed in range(first_seed, first_seed + 100):
        world = World(seed)
        for _ in range(150):
            world.step()
            world.check(seed)
        world.settle()
        world.check(seed)
        ended = {one.notice.id for one in world.letters}
        assert ended == {one.id for one in world.log}, f"seed {seed}"
        assert len(world.outbox) == 0, f"seed {seed}"
        results.update(one.result for one in world.letters)
        delivered = {name for name, attempts in world.wire.items() if Result.DELIVERED.value in attempts}
        told = {one.notice.id for one in world.letters if one.result is Result.DELIVERED}
        assert told <= delivered, f"seed {seed}"
    # Else nothing was proven.
    assert all(results[result] > 20 for result in set(Result) - {Result.UNSENT}), results


def golden_snapshot() -> bytes:
    """One delivered, one that waits for its second attempt, one on its way, one new."""
    outbox = filled(1, 2, 3)
    keys = released(outbox)
    outbox.attempted(keys[0], DELIVERED, T0)
    outbox.attempted(keys[1], FAILED, T0)
    outbox.add(notice(4))
    return outbox.snapshot(T0)


def test_snapshot_bytes_are_an_interface() -> None:
    """A change here means that running deployments cannot resume: raise VERSION and keep a reader for the old one."""
    assert golden_snapshot() == GOLDEN.read_bytes()
    restored = Outbox(TERMS, GOLDEN.read_bytes())
    assert unconfirmed(restored) == [notice(3), notice(4)]
    assert released(restored, T0 + TERMS.retry_interval_ms) == [notice(2).key]
    restored.add(notice(1))
    assert len(restored) == 1


def test_snapshot_of_another_version_is_refused() -> None:
    with pytest.raises(StateMismatchError, match="version 1"):
        Outbox(TERMS, seal(msgspec.msgpack.encode([1, ["fields of another version"], {}])))


@pytest.mark.parametrize("damage", [b"", *map(seal, [b"", b"\x00", b"\x94\x02"]), GOLDEN.read_bytes()[:-1]])
def test_bytes_that_are_no_snapshot_are_refused(damage: bytes) -> None:
    with pytest.raises(StateMismatchError):
        Outbox(TERMS, damage)
