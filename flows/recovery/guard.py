"""Whether a flow may resume from a store. Bytewax takes whatever it finds for the truth, and computes on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from datastreamx.errors import DamagedStoreError, StateMismatchError
from flows.recovery.part import damage
from flows.recovery.steps import Step
from flows.recovery.store import Row, StoreContents, read_store


def check_store(directory: Path, steps: Iterable[Step]) -> StoreContents:
    """Read all of a store that no process is using, and check it against the steps of its flow.

    What `read_store` checks, and: each reader of a source has a row, one of them of the last durable epoch; no
    step and no key is unknown; each value has its seal and a version that this program reads, and belongs to its key as
    far as it tells one.

    Args:
        directory: Folder of the store, whose manifest agrees with the configuration.
        steps: Of the flow at its place.

    Raises:
        DamagedStoreError: The store is not as the flow left it.
        CrashError: A file cannot be read just now.
    """
    contents = read_store(directory)
    by_id = {step.step_id: step for step in steps}
    if not contents.is_empty:
        for step in by_id.values():
            _check_source(contents, step)
    for row in contents.rows:
        _check_row(contents, row, by_id.get(row.step_id))
    return contents


def _check_source(contents: StoreContents, step: Step) -> None:
    """In a cluster that is being stopped the source of one process ends before that of another, and snapshots stop."""
    if not step.is_source:
        return
    last = contents.resume_epoch - 1
    rows = {key: contents.by_key.get((step.step_id, key)) for key in sorted(step.keys)}
    missing = [key for key, row in rows.items() if row is None]
    if missing:
        raise damage(contents.directory, f"{step.step_id} {missing[0]} has no row of the last epoch, nor any other")
    newest = max(row.epoch for row in rows.values() if row is not None)
    if newest != last:
        raise damage(
            contents.directory, f"{step.step_id} has no row of the last epoch, {last}: its newest is of epoch {newest}"
        )


def _check_row(contents: StoreContents, row: Row, step: Step | None) -> None:
    where = f"{row.step_id} {row.state_key} of epoch {row.epoch}"
    if step is None or row.state_key not in step.keys:
        raise damage(contents.directory, f"{where} does not belong to this flow at this place")
    if step.look is None:
        if row.value is not None:
            raise damage(contents.directory, f"{where} has a value, and the step has no state")
        return
    if row.value is None:
        raise damage(contents.directory, f"{where} has no value")
    try:
        key = step.look(row.value)
    except DamagedStoreError:
        raise
    except StateMismatchError as error:
        raise damage(contents.directory, f"{where}: {error}") from None
    if key is not None and key != row.state_key:
        raise damage(contents.directory, f"{where} holds the value of {key}")
