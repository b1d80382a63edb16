from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from datastreamx.cli.app import main
from tests.builders import CONFIG_TEXT


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli(Protocol):
    def __call__(self, *arguments: str) -> Ended: ...


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs the command line in this process, as the installed program would."""
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.delenv("DATASTREAMX_CONFIG", raising=False)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["datastreamx", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A sound configuration of systems that do not answer."""
    path = tmp_path / "datastreamx.toml"
    text = CONFIG_TEXT.replace("[privacy]", 'rest_endpoint = "http://127.0.0.1:9"\n[privacy]')
    path.write_text(text, encoding="utf-8")
    return path
