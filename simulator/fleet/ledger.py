"""The fleet's own books: what it produced and what came back, counted without asking the pipeline.

A check after a run compares these numbers with what landed, so nothing in here is read from the pipeline's output
except the pushes themselves.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from pathlib import Path

import msgspec

from datastreamx.errors import CrashError
from simulator.fleet.faults import FAULTS, NO_FAULT, Landing, Record

PUSH_MEMORY = 1_000_000
"""Push ids remembered to recognise copies: at least this many, at most twice (about 150 MB)."""

HISTOGRAM_MS = 60_000


class PartitionAcks(msgspec.Struct, frozen=True):
    """Records of this run that the broker acknowledged in one partition of the events topic."""

    records: int
    max_offset: int


class FaultCount(msgspec.Struct, frozen=True):
    """Acknowledged records with one kind of fault. `lands_as` is a `Landing`."""

    records: int
    lands_as: str
    reason: str | None = None


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of a latency, milliseconds; values above `HISTOGRAM_MS` count as that. `None` without samples."""

    samples: int
    p50_ms: int | None
    p90_ms: int | None
    p99_ms: int | None
    max_ms: int | None


class Pushes(msgspec.Struct, frozen=True, kw_only=True):
    """What came through ad-decisions.

    `received` = `distinct` + `duplicates`, `distinct` = `after_deadline` + `to_standby` + `displayed`, and of the ads
    in the displayed ones: `ads` = `ads_reported` + `ads_not_shown` + `displaying`.

    Attributes:
        decisions: Records read, with and without ads.
        of_earlier_runs: Decisions on events from before this run; in no other number.
        of_other_fleets: Decisions for boxes that are not ours; in no other number.
        forged: Records with ads for a box of ours whose signature is missing or wrong; ignored, in no other number.
            Always 0 when signatures are not verified.
        received: Records with ads for a box of ours.
        duplicates: Records whose push_id had been seen before.
        after_deadline: First copies that came after their `deadline_ms`, by the wall clock of the reception; ignored.
        to_standby: First copies, in time, whose box had been switched off meanwhile; ignored.
        displayed: First copies whose display began.
        ads: Ads in these.
        ads_reported: Ads whose display has ended and was reported; when all is acknowledged, `displays_reported`.
        ads_not_shown: Ads of a break whose turn never came: the box went off, the break or the run was over.
        displaying: Ads that are being displayed, or wait for the ads before them.
    """

    decisions: int = 0
    of_earlier_runs: int = 0
    of_other_fleets: int = 0
    forged: int = 0
    received: int = 0
    distinct: int = 0
    duplicates: int = 0
    after_deadline: int = 0
    to_standby: int = 0
    displayed: int = 0
    ads: int = 0
    ads_reported: int = 0
    ads_not_shown: int = 0
    displaying: int = 0


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """The books at one moment. Events are counted when the broker has acknowledged them.

    Attributes:
        finished: The run ended as asked and every event was acknowledged: the numbers are final.
        events: Unique events acknowledged; second copies are not events.
        expected_rows: Events that must be in box_events, late ones included.
        expected_late: Events among them that must be marked late.
        expected_dropped: Second copies, which must not become rows.
        expected_dead_letters: By reason.
        records_sent_again: Records given to a new producer after the old one failed. The broker may hold both copies
            of some of them, so it is an upper bound of unintended duplicates.
        slipped_ms: How long behaviour stood still because sending could not keep up.
        displays_reported: `ad_shown` events acknowledged.
        event_to_push_ms: From the Kafka time of the causing record to the reception of the push; first copies.
        event_to_push_without_auction_ms: The same less the time in which aggregators were asked.
    """

    v: int = 1
    finished: bool
    seed: int
    boxes: int
    boxes_on: int
    speed_up: float
    started_ms: int
    updated_ms: int
    events: int
    events_by_type: dict[str, int]
    faults: dict[str, FaultCount]
    expected_rows: int
    expected_late: int
    expected_dropped: int
    expected_dead_letters: dict[str, int]
    partitions: dict[int, PartitionAcks]
    records_waiting: int
    records_sent_again: int
    slipped_ms: int
    displays_reported: int
    pushes: Pushes
    event_to_push_ms: Latency
    event_to_push_without_auction_ms: Latency


class LatencyHistogram:
    """Exact counts per millisecond: percentiles without samples to keep."""

    def __init__(self) -> None:
        self._counts = array("q", [0]) * (HISTOGRAM_MS + 1)
        self._samples = 0

    def add(self, latency_ms: float) -> None:
        """Count one sample; what is below 0 (clocks differ) counts as 0."""
        self._counts[min(max(round(latency_ms), 0), HISTOGRAM_MS)] += 1
        self._samples += 1

    def summary(self) -> Latency:
        """Percentiles by nearest rank."""
        return Latency(
            samples=self._samples,
            p50_ms=self._percentile(0.50),
            p90_ms=self._percentile(0.90),
            p99_ms=self._percentile(0.99),
            max_ms=self._percentile(1.0),
        )

    def _percentile(self, share: float) -> int | None:
        wanted = max(1, -int(-self._samples * share // 1))
        seen = 0
        for latency_ms, count in enumerate(self._counts):
            seen += count
            if seen >= wanted:
                return latency_ms
        return None


class RecentIds:
    """Recognises ids seen before, in bounded memory: two generations of at most `capacity` ids.

    Keeps 64-bit hashes; a million ids make one false copy in 37 million runs.
    """

    def __init__(self, capacity: int = PUSH_MEMORY) -> None:
        self._capacity = capacity
        self._young: set[int] = set()
        self._old: set[int] = set()

    def is_new(self, identity: str) -> bool:
        """Remember `identity`; true at its first time."""
        value = hash(identity)
        if value in self._young or value in self._old:
            return False
        if len(self._young) >= self._capacity:
            self._old, self._young = self._young, set()
        self._young.add(value)
        return True


class EventBook:
    """Counts acknowledged records."""

    def __init__(self) -> None:
        self._records: Counter[tuple[str, str]] = Counter()
        self._partitions: dict[int, tuple[int, int]] = {}

    def acknowledged(self, record: Record, partition: int, offset: int) -> None:
        """The broker holds `record` at `offset`."""
        self._records[record.event_type, record.fault] += 1
        records, max_offset = self._partitions.get(partition, (0, -1))
        self._partitions[partition] = (records + 1, max(max_offset, offset))

    def events_by_type(self) -> dict[str, int]:
        """Unique events, also those that land as dead letters."""
        counts: Counter[str] = Counter()
        for (event_type, fault), records in self._records.items():
            if FAULTS[fault].landing is not Landing.DROPPED:
                counts[event_type] += records
        return dict(sorted(counts.items()))

    def faults(self) -> dict[str, FaultCount]:
        """Faulty records by kind."""
        counts: Counter[str] = Counter()
        for (_, fault), records in self._records.items():
            counts[fault] += records
        return {
            kind: FaultCount(records, FAULTS[kind].landing.value, FAULTS[kind].reason)
            for kind, records in sorted(counts.items())
            if kind != NO_FAULT
        }

    def landing(self, *landings: Landing) -> int:
        """Records that have to end in one of `landings`."""
        return sum(records for (_, fault), records in self._records.items() if FAULTS[fault].landing in landings)

    def dead_letters(self) -> dict[str, int]:
        """Records that have to end as dead letters, by reason."""
        counts: Counter[str] = Counter()
        for (_, fault), records in self._records.items():
            reason = FAULTS[fault].reason
            if reason is not None:
                counts[reason] += records
        return dict(sorted(counts.items()))

    def partitions(self) -> dict[int, PartitionAcks]:
        """Acknowledged records by partition."""
        return {partition: PartitionAcks(*self._partitions[partition]) for partition in sorted(self._partitions)}


def write_ledger(path: Path, ledger: Ledger) -> None:
    """Replace the file at `path` in one step: a reader sees the old books or the new ones, never half."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(ledger), indent=2) + b"\n")
    partial.replace(path)


def read_ledger(path: Path) -> Ledger:
    """Books written by `write_ledger`.

    Raises:
        CrashError: The file cannot be read or holds no books of this version.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ledger)
    except (OSError, msgspec.DecodeError) as error:
        raise CrashError(f"{path} holds no ledger: {error}; is --ledger of the fleet the same path?") from None
