from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import bytewax.operators as op
import msgspec
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, run_main

from aggregators.contract import HttpCall, HttpReply, ReplyError
from datastreamx.acks import AckedOffsets
from datastreamx.clock import SystemClock
from datastreamx.config import AggregatorConfig, AuctionConfig
from datastreamx.errors import CrashError, StateMismatchError
from datastreamx.model.auction import Bid, BidRequest, DecidedAuction, Decision, Opportunity, Outcome
from datastreamx.model.keygroup import KeyGroup
from operators.bidding import bidding
from operators.bidding.caller import Caller
from operators.bidding.house import AuctionHouse, InFlight
from operators.bidding.memory import DecidedMemory
from operators.bidding.snapshot import BiddingSnapshot, decode_snapshot, encode_snapshot
from operators.bidding.step import BiddingLogic, BiddingPorts
from tests.builders import opportunity
from tests.integration.crashes import CrashingSource

GOLDEN = Path(__file__).parent / "golden"
KEY = KeyGroup(0, 0).key


class _Handler(BaseHTTPRequestHandler):
    """An aggregator that does what the path asks for."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        match self.path:
            case "/silent":
                time.sleep(1.0)
                body, status = b"", 200
            case "/huge":
                body, status = b"x" * 300_000, 200
            case "/redirect":
                body, status = b"", 302
            case _:
                body, status = b"2500000", 200
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # The flow has hung up: that is what some tests are about.
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


class _PlainAdapter:
    """Dialect of `_Handler`: the body is the price."""

    def __init__(self, url: str) -> None:
        self._url = url

    def make_requests(self, request: BidRequest) -> list[HttpCall]:
        return [HttpCall(method="POST", url=self._url, body=request.auction_id.encode())]

    def make_bids(self, call: HttpCall, reply: HttpReply) -> list[Bid]:
        assert call.url == self._url
        if reply.status != 200:
            raise ReplyError(Outcome.INVALID_RESPONSE, f"status {reply.status}")
        return [Bid(bid_id="b", price_micros=int(reply.body), currency="USD", ad_id="ad")]


class _FaultyAdapter(_PlainAdapter):
    def make_bids(self, call: HttpCall, reply: HttpReply) -> list[Bid]:
        raise ZeroDivisionError(call, reply)


class _PickyAdapter(_PlainAdapter):
    def make_requests(self, request: BidRequest) -> list[HttpCall]:
        assert request.tmax_ms > 0
        return []


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@dataclass
class _Log:
    """The decision log, as a test wants it; notes where it was read from."""

    decided: list[DecidedAuction] = field(default_factory=list)
    reads: list[tuple[int, int | None]] = field(default_factory=list)

    def read_back(self, partition: int, from_offset: int | None) -> list[DecidedAuction]:
        self.reads.append((partition, from_offset))
        return self.decided


CONFIG = AuctionConfig(timeout_ms=200, push_reserve_ms=100, capacity=50, max_response_bytes=100_000)


@pytest.fixture
def make_ports(server: str) -> Iterator[Any]:
    houses: list[AuctionHouse] = []

    def make(
        *paths: str,
        config: AuctionConfig = CONFIG,
        adapter: type[_PlainAdapter] = _PlainAdapter,
        log: _Log | None = None,
    ) -> BiddingPorts:
        urls = [path if path.startswith("http") else f"{server}{path}" for path in paths or ("/bid",)]
        callers = [
            Caller(AggregatorConfig(name=f"a{index}", adapter="plain", url=url), adapter(url), config)
            for index, url in enumerate(urls)
        ]
        houses.append(AuctionHouse(callers, config, SystemClock()))
        return BiddingPorts(houses[-1], DecidedMemory(log or _Log()), AckedOffsets(), SystemClock())

    yield make
    for house in houses:
        house.close()


def fresh(number: int = 0, *, budget_ms: int = 2_000, **changes: Any) -> Opportunity:
    now_ms = SystemClock().now_ms()
    fields = {"auction_id": f"{number:032x}", "opportunity_ms": now_ms, "deadline_ms": now_ms + budget_ms}
    return opportunity(**{**fields, "offset": number, **changes})


def run_logic(logic: BiddingLogic, opportunities: list[Opportunity]) -> list[Decision]:
    decisions, _ = logic.on_batch([opportunities])
    rest, _ = logic.on_eof()
    return [*decisions, *rest]


def codes(decision: Decision) -> list[str]:
    return [outcome.code.label for outcome in decision.outcomes]


def test_winner_of_a_real_call_is_decided(make_ports: Any) -> None:
    (decision,) = run_logic(BiddingLogic(make_ports(), None), [fresh()])
    assert decision.status == "won"
    assert decision.outcomes[0].latency_us is not None
    assert decision.decided_ms <= decision.deadline_ms


def test_each_failure_of_an_aggregator_has_its_code_and_costs_the_others_nothing(make_ports: Any) -> None:
    ports = make_ports("/bid", "/silent", "/huge", "/redirect", "http://127.0.0.1:1/refused")
    (decision,) = run_logic(BiddingLogic(ports, None), [fresh()])
    assert codes(decision) == ["won", "timeout", "oversize", "invalid_response", "unreachable"]


def test_fault_of_an_adapter_is_an_outcome(make_ports: Any) -> None:
    (decision,) = run_logic(BiddingLogic(make_ports(adapter=_FaultyAdapter), None), [fresh()])
    assert codes(decision) == ["error"]
    assert "ZeroDivisionError" in str(decision.outcomes[0].detail)


def test_expired_opportunity_is_decided_without_a_call(make_ports: Any) -> None:
    stale = [fresh(1, expired=True), fresh(2, budget_ms=-5_000)]
    decisions = run_logic(BiddingLogic(make_ports(), None), stale)
    assert [decision.status for decision in decisions] == ["expired", "expired"]
    assert not any(outcome.called for decision in decisions for outcome in decision.outcomes)


def test_full_house_sheds_with_a_code(make_ports: Any) -> None:
    config = AuctionConfig(timeout_ms=200, push_reserve_ms=100, capacity=3)
    decisions = run_logic(BiddingLogic(make_ports("/bid", config=config), None), [fresh(n) for n in range(5)])
    assert sorted(decision.status for decision in decisions) == ["shed", "shed", "won", "won", "won"]


def test_auctions_take_turns_and_waiting_costs_no_aggregator_its_time(make_ports: Any) -> None:
    """Two at a time at an aggregator that is silent: each waits for its turn, and still gets all of its own time."""
    config = AuctionConfig(timeout_ms=60, push_reserve_ms=100, concurrency=2)
    decisions = run_logic(BiddingLogic(make_ports("/silent", config=config), None), [fresh(n) for n in range(6)])
    assert [codes(decision) for decision in decisions] == [["timeout"]] * 6
    assert [decision.outcomes[0].tmax_ms for decision in decisions] == [60] * 6
    begun_ms = sorted(d.decided_ms - (d.auction_us or 0) // 1000 for d in decisions)
    assert begun_ms[4] >= min(decision.decided_ms for decision in decisions)


def test_place_is_free_again_after_the_decision(make_ports: Any) -> None:
    config = AuctionConfig(timeout_ms=200, push_reserve_ms=100, capacity=1)
    logic = BiddingLogic(make_ports("/bid", config=config), None)
    assert [run_logic(logic, [fresh(n)])[0].status for n in range(3)] == ["won", "won", "won"]


def test_aggregator_that_cannot_serve_an_opportunity_is_not_called(make_ports: Any) -> None:
    (decision,) = run_logic(BiddingLogic(make_ports(adapter=_PickyAdapter), None), [fresh()])
    (outcome,) = decision.outcomes
    assert (outcome.code.label, outcome.called, outcome.tmax_ms, outcome.latency_us) == (
        "unsuitable",
        False,
        None,
        None,
    )


def test_opportunity_in_flight_is_issued_again_after_a_crash_with_the_same_id(make_ports: Any) -> None:
    first = BiddingLogic(make_ports("/silent"), None)
    first.on_batch([[fresh(7)]])
    resumed = BiddingLogic(make_ports("/bid"), first.snapshot())
    decisions, _ = resumed.on_eof()
    (decision,) = decisions
    assert decision.auction_id == f"{7:032x}"
    assert decision.outcomes[0].attempt == 2


def test_opportunity_decided_in_the_log_is_not_decided_again(make_ports: Any) -> None:
    first = BiddingLogic(make_ports("/silent"), None)
    first.on_batch([[fresh(7), fresh(8)]])
    ports = make_ports("/bid", log=_Log([DecidedAuction(f"{n:032x}", 0, n) for n in (7, 9)]))
    resumed = BiddingLogic(ports, first.snapshot())
    decisions = run_logic(resumed, [fresh(9), fresh(10)])
    assert {decision.auction_id for decision in decisions} == {f"{n:032x}" for n in (8, 10)}


def test_snapshot_keeps_the_old_place_in_the_log_until_all_decided_ones_have_come_again(make_ports: Any) -> None:
    ports = make_ports("/bid")
    logic = BiddingLogic(ports, None)
    run_logic(logic, [fresh(1)])
    ports.acked.record(0, 100)
    before = logic.snapshot()
    assert decode_snapshot(before).read_from == 100

    log = _Log([DecidedAuction(f"{n:032x}", 0, n) for n in (5, 6)])
    second = make_ports("/bid", log=log)
    second.acked.record(0, 200)
    resumed = BiddingLogic(second, before)
    assert log.reads == [(0, 100)]
    run_logic(resumed, [fresh(5)])
    assert decode_snapshot(resumed.snapshot()).read_from == 100
    run_logic(resumed, [fresh(6)])
    assert decode_snapshot(resumed.snapshot()).read_from == 200


def test_decided_auction_of_another_key_group_is_not_waited_for(make_ports: Any) -> None:
    ports = make_ports("/bid", log=_Log([DecidedAuction("f" * 32, 3, 1)]))
    ports.acked.record(0, 50)
    logic = BiddingLogic(ports, None)
    run_logic(logic, [fresh(1)])
    assert decode_snapshot(logic.snapshot()).read_from == 50


def test_one_reading_of_the_log_serves_all_key_groups_of_a_partition() -> None:
    log = _Log([DecidedAuction("a", 0, 7), DecidedAuction("b", 1, 8)])
    memory = DecidedMemory(log)
    assert memory.decided(KeyGroup(0, 0), 50) == {"a": 7}
    assert memory.decided(KeyGroup(0, 1), 60) == {"b": 8}
    assert log.reads == [(0, 50)]
    memory.decided(KeyGroup(0, 1), 40)
    memory.decided(KeyGroup(0, 2), None)
    memory.decided(KeyGroup(0, 0), 10)
    memory.decided(KeyGroup(1, 0), 10)
    assert log.reads == [(0, 50), (0, 40), (0, None), (1, 10)]


def test_fault_of_the_program_stops_the_flow(make_ports: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operators.bidding.house.bid_request", lambda *_: 1 // 0)
    logic = BiddingLogic(make_ports("/bid"), None)
    with pytest.raises(CrashError, match="ZeroDivisionError"):
        run_logic(logic, [fresh(1)])


def test_crash_story_every_opportunity_has_one_decision(make_ports: Any, tmp_path: Path) -> None:
    """Aborted twice in mid-flow; the log that survives is what the sink had acknowledged."""
    init_db_dir(tmp_path, 1)
    recovery = RecoveryConfig(str(tmp_path))
    numbers = list(range(30))
    items = [(KEY, [fresh(n, budget_ms=60_000)]) for n in numbers]
    crashes = [10, 20]

    # Not TestingSource.ABORT: its place in the list counts after a resume, so a second one repeats an item.
    def is_time(batch: list[Any]) -> bool:
        if batch and crashes and batch[0][1][0].offset == crashes[0]:
            crashes.pop(0)
            return True
        return False

    log: list[DecidedAuction] = []
    for _ in range(3):
        out: list[tuple[str, Decision]] = []
        flow = Dataflow("auction_story")
        opportunities = op.input("in", flow, CrashingSource(TestingSource(items), is_time))
        decisions = bidding("bidding", opportunities, make_ports("/bid", log=_Log(log))).decisions
        op.output("out", decisions, TestingSink(out))
        run_main(flow, epoch_interval=timedelta(0), recovery_config=recovery)
        log = log + [DecidedAuction(d.auction_id, d.group, d.offset) for _, d in out]
    assert crashes == []
    assert sorted(entry.offset for entry in log) == numbers


def test_snapshot_bytes_are_an_interface() -> None:
    """A change here means that running deployments cannot resume: raise VERSION and keep a reader for the old one."""
    snapshot = BiddingSnapshot(1, 3, 1, 42, [InFlight(opportunity(), 2)])
    golden = GOLDEN / "bidding-snapshot-v1.msgpack"
    assert encode_snapshot(snapshot) == golden.read_bytes()
    assert decode_snapshot(golden.read_bytes()) == snapshot


def test_snapshot_of_another_version_is_refused() -> None:
    with pytest.raises(StateMismatchError, match="version 9"):
        decode_snapshot(msgspec.msgpack.encode({"version": 9}))


@pytest.mark.parametrize("damage", [b"", b"\x00", b"\x81"])
def test_bytes_that_are_no_snapshot_are_refused(damage: bytes) -> None:
    with pytest.raises(StateMismatchError):
        decode_snapshot(damage)
