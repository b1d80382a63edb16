"""The stories: each strikes the deployment while boxes go on, waits until it is well, and tells what it saw."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.k8s.podlet import PodletError
from tests.k8s.podlet.campaign.deployment import JOB, SETS
from tests.k8s.podlet.campaign.measures import (
    Log,
    Span,
    absences,
    first_after,
    is_within,
    longest_gap_s,
    overlaps,
    percentiles,
)
from tests.k8s.podlet.campaign.options import StoryName
from tests.k8s.podlet.campaign.rig import WITHIN_S, Rig
from tests.k8s.podlet.campaign.story import Story
from tests.k8s.podlet.kubelet import BackOff

_OK = 200
_BAD_ENDS = frozenset({"exited", "unhealthy", "killed", "oom_killed", "failed", "terminating"})
_KILLED, _FROZEN, _CUT, _LOST = "ads-1", "ads-1", "ads-0", "ads-1"
_WORKER_EVERY = 4
"""One kill in so many is of the worker alone."""


def quiet(rig: Rig) -> Span:
    """Let nothing happen for a while, for comparison."""
    begin_s = time.time()
    time.sleep(rig.options.quiet_s)
    return begin_s, time.time()


def rollout(rig: Rig) -> Story:
    """A change of the pod template: the last cell of each flow first, then all, flows in the order of an upgrade."""
    story, before, began_s = Story("rollout"), rig.log(), time.monotonic()
    calm = quiet(rig)
    last = rig.cluster.cells - 1
    for partition, who in ((last, "the last cell"), (0, "all cells")):
        for wave in rig.options.waves:
            moment_s = time.monotonic()
            for name in wave:
                rig.podlet.rollout(name, _upgrade(rig.options.seed, partition))
            for name in wave:
                rig.podlet.wait_rolled_out(name, within_s=WITHIN_S)
            rig.journal.note("rolled out", ", ".join(wave), who)
            if partition:
                gone = {one.pod for one in rig.podlet.events.of(None, "terminating", since_s=moment_s)}
                wrong = gone - {f"{name}-{last}" for name in wave}
                story.check("canary_first", (f"{pod} was replaced with the canary" for pod in sorted(wrong)))
    events = rig.events(began_s)
    _check_clean(rig, story, began_s, before)
    for flow in SETS:
        spans = absences(events, {f"{flow}-{ordinal}" for ordinal in range(rig.cluster.cells)})
        missing = rig.cluster.cells - len(spans)
        story.check("one_at_a_time", [*overlaps(spans), *([f"{missing} of {flow} were not replaced"] * bool(missing))])
    _compare_delays(rig, story, calm, absences(events, {f"ads-{n}" for n in range(rig.cluster.cells)}))
    return story


def drain(rig: Rig) -> Story:
    """All pods of a zone are evicted, as fast as the disruption budgets allow."""
    story, before, began_s = Story("drain"), rig.log(), time.monotonic()
    leaving = sorted(pod.name for pod in rig.podlet.pods if pod.zone == "a")
    rig.podlet.drain(lambda pod: pod.zone == "a", within_s=WITHIN_S)
    rig.wait_ready()
    rig.journal.note("drained", "zone a", ", ".join(leaving))
    _check_clean(rig, story, began_s, before)
    gone = {event.pod for event in rig.podlet.events.of(None, "terminating", since_s=began_s)}
    story.check("one_at_a_time", (f"{pod} was evicted, too" for pod in sorted(gone - {*leaving})))
    for flow in SETS:
        spans = absences(rig.events(began_s), {name for name in leaving if name.startswith(f"{flow}-")})
        story.check("one_at_a_time", overlaps(spans))
    story.figures["evicted"] = len(leaving)
    return story


def rescale(rig: Rig) -> Story:
    """Other numbers of cells, by the Job of the manifests, while events wait in Kafka."""
    story, before, began_s = Story("rescale"), rig.log(), time.monotonic()
    outages: list[float] = []
    for cells in rig.options.rescales:
        stopped_s, old = time.monotonic(), rig.cluster.cells
        names = rig.cluster.pod_names
        marks = {name: (len(_output(rig, name)), len(_output(rig, name, "prepare"))) for name in names}
        rig.stop()
        left = (name for name in names if "handover.left" not in _output(rig, name)[marks[name][0] :])
        story.check("state_moves", (f"{name} has left nothing when it was stopped" for name in left))
        rig.podlet.apply(rig.deployment.rescale(rig.cluster.pods_config, old, cells))
        if rig.podlet.wait_job(JOB, within_s=WITHIN_S) != "Complete":
            log = rig.podlet.job_pods(JOB)[-1].log()
            raise PodletError(f"the Job that makes {old} cells {cells} has failed:\n{log}")
        rig.cluster.say_cells(cells)
        after = {name: len(_output(rig, name, "prepare")) for name in rig.cluster.pod_names}
        rig.apply()
        rig.wait_ready()
        took = {name: _outcome(_output(rig, name, "prepare")[after[name] :]) for name in rig.cluster.pod_names}
        wrong = (f"prepare of {name} said {found}" for name, found in took.items() if found != "took_over")
        story.check("state_moves", wrong)
        outages.append(round(time.monotonic() - stopped_s, 1))
        rig.journal.note("rescaled", f"{old} cells to {cells}", f"{outages[-1]} s from the stop until all are ready")
    _check_clean(rig, story, began_s, before)
    story.figures["seconds from the stop until all are ready"] = outages
    return story


def kills(rig: Rig) -> Story:
    """One cell of the ads flow is killed again and again: the whole container, now and then the worker alone."""
    story, rng = Story("kills"), rig.rng("kills")
    calm = quiet(rig)
    began_s = time.monotonic()
    struck: list[tuple[str, float]] = []
    ready_s: list[float] = []
    work_s: dict[str, list[float]] = {"container": [], "worker": []}
    for number in range(rig.options.kills):
        time.sleep(rng.uniform(0.5, 3.0))
        process = number % _WORKER_EVERY == _WORKER_EVERY - 1 or rig.options.kills == 1
        what = "worker" if process else "container"
        worker = _worker(rig, _KILLED)
        struck.append((what, time.time()))
        rig.podlet.kill(_KILLED, process=int(process))
        rig.wait(partial(_is_back, rig, _KILLED, worker), f"{_KILLED} is back")
        ready_s.append(round(time.time() - struck[-1][1], 2))
        work_s[what].append(_cpu_s(rig.podlet.pids(_KILLED)[int(process) :]))
        rig.journal.note("killed", f"{_KILLED}, its {what}", f"ready again after {ready_s[-1]} s")
    # What it was given last has to be written, too.
    own = rig.cluster.partitions_of(1)
    logs: list[Log] = []

    def wrote() -> bool:
        logs.append(rig.log())
        return first_after(logs[-1].stamps_s(own), struck[-1][1]) is not None

    rig.cluster.wait_until(wrote, f"{_KILLED} writes", within_s=WITHIN_S)
    log = logs[-1]
    stamps_s = log.stamps_s(own)
    firsts = [(what, at_s, first_after(stamps_s, at_s)) for what, at_s in struck]
    next_s = [*(at_s for _, at_s in struck[1:]), float("inf")]
    silent = (
        f"kill {n} of the {what}: nothing was written before the next one"
        for n, ((what, _, first_s), until_s) in enumerate(zip(firsts, next_s, strict=True), 1)
        if first_s is None or first_s >= until_s
    )
    story.check("comes_back", silent)
    story.check("others_go_on", _disturbed(rig, began_s, {_KILLED}))
    outages = [(at_s, first_s or at_s) for _, at_s, first_s in firsts]
    others = [n for n in range(rig.cluster.cells) if n != 1]
    gaps = {"quiet": 0.0, "outages": 0.0}
    for ordinal in others:
        theirs = log.stamps_s(rig.cluster.partitions_of(ordinal))
        if not any(is_within(stamp, outages) for stamp in theirs):
            story.check("others_go_on", [f"ads-{ordinal} wrote nothing while {_KILLED} was away"])
        gaps["quiet"] = max(gaps["quiet"], longest_gap_s(theirs, calm))
        gaps["outages"] = max(gaps["outages"], longest_gap_s(theirs, (struck[0][1], outages[-1][1])))
    story.figures["longest gap of another cell in s"] = {name: round(gap, 2) for name, gap in gaps.items()}
    for kind in ("container", "worker"):
        spans = [first_s - at_s for what, at_s, first_s in firsts if what == kind and first_s is not None]
        story.figures[f"s from the kill of the {kind} to its cell's first record"] = percentiles(spans)
        story.figures[f"s of one core that this took, of the {kind}"] = percentiles(work_s[kind])
    story.figures["s from a kill until ready"] = percentiles(ready_s)
    back_off = BackOff(1.0)
    containers = sum(what == "container" for what, _ in struck)
    waits = [back_off.after(0.0) for _ in range(containers)]
    story.figures["back-off in s that a real kubelet would have added, kill by kill"] = waits
    story.figures["back-off was divided by"] = rig.options.time_scale
    return story


def freeze(rig: Rig) -> Story:
    """A pod stands still, another is cut off the network; probes and supervisors deal with it."""
    story, began_s = Story("freeze"), time.monotonic()
    rig.podlet.freeze(_FROZEN, rig.options.freeze_s)
    rig.wait_ready()
    _check_writing(rig, story, _FROZEN)
    rig.journal.note("froze", _FROZEN, f"{rig.options.freeze_s:g} s")
    told = [event.what for event in rig.podlet.events.of(_FROZEN, *_BAD_ENDS, since_s=began_s)]
    story.figures[f"what became of {_FROZEN}"] = told or ["it went on"]
    story.check("others_go_on", _disturbed(rig, began_s, {_FROZEN}))
    cut_s = time.monotonic()
    rig.podlet.cut(_CUT, rig.options.cut_s)
    rig.wait_ready()
    _check_writing(rig, story, _CUT)
    rig.journal.note("cut", _CUT, f"{rig.options.cut_s:g} s")
    told = [event.what for event in rig.podlet.events.of(_CUT, *_BAD_ENDS, since_s=cut_s)]
    story.figures[f"what became of {_CUT}"] = told or ["it went on"]
    story.check("others_go_on", _disturbed(rig, cut_s, {_CUT}))
    return story


def volume(rig: Rig) -> Story:
    """The volume of an ads cell is lost with all that is on it."""
    story, began_s = Story("volume"), time.monotonic()
    mark = len(_output(rig, _LOST, "prepare"))
    rig.podlet.lose_volume(_LOST)
    rig.wait_ready()
    outcome = _outcome(_output(rig, _LOST, "prepare")[mark:])
    story.check("rebuilt", [] if outcome == "rebuilt" else [f"prepare of {_LOST} said {outcome}"])
    _check_writing(rig, story, _LOST)
    story.check("others_go_on", _disturbed(rig, began_s, {_LOST}))
    lost, ready = (rig.podlet.events.of(_LOST, what, since_s=began_s)[0].at_s for what in ("lost", "ready"))
    story.figures["s until it is ready"] = round(ready - lost, 1)
    rig.journal.note("rebuilt", _LOST, f"ready after {ready - lost:.1f} s")
    return story


STORIES: Mapping[StoryName, Callable[[Rig], Story]] = {
    "rollout": rollout,
    "drain": drain,
    "rescale": rescale,
    "kills": kills,
    "freeze": freeze,
    "volume": volume,
}


def _upgrade(seed: int, partition: int) -> dict[str, object]:
    """What `kubectl patch` would be given: an annotation, and how far it goes."""
    template = {"metadata": {"annotations": {"datastreamx/upgrade": str(seed)}}}
    return {"spec": {"template": template, "updateStrategy": {"rollingUpdate": {"partition": partition}}}}


def _check_clean(rig: Rig, story: Story, began_s: float, before: Log) -> None:
    """What a story without force has to leave: codes of 0, and nothing twice."""
    story.check("ends_cleanly", rig.unclean_stops(began_s))
    story.check_repeats(before, rig.log())


def _compare_delays(rig: Rig, story: Story, calm: Span, away: Mapping[str, list[Span]]) -> None:
    """Side by side: decisions for boxes of other cells while a cell is replaced, and all of the quiet time."""
    log = rig.log()
    wall = {pod: [(a + rig.offset_s, b + rig.offset_s) for a, b in spans] for pod, spans in away.items()}

    def is_beside(partition: int, at_s: float) -> bool:
        own = f"ads-{rig.cluster.cell_of(partition)}"
        during = any(is_within(at_s, spans) for pod, spans in wall.items() if pod != own)
        return during and not is_within(at_s, wall.get(own, []))

    quiet_ms = percentiles(log.delays_ms(lambda _, at_s: is_within(at_s, [calm])))
    beside_ms = percentiles(log.delays_ms(is_beside))
    story.figures["event to decision in ms, quiet"] = quiet_ms
    story.figures["event to decision in ms, other cells while one is replaced"] = beside_ms
    if quiet_ms.p99 and beside_ms.p99:
        story.figures["p99 of other cells over quiet"] = round(beside_ms.p99 / quiet_ms.p99, 2)


def _disturbed(rig: Rig, since_s: float, struck: set[str]) -> list[str]:
    """Pods that were left alone and yet ended."""
    events = rig.podlet.events.of(None, *_BAD_ENDS, since_s=since_s)
    return [f"{event.pod} {event.what} {event.detail}".rstrip() for event in events if event.pod not in struck]


def _check_writing(rig: Rig, story: Story, pod: str) -> None:
    """The cell goes on; a campaign that waits in vain says so."""
    rig.wait_writing(pod, time.time())
    story.check("comes_back", [])


def _worker(rig: Rig, pod: str) -> int:
    """Process id of the worker of a pod, as soon as there is one."""
    rig.wait(lambda: len(rig.podlet.pids(pod)) > 1, f"{pod} has a worker")
    return rig.podlet.pids(pod)[1]


def _is_back(rig: Rig, pod: str, old: int) -> bool:
    """Whether another worker than `old` is at its work."""
    pids = rig.podlet.pids(pod)
    if len(pids) < 2 or pids[1] == old:
        return False
    try:
        return rig.podlet.get(pod, "/readyz")[0] == _OK
    except (OSError, PodletError):
        return False


def _cpu_s(pids: Sequence[int]) -> float:
    """What processes have used of the processors so far (proc(5))."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _output(rig: Rig, name: str, container: str | None = None) -> str:
    """What the pods of a name have written so far, those before them, too."""
    return rig.podlet.log(name, container or name.rpartition("-")[0])


def _outcome(text: str) -> str | None:
    """What `prepare` reports at its end: the last JSON line that says so."""
    for line in reversed(text.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and found.get("event") == "prepare.done":
            return str(found["outcome"])
    return None
