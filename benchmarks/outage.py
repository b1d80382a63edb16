"""What an outage of BigQuery does to the ads, and how fast the warehouse catches up.

    python -m benchmarks.outage [--before 3] [--outage 10] [--boxes 3000] [--quick] [--save] [--json]

The whole service on Apache Kafka (needs Java 17 and Maven). BigQuery refuses every call for `--outage` minutes, with
the boxes going on as before. Measured by a reader of ad-decisions of its own: from the Kafka time of the causing record
to the reception of the push, without the part of the aggregators, before and during the outage; then the drain of the
backlog while new rows arrive, and at the end the audit of the demo: every row once.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from benchmarks.live import Service, say
from benchmarks.machine import percentile, spread
from benchmarks.report import Figure, Goal, Report, conclude, parser, report
from datastreamx.config import Config
from datastreamx.kafka import consumer_properties
from datastreamx.wire.decisions import decode_decision
from simulator.bigquery.faults import FaultPlan

WARM_UP_S = 60.0
"""The first auctions of a run open connections and learn latencies."""
SETTLE_POLL_S = 0.5
DRAIN_LIMIT_S = 900.0


class Pushes:
    """Latencies of pushes as they arrive, with the monotonic time of each. A context manager."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._latencies: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def between(self, first_s: float, last_s: float) -> list[float]:
        """Milliseconds of the pushes received in between."""
        return [ms for at_s, ms in self._latencies if first_s <= at_s < last_s]

    def _run(self) -> None:
        consumer = Consumer(
            {**consumer_properties(self._config.kafka, "benchmark-pushes", "benchmark"), "fetch.wait.max.ms": 100}
        )
        partitions = range(self._config.events.partitions)
        consumer.assign([TopicPartition(self._config.topics.decisions, p, OFFSET_END) for p in partitions])
        while not self._stop.is_set():
            for message in consumer.consume(200, 0.05):
                if message.error() is not None:
                    continue
                decision = decode_decision(message.value() or b"")
                if decision.ads and decision.auction_us is not None:
                    own_ms = time.time() * 1000 - decision.emitted_ms - decision.auction_us / 1000
                    self._latencies.append((time.monotonic(), own_ms))
        consumer.close()


def _figures(when: str, latencies_ms: list[float]) -> list[Figure]:
    return [
        Figure(f"pushes {when}", "pushes", spread([len(latencies_ms)])),
        *(
            Figure(f"push without aggregators {when}, {name}", "ms", spread([percentile(latencies_ms, share)]))
            for name, share in (("p50", 0.5), ("p99", 0.99))
        ),
    ]


def measure(warm_up_s: float, before_s: float, outage_s: float, boxes: int, command: str) -> Report:
    """Run it all."""
    with tempfile.TemporaryDirectory(prefix="datastreamx-outage-") as name, Service(Path(name), boxes) as service:
        with Pushes(service.config) as pushes:
            say("warming up")
            _wait(service, warm_up_s)
            rows_then, begin_s = service.rows("box_events"), time.monotonic()
            say(f"measuring for {before_s:g} s")
            _wait(service, before_s)
            down_s = time.monotonic()
            arrival = (service.rows("box_events") - rows_then) / (down_s - begin_s)
            say(f"BigQuery is down for {outage_s:g} s")
            service.bigquery.inject(FaultPlan.outage())
            _wait(service, outage_s)
            up_s = time.monotonic()
            service.bigquery.heal()
            rows_then = service.rows("box_events")
            backlog = service.ledger.expected_rows - rows_then
            say(f"BigQuery is back; {backlog:,} rows behind")
            drained_s, drained = _drain(service, rows_then, up_s)
            say(f"caught up after {drained_s:.1f} s")
        summary = service.finish()
    before, during = pushes.between(begin_s, down_s), pushes.between(down_s, up_s)
    ratio = percentile(during, 0.99) / percentile(before, 0.99)
    return report(
        question="outage",
        asks="What does an outage of BigQuery cost the pushes, and how soon is it made up for?",
        command=command,
        data=f"{boxes:,} boxes, six times as fast as real viewers, on Apache Kafka; {outage_s:g} s without BigQuery",
        figures=[
            *_figures("before", before),
            *_figures("during", during),
            Figure("arriving", "rows per second", spread([arrival])),
            Figure("behind when BigQuery is back", "rows", spread([backlog])),
            Figure("caught up after", "s", spread([drained_s])),
            Figure(
                "rows made visible meanwhile", "times as fast as rows arrive", spread([drained / drained_s / arrival])
            ),
        ],
        goals=[
            Goal("p99 of the pushes during the outage over before", 1.05, ratio, at_least=False),
            Goal("broken promises", 0, len(summary.violations), at_least=False),
        ],
        notes=summary.violations,
    )


def _drain(service: Service, rows_then: int, up_s: float) -> tuple[float, int]:
    """Seconds until only the last seconds of events are missing, and rows that became visible meanwhile."""
    while time.monotonic() - up_s < DRAIN_LIMIT_S:
        service.check()
        ledger, rows = service.ledger, service.rows("box_events")
        rate = ledger.expected_rows / max(1.0, (ledger.updated_ms - ledger.started_ms) / 1000)
        if ledger.expected_rows - rows < 3 * rate:
            break
        time.sleep(SETTLE_POLL_S)
    return time.monotonic() - up_s, service.rows("box_events") - rows_then


def _wait(service: Service, seconds: float) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        service.check()
        time.sleep(1.0)


def main() -> int:
    """Measure and print; 1 if the audit found a broken promise."""
    options_of = parser("benchmarks.outage", __doc__ or "")
    options_of.add_argument("--before", type=float, default=3.0, metavar="MINUTES")
    options_of.add_argument("--outage", type=float, default=10.0, metavar="MINUTES")
    options_of.add_argument("--boxes", type=int, default=3_000)
    options = options_of.parse_args()
    before, outage, boxes = (0.2, 0.2, 1_000) if options.quick else (options.before, options.outage, options.boxes)
    command = f"python -m benchmarks.outage --before {before:g} --outage {outage:g} --boxes {boxes}"
    found = measure(WARM_UP_S / (10 if options.quick else 1), before * 60, outage * 60, boxes, command)
    conclude(found, options)
    return 1 if found.notes else 0


if __name__ == "__main__":
    sys.exit(main())
