"""A flow called `ads` that writes a snapshot each 20 ms, run as `python -m tests.flows.busy_flow RECOVERY_DIRECTORY`.

The state of every key group is the number of the last item, which went to all of them. In a consistent copy of its
store they all agree with the source's position. It tells each snapshot on standard output.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op
import msgspec
from bytewax._bytewax import cli_main
from bytewax.dataflow import Dataflow, operator
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import KeyedStream, StatefulBatchLogic

from datastreamx.clock import SystemClock
from datastreamx.config import Config
from datastreamx.model.keygroup import KeyGroup
from datastreamx.place import Place
from datastreamx.snapshots import seal, unseal
from flows.recovery.opening import opened_store
from flows.recovery.store import StoreContents
from operators.viewing.snapshot import VERSION
from sinks.facts.sink import PART
from sources.kafka.layouts import event_layouts
from sources.kafka.positions import Positions, read_positions
from sources.kafka.witness import Lineage
from tests.flows import stores as made_up
from tests.flows.toy_flow import StatelessSink

PARTITIONS = 8
PLACE = Place()

Item = tuple[str, tuple[str, int]]


def configured(directory: Path) -> Config:
    return made_up.settings(PARTITIONS, f'[recovery]\ndirectory = "{directory}"\n')


def numbers(contents: StoreContents) -> set[int]:
    """Every number that the store holds, of the source and of all key groups."""
    found: set[int] = set()
    keys = 0
    for row in contents.rows:
        match row.step_id:
            case "ads.events":
                found |= {*read_positions(row.value or b"").next_offsets.values()}
            case "ads.viewing.state":
                found.add(msgspec.msgpack.decode(unseal(row.value or b"", "a state"))[3])
                keys += 1
    assert keys == 2 * PARTITIONS
    return found


class _Part(StatefulSourcePartition[Item, bytes]):
    def __init__(self, config: Config, state: bytes | None) -> None:
        self._layout = event_layouts(config, PLACE)["reader-00"]
        self._keys = [KeyGroup(p, g).key for p in range(PARTITIONS) for g in range(2)]
        self._number = 0 if state is None else next(iter(read_positions(state).next_offsets.values()))

    def next_batch(self) -> Iterable[Item]:
        self._number += 1
        return [(key, (key, self._number)) for key in self._keys]

    def next_awake(self) -> datetime:
        return datetime.now(UTC) + timedelta(milliseconds=3)

    def snapshot(self) -> bytes:
        sys.stdout.write(f"{self._number}\n")
        sys.stdout.flush()
        lineages = {number: Lineage(id="busy") for number in self._layout.partitions}
        return Positions.of(self._layout, dict.fromkeys(self._layout.owned, self._number), lineages).seal()


class _Source(FixedPartitionedSource[Item, bytes]):
    def __init__(self, config: Config) -> None:
        self._config = config

    def list_parts(self) -> list[str]:
        return ["reader-00"]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> _Part:
        del step_id, for_part
        return _Part(self._config, resume_state)


class _Last(StatefulBatchLogic[tuple[str, int], int, bytes]):
    def __init__(self, _: bytes | None) -> None:
        self._last: tuple[str, int] = ("", 0)

    def on_batch(self, values: list[tuple[str, int]]) -> tuple[Iterable[int], bool]:
        self._last = values[-1]
        return [self._last[1]], StatefulBatchLogic.RETAIN

    def snapshot(self) -> bytes:
        key, number = self._last
        return seal(msgspec.msgpack.encode([VERSION, *KeyGroup.parse(key), number]))


@operator
def _viewing(step_id: str, up: KeyedStream[tuple[str, int]]) -> KeyedStream[int]:  # noqa: ARG001  taken by its name
    return op.stateful_batch("state", up, _Last)


def main() -> None:
    config = configured(Path(sys.argv[1]))
    flow = Dataflow("ads")
    op.output("facts", _viewing("viewing", op.input("events", flow, _Source(config))), StatelessSink(PART))
    with opened_store("ads", config, PLACE, SystemClock()) as recovery:
        cli_main(flow, epoch_interval=timedelta(milliseconds=20), recovery_config=recovery)


if __name__ == "__main__":
    main()
