from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import CONFIG_TEXT
from tests.cli.running import Cli, make_cli


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs commands."""
    return make_cli(monkeypatch, capsys)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A sound configuration of systems that do not answer."""
    path = tmp_path / "datastreamx.toml"
    text = CONFIG_TEXT.replace("[privacy]", 'rest_endpoint = "http://127.0.0.1:9"\n[privacy]')
    path.write_text(text, encoding="utf-8")
    return path
