"""The processes of the flows: found, killed, paused, stopped, and started again like an orchestrator would."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from random import Random

from simulator.processes import Child
from tests.chaos.journal import Journal
from tests.integration.pipeline import FlowName, Pipeline

Spot = tuple[FlowName, int]
"""A flow and the ordinal of one of its processes."""

FLOWS: tuple[FlowName, ...] = ("ads", "warehouse", "notices")

START_WITHIN_S = 90.0
STOP_WITHIN_S = 60.0
POLL_S = 0.02

_WEIGHTS: dict[FlowName, int] = {"ads": 5, "warehouse": 4, "notices": 2}
_BACK_OFF_S = 0.5
_SNAPSHOT_IS_FRESH_S = 0.05
_LOOK_EVERY_S = 0.2
_READS = "source.started"
_STARTS = "flow.starting"
_CRASHED = re.compile(r"worker\.ended .*reason=error")
_GAVE_UP = "the last one (was killed|hung)"


class CampaignError(Exception):
    """The campaign cannot go on: what it waits for does not come."""


class Crew:
    """All processes of a pipeline.

    Args:
        pipeline: Whose flows these are.
        tend: Called while waiting, several times a second.
        targets: Flows that may be struck.

    Attributes:
        unexplained: Ends of processes that nothing had given a reason for.
    """

    def __init__(
        self, pipeline: Pipeline, journal: Journal, tend: Callable[[], None], targets: Collection[str] = FLOWS
    ) -> None:
        self.pipeline = pipeline
        self._targets = targets
        self.unexplained: list[str] = []
        self._journal = journal
        self._tend_more = tend
        self._down: set[Spot] = set()
        self._paused: set[Spot] = set()
        self._start_at_s: dict[Spot, float] = {}
        self._reads_before: dict[Spot, int] = {}
        self._crashes: dict[Spot, int] = {}
        self._excuses: list[tuple[float, str]] = []
        self._look_s = 0.0

    @property
    def spots(self) -> list[Spot]:
        """Where there is a process, or should be."""
        return [(flow, ordinal) for flow in FLOWS for ordinal in range(self.pipeline.cells)]

    def of(self, *flows: FlowName) -> list[Spot]:
        """The processes of flows."""
        return [spot for spot in self.spots if spot[0] in flows]

    def pick(self, rng: Random, *flows: FlowName) -> Spot:
        """A process of one of `flows`, or of any."""
        candidates = self.of(*(flows or tuple(flow for flow in FLOWS if flow in self._targets)))
        spots = [spot for spot in candidates if spot not in self._paused]
        if not spots:
            self.resume_all()
            return self.pick(rng, *flows)
        return rng.choices(spots, [_WEIGHTS[flow] for flow, _ in spots])[0]

    def child(self, spot: Spot) -> Child:
        """The process that was started; its worker may be a child of it."""
        return self.pipeline.cell(*spot)

    # Signals ---------------------------------------------------------------------------------------------------------

    def start(self, *spots: Spot) -> None:
        """Start processes that are down."""
        for spot in spots:
            self._down.discard(spot)
            self._start_at_s.pop(spot, None)
            self._reads_before[spot] = self._crashes[spot] = 0
            self.child(spot).start()

    def kill(self, *spots: Spot) -> None:
        """SIGKILL of everything that belongs to these processes; they stay down."""
        for spot in spots:
            self._down.add(spot)
            self._paused.discard(spot)
        self._expect_peers_to_fall(*spots)
        for spot in spots:
            self.child(spot).kill()

    def kill_worker(self, spot: Spot) -> None:
        """SIGKILL of the worker alone; who watches it starts another. Where there is none just now, of who watches."""
        pid = self.worker(spot)
        if pid == self.child(spot).pid:
            self.kill(spot)
            self.start(spot)
            return
        self._reads_before[spot] = self._reads(spot)
        self._expect_peers_to_fall(spot)
        # Its supervisor gives up after a few failures.
        self.excuse(STOP_WITHIN_S, _GAVE_UP)
        self._signal(pid, signal.SIGKILL)

    def stop(self, *spots: Spot) -> bool:
        """SIGTERM to all at once; they have to end by themselves and with code 0, and stay down.

        Returns:
            Whether all had come so far that they had something to save.
        """
        had_begun = all(map(self.reads, spots))
        self._down.update(spots)
        for spot in spots:
            self._signal(self.child(spot).pid, signal.SIGTERM)
        deadline_s = time.monotonic() + STOP_WITHIN_S
        for spot in spots:
            child = self.child(spot)
            while child.poll() is None and time.monotonic() < deadline_s:
                self._tend_more()
                time.sleep(POLL_S)
            code = child.kill()
            # Its interpreter had not even come to the handler of the signal.
            was_unborn = code == -signal.SIGTERM and not child.output()
            if code != 0 and not was_unborn:
                self.unexplained.append(f"{name_of(spot)} ended with {code} on SIGTERM: {_last_words(child)}")
        return had_begun

    def pause(self, spot: Spot) -> None:
        """SIGSTOP of everything that belongs to the process."""
        self._paused.add(spot)
        for pid in self._pids(spot):
            self._signal(pid, signal.SIGSTOP)

    def resume(self, spot: Spot) -> None:
        """The end of a pause; nothing if the process was killed meanwhile."""
        if spot in self._paused:
            self._paused.discard(spot)
            for pid in self._pids(spot):
                self._signal(pid, signal.SIGCONT)

    def resume_all(self) -> None:
        """The end of all pauses."""
        for spot in [*self._paused]:
            self.resume(spot)

    def hang(self, spot: Spot) -> int:
        """SIGSTOP of the worker alone and for good; returns its process id."""
        pid = self.worker(spot)
        self._reads_before[spot] = self._reads(spot)
        self.excuse(STOP_WITHIN_S, _GAVE_UP)
        self._signal(pid, signal.SIGSTOP)
        return pid

    # Looking ---------------------------------------------------------------------------------------------------------

    def worker(self, spot: Spot) -> int:
        """Process id of the worker: the child of the supervisor, or the process itself if it has none."""
        pid = self.child(spot).pid
        return next(_children(pid), pid)

    def met(self, spot: Spot) -> str:
        """What is going on at a process, as far as it can be seen from outside."""
        seen = [] if self.reads(spot) else ["starting"]
        if time.time() - self.stamp(spot) < _SNAPSHOT_IS_FRESH_S:
            seen.append("snapshot under way")
        if spot[0] == "ads":
            in_flight = self.gauge(spot, "datastreamx_auctions_in_flight")
            if in_flight:
                seen.append(f"{in_flight} auctions in flight")
        return ", ".join(seen)

    def gauge(self, spot: Spot, name: str) -> int | None:
        """A metric without labels, or nothing if the process does not tell."""
        address = re.search(r"(http://[\d.]+:\d+/metrics)", self.child(spot).output())
        if address is None:
            return None
        with contextlib.suppress(OSError), urllib.request.urlopen(address[1], timeout=0.5) as answer:  # noqa: S310  ours
            found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)
            return None if found is None else int(float(found[1]))
        return None

    def stamp(self, spot: Spot) -> float:
        """When the store of a process was written last, in seconds since the epoch; of a cluster, its store."""
        keeper = spot if self.pipeline.config.scaling.mode == "cells" else (spot[0], 0)
        stamps = [0.0]
        with contextlib.suppress(FileNotFoundError):
            for path in self.store(keeper).iterdir():
                with contextlib.suppress(FileNotFoundError):  # journals come and go
                    stamps.append(path.stat().st_mtime_ns / 1e9)
        return max(stamps)

    def epoch(self, spot: Spot) -> int:
        """The last durable snapshot of a process, or of its cluster, counted from the first; 0 if there is none."""
        keeper = spot if self.pipeline.config.scaling.mode == "cells" else (spot[0], 0)
        return min((_epoch(part) for part in self.store(keeper).glob("part-*.sqlite3")), default=0)

    def store(self, spot: Spot) -> Path:
        """Recovery store of a process."""
        return self.pipeline.store(*spot)

    def reads(self, spot: Spot) -> bool:
        """Whether the process has come so far that it reads its topics."""
        child = self.child(spot)
        return child.log_path.exists() and child.poll() is None and self._reads(spot) > self._reads_before.get(spot, 0)

    def has_begun(self, spot: Spot) -> bool:
        """Whether the process is about to load its state."""
        return _STARTS in self.child(spot).output()

    # Waiting ---------------------------------------------------------------------------------------------------------

    def await_reading(self, *spots: Spot) -> None:
        """Until all of them read; what ends meanwhile is started again."""
        missing: list[Spot] = []

        def all_read() -> bool:
            missing[:] = [spot for spot in spots if not self.reads(spot)]
            return not missing

        if not self.wait(all_read, START_WITHIN_S):
            logs = "\n".join(f"--- {name_of(spot)}\n{self.child(spot).log_tail(30)}" for spot in missing)
            raise CampaignError(f"waited {START_WITHIN_S:.0f} s in vain for {[*map(name_of, missing)]} to read\n{logs}")

    def wait(self, holds: Callable[[], bool], within_s: float, poll_s: float = POLL_S) -> bool:
        """Until it holds; false if it takes too long."""
        deadline_s = time.monotonic() + within_s
        while not holds():
            if time.monotonic() >= deadline_s:
                return False
            self.tend()
            time.sleep(poll_s)
        return True

    def rest(self, seconds: float) -> None:
        """Let the flows work."""
        self.wait(lambda: False, seconds)

    def try_to_start(self, *spots: Spot, within_s: float) -> str | None:
        """Start processes that are down: the last words of the first that ends, or nothing when all of them read.

        Nobody starts again what has ended.
        """
        self.start(*spots)
        self._down.update(spots)
        ended: list[Spot] = []

        def is_settled() -> bool:
            ended[:] = [spot for spot in spots if self.child(spot).poll() is not None]
            return bool(ended) or all(map(self.reads, spots))

        if not self.wait(is_settled, within_s):
            return "neither starts nor ends"
        if not ended:
            self._down.difference_update(spots)
            return None
        return _last_words(self.child(ended[0]))

    def excuse(self, seconds: float, words: str = "") -> None:
        """For so long it is nothing special if a process ends by itself and its last words match `words` (regex)."""
        self._excuses.append((time.monotonic() + seconds, words))

    def tend(self) -> None:
        """Start what has ended by itself, after a short while, and end what is due."""
        self._tend_more()
        now_s = time.monotonic()
        if now_s < self._look_s:
            return
        self._look_s = now_s + _LOOK_EVERY_S
        for spot in self.spots:
            child = self.child(spot)
            if spot in self._down or not child.log_path.exists():
                continue
            if child.poll() is None:
                self._look_for_crashes(spot, child)
            elif spot not in self._start_at_s:
                self._ended(spot, "ended", f"code {child.poll()}: {_last_words(child)}")
                self._start_at_s[spot] = now_s + _BACK_OFF_S
            elif now_s >= self._start_at_s[spot]:
                self.start(spot)

    def _look_for_crashes(self, spot: Spot, child: Child) -> None:
        """Workers that ended with an error; their supervisor starts others, so nobody else would notice."""
        crashes = len(_CRASHED.findall(child.output()))
        if crashes > self._crashes[spot]:
            self._crashes[spot] = crashes
            self._ended(spot, "crashed", _last_words(child))

    def _ended(self, spot: Spot, what: str, words: str) -> None:
        self._journal.note(what, name_of(spot), words)
        now_s = time.monotonic()
        if not any(until_s >= now_s and re.search(pattern, words) for until_s, pattern in self._excuses):
            self.unexplained.append(f"{name_of(spot)} {what} by itself, {words}")

    def _expect_peers_to_fall(self, *spots: Spot) -> None:
        """The others of a cluster do not go on without one of theirs; their supervisors start them again."""
        if self.pipeline.config.scaling.mode == "cells":
            return
        self.excuse(STOP_WITHIN_S)
        for peer in self.of(*(flow for flow, _ in spots)):
            if peer not in spots and self.reads(peer):
                self._reads_before[peer] = self._reads(peer)

    def _reads(self, spot: Spot) -> int:
        return self.child(spot).output().count(_READS)

    def _pids(self, spot: Spot) -> list[int]:
        pid = self.child(spot).pid
        return [pid, *_children(pid)]

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def name_of(spot: Spot) -> str:
    """As people call it, e.g. `ads-0`."""
    return f"{spot[0]}-{spot[1]}"


def _epoch(part: Path) -> int:
    with closing(sqlite3.connect(f"file:{part}?mode=ro", uri=True)) as connection:
        try:
            (epoch,) = connection.execute("SELECT MAX(commit_epoch) FROM commits").fetchone()
        except sqlite3.OperationalError:  # it is locked, or being made
            return 0
    return int(epoch or 0)


def _children(pid: int) -> Iterator[int]:
    """Process ids of the children of a process (proc(5)); of none that has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split())


def _last_words(child: Child) -> str:
    lines = [line for line in child.output().splitlines() if line.strip()]
    error = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "silence")
    return error.removeprefix("error: ")[:300]
