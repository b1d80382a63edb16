from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.k8s.render import K8S
from tests.k8s.tally import Tally
from tests.k8s.tools import tool

pytestmark = pytest.mark.k8s

CONFIG = K8S / "policy" / "yamllint.yaml"


def _yamllint(*paths: Path) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [tool("yamllint"), "--strict", "--format", "parsable", "-c", CONFIG, *paths]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_yaml_is_clean(tally: Tally) -> None:
    files = sorted(K8S.rglob("*.yaml"))
    linted = _yamllint(K8S)
    assert linted.returncode == 0, linted.stdout
    tally("yamllint", len(files))


def test_duplicate_key_is_found(tmp_path: Path) -> None:
    """YAML's last one wins, which hides the first from whoever reads it."""
    path = tmp_path / "twice.yaml"
    path.write_text("spec:\n  replicas: 1\n  replicas: 2\n", encoding="utf-8")
    linted = _yamllint(path)
    assert linted.returncode != 0
    assert "duplication of key" in linted.stdout
