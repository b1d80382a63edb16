"""What a flow would resume from: the contents of a Bytewax 0.21.1 recovery store, by Bytewax's own rules.

A store is a folder of SQLite files, `part-0.sqlite3` and so on, each with a write-ahead log. What was seen of it on
Bytewax 0.21.1, by running and killing small flows:

- Each execution of a flow writes one row into `exs` (number, workers, epoch that it resumes from), in one of the files.
  For each worker there is at most one row of it in `fronts`: all epochs before `worker_frontier` are durable. Both rows
  lie in whichever file Bytewax chose, so that only all files together tell where to resume.
- The resume epoch is the least frontier of the latest execution's workers. For a worker without a row it is the epoch
  that the execution resumed from. Without any execution it is 1.
- For each step and key the row of `snaps` counts that has the highest epoch before the resume epoch. Its value is a
  pickle of what `snapshot()` returned; NULL means that the logic discarded itself, and the key is then unknown.
- A source is snapshotted in every epoch, so its row is at exactly the resume epoch - 1, after a clean stop, too. Other
  steps and sinks are snapshotted only in epochs in which they had something to do.
- Before the first epoch is durable the resume epoch is 1: there are no commits, and rows of epoch 1 do not count.
- Bytewax writes the rows of epoch E, then the frontier E + 1, and then, file by file, `commit_epoch` E, together with
  the deletion of superseded rows. A kill between two of these steps leaves commits of E - 1 and E. An execution never
  makes up for a commit that the one before it owed: killed at that point again and again (a disk that is full just
  there), each execution leaves the same commit, and the resume epoch goes one further.
- A kill within epoch E leaves some of its rows behind, at the resume epoch. The next execution overwrites those that it
  writes itself in epoch E, and Bytewax deletes none. A key that is not touched in epoch E this time keeps the row of
  the epoch that never ended, and a second kill would resume from it: `flows.recovery.opening` deletes such rows.
- A clean stop leaves no log behind, a kill leaves one of up to some MB, all of it valid. A power failure may leave a
  last transaction that is not, and that nobody was told of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from flows.recovery.part import PATTERN, Part, RawRow, damage, read_part
from flows.recovery.pickles import read_pickle

FIRST_EPOCH = 1
"""Where a flow begins whose store is empty."""


@dataclass(frozen=True)
class Row:
    """Latest durable snapshot of one key of one step.

    Attributes:
        value: What `snapshot()` returned.
        is_discarded: The logic discarded itself, and Bytewax knows nothing of the key. `value` is `None` then.
    """

    step_id: str
    state_key: str
    epoch: int
    value: bytes | None
    is_discarded: bool = False


@dataclass(frozen=True)
class StoreContents:
    """What a flow would resume from.

    Attributes:
        directory: Folder of the store.
        resume_epoch: First epoch that is not durable. 1: nothing is.
        rows: Latest row per (step, key) before `resume_epoch`, by step and key.
        unfinished: Rows of the epoch that was not finished, which do not count.
    """

    directory: Path
    resume_epoch: int
    rows: tuple[Row, ...]
    unfinished: int = field(default=0, compare=False)

    @cached_property
    def by_key(self) -> Mapping[tuple[str, str], Row]:
        """Rows by (step id, state key)."""
        return {(row.step_id, row.state_key): row for row in self.rows}

    @property
    def is_empty(self) -> bool:
        """Whether a flow would begin anew with it."""
        return self.resume_epoch == FIRST_EPOCH


def read_store(directory: Path) -> StoreContents:
    """Read a store that no process is using; neither its files nor their logs are changed.

    Raises:
        DamagedStoreError: A file is missing, foreign, older than the others, or SQLite finds a fault.
        CrashError: A file cannot be read just now.
    """
    parts = [read_part(path) for path in part_files(directory)]
    progress = _progress(directory, parts)
    resume_epoch = progress.resume_epoch
    for part in parts:
        _check_progress(part, progress)
    latest: dict[tuple[str, str], RawRow] = {}
    for part in parts:
        of_part = _latest(part, resume_epoch)
        twice = next((key for key in of_part if key in latest), None)
        if twice is not None:
            raise damage(part.path, f"{' '.join(twice)} is in another file of the store, too")
        latest |= of_part
    return StoreContents(
        directory=directory,
        resume_epoch=resume_epoch,
        rows=tuple(_row(directory, latest[key]) for key in sorted(latest)),
        unfinished=sum(row.epoch >= resume_epoch for part in parts for row in part.rows),
    )


def part_files(directory: Path) -> list[Path]:
    """Files of the store, by number.

    Raises:
        DamagedStoreError: One is missing, or there is something that only looks like one.
    """
    names = {path.name for path in directory.glob(PATTERN)}
    wanted = [f"part-{number}.sqlite3" for number in range(len(names))]
    if not names:
        raise damage(directory, "it has no files")
    if names != {*wanted}:
        raise damage(directory, f"there are {', '.join(sorted(names))}, and only {', '.join(wanted)} belong together")
    journals = [path.name for path in directory.glob("part-*-journal")]
    if journals:
        raise damage(directory, f"{journals[0]} is of a kind that Bytewax does not make, and would be applied")
    return [directory / name for name in wanted]


class _Progress(NamedTuple):
    """What all files together tell.

    Attributes:
        resume_epoch: See `StoreContents`.
        committed_min: Every file has committed this epoch.
    """

    resume_epoch: int
    committed_min: int


def _progress(directory: Path, parts: Sequence[Part]) -> _Progress:
    for number, part in enumerate(parts):
        if (part.index, part.count) != (number, len(parts)):
            raise damage(part.path, f"it says it is file {part.index} of {part.count}, and is {number} of {len(parts)}")
    executions = {number: (workers, resumed) for part in parts for number, workers, resumed in part.executions}
    if len(executions) != sum(len(part.executions) for part in parts) or {*executions} != {*range(len(executions))}:
        raise damage(directory, f"it has seen the executions {sorted(executions)}, and one is missing or there twice")
    frontiers: dict[tuple[int, int], int] = {}
    for part in parts:
        for execution, worker, frontier in part.frontiers:
            workers, resumed = executions.get(execution, (0, 0))
            if (execution, worker) in frontiers or worker >= workers or frontier < resumed:
                raise damage(part.path, f"the progress of worker {worker} of execution {execution} is impossible")
            frontiers[execution, worker] = frontier
    resume_epoch, committed_min = FIRST_EPOCH, 0
    for execution, (workers, resumed) in sorted(executions.items()):
        fronts = (frontiers.get((execution, worker), resumed) for worker in range(workers))
        resume_epoch = min(fronts, default=resumed)
        # Of its own epochs all but the last one are committed; of earlier executions' it commits none.
        if resume_epoch - 2 >= resumed:
            committed_min = resume_epoch - 2
    return _Progress(resume_epoch, committed_min)


def _check_progress(part: Part, progress: _Progress) -> None:
    """Raise if the file has not seen the same epochs as the others, or cannot prove that it has."""
    resume_epoch = progress.resume_epoch
    committed = part.commit_epoch or 0
    if not progress.committed_min <= committed < resume_epoch:
        older = "older" if committed < resume_epoch else "newer"
        raise damage(
            part.path,
            f"the flow would resume at epoch {resume_epoch}, and this file has committed epoch {committed}: it is "
            f"{older} than the others",
        )
    if part.lost.commits > 1:
        raise damage(part.path, f"{part.lost.frames} frames of its write-ahead log cannot be read, and were durable")
    # A torn transaction. In a file of its own, rows may be lost that count by what another file says, unless this one
    # had committed their epoch, which comes after them.
    if part.lost.frames and part.count > 1 and committed < resume_epoch - 1:
        raise damage(part.path, f"{part.lost.frames} frames at the end of its write-ahead log cannot be read")
    ahead = next((row for row in part.rows if not FIRST_EPOCH <= row.epoch <= resume_epoch), None)
    if ahead is not None:
        what = f"{ahead.step_id} {ahead.state_key} has a row of epoch {ahead.epoch}"
        raise damage(part.path, f"{what}, and the flow has not come further than {resume_epoch}")


def _latest(part: Part, resume_epoch: int) -> dict[tuple[str, str], RawRow]:
    latest: dict[tuple[str, str], RawRow] = {}
    for row in part.rows:
        key = (row.step_id, row.state_key)
        if row.epoch < resume_epoch and (key not in latest or latest[key].epoch < row.epoch):
            latest[key] = row
    return latest


def _row(directory: Path, raw: RawRow) -> Row:
    if raw.change is None:
        return Row(raw.step_id, raw.state_key, raw.epoch, None, is_discarded=True)
    try:
        value = read_pickle(raw.change)
    except ValueError as error:
        what = f"{raw.step_id} {raw.state_key} of epoch {raw.epoch}"
        raise damage(directory, f"{what} cannot be read: {error}") from None
    return Row(raw.step_id, raw.state_key, raw.epoch, value)
