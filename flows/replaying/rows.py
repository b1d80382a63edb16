"""Rows anew in another dataset."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from datastreamx.config import Config
from datastreamx.errors import ConfigError, RetryableError
from flows import replay
from flows.ports import Process
from flows.ports.replay import RowsPorts, rows_ports
from flows.recovery.store import read_store
from flows.replaying.dataset import make_dataset
from flows.replaying.meter import Meter
from flows.replaying.settling import SettlingSource
from flows.replaying.span import Span, caveats, exact_from_ms
from flows.replaying.stores import Site
from flows.replaying.tally import Tally
from flows.run import execute
from sinks.bigquery.ledger import read_segments
from sources.kafka.bounds import LogSurvey

SETTLING_EPOCH_MS = 200
SETTLING_ATTEMPTS = 20
SETTLING_PAUSE_S = 3.0
_SINK = "replay.bigquery"


class RowsWork:
    """Fills a dataset.

    Raises:
        ConfigError: It is the live one.
    """

    def __init__(self, config: Config, dataset: str) -> None:
        if dataset == config.bigquery.dataset:
            raise ConfigError(
                "--dataset",
                [f"{dataset} is bigquery.dataset, which the warehouse flow writes to: every row would be there twice"],
            )
        self._config = config
        self._bigquery = msgspec.structs.replace(config.bigquery, dataset=dataset)
        self.site = Site.of_rows(config, dataset)
        self.result = f"dataset {self._bigquery.project}.{dataset}"

    def prepare(self) -> None:
        """Make the dataset; raises what `make_dataset` does."""
        make_dataset(self._bigquery)

    def survey(self, span: Span) -> tuple[Meter, list[str]]:
        """See `Work.survey`."""
        topics, partitions = self._config.topics, range(self._config.events.partitions)
        exact_ms = exact_from_ms(span, self._config.viewing)
        with LogSurvey(self._config.kafka) as log:
            found = {
                (topic, partition): bounds
                for topic in (topics.events, topics.decisions)
                for partition, bounds in log.bounds(
                    topic, partitions, len(partitions), span.from_ms, span.until_ms
                ).items()
            }
            needed = log.bounds(topics.events, partitions, len(partitions), exact_ms, span.until_ms)
        events = {partition: bound for (topic, partition), bound in found.items() if topic == topics.events}
        skips = any(bound.first > bound.earliest for bound in events.values())
        not_exact = caveats(
            span,
            self._config.viewing,
            skips=skips,
            skips_needed=any(bound.first > needed[partition].first for partition, bound in events.items()),
            is_cut=any(bound.earliest > 0 for bound in events.values()),
        )
        if skips:
            not_exact.append("an ad that was decided before the replay begins and displayed after is not matched")
        return Meter(topics.events, found), not_exact

    def run(self, process: Process, span: Span, meter: Meter) -> None:
        """See `Work.run`. Then wait until all rows are visible.

        Raises:
            RetryableError: BigQuery holds all rows and does not show them.
        """
        ports = rows_ports(process, span, self._bigquery, meter)
        execute(replay.build(self._config, ports), self.site.open(), self._config.recovery.epoch_ms)
        for _ in range(SETTLING_ATTEMPTS):
            if process.stop.is_set() or self._is_settled(self.site.building):
                return
            again = rows_ports(process, span, self._bigquery, meter)
            settling = RowsPorts(SettlingSource(), again.bigquery, again.dead_letters)
            execute(replay.build(self._config, settling), self.site.open(), SETTLING_EPOCH_MS)
            if not self._is_settled(self.site.building):
                time.sleep(SETTLING_PAUSE_S)
        raise RetryableError(
            f"{self.result} holds all rows, but BigQuery does not make them visible; the same command tries again"
        )

    def rows(self, tally: Tally) -> dict[str, int]:
        """See `Work.rows`."""
        return tally.landed

    def _is_settled(self, store: Path) -> bool:
        """Whether the last snapshot of every table's sink names no row that may be invisible."""
        return not any(
            read_segments(row.value, row.state_key)
            for row in read_store(store).rows
            if row.step_id == _SINK and row.value is not None
        )
