"""Stores of the real ads flow, with a source as bare as can be: stopped, and killed at any place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.testing import run_main

from datastreamx.acks import AckedOffsets
from datastreamx.clock import ManualClock
from datastreamx.config import Config
from datastreamx.model.chunk import Chunk
from datastreamx.place import Place
from flows import ads
from flows.ports.ads import AdsPorts, live_bidding_ports
from flows.recovery.opening import opened_store
from flows.recovery.store import StoreContents, read_store
from sinks.ad_push import AdPushSink
from sinks.dead_letter import DeadLetterSink
from sinks.facts import FactsSink
from sources.kafka.layouts import event_layouts
from sources.kafka.positions import Layout, Positions, read_positions
from sources.kafka.witness import Lineage
from tests.builders import T0
from tests.flows.doubles import DecisionTopic
from tests.flows.logs import story_config
from tests.sinks.fake_producer import FakeBroker

EPOCH = timedelta(milliseconds=5)
CLOCK = ManualClock(T0)

Items = Sequence[tuple[str, Chunk]]


def settings(directory: Path, *, cells: int = 1) -> Config:
    """Configuration of the story, with its stores below `directory`."""
    made = story_config(f"[scaling]\ncells = {cells}")
    return msgspec.structs.replace(made, recovery=msgspec.structs.replace(made.recovery, directory=str(directory)))


@dataclass(frozen=True)
class Site:
    """Where a store is, and whose."""

    config: Config
    place: Place

    @property
    def store(self) -> Path:
        return Path(self.config.recovery.directory) / self.place.store_name("ads")

    def open(self) -> None:
        """As every start does; raises if it refuses."""
        with opened_store("ads", self.config, self.place, CLOCK):
            pass

    def read(self) -> StoreContents:
        return read_store(self.store)

    def run(self, items: Items, until: int, seen: Callable[[str], None] = lambda _: None) -> None:
        """One execution, which reads on up to `until` and stops cleanly. `seen` is called when the source is asked."""
        config, acked, broker = self.config, AckedOffsets(), FakeBroker()
        topics = config.topics
        broker.topics = dict.fromkeys((topics.decisions, topics.facts, topics.dead_letters), config.events.partitions)
        with ExitStack() as resources:
            recovery = resources.enter_context(opened_store("ads", config, self.place, CLOCK))
            bidding = live_bidding_ports(config, DecisionTopic(), acked, resources, CLOCK)
            ports = AdsPorts(
                events=_Source(event_layouts(config, self.place), items, until, seen),
                bidding=bidding,
                ad_push=AdPushSink(config, acked, broker.outside()),
                facts=FactsSink(config, broker.outside()),
                dead_letters=DeadLetterSink(config, broker.outside()),
            )
            run_main(ads.build(config, ports), epoch_interval=EPOCH, recovery_config=recovery)


def taken(contents: StoreContents) -> int:
    """Snapshots of the source that a store has seen: what the broker would testify."""
    rows = (row.value for row in contents.rows if row.step_id == "ads.events")
    return min((read_positions(value).lineages[0].taken for value in rows if value is not None), default=0)


class _Source(FixedPartitionedSource[tuple[str, Chunk], bytes]):
    def __init__(self, layouts: dict[str, Layout], items: Items, until: int, seen: Callable[[str], None]) -> None:
        self._layouts, self._items, self._until, self._seen = layouts, items, until, seen

    def list_parts(self) -> list[str]:
        return [*self._layouts]

    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> _Part:
        del step_id
        layout = self._layouts[for_part]
        if resume_state is None:
            lineages = {partition: Lineage(id="story") for partition in layout.partitions}
            return _Part(
                Positions.of(layout, dict.fromkeys(layout.owned, 0), lineages), self._items, self._until, self._seen
            )
        return _Part(read_positions(resume_state), self._items, self._until, self._seen)


class _Part(StatefulSourcePartition[tuple[str, Chunk], bytes]):
    """Counts items where a real one counts records."""

    def __init__(self, positions: Positions, items: Items, until: int, seen: Callable[[str], None]) -> None:
        self._positions, self._items, self._until, self._seen = positions, items, until, seen
        self._place = max(positions.next_offsets.values())
        self._pause = threading.Event()

    def next_batch(self) -> Iterable[tuple[str, Chunk]]:
        self._seen("batch")
        if self._place >= self._until:
            raise StopIteration
        self._pause.wait(0.001)  # so that epochs end between items
        self._place += 1
        return [self._items[self._place - 1]]

    def snapshot(self) -> bytes:
        self._seen("snapshot")
        layout = self._positions.layout
        lineages = {number: one.after_snapshot() for number, one in self._positions.lineages.items()}
        self._positions = Positions.of(layout, dict.fromkeys(layout.owned, self._place), lineages)
        return self._positions.seal()
