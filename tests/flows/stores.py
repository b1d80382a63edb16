"""Contents of recovery stores as the flows leave them, made up from a seed. The store guard takes them for real."""

from __future__ import annotations

import atexit
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from datastreamx.config import Config
from datastreamx.place import Place
from datastreamx.snapshots import seal
from flows.recovery.manifest import manifest_of, write_manifest
from flows.recovery.reshard import RULES, Store, Terms
from flows.recovery.steps import steps_of
from flows.recovery.writer import write_store
from sinks.ad_push.snapshot import encode_acked
from sinks.bigquery.ledger import FlushLedger
from sources.kafka.layouts import event_layouts, log_layouts
from sources.kafka.positions import Layout, Positions
from sources.kafka.witness import Lineage
from tests.builders import config

TABLES = ("bids", "box_events")


def settings(partitions: int, extra: str = "") -> Config:
    return config(f"[events]\npartitions = {partitions}\ngroups_per_partition = 2\n{extra}")


def terms(settings: Config) -> Terms:
    return Terms(settings.events.partitions, settings.topics.decisions)


def positions(layout: Layout, rng: random.Random) -> bytes:
    offsets = {one: rng.randrange(10_000) for one in layout.owned}
    lineages = {one: Lineage(id=f"{rng.getrandbits(64):x}", taken=rng.randrange(99)) for one in layout.partitions}
    return Positions.of(layout, offsets, lineages).seal()


def ledger(table: str, store: str, rng: random.Random) -> bytes:
    """State of a sink with up to three streams whose rows are not visible."""
    made = FlushLedger(f"projects/p/datasets/d/tables/{table}")
    for number in range(rng.randrange(4)):
        stream = f"{table}/{store}/{number}"
        made.open(stream)
        made.acked(stream, rng.randrange(1, 500))
        made.close(stream)
    return made.snapshot()


def store(flow: str, settings: Config, place: Place, rng: random.Random) -> Store:
    """One store in which every step has state under each of its keys."""
    rows: dict[tuple[str, str], bytes | None] = {}
    layouts = (event_layouts if flow == "ads" else log_layouts)(settings, place)
    for step in steps_of(flow, settings, place):
        values: dict[str, bytes] = {}
        match RULES[step.step_id]:
            case "source":
                values = {reader: positions(layout, rng) for reader, layout in layouts.items()}
            case "keyed":
                values = {key: _state(step.step_id, step.version, key, rng) for key in sorted(step.keys)}
            case "acked":
                own = place.partitions(settings.events.partitions)
                acked = encode_acked(settings.topics.decisions, {p: rng.randrange(99) for p in own})
                values = dict.fromkeys(step.keys, acked)
            case "segments":
                values = {table: ledger(table, place.store_name(flow), rng) for table in TABLES}
            case "nothing":
                rows |= {(step.step_id, key): None for key in step.keys}
        rows |= {(step.step_id, key): value for key, value in values.items()}
    return Store(place, rows)


def _state(step_id: str, version: int, key: str, rng: random.Random) -> bytes:
    """What the guard reads of a state, and then something that differs from all others."""
    match step_id:
        case "ads.viewing.state":
            head: list[object] = [int(key[1:4]), int(key[5:])]
        case "ads.bidding.auctions.jobs":
            head = [key]
        case _:
            head = []
    return seal(msgspec.msgpack.encode([version, *head, rng.randbytes(rng.randrange(1, 99))]))


def stores(flow: str, settings: Config, places: Sequence[Place], rng: random.Random) -> list[Store]:
    return [store(flow, settings, place, rng) for place in places]


def write(directory: Path, flow: str, settings: Config, stores: Sequence[Store]) -> None:
    """Make the folders of stores below `directory`."""
    directory.mkdir(exist_ok=True)
    for one in stores:
        rows = {key: value for key, value in one.rows.items() if value is not None}
        manifest = manifest_of(flow, settings, one.place)
        # Many tests begin with the same stores, and a copy takes a tenth of the time.
        made = _MADE.setdefault((msgspec.json.encode(manifest), *rows.items()), Path(_FOLDER.name) / str(len(_MADE)))
        if not made.exists():
            write_store(made, flow, rows)
            write_manifest(made, manifest)
        shutil.copytree(made, directory / one.place.store_name(flow))


_FOLDER = TemporaryDirectory()
atexit.register(_FOLDER.cleanup)
_MADE: dict[tuple[object, ...], Path] = {}
