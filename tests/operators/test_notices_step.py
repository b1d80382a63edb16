from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast

import msgspec
import pytest

from datastreamx import metrics
from datastreamx.clock import ManualClock
from datastreamx.config import Config
from datastreamx.model.auction import BidNotice, Decision, NoticeUrls, Outcome
from datastreamx.model.chunk import DeadLetter
from datastreamx.model.log import Tick
from datastreamx.wire.dead_letters import REASONS
from operators.async_map.executor import Done, Executor, Job
from operators.decisions.step import DecisionBatch
from operators.notices.notice import Notice, NoticeRules
from operators.notices.outbox import CROWDED, Reply, Result
from operators.notices.step import Item, NoticePorts, NoticesLogic
from tests.builders import T0, config, decision, outcome

TOLD = 'notices = ["win", "loss"]\nnotice_hosts = ["t.example"]\n[notices]\nattempts = 2\nretry_interval_ms = 1000\n'


class Sender:
    """Answers as the test says, when it says so."""

    def __init__(self) -> None:
        self.sent: list[Notice] = []
        self.stopped = False
        self.reply = Reply(Result.DELIVERED)

    async def send(self, notice: Notice) -> Reply:
        if self.stopped:
            return Reply(Result.UNSENT)
        self.sent.append(notice)
        return self.reply

    def stop(self) -> None:
        self.stopped = True


class InstantExecutor:
    """Runs a job when its output is collected; `held` keeps it under way."""

    def __init__(self) -> None:
        self.held = False
        self._jobs: dict[str, list[Job[Reply]]] = {}

    def submit(self, key: str, jobs: Sequence[Job[Reply]]) -> None:
        self._jobs.setdefault(key, []).extend(jobs)

    def collect(self, key: str) -> list[Done[Reply]]:
        jobs = [] if self.held else self._jobs.pop(key, [])
        return [Done(job.id, _run(job)) for job in jobs]


def _run(job: Job[Reply]) -> Reply:
    coroutine = job.run()
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast("Reply", end.value)
    raise AssertionError("these senders never wait")


class Process:
    """Logic of one partition and everything beside it."""

    def __init__(self, settings: Config, snapshot: bytes | None = None, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock(T0)
        self.sender, self.executor = Sender(), InstantExecutor()
        self.ports = NoticePorts(cast("Executor[Reply]", self.executor), self.sender, self.clock)
        self.logic = NoticesLogic(self.ports, NoticeRules(settings.aggregators), settings, snapshot)

    def take(self, *items: Item) -> list[DeadLetter]:
        return list(self.logic.on_batch(list(items))[0])

    def wake(self) -> list[DeadLetter]:
        return list(self.logic.on_notify()[0])

    def end(self) -> list[DeadLetter]:
        return list(self.logic.on_eof()[0])

    def epoch(self) -> list[DeadLetter]:
        """A snapshot, the tick that follows, and what comes of it."""
        self.logic.snapshot()
        return self.take(Tick()) + self.wake()


@pytest.fixture
def settings() -> Config:
    return config(TOLD)


@pytest.fixture
def process(settings: Config) -> Process:
    return Process(settings)


def lost(number: int = 1, host: str = "t.example") -> Decision:
    bid = BidNotice(
        bid_id="bid-1", code=Outcome.OUTBID, price_micros=1, urls=NoticeUrls(loss=f"https://{host}/{number}")
    )
    told = outcome("alpha", Outcome.OUTBID, notices=(bid,))
    return decision(told, auction_id=f"{number:032x}", partition=3, offset=number)


def batch(*decisions: Decision) -> DecisionBatch:
    return DecisionBatch(list(decisions), {})


def counted(result: str) -> float:
    count: float = metrics.NOTICES.labels("alpha", "loss", result)._value.get()
    return count


def test_decision_is_told_after_a_snapshot_and_its_tick_and_counted(process: Process) -> None:
    before = counted("delivered")
    assert process.take(batch(lost())) == []
    assert process.take(Tick()) == []
    assert process.sender.sent == []
    assert process.epoch() == []
    assert [one.url for one in process.sender.sent] == ["https://t.example/1"]
    assert counted("delivered") == before + 1


def test_refused_notice_is_a_dead_letter_that_tells_all_of_it(process: Process) -> None:
    process.sender.reply = Reply(Result.REFUSED, "HTTP status 404")
    process.take(batch(lost(7)))
    (letter,) = process.epoch()
    (sent,) = process.sender.sent
    assert (letter.reason, letter.topic, letter.partition, letter.offset) == ("notice_refused", "box-events", 3, 7)
    assert letter.key == f"{7:032x}/loss/alpha/bid-1".encode()
    assert letter.detail == "loss notice to alpha: HTTP status 404"
    told = msgspec.json.decode(letter.value or b"")
    assert told == {**msgspec.structs.asdict(sent), "result": "refused", "attempts": 1}


@pytest.mark.parametrize("result", sorted({*Result} - {Result.DELIVERED, Result.UNSENT}, key=str))
def test_every_reason_is_a_known_one(result: Result) -> None:
    assert f"notice_{result.value}" in REASONS


def test_failed_notice_is_sent_again_after_the_interval_and_then_a_dead_letter(process: Process) -> None:
    process.sender.reply = Reply(Result.FAILED, "connection refused")
    process.take(batch(lost()))
    assert process.epoch() == []
    assert process.epoch() == []
    assert len(process.sender.sent) == 1
    process.clock.advance(1_000)
    (letter,) = process.epoch()
    assert len(process.sender.sent) == 2
    assert letter.reason == "notice_failed"


def test_host_outside_the_allow_list_is_a_dead_letter_and_never_asked(process: Process) -> None:
    assert process.take(batch(lost(1, host="evil.example"))) == []
    (letter,) = process.epoch()
    assert letter.reason == "notice_forbidden"
    assert process.sender.sent == []


def test_host_that_a_new_configuration_forbids_is_not_asked_for_old_notices(settings: Config) -> None:
    first = Process(settings)
    first.take(batch(lost()))
    first.end()
    strict = config(TOLD.replace("t.example", "other.example"))
    second = Process(strict, first.logic.snapshot())
    (letter,) = second.epoch()
    assert (letter.reason, second.sender.sent) == ("notice_forbidden", [])


def test_crash_after_the_tick_leaves_a_dead_letter_and_no_second_sending(settings: Config, process: Process) -> None:
    process.take(batch(lost()))
    held = process.logic.snapshot()
    process.take(Tick())
    resumed = Process(settings, held)
    wake_at = resumed.logic.notify_at()
    assert wake_at is not None
    assert wake_at <= datetime.now(UTC)
    (letter,) = resumed.wake()
    assert letter.reason == "notice_unconfirmed"
    resumed.take(batch(lost()))
    assert resumed.epoch() == []
    assert resumed.sender.sent == []
    assert resumed.logic.notify_at() is None


def test_stop_waits_for_attempts_under_way_and_begins_no_other(settings: Config, process: Process) -> None:
    process.take(batch(lost(1)))
    process.logic.snapshot()
    process.executor.held = True
    process.take(Tick(), batch(lost(2)))
    assert process.logic.notify_at() is not None
    process.executor.held = False
    assert process.end() == []
    assert process.sender.sent == []
    resumed = Process(settings, process.logic.snapshot())
    assert resumed.epoch() == []
    assert [one.url for one in resumed.sender.sent] == ["https://t.example/1", "https://t.example/2"]


def test_source_pauses_while_more_notices_wait_than_are_sent(process: Process) -> None:
    process.take(batch(*map(lost, range(CROWDED))))
    assert not process.ports.gate.is_open()
    process.epoch()
    assert process.ports.gate.is_open()
    process.take(batch(*map(lost, range(CROWDED, 2 * CROWDED))))
    process.end()
    assert process.ports.gate.is_open()
