"""What a supervisor decides: when to start again, when a silence is a hang, and what it answers."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pytest

from datastreamx.clock import ManualClock
from datastreamx.errors import CrashError
from datastreamx.pulse import Report
from datastreamx.supervisor.limits import Limits
from datastreamx.supervisor.lock import alone
from datastreamx.supervisor.metrics import exposition
from datastreamx.supervisor.panel import Panel
from datastreamx.supervisor.readiness import CatchUp, Readiness
from datastreamx.supervisor.restarts import Restarts
from datastreamx.supervisor.server import Answers
from datastreamx.supervisor.silence import Silence
from datastreamx.supervisor.status import Status, read_status, status_of, status_path, write_status
from datastreamx.supervisor.view import Exit, View, livez, progress_line, readyz

LIMITS = Limits()


class NoJitter(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def restarts(limits: Limits = LIMITS) -> Restarts:
    return Restarts(limits, NoJitter())


# Restarts


def test_delay_doubles_from_a_fifth_of_a_second_to_five_seconds() -> None:
    patient = restarts(Limits(failures_max=10))
    delays = [patient.failed(float(n), 0.1, "error") for n in range(9)]
    assert delays == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0])


def test_delay_is_the_first_again_after_a_minute_of_health() -> None:
    found = restarts()
    assert [found.failed(at_s, ran_s, "error") for at_s, ran_s in ((0, 1), (1, 1), (90, 89), (91, 1))] == (
        pytest.approx([0.2, 0.4, 0.2, 0.4])
    )


def test_jitter_spreads_workers_that_failed_together() -> None:
    delays = {Restarts(LIMITS, random.Random(seed)).failed(0.0, 0.0, "error") for seed in range(20)}
    assert len(delays) == 20
    assert all(delay is not None and 0.15 <= delay <= 0.25 for delay in delays)


def test_fifth_failure_within_five_minutes_is_the_last() -> None:
    found = restarts()
    assert [found.failed(at_s, 70.0, "error") is None for at_s in (0.0, 74.0, 148.0, 222.0, 299.0)] == [False] * 4 + [
        True
    ]
    assert (found.count, found.recent_failures(299.0)) == (4, 5)


def test_failures_further_apart_go_on_for_ever() -> None:
    found = restarts()
    assert all(found.failed(76.0 * n, 70.0, "error") is not None for n in range(50))


def test_restarts_are_counted_by_reason() -> None:
    found = restarts()
    found.failed(0.0, 0.0, "hang")
    found.failed(1.0, 0.0, "signal")
    found.failed(2.0, 0.0, "hang")
    assert (found.by_reason, found.count) == ({"hang": 2, "signal": 1}, 3)


# Silence


def looked(*moments_s: float) -> Silence:
    silence = Silence(LIMITS, 0.0)
    for now_s in moments_s:
        silence.look(now_s)
    return silence


def test_running_worker_that_is_silent_for_thirty_seconds_hangs() -> None:
    assert not looked(*range(31)).is_hang("running")
    assert looked(*range(32)).is_hang("running")


@pytest.mark.parametrize("phase", ["starting", "restoring"])
def test_worker_that_starts_or_restores_may_be_silent_for_five_minutes(phase: Any) -> None:
    assert not looked(*range(301)).is_hang(phase)
    assert looked(*range(302)).is_hang(phase)


def test_any_report_ends_the_silence() -> None:
    silence = looked(*range(29))
    silence.heard()
    for now_s in range(29, 59):
        silence.look(now_s)
    assert not silence.is_hang("running")


def test_nobody_is_blamed_for_time_in_which_the_supervisor_stood_still_too() -> None:
    silence = looked(1.0, 3_600.0)
    assert silence.seconds == pytest.approx(3.0)
    assert not silence.is_hang("running")


# Readiness


def running(*, epochs: int = 1, records: int | None = 0, age_ms: int | None = 0) -> Report:
    return Report(phase="running", epochs=epochs, lag_records=records, lag_ms=age_ms)


def behind(*records: int, every_s: float = 5.0) -> Readiness:
    readiness = Readiness(LIMITS)
    for number, one in enumerate(records):
        readiness.heard(number * every_s, running(records=one, age_ms=60_000))
    return readiness


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        (Report(phase="starting", doing="connecting"), "the worker is starting: connecting"),
        (Report(phase="restoring"), "the worker is restoring"),
        (running(epochs=0), "no snapshot of this worker is durable yet"),
        (running(records=None, age_ms=None), "the lag is not known yet"),
        (running(), None),
        (running(records=100_000, age_ms=10_000), None),
        (running(records=1_000, age_ms=3_600_000), None),
        (running(records=100_000, age_ms=10_001), "100000 records behind, and not catching up"),
    ],
)
def test_ready_is_restored_and_durable_and_close_to_the_head_of_the_log(report: Report, problem: str | None) -> None:
    readiness = Readiness(LIMITS)
    assert readiness.problem() == "the worker has not reported yet"
    readiness.heard(0.0, report)
    assert readiness.problem() == problem


def test_backlog_that_falls_is_ready_and_one_that_grows_is_not() -> None:
    assert behind(90_000, 80_000).problem() is None
    assert behind(80_000, 90_000).problem() == "90000 records behind, and not catching up"


def test_backlog_that_fell_long_ago_and_stands_still_is_not_ready() -> None:
    assert behind(90_000, *[50_000] * 6).problem() is None
    assert behind(90_000, *[50_000] * 8).problem() is not None


def test_catching_up_tells_pace_and_time_left() -> None:
    backlog = behind(90_000, 80_000, 70_000).catch_up()
    assert backlog == CatchUp(records=70_000, per_second=2_000.0)
    assert backlog.left_s == pytest.approx(35.0)


# Answers


def view(**changes: Any) -> View:
    fields: dict[str, Any] = {
        "looked_s": 100.0,
        "stage": "running",
        "since_s": 40.0,
        "pid": 7,
        "heard_s": 99.5,
        "silent_s": 0.5,
        "report": running(records=12, age_ms=3),
        "unready": None,
    }
    return View(**{**fields, **changes})


@pytest.mark.parametrize(
    ("found", "now_s", "reason"),
    [
        (view(), 100.5, None),
        (view(unready="far behind"), 100.5, None),
        (view(silent_s=30.0), 100.5, "the worker has been silent for 30 s"),
        (view(stage="restoring", report=Report(phase="restoring"), silent_s=200.0), 100.5, None),
        (view(stage="starting", report=None, silent_s=299.0), 100.5, None),
        (view(stage="starting", report=None, silent_s=300.0), 100.5, "the worker has been silent for 300 s"),
        (view(stage="stopping", silent_s=59.0), 100.5, None),
        (view(stage="backing_off", pid=None, report=None), 100.5, None),
        (view(), 131.0, "the supervisor has not looked around for 31 s: does a disk hang?"),
        (view(stage="given_up", pid=None), 100.5, "the supervisor is ending"),
    ],
)
def test_alive_is_a_supervisor_that_looks_around_and_a_worker_that_reports(
    found: View, now_s: float, reason: str | None
) -> None:
    health = livez(found, LIMITS, now_s)
    assert (health.ok, health.reason) == (reason is None, reason)


def test_ready_needs_life_besides() -> None:
    assert readyz(view(), LIMITS, 100.5).ok
    assert readyz(view(unready="far behind"), LIMITS, 100.5).reason == "far behind"
    assert readyz(view(silent_s=31.0), LIMITS, 100.5).reason == "the worker has been silent for 32 s"


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (view(), None),
        (
            view(stage="restoring", doing="loading state", report=Report(phase="restoring")),
            "ads: restoring: loading state, 60 s",
        ),
        (view(stage="backing_off", pid=None), "ads: backing off, 60 s"),
        (view(stage="stopped", pid=None), None),
        (
            view(backlog=CatchUp(90_000, 450.0)),
            "ads: catching up, 90,000 records to go, 450/s, about 3 min 20 s left",
        ),
        (view(backlog=CatchUp(900, -3.0)), "ads: catching up, 900 records to go, 0/s, not catching up"),
        (view(silent_s=11.0), "ads: running, but silent for 11 s"),
    ],
)
def test_person_who_waits_is_told_what_for(found: View, line: str | None) -> None:
    assert progress_line("ads", found, LIMITS, 100.0) == line


def test_metrics_tell_restarts_by_reason_and_the_age_of_the_last_report() -> None:
    found = view(restarts=(("hang", 2),), recent_failures=2, processes=4, disk_free_bytes=2_000, disk_size_bytes=10_000)
    text = exposition(found, 101.5).decode()
    for line in (
        'datastreamx_worker_restarts_total{reason="hang"} 2.0',
        'datastreamx_worker_restarts_total{reason="error"} 0.0',
        'datastreamx_worker_stage{stage="running"} 1.0',
        "datastreamx_worker_up 1.0",
        "datastreamx_worker_ready 1.0",
        "datastreamx_worker_report_age_seconds 2.0",
        "datastreamx_worker_recent_failures 2.0",
        f"datastreamx_epochs_total {found.report.epochs if found.report else None}.0",
        "datastreamx_processes 4.0",
        "datastreamx_recovery_free_bytes 2000.0",
        "datastreamx_recovery_size_bytes 10000.0",
    ):
        assert f"{line}\n" in text
    gone = exposition(replace(view(), pid=None, unready="the worker has ended"), 101.5).decode()
    assert "datastreamx_worker_up 0.0\n" in gone
    assert "datastreamx_worker_ready 0.0\n" in gone


@contextlib.contextmanager
def worker_that_answers(reply: bytes) -> Iterator[str]:
    """Address of metrics that answer one request with `reply`."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def answer() -> None:
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                with connection:
                    connection.recv(4_096)
                    connection.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/metrics"
        thread.join()


@pytest.mark.parametrize(
    ("reply", "is_passed_on"),
    [
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nworker_is 1\n", True, id="whole"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\nworker_is 1\n", False, id="died in between"),
        pytest.param(b"nonsense\r\n\r\n", False, id="no answer"),
    ],
)
def test_metrics_of_the_worker_are_passed_on_past_any_proxy_or_left_out(
    reply: bytes, *, is_passed_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with worker_that_answers(reply) as address:
        found = view(report=msgspec.structs.replace(running(), metrics=address))
        code, _, body = Answers(lambda: found, status, LIMITS, ManualClock()).answer("/metrics")
    assert code == HTTPStatus.OK
    assert (b"worker_is 1\n" in body) is is_passed_on
    assert b"datastreamx_worker_up 1.0\n" in body


def test_supervisor_that_hangs_goes_on_telling_its_last_status(tmp_path: Path) -> None:
    clock = ManualClock()
    panel = Panel("ads", "ads-3", tmp_path, limits=LIMITS, clock=clock, show=lambda _: None)
    answers = Answers(lambda: panel.view, lambda: panel.status, LIMITS, clock)
    panel.update(stage="running", pid=7)
    panel.publish_if_due()
    looked_ms = clock.now_ms()
    clock.advance(20_000)
    code, kind, body = answers.answer("/status?x=1")
    told = msgspec.json.decode(body, type=Status)
    assert (code, kind, told.at_ms, told.stage, told.pid) == (
        HTTPStatus.OK,
        "application/json",
        looked_ms,
        "running",
        7,
    )
    assert told == read_status(status_path(tmp_path, "ads-3"))
    panel.publish_if_due()
    assert msgspec.json.decode(answers.answer("/status")[2], type=Status).at_ms == looked_ms + 20_000


# One per place


def test_place_has_one_supervisor_at_a_time_and_others_are_told_who(tmp_path: Path) -> None:
    with alone(tmp_path / "recovery", "ads", "ads-0"):
        with pytest.raises(CrashError, match=rf"^process {os.getpid()} already runs the flow ads on .*/ads-0, "):
            alone(tmp_path / "recovery", "ads", "ads-0").__enter__()
        with alone(tmp_path / "recovery", "ads", "ads-1"):
            pass
    with alone(tmp_path / "recovery", "ads", "ads-0"):
        pass


def test_holder_whose_number_found_no_room_is_another_process(tmp_path: Path) -> None:
    with alone(tmp_path, "ads", "ads-0"):
        (tmp_path / "ads-0.supervisor.lock").write_bytes(b"")
        with pytest.raises(CrashError, match=r"^another process already runs .*: stop that one first, or give"):
            alone(tmp_path, "ads", "ads-0").__enter__()


# Status file


def status() -> Status:
    last = Exit(at_ms=5, code=-9, reason="signal")
    found = view(restarts=(("signal", 1),), last_exit=last, snapshot_s=98.5)
    return status_of("ads", "ads-3", found, 1_000_000, 100.0)


def test_status_file_says_it_all_in_wall_clock_time(tmp_path: Path) -> None:
    path = status_path(tmp_path / "recovery", "ads-3")
    write_status(path, status())
    found = read_status(path)
    assert found == status()
    assert (path.name, found.since_ms, found.report_age_ms, found.epochs, found.lag_records, found.restart_count) == (
        "ads-3.status.json",
        940_000,
        500,
        1,
        12,
        1,
    )
    assert (found.snapshot_ms, found.version) == (998_500, version("datastreamx"))
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("text", [b"", b"{", b'{"flow": "ads"}'])
def test_status_of_nobody_or_of_another_release_is_none(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "ads-0.status.json"
    assert read_status(path) is None
    path.write_bytes(text)
    assert read_status(path) is None


def test_status_of_an_older_release_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "ads-0.status.json"
    path.write_text(
        '{"flow": "ads", "store": "ads-0", "at_ms": 1, "supervisor_pid": 2, "stage": "running", "since_ms": 0}'
    )
    found = read_status(path)
    assert found is not None
    assert (found.version, found.snapshot_ms) == ("", None)


def test_status_that_finds_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "ads-0.status.json"
    path.mkdir()
    with pytest.raises(OSError, match=r"ads-0\.status\.json"):
        write_status(path, status())
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
