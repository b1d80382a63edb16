"""A small campaign keeps every promise, and one over planted bugs finds each of them.

`DATASTREAMX_KILLS` and `DATASTREAMX_KILL_SEED` choose another one; long campaigns are for `make chaos`.
"""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from tests.chaos.campaign import Result, run_campaign
from tests.chaos.journal import Entry
from tests.chaos.options import Options
from tests.chaos.planted.mount import planted, promise_of
from tests.chaos.report import as_json, as_text
from tests.chaos.verdict import PROMISES

KILLS = int(os.environ.get("DATASTREAMX_KILLS", "5"))
SEED = int(os.environ.get("DATASTREAMX_KILL_SEED", "1"))

PAIRS: dict[tuple[str, ...], Options] = {
    ("lossy-sink", "re-auction"): Options(
        kills=4, only=frozenset({"kill"}), flows=frozenset({"ads", "warehouse"}), seed=112
    ),
    ("early-flush", "stale-partition"): Options(
        kills=3, only=frozenset({"kill", "stale_store"}), flows=frozenset({"warehouse"}), seed=9
    ),
}
"""Bugs that break different promises may be planted together. Long epochs let nearly every kill find them; the seeds
kill each flow at work, the ads flow three times."""

CAMPAIGNS_PER_BUG = 3


def play(options: Options) -> Result:
    result = run_campaign(options, _tell)
    sys.stdout.write(as_text(result))  # shown on failure
    return result


def _tell(entry: Entry) -> None:
    sys.stdout.write(f"{entry}\n")


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_small_campaign_keeps_every_promise() -> None:
    result = play(Options(kills=KILLS, seed=SEED, boxes=60, starts_again=False))
    assert result.holds, result.command
    assert result.kills == KILLS
    assert min(result.verdict.figures[name] for name in ("rows", "wins", "dead letters", "notices heard")) > 0


@pytest.mark.campaign
@pytest.mark.timeout(600)
@pytest.mark.parametrize("bugs", PAIRS, ids="+".join)
def test_planted_bugs_break_their_promises(bugs: tuple[str, ...]) -> None:
    wanted = {promise_of(bug) for bug in bugs}
    # Moments are as the machine has it: one campaign may miss, three do not.
    campaigns = (_options(bugs, attempt) for attempt in range(CAMPAIGNS_PER_BUG))
    assert any(wanted <= _broken(options) for options in campaigns), f"{sorted(wanted)}: nothing found"


def _broken(options: Options) -> set[str]:
    """Promises that a campaign finds broken."""
    result = play(options)
    assert result.error is None
    if result.directory is not None:
        shutil.rmtree(result.directory)
    return {name for name, one in result.verdict.violations.items() if one.examples}


def _options(bugs: tuple[str, ...], attempt: int) -> Options:
    chosen = PAIRS[bugs]
    return Options(
        kills=chosen.kills,
        seed=chosen.seed + 1000 * attempt,
        cells=1,
        boxes=100,
        epoch_ms=1500,
        starts_again=False,
        quiet_s=6.0,
        only=chosen.only,
        flows=chosen.flows,
        plants=bugs,
    )


def test_every_planted_bug_is_looked_for() -> None:
    assert sorted(bug for bugs in PAIRS for bug in bugs) == planted()
    assert {promise_of(bug) for bug in planted()} <= PROMISES.keys()


def test_broken_promise_is_told_with_the_command_that_repeats_it() -> None:
    result = Result("python -m tests.chaos --kills 1", 1, directory="/somewhere")
    assert "FAIL" not in as_text(result)
    result.verdict.violations["events_lost"].add("a row is missing", 3)
    assert "FAIL  events lost: 3\n          a row is missing" in as_text(result)
    assert as_text(result).endswith("files: /somewhere\nrepeat it: python -m tests.chaos --kills 1")
    assert '"holds": false' in as_json(result)
