"""All checks, each from measuring to finding. Nothing here changes anything but for a file that is removed again."""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from datastreamx.cli.doctor import report
from datastreamx.cli.doctor.network import Address, address_of, clock_ahead_of, parse_bootstrap, reach
from datastreamx.cli.doctor.report import Finding
from datastreamx.cli.format import one_line, plural
from datastreamx.cli.validate import problems_of
from datastreamx.clock import Clock
from datastreamx.config import Config, load_config
from datastreamx.errors import DatastreamXError, RetryableError
from datastreamx.kafka import client_properties
from datastreamx.topics import plan_topics
from sinks.bigquery.client import rest_client
from sinks.bigquery.schema import plan_tables

GOOGLE_REST = "https://bigquery.googleapis.com"
GOOGLE_WRITE = Address("bigquerystorage.googleapis.com", 443, tls=True)
METADATA_TIMEOUT_S = 5.0

Check = Callable[[], list[Finding]]


def examine(path: Path, clock: Clock) -> list[Finding]:
    """Everything, in the order in which it is best repaired. Without a sound configuration the rest is skipped."""
    findings = [report.python_version(sys.version_info[:2])]
    problems = problems_of(path)
    if problems:
        wrong = [
            Finding(what="Configuration", state="fail", detail=f"{path}: {problem}", cause="config")
            for problem in problems
        ]
        rest = Finding(what="All else", state="skip", detail="needs a sound configuration")
        return [*findings, *wrong, rest]
    config = load_config(path)
    findings.append(Finding(what="Configuration", state="ok", detail=f"{path} is sound"))
    checks: list[Check] = [
        lambda: kafka(config),
        lambda: bigquery(config),
        lambda: aggregators(config),
        lambda: machine(config),
        lambda: [clock_check(config, clock)],
    ]
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        answers = [pool.submit(check) for check in checks]
        return [*findings, *chain.from_iterable(answer.result() for answer in answers)]


def kafka(config: Config) -> list[Finding]:
    """Bootstrap addresses, metadata, advertised addresses, topics."""
    try:
        addresses = parse_bootstrap(config.kafka.bootstrap)
    except ValueError as error:
        return [Finding(what="Kafka", state="fail", detail=f"kafka.bootstrap: {error}", cause="config")]
    findings = [reach("Kafka bootstrap", address) for address in addresses]
    if all(finding.state == "fail" for finding in findings):
        return [*findings, Finding(what="Kafka topics", state="skip", detail="no broker can be reached")]
    try:
        admin = AdminClient({**client_properties(config.kafka, "datastreamx-doctor"), "log_level": 0})
        brokers = admin.list_topics(timeout=METADATA_TIMEOUT_S).brokers.values()
    except KafkaException as error:
        remedy = "something listens there, but does not answer as Kafka: check kafka.security_protocol and credentials"
        text = error.args[0].str()
        return [*findings, Finding(what="Kafka", state="fail", detail=text, remedy=remedy, cause="unreachable")]
    advertised = [Address(str(broker.host), int(broker.port)) for broker in brokers]
    findings += [_advertised(address) for address in sorted(set(advertised) - set(addresses))]
    names = ", ".join(map(str, sorted(advertised)))
    findings.append(Finding(what="Kafka", state="ok", detail=f"{plural(len(advertised), 'broker')}: {names}"))
    return [*findings, _prepared("Kafka topics", lambda: plan_topics(config))]


def bigquery(config: Config) -> list[Finding]:
    """REST and write address, dataset and tables."""
    settings = config.bigquery
    rest = reach("BigQuery", address_of(settings.rest_endpoint or GOOGLE_REST))
    write = GOOGLE_WRITE
    if settings.grpc_endpoint is not None:
        host, _, port = settings.grpc_endpoint.rpartition(":")
        write = Address(host, int(port))
    findings = [rest, reach("BigQuery write", write)]
    if rest.state == "fail":
        return [*findings, Finding(what="BigQuery tables", state="skip", detail="BigQuery cannot be reached")]
    return [*findings, _prepared("BigQuery tables", lambda: plan_tables(rest_client(settings), settings))]


def aggregators(config: Config) -> list[Finding]:
    """Each aggregator's address; no bid request is sent."""
    targets = [(f"Aggregator {one.name}", address_of(one.url)) for one in config.aggregators]
    with ThreadPoolExecutor(max_workers=8) as pool:
        return [*pool.map(lambda target: reach(*target), targets)]


def machine(config: Config) -> list[Finding]:
    """Recovery directory and handover folder, disk and limits."""
    directory, handover = Path(config.recovery.directory), config.recovery.handover
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    findings = [_writable("Recovery directory", "recovery.directory", directory)]
    if handover is not None:
        findings.append(_writable("Handover folder", "recovery.handover", Path(handover)))
    return [
        *findings,
        report.disk(str(directory), shutil.disk_usage(_existing(directory)).free),
        report.open_files(limit, config.auction.concurrency, len(config.aggregators)),
    ]


def clock_check(config: Config, clock: Clock) -> Finding:
    """Our clock against the first server that tells its time: BigQuery's, else an aggregator's."""
    for url in (config.bigquery.rest_endpoint or GOOGLE_REST, *(one.url for one in config.aggregators)):
        ahead_ms = clock_ahead_of(url, clock)
        if ahead_ms is not None:
            return report.clock(ahead_ms, address_of(url).host, config.viewing.decision_budget_ms)
    return report.clock(None, "", config.viewing.decision_budget_ms)


def _advertised(address: Address) -> Finding:
    found = reach("Kafka advertised", address)
    if found.state == "ok":
        return found
    remedy = "brokers send clients to their advertised.listeners: they must be names and ports that work from here"
    return Finding(what=found.what, state="fail", detail=found.detail, remedy=remedy, cause="unreachable")


def _prepared(what: str, plan: Callable[[], Sequence[object]]) -> Finding:
    try:
        changes = plan()
    except RetryableError as error:
        return Finding(what=what, state="fail", detail=one_line(str(error)), cause="unreachable")
    except DatastreamXError as error:
        return Finding(what=what, state="fail", detail=one_line(str(error)), remedy="see `datastreamx plan`")
    if changes:
        return Finding(
            what=what, state="fail", detail=f"{plural(len(changes), 'change')} to make", remedy="`datastreamx apply`"
        )
    return Finding(what=what, state="ok", detail="all in place")


def _existing(directory: Path) -> Path:
    """It, or its nearest parent that exists."""
    return next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())


def _writable(what: str, key: str, directory: Path) -> Finding:
    """Whether files can be made in a directory that the configuration names under `key`."""
    existing = _existing(directory)
    if not existing.is_dir():
        return Finding(what=what, state="fail", detail=f"{existing} is no directory", remedy=f"correct {key}")
    try:
        with tempfile.NamedTemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Finding(
            what=what,
            state="fail",
            detail=f"{existing} cannot be written ({error.strerror})",
            remedy=f"grant this user the right to write, or correct {key}",
        )
    detail = f"{directory} can be written" if existing == directory else f"{directory} can be made in {existing}"
    return Finding(what=what, state="ok", detail=detail)
