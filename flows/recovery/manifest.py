"""Whose recovery store it is: `store.json` in its folder, written when the store is made and never again.

State is by key, and keys follow from the partitions, the key groups and the cells: with other numbers a flow would find
no state, and no error would tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from datastreamx.config import Config
from datastreamx.errors import StateMismatchError
from datastreamx.place import Place
from flows.recovery.durable import write_durably
from flows.recovery.steps import steps_of

FILE = "store.json"
FORMAT = 1


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a store was made for.

    Attributes:
        format: Of the store as a whole; other numbers are of other programs.
        flow: Name of the flow.
        mode: See `Place`.
        cells: Number of cells, or of the processes of the cluster.
        ordinal: Number of the cell; 0 for a cluster.
        topics: Names of the topics that the positions in the store belong to, by their key in `[topics]`.
        partitions: `events.partitions`.
        groups_per_partition: `events.groups_per_partition`.
        steps: Version of the snapshots of each stateful step; 0 for a sink without state.
    """

    format: int = FORMAT
    flow: str
    mode: Literal["cells", "cluster"]
    cells: int
    ordinal: int
    topics: dict[str, str]
    partitions: int
    groups_per_partition: int
    steps: dict[str, int]


_DECODER = msgspec.json.Decoder(Manifest)


def manifest_of(flow: str, config: Config, place: Place) -> Manifest:
    """Of the store that `flow` needs at `place`."""
    topics = config.topics
    first = ("events", topics.events) if flow == "ads" else ("facts", topics.facts)
    return Manifest(
        flow=flow,
        mode=place.mode,
        cells=place.count,
        ordinal=place.ordinal,
        topics=dict([first, ("decisions", topics.decisions)]),
        partitions=config.events.partitions,
        groups_per_partition=config.events.groups_per_partition,
        steps={step.step_id: step.version for step in steps_of(flow, config, place)},
    )


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Into the folder of a store that is being made; durable when it returns."""
    write_durably(directory / FILE, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def read_manifest(directory: Path) -> Manifest:
    """Of the store in `directory`.

    Raises:
        StateMismatchError: There is none, or it cannot be read.
    """
    path = directory / FILE
    try:
        return _DECODER.decode(path.read_bytes())
    except FileNotFoundError:
        raise StateMismatchError(
            f"recovery store {directory} has no {FILE}: another program made it, or an older release. Start the "
            "release that wrote it, or move the folder away and rebuild the store (`datastreamx replay`)"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateMismatchError(
            f"recovery store {directory}: {FILE} cannot be read ({error}). Put it back from a backup of the store, or "
            "rebuild the store (`datastreamx replay`)"
        ) from None


def check_manifest(directory: Path, found: Manifest, wanted: Manifest) -> None:
    """Compare what a store was made for with what the configuration says.

    Raises:
        StateMismatchError: They differ; the message names both values of everything that does, and what to do.
    """
    problems = list(_problems(found, wanted))
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise StateMismatchError(f"recovery store {directory} was made for something else:\n{lines}")


def _problems(found: Manifest, wanted: Manifest) -> Iterator[str]:
    if found.format != wanted.format:
        yield f"its format is {found.format}, this program reads {wanted.format}: start the release that made it"
    elif found.flow != wanted.flow:
        yield f"it belongs to the flow {found.flow}, not to {wanted.flow}: correct recovery.directory"
    else:
        yield from _place_problems(found, wanted)
        yield from _layout_problems(found, wanted)
        yield from _step_problems(found.steps, wanted.steps)


def _place_problems(found: Manifest, wanted: Manifest) -> Iterator[str]:
    if found.mode != wanted.mode:
        yield f"it was made for scaling.mode {found.mode}, which is {wanted.mode} now: {_RESCALE}"
    elif found.cells != wanted.cells:
        key = "scaling.cells" if found.mode == "cells" else "the number of scaling.addresses"
        yield f"it was made for {key} = {found.cells}, which is {wanted.cells} now: {_RESCALE}"
    elif found.ordinal != wanted.ordinal:
        yield f"it belongs to cell {found.ordinal}, not to {wanted.ordinal}: put the right volume or folder there"


def _layout_problems(found: Manifest, wanted: Manifest) -> Iterator[str]:
    for key in sorted(found.topics.keys() | wanted.topics.keys()):
        was, now = found.topics.get(key), wanted.topics.get(key)
        if was != now:
            yield f"it holds places in the topic {was}, and topics.{key} is {now} now: change it back"
    for name in ("partitions", "groups_per_partition"):
        had, has = getattr(found, name), getattr(wanted, name)
        if had != has:
            yield f"it was made for events.{name} = {had}, which is {has} now and is fixed for ever: change it back"


def _step_problems(found: dict[str, int], wanted: dict[str, int]) -> Iterator[str]:
    for step_id in sorted(found.keys() | wanted.keys()):
        was, now = found.get(step_id, "none"), wanted.get(step_id, "none")
        if was != now:
            yield (
                f"its snapshots of {step_id} have version {was}, this program reads {now}: start the release that "
                "made it, or rebuild the store (`datastreamx replay`)"
            )


_RESCALE = "change it back, or stop the flow and let `datastreamx rescale` share the state out anew"
