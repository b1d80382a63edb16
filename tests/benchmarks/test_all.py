from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import __main__ as everything
from benchmarks.__main__ import NAMES, Ended, main, run_all, summary


class Commands:
    """Runs nothing; the benchmarks named fail."""

    def __init__(self, *failing: str) -> None:
        self.failing = {f"benchmarks.{name}" for name in failing}
        self.ran: list[str] = []
        self.options: list[str] = []

    def __call__(self, argv: Sequence[str]) -> int:
        _, _, module, *self.options = argv
        self.ran.append(module)
        return 3 if module in self.failing else 0


def test_one_that_fails_does_not_keep_the_others_from_running() -> None:
    commands = Commands("kafka")
    ended = run_all(("state", "kafka", "soak"), (), commands)
    assert commands.ran == ["benchmarks.state", "benchmarks.kafka", "benchmarks.soak"]
    assert [one.code for one in ended] == [0, 3, 0]


def test_progress_says_which_of_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    run_all(("state", "kafka"), (), Commands("kafka"))
    told = capsys.readouterr().err
    assert "[1 of 2] benchmarks.state" in told
    assert "[2 of 2] benchmarks.kafka FAILED with code 3" in told


def test_the_summary_names_what_failed() -> None:
    told = summary([Ended("state", 0, 1.0), Ended("kafka", 3, 2.0)])
    assert "kafka      2.0 s  failed with code 3" in told
    assert told.splitlines()[-1] == "1 of 2 done, 1 failed"


@pytest.mark.parametrize(("failing", "code"), [((), 0), (("soak",), 1)])
def test_all_are_run_in_order_and_saved_and_the_code_tells_of_failures(
    monkeypatch: pytest.MonkeyPatch, failing: tuple[str, ...], code: int
) -> None:
    commands = Commands(*failing)
    monkeypatch.setattr(everything, "_run", commands)
    assert main(["--quick"]) == code
    assert commands.ran == [f"benchmarks.{name}" for name in NAMES]
    assert commands.options == ["--quick", "--save"]


def test_a_name_that_is_none_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands()
    monkeypatch.setattr(everything, "_run", commands)
    with pytest.raises(SystemExit):
        main(["state", "sta"])
    assert commands.ran == []


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_a_module(name: str) -> None:
    assert (Path(everything.__file__).parent / f"{name}.py").exists()
