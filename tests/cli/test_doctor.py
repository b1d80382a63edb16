from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastreamx.cli.doctor import checks, network, report
from datastreamx.cli.doctor.network import Address, address_of, clock_ahead_of, connect, parse_bootstrap, reach
from datastreamx.cli.doctor.report import Finding, clock_ahead_ms
from datastreamx.cli.output import Exit
from datastreamx.clock import ManualClock, SystemClock
from simulator.processes import free_port
from tests import builders
from tests.cli.running import Cli

HOST = "127.0.0.1"


@contextmanager
def listener() -> Iterator[Address]:
    """Accepts connections and says nothing."""
    with socket.create_server((HOST, 0)) as server:
        yield Address(HOST, server.getsockname()[1])


@contextmanager
def plain_web_server() -> Iterator[str]:
    class Quiet(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer((HOST, 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://{HOST}:{server.server_port}/bid"
        server.shutdown()
        thread.join()


def test_an_open_port_answers() -> None:
    with listener() as address:
        assert connect(address) is None
        assert reach("X", address).state == "ok"


def test_a_closed_port_is_unreachable_with_reason_and_remedy() -> None:
    found = reach("X", Address(HOST, free_port()))
    assert (found.state, found.cause) == ("fail", "unreachable")
    assert "Connection refused" in found.detail
    assert found.remedy


def test_a_name_that_does_not_exist_is_told_apart_from_a_closed_port() -> None:
    found = reach("X", Address("no-such-host.invalid", 1))
    assert "does not resolve" in found.detail


def test_tls_is_tried_and_not_only_the_port() -> None:
    with plain_web_server() as url:
        address = address_of(url)
        found = reach("X", address._replace(tls=True))
        assert found.state == "fail"
        assert "TLS" in found.detail


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://a.example/bid?x=1", Address("a.example", 443, tls=True)),
        ("http://a.example", Address("a.example", 80)),
        ("http://[::1]:8080/", Address("::1", 8080)),
    ],
)
def test_address_of_an_aggregator(url: str, address: Address) -> None:
    assert address_of(url) == address


def test_every_bootstrap_entry_is_examined() -> None:
    found = parse_bootstrap("a:1, b.example ,[::1]:3,SASL_SSL://c:4,")
    assert found == [Address("a", 1), Address("b.example", 9092), Address("::1", 3), Address("c", 4)]
    with pytest.raises(ValueError, match="is no host:port"):
        parse_bootstrap(":9092")


@given(
    ahead_ms=st.integers(-100_000, 100_000),
    server_ms=st.integers(1_600_000_000_000, 1_800_000_000_000),
    there_ms=st.integers(0, 500),
    back_ms=st.integers(0, 500),
)
def test_a_clock_is_never_blamed_for_more_than_it_is_off(
    ahead_ms: int, server_ms: int, there_ms: int, back_ms: int
) -> None:
    header_ms = server_ms // 1000 * 1000
    found = clock_ahead_ms(server_ms + ahead_ms - there_ms, server_ms + ahead_ms + back_ms, header_ms)
    assert abs(found) <= abs(ahead_ms)
    assert found * ahead_ms >= 0
    # Whole seconds and the way are all that is forgiven.
    assert abs(ahead_ms) - abs(found) <= 999 + 500


def test_a_clock_is_compared_with_a_real_server() -> None:
    with plain_web_server() as url:
        assert clock_ahead_of(url, SystemClock()) == 0
        ahead_ms = clock_ahead_of(url, ManualClock(SystemClock().now_ms() + 3_600_000))
        assert ahead_ms is not None
        assert 3_590_000 < ahead_ms <= 3_600_000


def test_no_server_gives_no_verdict_on_the_clock() -> None:
    assert clock_ahead_of(f"http://{HOST}:{free_port()}", SystemClock()) is None
    assert report.clock(None, "", 2_000).state == "skip"


@pytest.mark.parametrize(
    ("ahead_ms", "state"), [(0, "ok"), (-1_500, "ok"), (1_501, "warn"), (-2_000, "warn"), (2_001, "fail")]
)
def test_a_clock_off_by_more_than_the_decision_budget_fails(ahead_ms: int, state: str) -> None:
    assert report.clock(ahead_ms, "x", 2_000).state == state


@pytest.mark.parametrize(("free", "state"), [(10 << 30, "ok"), (500 << 20, "warn"), (50 << 20, "fail")])
def test_a_disk_that_fills_up_is_noticed(free: int, state: str) -> None:
    assert report.disk("recovery", free).state == state


def test_open_files_must_hold_all_auctions_at_once() -> None:
    assert report.open_files(1_024, 2_000, 3).state == "warn"
    assert report.open_files(6_256, 2_000, 3).state == "ok"


def test_another_python_fails() -> None:
    assert report.python_version((3, 11)).state == "ok"
    assert report.python_version((3, 12)).state == "fail"


@pytest.mark.parametrize(
    ("causes", "code"),
    [
        ([], Exit.OK),
        (["other"], Exit.FAILED),
        (["other", "unreachable"], Exit.UNREACHABLE),
        (["unreachable", "config"], Exit.CONFIG),
    ],
)
def test_exit_code_is_that_of_what_must_be_repaired_first(causes: list[report.Cause], code: Exit) -> None:
    warning = Finding(what="w", state="warn", detail="d")
    findings = [Finding(what="x", state="fail", detail="d", cause=cause) for cause in causes]
    assert report.exit_code([warning, *findings]) is code


def test_directories_that_cannot_be_made_fail_and_name_their_keys(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    config = builders.config(f"[recovery]\ndirectory = '{blocker}/recovery'\nhandover = '{blocker}/handover'\n")
    found = [one for one in checks.machine(config) if one.state == "fail"]
    assert [(one.what, one.remedy) for one in found] == [
        ("Recovery directory", "correct recovery.directory"),
        ("Handover folder", "correct recovery.handover"),
    ]


def test_directories_that_can_be_made_are_not(tmp_path: Path) -> None:
    config = builders.config(f"[recovery]\ndirectory = '{tmp_path}/new'\nhandover = '{tmp_path}/shared/handover'\n")
    found = {one.what: one.state for one in checks.machine(config)}
    assert (found["Recovery directory"], found["Handover folder"]) == ("ok", "ok")
    assert not [*tmp_path.iterdir()]


def test_without_a_handover_folder_none_is_looked_for(tmp_path: Path) -> None:
    config = builders.config(f"[recovery]\ndirectory = '{tmp_path}'\n")
    assert "Handover folder" not in {one.what for one in checks.machine(config)}


def test_a_wrong_configuration_lists_its_problems_and_skips_the_rest(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[kafka]\nbootstrp = 'x'\n", encoding="utf-8")
    ended = cli("doctor", "--config", str(path), "--json")
    assert ended.code == Exit.CONFIG
    findings = ended.json["findings"]
    assert any("bootstrp: unknown key" in finding["detail"] for finding in findings)
    assert findings[-1]["state"] == "skip"


def test_every_unreachable_address_is_named_at_once(
    cli: Cli, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Google's write endpoint stands for the one that the file leaves out.
    monkeypatch.setattr(checks, "GOOGLE_WRITE", Address(HOST, 9))
    ended = cli("doctor", "--config", str(config_file))
    assert ended.code == Exit.UNREACHABLE
    failed = [line.split("  ")[0] for line in ended.out.splitlines() if line.startswith("fail")]
    assert failed == ["fail Kafka bootstrap", "fail BigQuery", "fail BigQuery write", "fail Aggregator alpha"]
    assert "4 failed" in ended.out


def test_waiting_is_bounded() -> None:
    assert network.TIMEOUT_S <= 5
