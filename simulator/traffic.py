"""Traffic of many boxes for measurements: cheap to make, and always the same, for it follows from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from datastreamx.model.chunk import Chunk
from datastreamx.model.events import AdBreak, AdShown, BoxEvent, Heartbeat, Power, Tune
from datastreamx.model.keygroup import group_of
from datastreamx.wire.events import encode_event

START_MS = 1_700_000_000_000
INTERVAL_MS = 30_000
"""Each box reports itself once in this time."""
CHANNELS, ADS = 200, 500
POLL_RECORDS = 1_000
"""Records of a key group that one poll returns when a flow catches up."""

DESCRIPTION = (
    "JSON of 115 bytes on average, one event per box and 30 s in shuffled order, up to 2 s late: 70 % heartbeats, 20 % "
    "tunes among 200 channels, 6 % displays, 3 % ad breaks, 1 % power; 0.1 % of the events come twice"
)
_KINDS = ("heartbeat", "tune", "ad_shown", "ad_break", "power")
_WEIGHTS = (70, 20, 6, 3, 1)
_TWICE = 0.001
_LATEST_MS = 2_000


def box_id(number: int) -> str:
    """Raw id of a box."""
    return f"stb-{number:07d}"


def events(boxes: int, count: int, seed: int = 1) -> Iterator[tuple[int, BoxEvent]]:
    """(Kafka timestamp in ms, event) in log order, `count` of them."""
    rng = Random(seed)
    numbers = list(range(boxes))
    seqs = [0] * boxes
    made = 0
    for turn in range(-(-count // boxes)):
        rng.shuffle(numbers)
        kinds = rng.choices(_KINDS, _WEIGHTS, k=boxes)
        for place, number in enumerate(numbers):
            timestamp_ms = START_MS + turn * INTERVAL_MS + place * INTERVAL_MS // boxes
            seqs[number] += 1
            event = _event(rng, kinds[place], number, seqs[number], timestamp_ms - rng.randrange(_LATEST_MS))
            for _ in range(2 if rng.random() < _TWICE else 1):
                if made >= count:
                    return
                yield timestamp_ms, event
                made += 1


def _event(rng: Random, kind: str, number: int, seq: int, event_time_ms: int) -> BoxEvent:
    box, event_id = box_id(number), f"{number:07d}-{seq:x}"
    channel_id = f"ch{rng.randrange(CHANNELS)}"
    match kind:
        case "heartbeat":
            return Heartbeat(event_id=event_id, box_id=box, seq=seq, event_time_ms=event_time_ms)
        case "tune":
            return Tune(event_id=event_id, box_id=box, seq=seq, event_time_ms=event_time_ms, channel_id=channel_id)
        case "ad_shown":
            return AdShown(
                event_id=event_id,
                box_id=box,
                seq=seq,
                event_time_ms=event_time_ms,
                push_id=f"{number:016x}{seq:08x}",
                ad_id=f"ad-{rng.randrange(ADS)}",
                shown_ms=15_000,
            )
        case "ad_break":
            return AdBreak(
                event_id=event_id,
                box_id=box,
                seq=seq,
                event_time_ms=event_time_ms,
                break_id=f"b{seq}",
                channel_id=channel_id,
                starts_in_ms=5_000,
                duration_ms=30_000,
            )
        case _:
            return Power(event_id=event_id, box_id=box, seq=seq, event_time_ms=event_time_ms, state="on")


def chunks(boxes: int, count: int, partitions: int, groups: int, records: int = POLL_RECORDS) -> list[Chunk]:
    """The same events as the source hands them on: chunks of up to `records` of one key group, in log order."""
    open_chunks: dict[tuple[int, int], Chunk] = {}
    offsets = [0] * partitions
    made: list[Chunk] = []
    for timestamp_ms, event in events(boxes, count):
        key = event.box_id.encode()
        partition = int(event.box_id[4:]) % partitions
        place = (partition, group_of(key, groups))
        chunk = open_chunks.get(place)
        if chunk is None:
            chunk = open_chunks[place] = Chunk(*place, [], [], [], [])
        chunk.offsets.append(offsets[partition])
        chunk.timestamps_ms.append(timestamp_ms)
        chunk.keys.append(key)
        chunk.values.append(encode_event(event))
        offsets[partition] += 1
        if len(chunk.offsets) >= records:
            made.append(open_chunks.pop(place))
    return [*made, *open_chunks.values()]
