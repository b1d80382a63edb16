"""What one broker of the test cluster is told, as pure text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MESSAGE_BYTES_MAX = 10 * 1024 * 1024
"""The largest record batch that every broker takes and every follower fetches."""


@dataclass(frozen=True)
class Ports:
    """The loopback ports of one node.

    Attributes:
        broker: Clients and other brokers.
        controller: The Raft quorum.
        advertised: Where clients and other brokers are sent, if something stands in between.
    """

    broker: int
    controller: int
    advertised: int | None = None


def replication_factor(nodes: int) -> int:
    """Return how many nodes keep a copy of each record."""
    return min(3, nodes)


def server_properties(node_id: int, ports: dict[int, Ports], log_directory: Path, host: str = "127.0.0.1") -> str:
    """Render the `server.properties` of a combined broker and controller.

    Args:
        node_id: The node that this is for, a key of `ports`.
        ports: Every node of the cluster by its id; all of them vote.
        log_directory: Where this node keeps its records and the metadata log.
        host: Address of this machine on which clients and other brokers are served.
    """
    replicas = replication_factor(len(ports))
    # Two of three: writes survive the loss of one node, and no acknowledged record hangs on a single one.
    in_sync = max(1, replicas - 1)
    own = ports[node_id]
    settings: dict[str, object] = {
        "node.id": node_id,
        "process.roles": "broker,controller",
        "listeners": f"BROKER://{host}:{own.broker},CONTROLLER://127.0.0.1:{own.controller}",
        "advertised.listeners": f"BROKER://{host}:{own.advertised or own.broker}",
        "inter.broker.listener.name": "BROKER",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.quorum.voters": ",".join(f"{node}@127.0.0.1:{port.controller}" for node, port in ports.items()),
        "log.dirs": log_directory,
        # Durability as in production.
        "auto.create.topics.enable": "false",
        "unclean.leader.election.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        # A batch of the largest size has to pass through every stage.
        "message.max.bytes": MESSAGE_BYTES_MAX,
        "replica.fetch.max.bytes": MESSAGE_BYTES_MAX,
        "replica.fetch.response.max.bytes": 2 * MESSAGE_BYTES_MAX,
        # A dead node is noticed within seconds; a session of six heartbeats outlives a pause on a busy machine.
        "broker.heartbeat.interval.ms": 500,
        "broker.session.timeout.ms": 3_000,
        "controller.quorum.election.timeout.ms": 1_000,
        "controller.quorum.election.backoff.max.ms": 500,
        "controller.quorum.fetch.timeout.ms": 1_500,
        "replica.lag.time.max.ms": 5_000,
        # Records last, whatever their timestamps say, unless a topic sets its own retention, and that acts while a
        # test looks: by default it waits 30 s, then 5 minutes.
        "log.retention.ms": -1,
        "log.initial.task.delay.ms": 500,
        "log.retention.check.interval.ms": 500,
        "log.segment.delete.delay.ms": 100,
        "group.initial.rebalance.delay.ms": 0,
        # Small: internal topics of a few partitions, few threads, and no 128 MiB buffer for compaction.
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.num.partitions": 4,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "background.threads": 4,
        "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())
