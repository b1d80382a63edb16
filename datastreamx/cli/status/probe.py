"""Ask Kafka, BigQuery, the processes and the disk at once; the trouble of one does not hide the others' answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datastreamx.cli.status.brokers import ask_brokers, flow_groups, group_of
from datastreamx.cli.status.peers import ask_peers
from datastreamx.cli.status.report import FlowStatus, Status
from datastreamx.cli.status.stores import look_at_processes, look_at_replacement
from datastreamx.cli.status.tables import ask_bigquery
from datastreamx.clock import Clock
from datastreamx.config import Config
from datastreamx.place import Place


def probe(config: Config, clock: Clock) -> Status:
    """The status now; raises nothing but for a bug."""
    with ThreadPoolExecutor(max_workers=3) as pool:
        kafka_answer = pool.submit(ask_brokers, config, clock)
        bigquery_answer = pool.submit(ask_bigquery, config, clock.now_ms())
        cells = pool.submit(ask_peers, config, clock).result()
        bigquery = bigquery_answer.result()
        kafka = kafka_answer.result()
    recovery = Path(config.recovery.directory)
    place = Place(config.scaling.mode)
    flows = [
        FlowStatus(
            name=name,
            group=group_of(name),
            lags=kafka.lags.get(name, []),
            # With nobody to ask, this machine is where a process should have left its traces.
            processes=look_at_processes(recovery, name, None if cells else place.store_name(name)),
            cells=cells.get(name, []),
        )
        for name in dict.fromkeys([*flow_groups(config), *cells])
    ]
    return Status(
        at_ms=clock.now_ms(),
        kafka=kafka,
        bigquery=bigquery,
        flows=flows,
        replacing=look_at_replacement(recovery),
    )
