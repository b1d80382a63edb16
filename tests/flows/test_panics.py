"""What a person reads when a flow ends: one error where it was foreseen, everything where it was not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig

from datastreamx.errors import CrashError
from datastreamx.place import Place
from flows.run import execute
from tests.flows.failing_flow import REFUSAL


def ended(store: Path, where: str, how: str) -> tuple[int, str]:
    """Exit code and standard error of a flow that fails."""
    argv = [sys.executable, "-m", "tests.flows.failing_flow", str(store), where, how]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("where", ["build", "operator"])
def test_refusal_is_one_error_without_a_trace(tmp_path: Path, where: str) -> None:
    code, text = ended(tmp_path / "store", where, "refusal")
    assert code == 1
    assert text.endswith(f"\nerror: {REFUSAL}\n")
    assert "Traceback" not in text


def test_bug_shows_its_whole_trace_and_then_the_error(tmp_path: Path) -> None:
    code, text = ended(tmp_path / "store", "operator", "bug")
    assert code == 1
    assert "flow.failed" in text
    assert "Traceback (most recent call last):" in text
    assert 'failing_flow.py", line ' in text
    assert "KeyError: 'no such key'" in text
    error = text.rpartition("\nerror: ")[2]
    assert error.startswith("the flow stopped by a fault of the program: KeyError: 'no such key'.")


def test_end_of_another_process_of_the_cluster_is_no_fault_of_this_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        # What pyo3_runtime.PanicException says when the other process was killed.
        raise BaseException("Send thread panic: Any { .. }")  # noqa: TRY002  as it derives from no other

    monkeypatch.setattr("flows.run.cli_main", broken)
    place = Place("cluster", 0, 2, ("a:1", "b:2"))
    with pytest.raises(CrashError, match=r"another process of the cluster a:1, b:2 has ended or cannot be reached"):
        execute(Dataflow("nothing"), RecoveryConfig("nowhere"), 100, place)
    assert "flow.failed" not in capfd.readouterr().err
