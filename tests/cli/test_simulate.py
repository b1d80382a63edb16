from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from datastreamx import topics
from datastreamx.cli.output import Exit
from datastreamx.errors import RetryableError
from simulator.fleet.driver import FleetOptions
from tests.cli.running import Cli


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--faults", "nope", "'nope' is neither one of none, some, many"),
        ("--faults", "duplicate=2", "at most 1"),
        ("--for", "soon", "no duration"),
        ("--boxes", "0", "greater than or equal to 1"),
        ("--consent-share", "1.5", "less than or equal to 1"),
        ("--public-key", "xyz", "64 hex digits"),
        ("--public-key", "00ff", "2 bytes, Ed25519 keys have 32"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(
    cli: Cli, config_file: Path, option: str, value: str, says: str
) -> None:
    ended = cli("simulate", "-c", str(config_file), option, value)
    assert ended.code == Exit.USAGE
    assert says in ended.err


def test_no_broker_ends_it_instead_of_waiting_for_ever(
    cli: Cli, config_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(topics, "TIMEOUT_S", 0.5)
    ended = cli("simulate", "-c", str(config_file), "--ledger", str(tmp_path / "ledger.json"))
    assert ended.code == Exit.UNREACHABLE
    assert "no broker answers" in ended.err


def test_broker_that_does_not_acknowledge_every_event_does_not_answer(
    cli: Cli, config_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("datastreamx.topics.plan_topics", lambda _config: None)
    monkeypatch.setattr("simulator.fleet.driver.run_fleet", lambda *_: SimpleNamespace(finished=False))
    monkeypatch.setattr("simulator.fleet.__main__.progress_line", lambda _books: "10 events")
    ended = cli("simulate", "-c", str(config_file), "--ledger", str(tmp_path / "ledger.json"))
    assert ended.code == Exit.UNREACHABLE
    assert "did not acknowledge every event" in ended.err


def test_consent_and_key_reach_the_fleet(cli: Cli, config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[FleetOptions] = []

    def run_fleet(_config: object, options: FleetOptions, *_rest: object) -> None:
        seen.append(options)
        raise RetryableError("seen enough")

    monkeypatch.setattr("datastreamx.topics.plan_topics", lambda _config: None)
    monkeypatch.setattr("simulator.fleet.driver.run_fleet", run_fleet)
    ended = cli("simulate", "-c", str(config_file), "--consent-share", "0.25", "--public-key", "0a" * 32)
    assert ended.code == Exit.UNREACHABLE
    (options,) = seen
    assert (options.behaviour.consent_share, options.public_key) == (0.25, b"\n" * 32)
