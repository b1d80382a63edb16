"""The notices flow from topics to the wire, through crashes: what is sent is sent once, and nothing vanishes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from bytewax.errors import BytewaxRuntimeError
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from bytewax.recovery import init_db_dir
from bytewax.testing import TestingSink

from datastreamx.clock import SystemClock
from datastreamx.config import Config
from datastreamx.model.auction import BidNotice, Decision, NoticeUrls, Outcome
from datastreamx.model.chunk import DeadLetter
from datastreamx.model.log import LogBatch
from datastreamx.place import Place
from datastreamx.wire.decisions import encode_decision
from datastreamx.wire.facts import FactBatch, encode_facts
from flows import notices
from flows.ports import Process
from flows.ports.notices import NoticesPorts, live_notices_ports
from flows.recovery.part import read_part
from operators.async_map.executor import Executor
from operators.notices.notice import Notice
from operators.notices.outbox import Reply, Result
from operators.notices.step import NoticePorts
from operators.split import partition_key
from sinks.dead_letter.sink import DeadLetterSink
from tests.builders import T0, config, decision, outcome, shown, winning_ad
from tests.flows.doubles import Script, ScriptedSource, SnapshotCrashError, run_epochs
from tests.operators.test_impressions import facts

TOLD = 'notices = ["win", "loss", "billing"]\nnotice_hosts = ["t.example"]\nnotice_network = "any"\n'
SETTINGS = (
    f'{TOLD}[[aggregators]]\nname = "beta"\nadapter = "simple"\nurl = "http://127.0.0.1:9/bid"\n{TOLD}'
    "[events]\npartitions = 1\n[notices]\nattempts = 3\nretry_interval_ms = 1\n"
)
IDLE = [LogBatch("box-facts", 0, [], [], [], [])] * 15
"""What keeps the source emitting, and with it the ticks."""
RUNS_MAX = 60
EPOCHS = [timedelta(0), timedelta(milliseconds=5)]


@dataclass
class Wire:
    """What was sent, by notice; outlives crashes. Every notice has a nature of its own: how it will end.

    Attributes:
        attempts: Results, in order; a crash leaves "unknown" where no result reached the flow.
    """

    seed: int
    attempts: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    async def send(self, notice: Notice) -> Reply:
        self.attempts[notice.id].append("unknown")
        rng = random.Random(f"{self.seed}/{notice.id}/{len(self.attempts[notice.id])}")
        await asyncio.sleep(rng.choice((0, 0, 0.002, 0.01)))
        result = rng.choice([Result.DELIVERED] * 5 + [Result.FAILED] * 4 + [Result.REFUSED, Result.UNCONFIRMED])
        self.attempts[notice.id][-1] = result.value
        return Reply(result, "as it was drawn")


class StoppableWire:
    """One process's way to the wire."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._stopping = threading.Event()

    async def send(self, notice: Notice) -> Reply:
        return Reply(Result.UNSENT) if self._stopping.is_set() else await self._wire.send(notice)

    def stop(self) -> None:
        self._stopping.set()


@contextmanager
def process(wire: Wire) -> Iterator[NoticePorts]:
    """What a crash destroys."""
    clock = SystemClock()
    executor: Executor[Reply] = Executor(capacity=10_000, concurrency=10_000, clock=clock, name="notices")
    try:
        yield NoticePorts(executor, StoppableWire(wire), clock)
    finally:
        executor.close()


class DyingLetters(FixedPartitionedSink[DeadLetter, None]):
    """A sink in whose snapshots, by their numbers, the process dies: the outbox has taken its own by then."""

    def __init__(self, letters: list[tuple[str, DeadLetter]], *deaths: int) -> None:
        self.letters, self.deaths = letters, set(deaths)
        self.died = 0
        self._snapshots = itertools.count()

    def list_parts(self) -> list[str]:
        return ["letters"]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _DyingPart:
        del step_id, for_part, resume_state
        return _DyingPart(self)

    def snapshot(self) -> None:
        if next(self._snapshots) in self.deaths:
            self.died += 1
            raise SnapshotCrashError


class _DyingPart(StatefulSinkPartition[DeadLetter, None]):
    def __init__(self, sink: DyingLetters) -> None:
        self._sink = sink

    def write_batch(self, values: list[DeadLetter]) -> None:
        self._sink.letters += [("", letter) for letter in values]

    def snapshot(self) -> None:
        self._sink.snapshot()


def url(event: str, host: str = "t.example") -> str:
    return f"http://{host}/{event}?p=${{AUCTION_PRICE}}"


def told(number: int) -> Decision:
    """Won by alpha, lost by beta; every fifth winner names a host that is not its own."""
    auction = f"{number:032x}"
    ad = winning_ad(auction, bid_id="bid-a")
    host = "evil.example" if number % 5 == 0 else "t.example"
    win = BidNotice(
        bid_id="bid-a",
        code=Outcome.WON,
        price_micros=2_500_000,
        urls=NoticeUrls(win=url("win", host), billing=url("billing")),
        push_id=ad.push_id,
    )
    loss = BidNotice(bid_id="bid-b", code=Outcome.OUTBID, price_micros=1, urls=NoticeUrls(loss=url("loss")))
    return decision(
        outcome("alpha", Outcome.WON, notices=(win,)),
        outcome("beta", Outcome.OUTBID, notices=(loss,)),
        auction_id=auction,
        ads=(ad,),
        decided_ms=T0 + number,
    )


def expected_ids(count: int) -> set[str]:
    return {
        f"{number:032x}/{event}/{name}/{bid}"
        for number in range(count)
        for event, name, bid in (("win", "alpha", "bid-a"), ("loss", "beta", "bid-b"), ("billing", "alpha", "bid-a"))
        # Every third is never displayed.
        if event != "billing" or number % 3
    }


def make_items(count: int, seed: int) -> list[LogBatch]:
    """Decisions and displays, interleaved; some decisions are logged twice, some displays reported twice."""
    rng = random.Random(seed)
    decisions: list[bytes] = []
    displays: list[FactBatch] = []
    for number in range(count):
        decisions += [encode_decision(told(number))] * rng.choice((1, 1, 1, 2))
        if number % 3:
            for _ in range(rng.choice((1, 1, 1, 2))):
                event = shown(500 + number, f"{number:032x}", seq=len(displays))
                displays.append(facts(event, first_offset=len(displays)))
    items: list[LogBatch] = []
    while decisions or displays:
        if decisions and (not displays or rng.random() < 0.5):
            size = rng.randint(1, 4)
            values, decisions = decisions[:size], decisions[size:]
            items.append(LogBatch("ad-decisions", 0, list(range(len(values))), [T0] * len(values), values, [[]]))
            items[-1].headers[:] = [[]] * len(values)
        else:
            value, headers = encode_facts(displays.pop(0))
            items.append(LogBatch("box-facts", 0, [0], [T0], [value], [headers]))
    return items


@dataclass
class Story:
    wire: Wire
    letters: list[tuple[str, DeadLetter]]

    @property
    def sent(self) -> set[str]:
        return set(self.wire.attempts)

    def letters_by_id(self) -> dict[str, str]:
        return {(letter.key or b"").decode(): letter.reason for _, letter in self.letters}

    def ended(self) -> set[str]:
        """Delivered or a dead letter."""
        delivered = {name for name, attempts in self.wire.attempts.items() if Result.DELIVERED.value in attempts}
        return delivered | set(self.letters_by_id())

    def check_the_wire(self) -> None:
        for name, attempts in self.wire.attempts.items():
            assert set(attempts[:-1]) <= {Result.FAILED.value}, f"{name} was sent again: {attempts}"
            assert len(attempts) <= 3, name


def tell(  # noqa: PLR0917  a story takes what it takes
    settings: Config, items: list[LogBatch], seed: int, crashes: tuple[int, ...], epoch: timedelta, store: Path
) -> Story:
    """Run through crashes and clean stops until every notice has ended."""
    init_db_dir(store, 1)
    wire = Wire(seed)
    letters: list[tuple[str, DeadLetter]] = []
    story = Story(wire, letters)
    script = Script(items, *crashes)
    for _ in range(RUNS_MAX):
        script.items += IDLE
        with process(wire) as sending:
            source = ScriptedSource(script, ticks=True)
            ports = NoticesPorts(log=source, sending=sending, dead_letters=TestingSink(letters))
            # After the last crash with many snapshots, so that the rest goes out soon.
            run_epochs(notices.build(settings, ports), epoch if script.crashes else timedelta(0), store)
        story.check_the_wire()
        if not script.crashes and story.ended() == expected_ids(COUNT):
            return story
    missing = expected_ids(COUNT) - story.ended()
    raise AssertionError(f"seed {seed}: neither delivered nor dead after {RUNS_MAX} runs: {sorted(missing)}")


COUNT = 40


@pytest.fixture(scope="module")
def settings() -> Config:
    return config(SETTINGS)


@pytest.mark.parametrize("epoch", EPOCHS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_crash_story_no_notice_is_sent_twice_and_none_vanishes(
    settings: Config, seed: int, epoch: timedelta, tmp_path: Path
) -> None:
    items = make_items(COUNT, seed)
    rng = random.Random(seed)
    crashes = tuple(sorted(rng.sample(range(2, len(items) + 6), 6)))
    story = tell(settings, items, seed, crashes, epoch, tmp_path)
    assert story.ended() == expected_ids(COUNT), f"seed {seed}"
    assert story.sent <= expected_ids(COUNT)


def test_story_without_crashes_loses_nothing_to_doubt(settings: Config, tmp_path: Path) -> None:
    """Clean stops between the runs included: unconfirmed are only those whose receiver did not answer."""
    story = tell(settings, make_items(COUNT, 1), 1, (), EPOCHS[0], tmp_path)
    doubtful = {name for name, reason in story.letters_by_id().items() if reason == "notice_unconfirmed"}
    assert doubtful == {
        name for name, attempts in story.wire.attempts.items() if attempts[-1] == Result.UNCONFIRMED.value
    }
    assert not any("unknown" in attempts for attempts in story.wire.attempts.values())


def test_every_kind_of_end_is_told(settings: Config, tmp_path: Path) -> None:
    story = tell(settings, make_items(COUNT, 2), 2, (9, 14, 19, 24, 29), EPOCHS[0], tmp_path)
    reasons = story.letters_by_id()
    assert set(reasons.values()) == {"notice_refused", "notice_failed", "notice_unconfirmed", "notice_forbidden"}
    forbidden = {name for name, reason in reasons.items() if reason == "notice_forbidden"}
    assert forbidden == {f"{number:032x}/win/alpha/bid-a" for number in range(0, COUNT, 5)}
    assert not forbidden & story.sent
    assert any(attempts[0] == Result.FAILED.value and len(attempts) > 1 for attempts in story.wire.attempts.values())


def test_crash_after_the_outbox_took_its_snapshot_proves_nothing_and_repeats_nothing(
    settings: Config, tmp_path: Path
) -> None:
    init_db_dir(tmp_path, 1)
    wire = Wire(3)
    sink = DyingLetters([], 0, 1, 3, 6, 10, 15, 21)
    story = Story(wire, sink.letters)
    script = Script(make_items(COUNT, 3))
    for _ in range(RUNS_MAX):
        script.items += IDLE
        with process(wire) as sending:
            ports = NoticesPorts(log=ScriptedSource(script, ticks=True), sending=sending, dead_letters=sink)
            with contextlib.suppress(BytewaxRuntimeError):
                run_epochs(notices.build(settings, ports), timedelta(0), tmp_path)
        story.check_the_wire()
        if sink.died == len(sink.deaths) and story.ended() == expected_ids(COUNT):
            break
    assert sink.died == len(sink.deaths)
    assert story.ended() == expected_ids(COUNT)


def test_crash_before_the_first_durable_snapshot_sends_nothing(settings: Config, tmp_path: Path) -> None:
    """One long epoch: all notices are known, and none is written ahead."""
    init_db_dir(tmp_path, 1)
    wire = Wire(0)
    items = make_items(COUNT, 0)
    with process(wire) as sending:
        source = ScriptedSource(Script(items, len(items)), ticks=True)
        ports = NoticesPorts(log=source, sending=sending, dead_letters=TestingSink([]))
        run_epochs(notices.build(settings, ports), timedelta(hours=1), tmp_path)
    assert wire.attempts == {}


def test_cell_keeps_an_outbox_for_each_of_its_partitions_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a foreign partition would be a key that the guard refuses, and that a re-shard finds twice."""
    monkeypatch.setattr(DeadLetterSink, "connect", lambda _: None)
    settings = config(SETTINGS.replace("partitions = 1", "partitions = 4") + "[scaling]\ncells = 2\n")
    init_db_dir(tmp_path, 1)
    with ExitStack() as resources:
        live = live_notices_ports(Process(settings, Place("cells", 1, 2), resources=resources))
        log = ScriptedSource(Script([LogBatch("box-facts", 1, [], [], [], [])] * 15), ticks=True)
        ports = NoticesPorts(log=log, sending=live.sending, dead_letters=TestingSink([]))
        run_epochs(notices.build(settings, ports), timedelta(0), tmp_path)
    rows = read_part(tmp_path / "part-0.sqlite3").rows
    keys = {row.state_key for row in rows if row.step_id == "notices.send.outbox"}
    assert keys == {partition_key(1), partition_key(3)}
