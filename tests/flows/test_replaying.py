"""The parts of a replay, each for itself."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from datastreamx.clock import ManualClock
from datastreamx.config import Config, ViewingConfig
from datastreamx.errors import ConfigError, CrashError, StateMismatchError
from datastreamx.model.auction import DecidedAuction, Outcome
from datastreamx.model.log import LogBatch, Tick
from datastreamx.place import Place
from flows.ports import Process
from flows.recovery.opening import open_store
from flows.recovery.quarantine import refusal_file
from flows.replaying.house import PastHouse
from flows.replaying.log import RecentLog
from flows.replaying.marker import Order, Request, read_marker
from flows.replaying.meter import Meter
from flows.replaying.rows import RowsWork
from flows.replaying.run import Summary, replay
from flows.replaying.span import Span, caveats, exact_from_ms, start_of
from flows.replaying.state import StoreWork
from flows.replaying.stores import Site
from flows.replaying.tally import Tally
from sources.kafka.bounds import Bounds
from sources.kafka.start import StartPosition
from tests.builders import T0, chunk, config, heartbeat, opportunity

SPAN = Span(from_ms=T0, until_ms=T0 + 1_000)
ORDER = Order(Request(begin="2h"), SPAN)


# What it reads ---------------------------------------------------------------------------------------------------


def test_source_begins_where_the_span_does() -> None:
    assert start_of(SPAN) == StartPosition("timestamp", T0)
    assert start_of(Span(from_ms=None, until_ms=T0)) == StartPosition("beginning")


def test_state_is_exact_from_the_time_to_live_and_the_lateness_before_the_end() -> None:
    viewing = ViewingConfig(state_ttl_ms=50_000_000, allowed_lateness_ms=7_000)
    assert exact_from_ms(SPAN, viewing) == SPAN.until_ms - 50_007_000


def test_caveat_says_what_is_not_exact_and_when_to_begin() -> None:
    viewing = ViewingConfig()
    (late,) = caveats(SPAN, viewing, skips=True, skips_needed=True, is_cut=False)
    assert "2023-11-14T22:13:20Z" in late
    assert "2023-11-13T22:12:21Z or earlier" in late
    assert "no channel" in late
    assert "session that was open" in late
    (early,) = caveats(SPAN, viewing, skips=True, skips_needed=False, is_cut=True)
    assert "earlier" not in early
    (cut,) = caveats(SPAN, viewing, skips=False, skips_needed=False, is_cut=True)
    assert "Kafka has deleted" in cut
    assert caveats(SPAN, viewing, skips=False, skips_needed=False, is_cut=False) == []


class WholeLog:
    def __init__(self) -> None:
        self.asked: list[tuple[int, int | None]] = []

    def read_back(self, partition: int, from_offset: int | None) -> list[DecidedAuction]:
        self.asked.append((partition, from_offset))
        return []


def test_decision_log_is_read_back_no_further_than_its_floor() -> None:
    whole = WholeLog()
    recent = RecentLog(whole, {0: 100, 1: 0})
    for partition, mark in [(0, None), (0, 50), (0, 99), (0, 150), (1, None), (1, 7)]:
        recent.read_back(partition, mark)
    assert whole.asked == [(0, 99), (0, 99), (0, 99), (0, 150), (1, None), (1, 7)]


# What it decides -------------------------------------------------------------------------------------------------


def test_house_calls_nobody_and_waits_for_the_deadline() -> None:
    house = PastHouse(("alpha", "beta"), ManualClock(T0))

    async def ask() -> None:
        await asyncio.wait_for(house.auction(opportunity(), 1, 0), 0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(ask())


def test_house_records_what_is_past_as_expired() -> None:
    decision = PastHouse(("alpha", "beta"), ManualClock(T0 + 9)).undecided(opportunity(), Outcome.EXPIRED)
    assert (decision.status, decision.ads, decision.decided_ms) == ("expired", (), T0 + 9)
    assert [(one.aggregator, one.code, one.called) for one in decision.outcomes] == [
        ("alpha", Outcome.EXPIRED, False),
        ("beta", Outcome.EXPIRED, False),
    ]


# How far it is ---------------------------------------------------------------------------------------------------


def test_meter_counts_what_is_done_of_what_there_is() -> None:
    meter = Meter("box-events", {("box-events", 0): Bounds(0, 10, 20), ("ad-decisions", 0): Bounds(5, 5, 10)})
    assert (meter.done, meter.total, meter.newest_ms) == (0, 15, 0)
    events = chunk(heartbeat(1), heartbeat(2), first_offset=10)
    meter.passed([Tick(), events, LogBatch("ad-decisions", 0, [5], [T0], [b""], [[]])])
    assert (meter.done, meter.records, meter.events, meter.newest_ms) == (3, 3, 2, T0)


def test_meter_of_a_resumed_replay_counts_what_was_done_before() -> None:
    meter = Meter("box-events", {("box-events", 0): Bounds(0, 10, 20)})
    meter.passed_chunks([("p000g0", chunk(heartbeat(1), first_offset=16))])
    assert (meter.done, meter.events) == (7, 1)


def test_meter_is_never_more_than_full_where_the_broker_understates_the_end() -> None:
    meter = Meter("box-events", {("box-events", 0): Bounds(0, 0, 3)})
    meter.passed_chunks([("p000g0", chunk(heartbeat(1), first_offset=8))])
    assert meter.done == meter.total == 3


# From its beginning to its end -----------------------------------------------------------------------------------


class Builds:
    """A replay whose only record is a file in its store."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.result = "a store"
        self.spans: list[Span] = []
        self.prepared = 0
        self.stops = False
        self.fails = False

    def prepare(self) -> None:
        self.prepared += 1

    def survey(self, span: Span) -> tuple[Meter, list[str]]:
        self.spans.append(span)
        return Meter("box-events", {}), ["something is not exact"]

    def run(self, process: Process, span: Span, meter: Meter) -> None:
        del span, meter
        self.site.building.mkdir(exist_ok=True)
        (self.site.building / "part-0.sqlite3").write_text("state")
        if self.stops:
            process.stop.set()
        if self.fails:
            raise CrashError("the broker is on fire")

    def rows(self, tally: Tally) -> dict[str, int]:
        del tally
        return {"box_events": 7}


@contextmanager
def unseen(_: Meter) -> Iterator[None]:
    yield


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A replay takes over the signals of its process, which is ours here."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    made = config()
    return msgspec.structs.replace(made, recovery=msgspec.structs.replace(made.recovery, directory=str(tmp_path)))


@pytest.fixture
def builds(settings: Config) -> Builds:
    return Builds(Site.of_store(settings, Place()))


def run(settings: Config, builds: Builds, order: Order = ORDER) -> Summary:
    return replay(settings, Place(), builds, order, unseen)


def test_finished_store_is_where_the_flow_looks_for_it(settings: Config, builds: Builds, tmp_path: Path) -> None:
    refusal_file(tmp_path / "ads-0").write_text("{}")
    summary = run(settings, builds)
    assert (tmp_path / "ads-0" / "part-0.sqlite3").read_text() == "state"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ads-0", "ads-0.lock"]
    assert (summary.is_finished, summary.is_resumed, summary.rows) == (True, False, {"box_events": 7})
    assert summary.caveats == ["something is not exact"]


def test_store_that_is_present_is_never_replaced(settings: Config, builds: Builds, tmp_path: Path) -> None:
    (tmp_path / "ads-0").mkdir()
    (tmp_path / "ads-0" / "part-0.sqlite3").write_text("sound")
    with pytest.raises(StateMismatchError, match="there is a recovery store"):
        run(settings, builds)
    assert (tmp_path / "ads-0" / "part-0.sqlite3").read_text() == "sound"
    assert builds.spans == []


def test_empty_store_that_a_killed_start_has_left_is_no_hindrance(
    settings: Config, builds: Builds, tmp_path: Path
) -> None:
    open_store(tmp_path / "ads-0", builds.site.manifest)
    run(settings, builds)
    assert [path.name for path in (tmp_path / "ads-0").iterdir()] == ["part-0.sqlite3"]
    assert (tmp_path / "ads-0" / "part-0.sqlite3").read_text() == "state"


@pytest.mark.parametrize("end", ["stops", "fails"])
def test_unfinished_replay_is_resumed_with_the_times_that_it_began_with(
    settings: Config, builds: Builds, tmp_path: Path, end: str
) -> None:
    setattr(builds, end, True)
    with contextlib.suppress(CrashError):
        assert not run(settings, builds).is_finished
    assert not (tmp_path / "ads-0").exists()
    setattr(builds, end, False)
    summary = run(settings, builds, Order(ORDER.request, Span(from_ms=T0 + 5, until_ms=T0 + 9_000)))
    assert (summary.is_finished, summary.is_resumed) == (True, True)
    assert builds.spans == [SPAN, SPAN]
    assert builds.prepared == 1
    assert (tmp_path / "ads-0").exists()


def test_unfinished_replay_of_something_else_is_not_mixed_up(settings: Config, builds: Builds) -> None:
    builds.stops = True
    run(settings, builds)
    with pytest.raises(StateMismatchError, match=r"unfinished replay of `--from 2h`, not of `--from 3h`.*give it up"):
        run(settings, builds, Order(Request(begin="3h"), SPAN))
    other = msgspec.structs.replace(settings, viewing=ViewingConfig(dwell_ms=1))
    with pytest.raises(StateMismatchError, match="another configuration"):
        run(other, builds)


def test_replay_that_was_given_up_leaves_nothing_to_the_next(settings: Config, builds: Builds) -> None:
    builds.stops = True
    run(settings, builds)
    (builds.site.building / "part-1.sqlite3").write_text("of the first replay")
    builds.site.marker.unlink()
    builds.stops = False
    run(settings, builds)
    assert builds.site.target is not None
    assert [path.name for path in builds.site.target.iterdir()] == ["part-0.sqlite3"]


def test_crash_between_the_end_and_the_move_is_made_up_for(
    settings: Config, builds: Builds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_: Site) -> None:
        raise CrashError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Site, "install", crash)
        with pytest.raises(CrashError, match="killed"):
            run(settings, builds)
    marker = read_marker(builds.site.marker)
    assert marker is not None
    assert marker.is_done
    builds.fails = True
    assert run(settings, builds).is_finished
    assert (tmp_path / "ads-0").exists()
    assert not builds.site.marker.exists()


def test_flow_that_runs_keeps_a_replay_out(settings: Config, builds: Builds) -> None:
    with builds.site.locked(), pytest.raises(CrashError, match="is using the recovery store"):
        run(settings, builds)


def test_store_of_a_replay_of_rows_is_of_no_further_use(settings: Config, tmp_path: Path) -> None:
    run(settings, Builds(Site.of_rows(settings, "anew")))
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_damaged_marker_says_how_to_begin_anew(settings: Config, builds: Builds) -> None:
    builds.site.marker.write_text("{")
    with pytest.raises(StateMismatchError, match=r"delete .*ads-0\.replay\.json and the folder .*ads-0\.replay, "):
        run(settings, builds)


def test_live_dataset_is_refused(settings: Config) -> None:
    with pytest.raises(ConfigError, match=r"datastreamx is bigquery\.dataset"):
        RowsWork(settings, settings.bigquery.dataset)


def test_store_of_a_cluster_is_built_for_its_first_process_only(settings: Config) -> None:
    addresses = ("a:1", "b:1")
    assert StoreWork(settings, Place("cluster", 0, 2, addresses)).site.building.name == "ads-cluster.replay"
    with pytest.raises(ConfigError, match="first process"):
        StoreWork(settings, Place("cluster", 1, 2, addresses))
