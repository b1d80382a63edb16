"""The command line in this process, as the installed program would run it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from datastreamx.cli.app import main


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


def make_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs commands one after another."""
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.delenv("DATASTREAMX_CONFIG", raising=False)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["datastreamx", *arguments])
        # What the test itself has caused until now, such as log lines, is not the command's.
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run
