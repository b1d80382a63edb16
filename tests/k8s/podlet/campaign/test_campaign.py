"""Small campaigns. `DATASTREAMX_TEST_SEED` chooses viewers and moments."""

from __future__ import annotations

import os

import pytest

from tests.chaos.verdict import PROMISES as OF_DATA
from tests.k8s.podlet import unusable
from tests.k8s.podlet.campaign.campaign import Result, run_campaign
from tests.k8s.podlet.campaign.cluster import FLOWS
from tests.k8s.podlet.campaign.options import STORIES, Options, StoryName
from tests.k8s.podlet.campaign.report import as_text

pytestmark = [pytest.mark.podlet, pytest.mark.timeout(1200)]

SEED = int(os.environ.get("DATASTREAMX_TEST_SEED", "1"))

_LOOKED_AT = {
    "rollout": {"canary_first", "ends_cleanly", "repeats_nothing", "one_at_a_time"},
    "drain": {"ends_cleanly", "repeats_nothing", "one_at_a_time"},
    "rescale": {"state_moves", "ends_cleanly", "repeats_nothing"},
    "kills": {"comes_back", "others_go_on"},
    "freeze": {"comes_back", "others_go_on"},
    "volume": {"rebuilt", "comes_back", "others_go_on"},
}


def _run(options: Options) -> Result:
    reason = unusable()
    if reason is not None:
        pytest.skip(f"the process harness {reason}")
    return run_campaign(options)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """All stories on one deployment: two cells, three, two."""
    return _run(
        Options(
            seed=SEED,
            cells=2,
            rescales=(3, 2),
            kills=4,
            boxes=200,
            quiet_s=4.0,
            freeze_s=6.0,
            cut_s=4.0,
            waves=(FLOWS,),
            starts_again=False,
            keep=tmp_path_factory.mktemp("campaign"),
        )
    )


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One cell, and everything planted."""
    return _run(
        Options(
            stories=(),
            seed=SEED,
            cells=1,
            boxes=200,
            starts_again=False,
            plants=("old_store", "second_pod"),
            keep=tmp_path_factory.mktemp("spoilt"),
        )
    )


@pytest.mark.parametrize("name", STORIES)
def test_story_keeps_its_promises(result: Result, name: StoryName) -> None:
    assert result.error is None, f"seed {SEED}\n{as_text(result)}"
    (story,) = (one for one in result.stories if one.name == name)
    assert story.broken == {promise: [] for promise in _LOOKED_AT[name]}, f"seed {SEED}\n{as_text(result)}"


@pytest.mark.parametrize("promise", OF_DATA)
def test_in_the_end_everything_is_as_without_any_trouble(result: Result, promise: str) -> None:
    assert result.verdict is not None, as_text(result)
    assert result.verdict.violations[promise].examples == [], f"seed {SEED}\n{as_text(result)}"


def test_there_was_something_to_lose(result: Result) -> None:
    assert result.verdict is not None, as_text(result)
    for figure in ("events", "rows", "duplicates dropped", "late events", "wins", "notices heard", "box states"):
        assert result.verdict.figures[figure] > 0, f"seed {SEED}: {result.verdict.figures}"


def test_old_store_is_found_by_what_is_written_twice(spoilt: Result) -> None:
    (story,) = (one for one in spoilt.stories if one.name == "old_store")
    assert story.broken["repeats_nothing"], f"seed {SEED}\n{as_text(spoilt)}"


def test_second_pod_of_a_cell_is_found_by_what_is_decided_twice(spoilt: Result) -> None:
    assert spoilt.error is None, f"seed {SEED}\n{as_text(spoilt)}"
    assert spoilt.verdict is not None
    assert spoilt.verdict.violations["decided_twice"].examples, f"seed {SEED}\n{as_text(spoilt)}"
    assert not spoilt.holds
