"""What the processes of a deployment answer when they are asked, and what is wrong with them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from datastreamx.cli.format import duration, plural
from datastreamx.supervisor import Status as Supervision
from datastreamx.supervisor.view import Exit

STALE_STORE_MS = 60_000
"""A running flow writes a snapshot each `recovery.epoch_ms`, at most a minute."""

STALE_SUPERVISOR_MS = 10_000
"""A supervisor tells anew once a second."""

SILENT_WORKER_MS = 5_000
"""A running worker reports twice a second."""

FLAPPING = 2
"""So many failures at a time are no accident."""

OLDER_RELEASE = "older"
"""In place of the version that a supervisor did not tell."""

NAMES_MAX = 6
"""So many are named; the table lists all of them."""

TroubleKind = Literal["silent", "stranger", "stuck", "given_up", "failing", "hang", "unready", "no_snapshot"]


class Trouble(msgspec.Struct, frozen=True):
    """Why a process is not as it should be."""

    kind: TroubleKind
    detail: str


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a flow, asked over HTTP.

    Attributes:
        name: The store that it should have.
        address: Where it was asked.
        answered_ms: When it answered, by our clock; 0 if it did not.
        supervisor: Its answer; unset if there was none.
        problem: Why there is no answer, or none that can be read.
    """

    name: str
    address: str
    answered_ms: int = 0
    supervisor: Supervision | None = None
    problem: str | None = None

    @property
    def snapshot_age_ms(self) -> int | None:
        """Since its newest snapshot, by its own clock."""
        found = self.supervisor
        return None if found is None or found.snapshot_ms is None else max(0, found.at_ms - found.snapshot_ms)


def trouble(cell: Cell) -> Trouble | None:  # noqa: PLR0911  one return per kind of trouble
    """What is wrong with it, the worst first."""
    found = cell.supervisor
    if found is None:
        return Trouble("silent", cell.problem or "no answer")
    if found.store != cell.name:
        return Trouble("stranger", f"{found.store} answers at {cell.address}")
    if not is_heard_of(cell.answered_ms, found):
        return Trouble("stuck", f"its supervisor last looked around {duration(cell.answered_ms - found.at_ms)} ago")
    if found.stage == "given_up":
        return Trouble("given_up", f"gave up: {ended(found.last_exit)}")
    if found.recent_failures >= FLAPPING:
        return Trouble(
            "failing", f"failed {found.recent_failures} times lately; the last time {ended(found.last_exit)}"
        )
    if is_silent(found):
        return Trouble("hang", f"its worker has been silent for {duration(found.report_age_ms or 0)}")
    if found.unready is not None:
        return Trouble("unready", found.unready)
    age_ms = cell.snapshot_age_ms
    if found.stage == "running" and age_ms is not None and age_ms > STALE_STORE_MS:
        return Trouble("no_snapshot", f"its last snapshot is {duration(age_ms)} old")
    return None


def is_heard_of(at_ms: int, supervisor: Supervision) -> bool:
    """Whether a supervisor told anything lately, and so lives."""
    return at_ms - supervisor.at_ms <= STALE_SUPERVISOR_MS


def is_silent(supervisor: Supervision) -> bool:
    """Whether its worker should have reported."""
    age_ms = supervisor.report_age_ms
    return supervisor.stage == "running" and age_ms is not None and age_ms > SILENT_WORKER_MS


def ended(exit_: Exit | None) -> str:
    """How a worker ended, in words."""
    if exit_ is None:
        return "it never ran"
    if exit_.reason == "hang":
        return "it hung and was killed"
    if exit_.code < 0:
        return f"it was killed by signal {-exit_.code}"
    return f"it ended with code {exit_.code}"


def versions(cells: Iterable[Cell]) -> dict[str, int]:
    """Processes that answered by the release that they run, the most frequent first."""
    return dict(Counter(_version(cell.supervisor) for cell in cells if cell.supervisor is not None).most_common())


def cell_notes(flow: str, cells: Sequence[Cell]) -> list[str]:
    """What deserves attention in one flow: a line per kind of trouble, however many processes have it."""
    found = [(cell, what) for cell in cells if (what := trouble(cell)) is not None]
    silent = [cell for cell, what in found if what.kind == "silent"]
    if cells and len(silent) == len(cells):
        return [
            f"no process of {flow} answers, the first of {len(cells)} because of: {silent[0].problem}; does the flow "
            "run, and does metrics.peers lead there from this machine?"
        ]
    notes = []
    for kind, (says, remedy) in _SAYINGS.items():
        ill = [cell.name for cell, what in found if what.kind == kind]
        if ill:
            notes.append(f"{flow}: {says} {len(ill)} of {_processes(len(cells))}: {_named(ill)}; {remedy}")
    return notes


def version_note(cells: Sequence[Cell]) -> str | None:
    """That a deployment runs several releases, and who runs which but for the most frequent one."""
    counts = versions(cells)
    if len(counts) <= 1:
        return None
    most, *rest = counts
    others = ", ".join(
        f"{one} in {_named([cell.name for cell in cells if cell.supervisor and _version(cell.supervisor) == one])}"
        for one in rest
    )
    return f"release {most} runs in {_processes(counts[most])}, {others}: an upgrade is under way, or was left half-way"


# Being not ready is no note: each start passes through it, and the table tells why.
_SAYINGS: dict[TroubleKind, tuple[str, str]] = {
    "silent": ("no answer from", "are they running? Their logs tell why not"),
    "stranger": (
        "somebody else answers in place of",
        "metrics.peers, names of the service or DATASTREAMX_ORDINAL is wrong",
    ),
    "stuck": ("old news from", "a disk hangs, or their clocks differ from this machine's"),
    "given_up": ("no more restarts of", "they gave up; their logs tell why"),
    "failing": ("failure after failure of", "their logs tell why"),
    "hang": ("a silent worker in", "it hangs, or its machine does"),
    "no_snapshot": ("no new snapshot from", "they wait for Kafka, BigQuery or a disk; their logs tell which"),
}


def _version(supervisor: Supervision) -> str:
    return supervisor.version or OLDER_RELEASE


def _processes(count: int) -> str:
    return plural(count, "process", "processes")


def _named(names: list[str]) -> str:
    more = len(names) - NAMES_MAX
    return ", ".join(names[:NAMES_MAX]) + (f" and {more} more" if more > 0 else "")
