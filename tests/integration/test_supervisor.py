"""A supervisor and its worker as real processes: what happens when the worker ends, hangs, or will not end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest

from datastreamx.supervisor import Status, read_status, status_path
from simulator.processes import Child
from tests.integration.brokers import Broker, produce
from tests.integration.oracle import expect
from tests.integration.pipeline import Pipeline, Servers, environment
from tests.integration.supervised import QUICK, WAIT_S, is_running, supervised
from tests.integration.test_pipeline_failures import heartbeats

pytestmark = pytest.mark.integration

NEVER_S = 1_000.0


def test_sigterm_reaches_the_worker_and_its_code_is_ours(tmp_path: Path) -> None:
    with supervised(tmp_path, "well") as one:
        worker = one.until_running()
        assert one.stop() == 0
        assert "stopped cleanly" in one.log
        assert not is_running(worker)
        status = one.status
        assert status is not None
        assert (status.stage, status.pid, status.restart_count) == ("stopped", None, 0)
        assert status.last_exit is not None
        assert (status.last_exit.code, status.last_exit.reason) == (0, None)


def test_ctrl_c_that_reaches_both_is_one_clean_stop(tmp_path: Path) -> None:
    with supervised(tmp_path, "well") as one:
        one.until_running()
        os.killpg(one.process.pid, signal.SIGINT)
        assert one.end() == 0
        assert one.log.count("stopped cleanly") == 1
        assert "Traceback" not in one.log


def test_ctrl_c_before_the_worker_has_a_handler_leaves_no_traceback(tmp_path: Path) -> None:
    with supervised(tmp_path, "early", msgspec.structs.replace(QUICK, starting_grace_s=NEVER_S)) as one:
        one.until(lambda status: status.pid is not None, "a worker is started")
        os.killpg(one.process.pid, signal.SIGINT)
        assert one.end() == 0
        assert "Traceback" not in one.log


@pytest.mark.parametrize("behaviour", ["early", "slow_start"])
def test_sigterm_while_the_worker_starts_is_a_clean_and_prompt_end(tmp_path: Path, behaviour: str) -> None:
    limits = msgspec.structs.replace(QUICK, grace_s=NEVER_S, starting_grace_s=0.2)
    with supervised(tmp_path, behaviour, limits) as one:
        one.until(lambda status: status.pid is not None, "a worker is started")
        assert one.stop() == 0


def test_worker_that_will_not_end_is_killed_after_its_grace(tmp_path: Path) -> None:
    with supervised(tmp_path, "stubborn", msgspec.structs.replace(QUICK, grace_s=0.3)) as one:
        one.until_running()
        assert one.stop() == 128 + signal.SIGKILL
        assert "worker.killed" in one.log


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_at_once(tmp_path: Path, second: signal.Signals) -> None:
    with supervised(tmp_path, "stubborn", msgspec.structs.replace(QUICK, grace_s=NEVER_S)) as one:
        worker = one.until_running()
        one.process.send_signal(signal.SIGTERM)
        one.until(lambda status: status.stage == "stopping", "the worker is asked to stop")
        assert one.stop(second) == 128 + second
        assert not is_running(worker)


def test_crashed_worker_is_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path, "crash_once") as one:
        status = one.until(lambda status: status.stage == "running" and status.restart_count == 1, "it runs again")
        assert status.last_exit is not None
        assert (status.last_exit.code, status.last_exit.reason, status.restarts) == (1, "error", {"error": 1})
        assert one.stop() == 0
        logged = [line.split()[3] for line in one.log.splitlines() if " worker." in line]
        assert logged == ["worker.started", "worker.ended", "worker.restarting", "worker.started"]


def test_killed_worker_is_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path, "well") as one:
        worker = one.until_running()
        os.kill(worker, signal.SIGKILL)
        status = one.until(lambda status: status.restart_count == 1 and status.stage == "running", "it runs again")
        assert (status.restarts, status.pid != worker) == ({"signal": 1}, True)


def test_what_was_allowed_once_is_told_to_workers_until_a_snapshot_is_durable(tmp_path: Path) -> None:
    with supervised(tmp_path, "crash_once") as one:
        second = one.until(lambda status: status.epochs > 0, "the second worker has a durable snapshot").pid
        assert second is not None
        assert one.log.count("permitted") == 2
        os.kill(second, signal.SIGKILL)
        one.until(lambda status: status.restart_count == 2 and status.epochs > 0, "a third one works")
        assert one.log.count("permitted") == 2


def test_worker_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path, "hang_once", msgspec.structs.replace(QUICK, running_silence_s=1.5)) as one:
        hung = one.until_running()
        status = one.until(lambda status: status.restart_count == 1 and status.stage == "running", "it runs again")
        assert status.restarts == {"hang": 1}
        assert not is_running(hung)
        assert "worker.hung" in one.log


def test_stopped_worker_is_a_hang(tmp_path: Path) -> None:
    with supervised(tmp_path, "well", msgspec.structs.replace(QUICK, running_silence_s=1.5)) as one:
        os.kill(one.until_running(), signal.SIGSTOP)
        one.until(lambda status: status.restarts == {"hang": 1} and status.stage == "running", "it runs again")
        assert one.stop() == 0


def test_worker_that_starts_slowly_but_reports_is_no_hang(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(QUICK, starting_silence_s=1.5, running_silence_s=0.1)
    with supervised(tmp_path, "slow_start", limits) as one:
        begun_ms = one.until(lambda status: status.stage == "restoring", "it restores").since_ms
        status = one.until(lambda status: status.at_ms - begun_ms > 3_000, "twice its limit has passed")
        assert (status.restart_count, status.doing) == (0, "loading state")
        assert status.since_ms == pytest.approx(begun_ms, abs=50)


def test_worker_that_fails_again_and_again_ends_the_supervisor_with_its_code(tmp_path: Path) -> None:
    with supervised(tmp_path, "crash") as one:
        assert one.end() == 4
        assert one.log.count("error: the disk is on fire") == 5
        assert "worker.given_up" in one.log.splitlines()[-1]
        status = one.status
        assert status is not None
        assert (status.stage, status.recent_failures, status.restart_count) == ("given_up", 5, 4)


@pytest.mark.parametrize(
    ("behaviour", "code", "said"),
    [("die", 137, "was killed by SIGKILL"), ("end", 1, "ended without being asked to")],
)
def test_supervisor_says_what_a_worker_could_not(tmp_path: Path, behaviour: str, code: int, said: str) -> None:
    with supervised(tmp_path, behaviour) as one:
        assert one.end() == code
        last = one.log.splitlines()[-1]
        assert last.startswith("error: the worker of flow ads failed 5 times within 300 s")
        assert said in last


@pytest.mark.parametrize(
    ("behaviour", "code", "said"),
    [
        ("hopeless", 1, "error: somebody has to change something"),
        ("exit_2", 2, "error: wrong usage"),
        ("exit_3", 3, "error: wrong configuration"),
    ],
)
def test_where_a_start_cannot_help_the_workers_word_is_the_last(
    tmp_path: Path, behaviour: str, code: int, said: str
) -> None:
    with supervised(tmp_path, behaviour) as one:
        assert one.end() == code
        assert one.log.splitlines()[-1] == said
        assert one.log.count("error: ") == 1
        assert one.status is not None
        assert one.status.stage == "given_up"


def test_sigterm_between_two_workers_is_a_clean_and_prompt_end(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(QUICK, first_delay_s=NEVER_S, longest_delay_s=NEVER_S)
    with supervised(tmp_path, "crash", limits) as one:
        one.until(lambda status: status.stage == "backing_off", "it waits for the next start")
        assert one.stop() == 0
        assert one.status is not None
        assert one.status.stage == "stopped"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_worker_dies_with_its_supervisor(tmp_path: Path, number: signal.Signals) -> None:
    with supervised(tmp_path, "stubborn") as one:
        worker = one.until_running()
        one.process.send_signal(number)
        assert one.end() == -number
        deadline_s = time.monotonic() + WAIT_S
        while is_running(worker):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)


def test_worker_is_of_the_group_of_its_supervisor(tmp_path: Path) -> None:
    with supervised(tmp_path, "well") as one:
        assert os.getpgid(one.until_running()) == one.process.pid


def test_second_supervisor_of_a_place_ends_at_once_and_the_first_suffers_nothing(tmp_path: Path) -> None:
    with supervised(tmp_path, "well") as first:
        worker = first.until_running()
        with supervised(tmp_path, "well", log_name="second") as second:
            assert second.end() == 1
            assert second.log.startswith(f"error: process {first.process.pid} already runs the flow ads on {tmp_path}")
            assert second.log.count("\n") == 1
        now_ms = time.time_ns() // 1_000_000
        status = first.until(lambda status: status.at_ms > now_ms, "the first one goes on to tell")
        assert (status.supervisor_pid, status.pid, status.restart_count) == (first.process.pid, worker, 0)
        assert first.stop() == 0


def test_place_of_a_supervisor_that_was_killed_is_free_at_once(tmp_path: Path) -> None:
    with supervised(tmp_path, "stubborn") as first:
        first.until_running()
        assert first.stop(signal.SIGKILL) == -signal.SIGKILL
        with supervised(tmp_path, "well", log_name="second") as second:
            second.until(lambda status: status.supervisor_pid == second.process.pid, "the second one tells")
            second.until_running()
            assert second.stop() == 0


def test_address_on_a_free_port_is_told_while_somebody_answers_there(tmp_path: Path) -> None:
    with supervised(tmp_path, "well", listen=True) as one:
        one.until_running()
        assert one.get("/metrics")[0] == 200
        assert one.stop() == 0
        assert one.status is not None
        assert one.status.metrics is None


def test_health_of_a_worker_that_works(tmp_path: Path) -> None:
    with supervised(tmp_path, "well", listen=True) as one:
        one.until(lambda status: status.unready is None, "it is ready")
        for path in ("/livez", "/readyz"):
            code, body = one.get_json(path)
            assert code == 200
            assert body.pop("report_age_ms") < 30_000
            assert body == {"ok": True, "stage": "running", "lag_records": 0, "lag_ms": 0}
        assert one.get_json("/")[0] == 404


def test_status_over_http_is_the_status_file(tmp_path: Path) -> None:
    with supervised(tmp_path, "well", listen=True) as one:
        begun_ms = one.until(lambda status: status.snapshot_ms is not None, "a snapshot is durable").since_ms
        code, body = one.get_json("/status")
        told = msgspec.convert(body, Status)
        assert code == 200
        assert (told.flow, told.store, told.stage, told.unready) == ("ads", "ads-0", "running", None)
        assert told.version == version("datastreamx")
        assert told.snapshot_ms is not None
        assert begun_ms - 50 <= told.snapshot_ms <= told.at_ms
        # Both are made at once: of the two answers around a look at the file, one is the file's or lies round it.
        found = one.status
        assert found is not None
        later = msgspec.convert(one.get_json("/status")[1], Status)
        assert told.at_ms <= found.at_ms <= later.at_ms
        assert msgspec.structs.replace(found, at_ms=0, report_age_ms=0, since_ms=0, snapshot_ms=0) == (
            msgspec.structs.replace(later, at_ms=0, report_age_ms=0, since_ms=0, snapshot_ms=0)
        )


def test_health_of_a_worker_that_starts_tells_what_it_does(tmp_path: Path) -> None:
    with supervised(tmp_path, "slow_start", listen=True) as one:
        one.until(lambda status: status.stage == "restoring", "it restores")
        assert one.get_json("/livez")[0] == 200
        code, body = one.get_json("/readyz")
        assert (code, body["reason"]) == (503, "the worker is restoring: loading state")


def test_health_between_two_workers_is_alive_and_not_ready(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(QUICK, first_delay_s=NEVER_S, longest_delay_s=NEVER_S)
    with supervised(tmp_path, "crash", limits, listen=True) as one:
        one.until(lambda status: status.stage == "backing_off", "it waits for the next start")
        assert one.get_json("/livez")[0] == 200
        assert one.get_json("/readyz") == (
            503,
            {"ok": False, "reason": "the worker has ended", "stage": "backing_off", "restarts": 1},
        )


def test_metrics_are_the_workers_and_the_supervisors(tmp_path: Path) -> None:
    with supervised(tmp_path, "measured", listen=True) as one:
        os.kill(one.until_running(), signal.SIGKILL)
        one.until(lambda status: status.restart_count == 1 and status.unready is None, "it runs again")
        code, text = one.get("/metrics")
        assert code == 200
        assert 'datastreamx_decisions_total{status="won"} 7.0\n' in text
        assert 'datastreamx_worker_restarts_total{reason="signal"} 1.0\n' in text
        names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
        assert sorted(set(names)) == sorted(names)


def test_metrics_of_the_supervisor_outlive_the_worker(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(QUICK, first_delay_s=NEVER_S, longest_delay_s=NEVER_S)
    with supervised(tmp_path, "crash", limits, listen=True) as one:
        one.until(lambda status: status.stage == "backing_off", "it waits for the next start")
        code, text = one.get("/metrics")
        assert code == 200
        assert "datastreamx_worker_up 0.0\n" in text
        assert "datastreamx_decisions_total" not in text


def test_first_process_of_a_container_reaps_what_is_left_to_it(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-pf", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no process namespace can be made here")
    inside = tmp_path / "inside"
    inside.mkdir()
    program = (
        "import os, sys, time; from pathlib import Path; from datastreamx.supervisor import *; "
        "argv = [sys.executable, '-c', sys.argv[2]]; "
        "sys.exit(Supervisor(Job('ads', 'ads-0', argv, Path(sys.argv[1]))).run().code)"
    )
    # The worker leaves an orphan that ends; it goes on until nothing is left of it.
    worker = (
        "import os, sys, time\n"
        "out, into = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    orphan = os.fork()\n"
        "    if orphan: os.write(into, str(orphan).encode())\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "orphan = int(os.read(out, 16))\n"
        "until = time.monotonic() + 20\n"
        "while time.monotonic() < until:\n"
        "    try: os.kill(orphan, 0)\n"
        "    except ProcessLookupError: sys.exit(3)\n"
        "    time.sleep(0.01)\n"
    )
    argv = [unshare, "-pf", sys.executable, "-c", program, str(inside), worker]
    # Code 3, said by the worker, is the end at once; a zombie would be there for ever.
    assert subprocess.run(argv, capture_output=True, check=False, timeout=WAIT_S * 2).returncode == 3


def test_frozen_ads_flow_is_started_again_and_loses_nothing(broker: Broker, servers: Servers, tmp_path: Path) -> None:
    with Pipeline(tmp_path, broker, servers) as pipeline:
        pipeline.apply()
        topic, events = pipeline.config.topics.events, heartbeats(200, pipeline.config.events.partitions)
        argv = [*pipeline.flows["ads"].argv, "--limit", "running_silence_s=3", "--limit", "tick_s=0.2"]
        status_file = status_path(Path(pipeline.config.recovery.directory), "ads-0")

        def facts_are_there(rows: int) -> bool:
            expected = expect(pipeline.config, pipeline.read_events()).positions
            return len(expected) == rows and pipeline.read_fact_positions() == expected

        def until(holds: Callable[[Status], bool], what: str) -> Status:
            deadline_s = time.monotonic() + 2 * WAIT_S
            while (found := read_status(status_file)) is None or not holds(found):
                assert flow.poll() is None, flow.log_tail()
                assert time.monotonic() < deadline_s, f"waited in vain: {what}\n{found}\n{flow.log_tail()}"
                time.sleep(0.02)
            return found

        with Child("flow ads", argv, log_path=tmp_path / "supervised.log", env=environment()) as flow:
            frozen = until(lambda one: one.unready is None, "the flow is ready").pid
            assert frozen is not None
            produce(broker, topic, events[:100])
            until(lambda _: facts_are_there(100), "the first facts")
            os.kill(frozen, signal.SIGSTOP)
            produce(broker, topic, events[100:])
            restarted = until(lambda one: one.restarts == {"hang": 1} and one.unready is None, "it is started again")
            assert restarted.pid != frozen
            until(lambda _: facts_are_there(200), "the facts of what came meanwhile, each once")
            assert flow.stop(grace_s=WAIT_S) == 0, flow.log_tail()
