"""Play a campaign: its stories one after the other on one deployment, and the verdict over all that they left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from datastreamx.errors import CrashError
from tests.chaos.ending import except_notices, give_signs_of_life, letters, told, untold
from tests.chaos.journal import Entry, Journal
from tests.chaos.verdict import Remains, Verdict, judge, sound_events
from tests.integration.reading import read_topic
from tests.k8s.podlet import PodletError
from tests.k8s.podlet.campaign.options import Options
from tests.k8s.podlet.campaign.plants import PLANTED
from tests.k8s.podlet.campaign.rig import WITHIN_S, Rig, running_rig
from tests.k8s.podlet.campaign.stories import STORIES
from tests.k8s.podlet.campaign.story import Story

_FLEET_ENDS_WITHIN_S = 90.0
_POLL_S = 0.5
_QUIET_S = 20.0
"""Whatever is still missing after so long without any progress is lost."""


class Result(msgspec.Struct):
    """A campaign.

    Attributes:
        verdict: Over all that was left behind; unset if it did not come to that.
        error: Why the campaign could not go on; unset if it could.
        load: Of this machine over the last minute, before and after: processes that wanted a core.
        directory: Where its files are; unset if they are gone.
    """

    command: str
    seed: int
    stories: list[Story] = msgspec.field(default_factory=list)
    verdict: Verdict | None = None
    timeline: list[Entry] = msgspec.field(default_factory=list)
    duration_s: float = 0.0
    load: list[float] = msgspec.field(default_factory=list)
    error: str | None = None
    directory: str | None = None

    @property
    def holds(self) -> bool:
        """Whether every promise was kept to the end."""
        kept = all(story.holds for story in self.stories)
        return kept and self.error is None and self.verdict is not None and self.verdict.holds


def run_campaign(options: Options, tell: Callable[[Entry], None] = lambda _entry: None) -> Result:
    """Play it to its end, whatever is found.

    Args:
        options: What to do.
        tell: Called with everything that happens.
    """
    result = Result(options.command, options.seed, load=[os.getloadavg()[0]])
    journal = Journal(tell)
    directory = options.keep or Path(tempfile.mkdtemp(prefix="datastreamx-k8s-"))
    try:
        with running_rig(directory, options, journal) as rig:
            # The oracle compares what there is: until something of every kind is there, it proves little.
            rig.cluster.wait_until(lambda: rig.cluster.counts()["ad_decisions"] > 0, "a decision", within_s=WITHIN_S)
            for play in (*(STORIES[name] for name in options.stories), *(PLANTED[name] for name in options.plants)):
                story = play(rig)
                result.stories.append(story)
                journal.note("told", story.name, "every promise kept" if story.holds else f"BROKEN: {story.broken}")
            result.verdict = _settle(rig)
    except (PodletError, CrashError, AssertionError) as error:
        result.error = str(error)
    except KeyboardInterrupt:
        result.error = "interrupted"
    result.load.append(os.getloadavg()[0])
    result.timeline, result.duration_s = journal.entries, round(journal.elapsed_s, 1)
    if result.holds and options.keep is None:
        shutil.rmtree(directory)
    else:
        result.directory = str(directory)
    return result


def _settle(rig: Rig) -> Verdict:
    """Let everything come to its end, stop, gather and judge."""
    cluster, options = rig.cluster, rig.options
    rig.wait_ready()
    code = rig.fleet.stop(grace_s=_FLEET_ENDS_WITHIN_S)
    if code != 0:
        raise PodletError(f"the fleet ended with {code}\n{rig.fleet.log_tail()}")
    give_signs_of_life(rig.broker, cluster.config)
    cluster.wait_for_rows(quiet_s=_QUIET_S)
    sound = sound_events(cluster.config, cluster.read_events())
    seen: Counter[int] = Counter()

    def is_told() -> bool:
        missing = untold(rig.broker, cluster.config, rig.aggregators, sound)
        seen[len(missing)] += 1
        return not missing or seen[len(missing)] * _POLL_S >= _QUIET_S

    cluster.wait_until(is_told, "notices", within_s=WITHIN_S)
    rig.journal.note("settled")
    began_s = rig.stop()
    before = cluster.topic_sizes()
    if options.starts_again:
        rig.apply()
        rig.wait_ready()
        rig.stop()
    ledger = cluster.ledger()
    assert ledger is not None
    assert ledger.finished
    verdict = judge(
        Remains(
            evidence=except_notices(cluster.evidence()),
            facts=read_topic(rig.broker, cluster.config.topics.facts, cluster.config.events.partitions),
            ledger=ledger,
            told=told(rig.aggregators),
            letters=letters(rig.broker, cluster.config),
            clean_stops=[],
            grown={topic: count - before[topic] for topic, count in cluster.topic_sizes().items()},
            used_stores=[],
            unexplained=rig.unclean_stops(began_s),
        )
    )
    rig.journal.note("judged")
    return verdict
