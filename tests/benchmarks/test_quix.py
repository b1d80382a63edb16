from __future__ import annotations

import hashlib
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest

from benchmarks import quix as package
from benchmarks.quix import FOLDER, REQUIREMENTS, environment, quix, version


def test_an_environment_for_the_same_requirements_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def create(folder: Path, **_: Any) -> None:
        folder.mkdir(exist_ok=True)
        made.append(folder)

    def installed(*_: object, **__: object) -> None:
        made.append(REQUIREMENTS)

    monkeypatch.setattr(venv, "create", create)
    monkeypatch.setattr(subprocess, "run", installed)
    folder = tmp_path / "venv"
    assert environment(folder) == environment(folder) == folder / "bin" / "python"
    assert made == [folder, REQUIREMENTS]
    assert (folder / ".installed").read_text() == hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    (folder / ".installed").write_text("of other requirements")
    environment(folder)
    assert made == [folder, REQUIREMENTS] * 2


def test_where_it_cannot_be_installed_it_is_left_out_and_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> Path:
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(package, "environment", fails)
    with quix([], 0, 0.1, tmp_path) as contestant:
        assert contestant is None
    assert "Quix Streams is left out: " in capsys.readouterr().err


def test_every_requirement_is_pinned_with_hashes_and_so_is_the_version_that_is_told() -> None:
    lines = REQUIREMENTS.read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert all("==" in line and line.endswith("\\") for line in pinned)
    assert f"quixstreams=={version()}" in (FOLDER / "requirements.in").read_text()
