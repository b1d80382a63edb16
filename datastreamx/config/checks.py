"""Checks across keys: each value is fine by itself, together they are not."""

from __future__ import annotations

import re
import string
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from datastreamx.config.structs import Config

OWNED_LIBRDKAFKA_KEYS = (
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "message.timeout.ms",
    "partitioner",
    "request.required.acks",
)
"""librdkafka properties on which exactly-once delivery rests; a configuration may not change them."""

MIN_SECRET_LENGTH = 16
MAX_SECRET_LENGTH = 64


def cross_checks(config: Config) -> list[str]:
    """One line per problem; empty when the configuration is sound."""
    return [
        *_viewing(config),
        *_auction(config),
        *_aggregators(config),
        *_selection(config),
        *_push(config),
        *_kafka(config),
        *_privacy(config),
        *_recovery(config),
        *_scaling(config),
        *_metrics(config),
    ]


def _viewing(config: Config) -> list[str]:
    viewing = config.viewing
    problems = []
    if viewing.session_gap_ms <= viewing.allowed_lateness_ms:
        problems.append(
            f"viewing.session_gap_ms ({viewing.session_gap_ms}) must exceed viewing.allowed_lateness_ms "
            f"({viewing.allowed_lateness_ms}): else a session closes while its events may still arrive"
        )
    if viewing.state_ttl_ms < viewing.session_gap_ms + viewing.allowed_lateness_ms:
        problems.append(
            f"viewing.state_ttl_ms ({viewing.state_ttl_ms}) must be at least session_gap_ms + allowed_lateness_ms "
            f"({viewing.session_gap_ms + viewing.allowed_lateness_ms}): else a box is forgotten in mid-session"
        )
    return problems


def _auction(config: Config) -> list[str]:
    needed = config.auction.push_reserve_ms + config.auction.min_call_ms
    if config.viewing.decision_budget_ms <= needed:
        return [
            f"viewing.decision_budget_ms ({config.viewing.decision_budget_ms}) must exceed auction.push_reserve_ms + "
            f"auction.min_call_ms ({needed}): else no auction ever has time for a call"
        ]
    return []


def _aggregators(config: Config) -> list[str]:
    if not config.aggregators:
        return ["aggregators: at least one [[aggregators]] entry is needed, or nobody can be asked for an ad"]
    counts = Counter(aggregator.name for aggregator in config.aggregators)
    problems = [
        f"aggregators: the name {name!r} is used {n} times; names must differ" for name, n in counts.items() if n > 1
    ]
    for aggregator in config.aggregators:
        path = f"aggregators.{aggregator.name}"
        timeout_ms = aggregator.timeout_ms or config.auction.timeout_ms
        if timeout_ms < config.auction.min_call_ms:
            problems.append(
                f"{path} is given {timeout_ms} ms (its timeout_ms, or auction.timeout_ms), which is less than "
                f"auction.min_call_ms ({config.auction.min_call_ms}): it would never be called"
            )
        if aggregator.notices and not aggregator.notice_hosts:
            problems.append(f"{path}.notice_hosts is missing: notices go only to hosts that are named there")
        if (aggregator.ssl_certificate_file is None) != (aggregator.ssl_key_file is None):
            problems.append(f"{path}.ssl_certificate_file and ssl_key_file are needed together")
    return problems


def _selection(config: Config) -> list[str]:
    selection = config.selection
    known = {aggregator.name for aggregator in config.aggregators}
    named = (
        ("selection.order", selection.order),
        ("selection.weights", tuple(selection.weights)),
        *(("auction.floors.aggregators", rule.aggregators) for rule in config.auction.floors),
    )
    problems = [
        f"{path}: there is no aggregator {name!r}; known are {', '.join(sorted(known))}"
        for path, names in named
        for name in names
        if name not in known
    ]
    groups = Counter(channel for channels in selection.channel_groups.values() for channel in channels)
    problems += [
        f"selection.channel_groups: channel {channel!r} is in {n} groups; one is allowed"
        for channel, n in groups.items()
        if n > 1
    ]
    return problems


def _push(config: Config) -> list[str]:
    key, key_id = config.push.signing_key, config.push.signing_key_id
    if (key is None) != (key_id is None):
        return ["push.signing_key and push.signing_key_id are needed together"]
    if key is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", key.reveal()):
        return [
            "push.signing_key is not 64 hex digits; make one with: "
            "python3 -c 'import secrets; print(secrets.token_hex(32))'"
        ]
    return []


def _kafka(config: Config) -> list[str]:
    kafka = config.kafka
    problems = [
        f"kafka.librdkafka.{key!r} is set by the program, because exactly-once delivery rests on it; remove it"
        for key in OWNED_LIBRDKAFKA_KEYS
        if key in kafka.librdkafka
    ]
    sasl = kafka.security_protocol.startswith("sasl")
    if sasl and kafka.sasl_mechanism is None:
        problems.append(f"kafka.sasl_mechanism is missing: security_protocol {kafka.security_protocol} needs one")
    if not sasl and kafka.sasl_mechanism is not None:
        problems.append(f"kafka.security_protocol is {kafka.security_protocol}: set sasl_ssl or drop sasl_mechanism")
    if kafka.sasl_mechanism == "OAUTHBEARER" and kafka.oauth is None:
        problems.append("kafka.oauth is missing: OAUTHBEARER needs a source of tokens, google or oidc")
    if kafka.sasl_mechanism in {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} and not (
        kafka.sasl_username and kafka.sasl_password
    ):
        problems.append(f"kafka.sasl_username and kafka.sasl_password are needed by {kafka.sasl_mechanism}")
    names = Counter([config.topics.events, config.topics.decisions, config.topics.facts, config.topics.dead_letters])
    problems += [
        f"topics: {name!r} serves {n} purposes; each topic needs its own name" for name, n in names.items() if n > 1
    ]
    return problems


def _privacy(config: Config) -> list[str]:
    length = len(config.privacy.box_key_secret.reveal().encode())
    if not MIN_SECRET_LENGTH <= length <= MAX_SECRET_LENGTH:
        return [
            f"privacy.box_key_secret has {length} bytes, {MIN_SECRET_LENGTH} to {MAX_SECRET_LENGTH} are needed; "
            "make one with: python3 -c 'import secrets; print(secrets.token_hex(16))'"
        ]
    return []


def _recovery(config: Config) -> list[str]:
    recovery = config.recovery
    if recovery.handover is None:
        return []
    directory, handover = Path(recovery.directory).absolute(), Path(recovery.handover).absolute()
    if directory.is_relative_to(handover) or handover.is_relative_to(directory):
        return [
            f"recovery.handover ({recovery.handover}) and recovery.directory ({recovery.directory}) lie within each "
            "other: what is handed over would be taken for a store. Let them be two folders side by side"
        ]
    return []


def _scaling(config: Config) -> list[str]:
    scaling = config.scaling
    if scaling.mode == "cluster":
        if len(set(scaling.addresses)) < len(scaling.addresses) or not scaling.addresses:
            return ["scaling.addresses has to name each process of the cluster, as host:port, once"]
        if len(scaling.addresses) > config.events.partitions:
            return [
                f"scaling.addresses names {len(scaling.addresses)} processes, more than events.partitions "
                f"({config.events.partitions}): the others would have nothing to read"
            ]
        return []
    problems = []
    if scaling.addresses:
        problems.append('scaling.addresses is for mode = "cluster"; cells do not talk to each other')
    if scaling.cells > config.events.partitions:
        problems.append(
            f"scaling.cells ({scaling.cells}) must not exceed events.partitions ({config.events.partitions}): the "
            "others would have nothing to read"
        )
    return problems


def _metrics(config: Config) -> list[str]:
    peers, port = config.metrics.peers, config.metrics.port
    if peers is None:
        return []
    example = 'write for example "http://{flow}-{ordinal}.{flow}:9090"'
    try:
        # Text, field, format and conversion of each part.
        parts = [*string.Formatter().parse(peers)]
    except ValueError as error:
        return [f"metrics.peers: {error}; {example}"]
    fields = {field for _, field, _, _ in parts if field is not None}
    if fields != {"flow", "ordinal"} or any(form or conversion for _, _, form, conversion in parts):
        return [f"metrics.peers needs {{flow}} and {{ordinal}} and knows no other placeholders; {example}"]
    problems = []
    if not _is_plain_address(peers.format(flow="ads", ordinal=0)):
        problems.append(f"metrics.peers is no http or https address of a host and a port, with nothing else; {example}")
    if not port:
        problems.append("metrics.peers needs a fixed metrics.port: without one no process can be asked")
    return problems


def _is_plain_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        has_place = bool(parts.hostname) and parts.port is not None
    except ValueError:
        return False
    return (
        has_place
        and parts.scheme in {"http", "https"}
        and url == f"{parts.scheme}://{parts.netloc}"
        and ("@" not in parts.netloc)
    )
