"""What a replay has done so far, counted from its start in this process."""

from __future__ import annotations

from prometheus_client import Counter

from datastreamx import metrics
from datastreamx.tables import BOX_EVENTS, TABLES, VIEWING_SESSIONS


class Tally:
    """Differences of the process's metrics since this was made."""

    def __init__(self) -> None:
        self._before = {counter: dict(_samples(counter)) for counter in _COUNTERS}

    @property
    def dead_letters(self) -> int:
        """Records that were set aside."""
        return self._since(metrics.DEAD_LETTERS)

    @property
    def events(self) -> int:
        """Records of box-events that were dealt with."""
        return self._since(metrics.EVENTS) + self.dead_letters

    @property
    def reused(self) -> int:
        """Opportunities whose decision stood in the log."""
        return self._since(metrics.DECISIONS_REUSED)

    @property
    def expired(self) -> int:
        """Opportunities that were recorded as expired."""
        return self._since(metrics.DECISIONS)

    @property
    def facts(self) -> dict[str, int]:
        """Rows made by viewing, by table."""
        rows = {
            BOX_EVENTS.name: self._since(metrics.EVENTS) - self._since(metrics.DUPLICATE_EVENTS),
            VIEWING_SESSIONS.name: self._since(metrics.SESSIONS_CLOSED),
        }
        return {table: count for table, count in rows.items() if count}

    @property
    def landed(self) -> dict[str, int]:
        """Rows that BigQuery has acknowledged, by table."""
        since = self._by_label(metrics.WAREHOUSE_ROWS)
        return {table: since[table,] for table in TABLES if since.get((table,))}

    def _since(self, counter: Counter) -> int:
        return sum(self._by_label(counter).values())

    def _by_label(self, counter: Counter) -> dict[tuple[str, ...], int]:
        before = self._before[counter]
        return {labels: value - before.get(labels, 0) for labels, value in _samples(counter)}


_COUNTERS = (
    metrics.DEAD_LETTERS,
    metrics.DECISIONS,
    metrics.DECISIONS_REUSED,
    metrics.DUPLICATE_EVENTS,
    metrics.EVENTS,
    metrics.SESSIONS_CLOSED,
    metrics.WAREHOUSE_ROWS,
)


def _samples(counter: Counter) -> list[tuple[tuple[str, ...], int]]:
    return [
        (tuple(sample.labels.values()), int(sample.value))
        for family in counter.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    ]
