"""A lost recovery store of the ads flow, made anew."""

from __future__ import annotations

from datastreamx.config import Config
from datastreamx.errors import ConfigError
from datastreamx.place import Place
from flows import ads
from flows.ports import Process
from flows.ports.rebuild import store_ports
from flows.replaying.log import SLACK_MS
from flows.replaying.meter import Meter
from flows.replaying.span import Span, caveats, exact_from_ms
from flows.replaying.stores import Site
from flows.replaying.tally import Tally
from flows.run import execute
from sources.kafka.bounds import Bounds, LogSurvey


class StoreWork:
    """Builds the store with which `datastreamx run ads` goes on as if nothing had happened.

    Raises:
        ConfigError: The place keeps no store.
    """

    def __init__(self, config: Config, place: Place) -> None:
        if not place.keeps_store:
            raise ConfigError("--ordinal", ["the store of a cluster is kept by its first process: it has to be 0"])
        self._config = config
        self._partitions = place.partitions(config.events.partitions)
        self.site = Site.of_store(config, place)
        self.result = f"recovery store {self.site.target}"
        self._decisions: dict[int, Bounds] = {}

    def prepare(self) -> None:
        """Nothing to make: the topics are those of the flow."""

    def survey(self, span: Span) -> tuple[Meter, list[str]]:
        """See `Work.survey`."""
        topics, viewing = self._config.topics, self._config.viewing
        decided_from_ms = None if span.from_ms is None else span.from_ms - SLACK_MS
        with LogSurvey(self._config.kafka) as log:
            events = self._bounds(log, topics.events, span.from_ms, span.until_ms)
            needed = self._bounds(log, topics.events, exact_from_ms(span, viewing), span.until_ms)
            self._decisions = self._bounds(log, topics.decisions, decided_from_ms, None)
        found = caveats(
            span,
            viewing,
            skips=any(bound.first > bound.earliest for bound in events.values()),
            skips_needed=any(bound.first > needed[partition].first for partition, bound in events.items()),
            is_cut=any(bound.earliest > 0 for bound in events.values()),
        )
        return Meter(topics.events, {(topics.events, partition): bound for partition, bound in events.items()}), found

    def run(self, process: Process, span: Span, meter: Meter) -> None:
        """See `Work.run`."""
        flow = ads.build(self._config, store_ports(process, span, self._decisions, meter))
        execute(flow, self.site.open(), self._config.recovery.epoch_ms)

    def rows(self, tally: Tally) -> dict[str, int]:
        """See `Work.rows`."""
        return tally.facts

    def _bounds(self, log: LogSurvey, topic: str, from_ms: int | None, until_ms: int | None) -> dict[int, Bounds]:
        return log.bounds(topic, self._partitions, self._config.events.partitions, from_ms, until_ms)
