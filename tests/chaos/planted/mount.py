"""Put a planted bug where a flow's interpreter finds it: `sitecustomize` ahead of everything else."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

VARIABLE = "DATASTREAMX_PLANTED"

_HOOK = Path(__file__).parent / "hook"


def planted() -> list[str]:
    """Names of all bugs."""
    return sorted(path.stem.replace("_", "-") for path in (Path(__file__).parent / "bugs").glob("[a-z]*.py"))


def promise_of(bug: str) -> str:
    """What a bug breaks: a key of `tests.chaos.verdict.PROMISES`."""
    module = importlib.import_module(f"tests.chaos.planted.bugs.{bug.replace('-', '_')}")
    return str(module.PROMISE)


def plant_environment(bugs: Iterable[str]) -> dict[str, str]:
    """What the environment of a flow needs so that it has these bugs; nothing for none."""
    names = ",".join(bugs)
    if not names:
        return {}
    path = os.pathsep.join([str(_HOOK), *(entry for entry in sys.path if entry)])
    return {VARIABLE: names, "PYTHONPATH": path}
