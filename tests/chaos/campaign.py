"""Play a campaign: rounds of faults, each judged when everything has come to its end."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec

from datastreamx.errors import CrashError
from simulator.processes import Child
from tests.chaos.crew import CampaignError
from tests.chaos.ending import except_notices, give_signs_of_life, letters, told, untold
from tests.chaos.faults.kinds import FAULTS, KILLS
from tests.chaos.journal import Entry, Journal
from tests.chaos.options import Options
from tests.chaos.rig import LOUD_SHARE, Rig, running_rig
from tests.chaos.schedule import schedule
from tests.chaos.verdict import PROMISES, Remains, Verdict, judge, sound_events
from tests.integration.reading import read_topic

_FIRST_WITHIN_S = 60.0
_FLEET_ENDS_WITHIN_S = 90.0
_POLL_S = 0.5
_WARM_UP_S = 3.0
"""Until boxes dwell on channels and auctions begin."""


class Result(msgspec.Struct):
    """A campaign.

    Attributes:
        struck: Faults by kind.
        skipped: Kinds that cannot be had here.
        error: Why the campaign could not go on; unset if it could.
        directory: Where its files are; unset if they are gone.
    """

    command: str
    seed: int
    verdict: Verdict = msgspec.field(default_factory=Verdict)
    struck: Counter[str] = msgspec.field(default_factory=Counter)
    skipped: list[str] = msgspec.field(default_factory=list)
    timeline: list[Entry] = msgspec.field(default_factory=list)
    duration_s: float = 0.0
    error: str | None = None
    directory: str | None = None

    @property
    def holds(self) -> bool:
        """Whether every promise was kept to the end."""
        return self.error is None and self.verdict.holds

    @property
    def kills(self) -> int:
        """Processes killed or stopped."""
        return sum(count for kind, count in self.struck.items() if kind in KILLS)


def run_campaign(options: Options, tell: Callable[[Entry], None] = lambda _entry: None) -> Result:
    """Play it to its end, whatever is found.

    Args:
        options: What to do.
        tell: Called with everything that happens.
    """
    result = Result(options.command, options.seed)
    journal = Journal(tell)
    directory = options.keep or Path(tempfile.mkdtemp(prefix="datastreamx-chaos-"))
    wanted = (options.only or frozenset(FAULTS)) - options.without
    plan = schedule(options.seed, options.rounds, wanted)
    try:
        for number, kinds in enumerate(plan):
            _play(options, number, kinds, directory / f"round-{number}", journal, result)
    except (CampaignError, CrashError, AssertionError) as error:
        result.error = str(error)
    except KeyboardInterrupt:
        result.error = "interrupted: the verdict is that of the rounds before"
    result.timeline, result.duration_s = journal.entries, round(journal.elapsed_s, 1)
    if result.holds and options.keep is None:
        shutil.rmtree(directory)
    else:
        result.directory = str(directory)
    return result


def _play(  # noqa: PLR0917  a private part of `run_campaign`
    options: Options, number: int, kinds: list[str], directory: Path, journal: Journal, result: Result
) -> None:
    journal.note("round", str(number + 1))
    with running_rig(directory, options, journal) as rig:
        fleet = rig.pipeline.fleet(boxes=options.boxes, seed=options.seed * 1000 + number, loud_share=LOUD_SHARE)
        rig.crew.start(*rig.crew.spots)
        rig.crew.await_reading(*rig.crew.spots)
        fleet.start()
        # The notices flow begins at the end of the log, and without a durable snapshot it would do so again.
        notices = rig.crew.of("notices")
        if not rig.crew.wait(lambda: min(map(rig.crew.epoch, notices)) > 1, _FIRST_WITHIN_S, _POLL_S):
            raise CampaignError(f"waited in vain for a snapshot of the notices flow\n{rig.pipeline.logs()}")
        rig.crew.wait(lambda: rig.pipeline.ledger() is not None, _FIRST_WITHIN_S, _POLL_S)
        rig.crew.rest(_WARM_UP_S)
        for place, kind in enumerate(kinds):
            if not rig.is_possible(kind):
                result.skipped = sorted({*result.skipped, kind})
                continue
            struck = FAULTS[kind].strike(rig, Random(f"{options.seed}/{number}/{place}"))
            journal.note(kind, *struck)
            result.struck[kind] += 1
        verdict = _settle(rig, fleet, journal)
    result.verdict.add(verdict)
    broken = [
        f"{PROMISES[name]}: {one.count}, {one.examples[0]}" for name, one in verdict.violations.items() if one.examples
    ]
    journal.note("judged", str(number + 1), "; ".join(broken) or "every promise kept")


def _settle(rig: Rig, fleet: Child, journal: Journal) -> Verdict:
    """Let everything come to its end without any further fault, stop, gather and judge."""
    crew, pipeline = rig.crew, rig.pipeline
    rig.calm()
    crew.await_reading(*crew.spots)
    code = fleet.stop(grace_s=_FLEET_ENDS_WITHIN_S)
    if code != 0:
        raise CampaignError(f"the fleet ended with {code}\n{fleet.log_tail()}")
    give_signs_of_life(rig.broker, pipeline.config)
    quiet_s = rig.options.quiet_s
    pipeline.wait_for_rows(quiet_s=quiet_s)
    seen: Counter[int] = Counter()

    sound = sound_events(pipeline.config, pipeline.read_events())

    def is_told() -> bool:
        missing = untold(rig.broker, pipeline.config, rig.aggregators, sound)
        seen[len(missing)] += 1
        return not missing or seen[len(missing)] * _POLL_S >= quiet_s

    crew.wait(is_told, _FIRST_WITHIN_S, _POLL_S)
    journal.note("settled")
    crew.stop(*crew.spots)
    before = pipeline.topic_sizes()
    if rig.options.starts_again:
        crew.start(*crew.spots)
        crew.await_reading(*crew.spots)
        crew.stop(*crew.spots)
    ledger = pipeline.ledger()
    assert ledger is not None
    assert ledger.finished
    return judge(
        Remains(
            evidence=except_notices(pipeline.evidence()),
            facts=read_topic(rig.broker, pipeline.config.topics.facts, pipeline.config.events.partitions),
            ledger=ledger,
            told=told(rig.aggregators),
            letters=letters(rig.broker, pipeline.config),
            clean_stops=rig.clean_stops,
            grown={topic: count - before[topic] for topic, count in pipeline.topic_sizes().items()},
            used_stores=rig.used_stores,
            unexplained=crew.unexplained,
        )
    )
