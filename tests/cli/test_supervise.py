"""`run` before and around its supervisor."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from datastreamx.cli.output import Exit
from datastreamx.cli.supervise import LiveLine, parse_limits
from datastreamx.supervisor import Limits
from tests.cli.running import Cli


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
    assert ended.code == Exit.CONFIG
    assert "--ordinal" in ended.err


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
