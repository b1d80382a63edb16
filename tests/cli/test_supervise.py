"""`run` before and around its supervisor."""

from __future__ import annotations

import gc
import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from datastreamx.cli.output import Exit
from datastreamx.cli.supervise import FlowOptions, LiveLine, leave_behind, parse_limits, work
from datastreamx.clock import SystemClock
from datastreamx.config import load_config
from datastreamx.log import configure_logging
from datastreamx.place import ORDINAL_VARIABLE
from datastreamx.supervisor import Limits, Supervisor, Verdict, status_path
from datastreamx.supervisor.lock import alone
from tests.cli.running import Cli


@pytest.fixture
def config_file(config_file: Path, tmp_path: Path) -> Path:
    """With a recovery directory that no other process knows."""
    text = config_file.read_text(encoding="utf-8")
    config_file.write_text(f'{text}\n[recovery]\ndirectory = "{tmp_path / "recovery"}"\n', encoding="utf-8")
    return config_file


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is tried, no worker is started."""

    def refuse(*_: object) -> None:
        pytest.fail("a worker was started")

    monkeypatch.setattr("datastreamx.supervisor.supervisor.Worker", refuse)


@pytest.mark.usefixtures("no_worker")
def test_wrong_configuration_ends_before_a_worker_is_started(cli: Cli, tmp_path: Path) -> None:
    ended = cli("run", "ads", "--config", str(tmp_path / "none.toml"))
    assert ended.code == Exit.CONFIG
    assert ended.err.startswith("error: ")


@pytest.mark.usefixtures("no_worker")
def test_ordinal_that_is_none_of_ours_ends_before_a_worker_is_started(cli: Cli, config_file: Path) -> None:
    ended = cli("run", "ads", "--config", str(config_file), "--ordinal", "7")
    assert (ended.code, ended.err) == (
        Exit.USAGE,
        "error: --ordinal: it is 7, but there are 1 cells: it has to be 0 to 0\n",
    )


@pytest.mark.usefixtures("no_worker")
@pytest.mark.parametrize("text", ["7", "one"])
def test_ordinal_of_the_environment_that_is_none_of_ours_is_a_wrong_configuration(
    cli: Cli, config_file: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(ORDINAL_VARIABLE, text)
    ended = cli("run", "ads", "--config", str(config_file))
    assert ended.code == Exit.CONFIG
    assert ORDINAL_VARIABLE in ended.err


@pytest.mark.usefixtures("no_worker")
def test_second_supervisor_ends_at_once_and_leaves_the_status_of_the_first_alone(cli: Cli, config_file: Path) -> None:
    recovery = Path(load_config(config_file).recovery.directory)
    with alone(recovery, "ads", "ads-0"):
        status_path(recovery, "ads-0").write_bytes(b"of the first")
        ended = cli("run", "ads", "--config", str(config_file))
        assert status_path(recovery, "ads-0").read_bytes() == b"of the first"
    assert ended.code == Exit.FAILED
    assert ended.err.startswith(f"error: process {os.getpid()} already runs the flow ads on {recovery / 'ads-0'}")
    assert ended.err.count("\n") == 1


@pytest.mark.usefixtures("no_worker")
def test_second_supervisor_blames_the_first_and_not_the_port_that_both_want(cli: Cli, config_file: Path) -> None:
    recovery = Path(load_config(config_file).recovery.directory)
    with alone(recovery, "ads", "ads-0"), socket.create_server(("127.0.0.1", 0)) as taken:
        text = config_file.read_text(encoding="utf-8")
        config_file.write_text(f"{text}[metrics]\nport = {taken.getsockname()[1]}\n", encoding="utf-8")
        ended = cli("run", "ads", "--config", str(config_file))
    assert "already runs the flow" in ended.err


@pytest.mark.usefixtures("no_worker")
def test_recovery_directory_that_cannot_be_made_is_told(cli: Cli, config_file: Path) -> None:
    recovery = Path(load_config(config_file).recovery.directory)
    recovery.parent.mkdir(parents=True, exist_ok=True)
    recovery.write_bytes(b"")
    ended = cli("run", "ads", "--config", str(config_file))
    assert ended.code == Exit.FAILED
    assert "ads-0.supervisor.lock cannot be locked (File exists)" in ended.err


@pytest.mark.usefixtures("no_worker")
def test_port_that_is_taken_is_told_with_its_keys(cli: Cli, config_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = config_file.read_text(encoding="utf-8")
        config_file.write_text(f"{text}[metrics]\nport = {port}\n", encoding="utf-8")
        ended = cli("run", "ads", "--config", str(config_file))
    assert ended.code == Exit.FAILED
    assert f"error: metrics.host and metrics.port: cannot listen at 127.0.0.1:{port}: " in ended.err
    assert "Give each flow on a machine one of its own" in ended.err


def test_limits_are_given_by_name() -> None:
    assert parse_limits([]) == Limits()
    assert parse_limits(["grace_s=1.5", "failures_max=2"]) == Limits(grace_s=1.5, failures_max=2)


@pytest.mark.parametrize("wrong", ["nope=1", "grace_s=soon", "grace_s=0", "grace_s"])
def test_limit_that_is_none_is_wrong_usage(cli: Cli, config_file: Path, wrong: str) -> None:
    ended = cli("run", "ads", "--config", str(config_file), "--limit", wrong)
    assert ended.code == Exit.USAGE
    assert "--limit" in ended.err


def test_live_line_fits_the_terminal_and_disappears(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    show = LiveLine()
    show(None)
    assert capsys.readouterr().err == ""
    show("x" * 50)
    (shown,) = re.findall(r"^\r\x1b\[K(x+)\r$", capsys.readouterr().err)
    assert len(shown) == 19
    show(None)
    show(None)
    assert capsys.readouterr().err == "\r\x1b[K\r"


# Leaving the store ---------------------------------------------------------------------------------------------------


@pytest.fixture
def logs() -> None:
    """As the command line does it."""
    configure_logging(json=False)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines of what was to leave a store."""
    found: list[list[str]] = []
    monkeypatch.setattr("datastreamx.cli.supervise.leave_behind", lambda argv, *_: found.append(argv))
    return found


def ends_with(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(Supervisor, "run", lambda _: Verdict(code))


@pytest.fixture
def handing_over(config_file: Path, tmp_path: Path) -> Path:
    """With a folder for what is handed over."""
    text = config_file.read_text(encoding="utf-8")
    config_file.write_text(f'{text}handover = "{tmp_path / "handover"}"\n', encoding="utf-8")
    return config_file


def test_flow_that_was_stopped_cleanly_leaves_its_store(
    cli: Cli, handing_over: Path, left: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_with(monkeypatch, 0)
    assert cli("run", "ads", "--config", str(handing_over), "--json").code == 0
    (argv,) = left
    assert argv[3:] == ["leave", "ads", "--config", str(handing_over), "--ordinal", "0", "--json"]


@pytest.mark.parametrize("code", [1, 137])
def test_flow_that_failed_leaves_nothing(
    cli: Cli, handing_over: Path, left: list[list[str]], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    ends_with(monkeypatch, code)
    assert cli("run", "ads", "--config", str(handing_over)).code == code
    assert left == []


def test_without_a_folder_nothing_is_left(
    cli: Cli, config_file: Path, left: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_with(monkeypatch, 0)
    assert cli("run", "ads", "--config", str(config_file)).code == 0
    assert left == []


def test_failure_to_leave_a_store_is_logged_and_nothing_else(
    cli: Cli, handing_over: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no store."""
    ends_with(monkeypatch, 0)
    ended = cli("run", "ads", "--config", str(handing_over))
    assert ended.code == 0
    assert "handover.failed" in ended.err
    assert "exit code 1" in ended.err


@pytest.mark.usefixtures("logs")
def test_leaving_that_hangs_is_given_up(capfd: pytest.CaptureFixture[str]) -> None:
    sleeper = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
    leave_behind(sleeper, Limits(leaving_s=1.5, tick_s=0.5), SystemClock())
    told = capfd.readouterr()
    assert "handover.failed" in told.err
    assert "not done after 1.5 s" in told.err
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.out), 0)


@pytest.mark.usefixtures("logs")
def test_second_request_to_end_gives_leaving_up(capfd: pytest.CaptureFixture[str]) -> None:
    pid = os.getpid()
    # The sleeper asks, so it surely runs: its parent is this process.
    sleeper = [sys.executable, "-c", f"import os, signal, time; os.kill({pid}, signal.SIGTERM); time.sleep(600)"]
    before = signal.getsignal(signal.SIGTERM)
    leave_behind(sleeper, Limits(leaving_s=600), SystemClock())
    assert "asked to end at once" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.usefixtures("logs")
def test_program_that_cannot_be_started_leaves_nothing(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    leave_behind([str(tmp_path / "none")], Limits(), SystemClock())
    assert "handover.failed" in capfd.readouterr().err


def test_flow_is_loaded_with_the_garbage_collector_put_off(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, found = gc.get_threshold(), []
    monkeypatch.setattr("flows.run.run_flow", lambda *_, **__: found.append(gc.get_threshold()[0]))
    try:
        work(FlowOptions("ads", config_file, None, accept_store=False, json_logs=True))
    finally:
        gc.set_threshold(*before)
    assert found[0] > before[0]
