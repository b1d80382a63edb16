"""A cluster of one or three real Apache Kafka brokers (KRaft) on loopback ports.

    with KafkaCluster(nodes=3, directory=tmp_path) as kafka:
        kafka.create_topic("events", partitions=4)
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True})
        kafka.kill_node(kafka.leader_of("events", 0))

Node ids start at 1. Calls block until the cluster shows their effect, and raise `CrashError` with the end of the
brokers' logs if it does not in time.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its re-exports are not marked as such
    AdminClient,
    ClusterMetadata,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    PartitionMetadata,
)

from datastreamx.errors import CrashError, MissingTopicError

from .broker import Broker
from .jars import find_java, resolve_jars
from .properties import Ports, replication_factor, server_properties

T = TypeVar("T")

_HEAP_MB = {1: 384, 3: 256}
_READY_TIMEOUT_S = 60.0
_REQUEST_TIMEOUT_S = 10.0
_METADATA_TIMEOUT_S = 2.0
_POLL_INTERVAL_S = 0.05


class KafkaCluster:
    """Combined broker and controller nodes that share a directory, and whose ports stay theirs while they are down.

    As a context manager it starts on entry; on exit it kills what still runs and leaves the files to the caller.
    Not safe for use by several threads.

    Args:
        nodes: One (replication factor 1) or three (replication factor 3, `min.insync.replicas` 2).
        directory: Holds `node-<id>/` with the settings, the log and the data of each node; made if missing.
        advertised_ports: By node: the loopback port to which clients are sent, if something stands in between.
        host: Address of this machine on which clients are served.

    Raises:
        CrashError: Java or Maven is missing, or the server's jars cannot be resolved.
    """

    def __init__(
        self,
        *,
        nodes: Literal[1, 3],
        directory: Path,
        advertised_ports: Mapping[int, int] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._host = host
        java = find_java()
        jars = resolve_jars(Path(__file__).parent)
        self._directory = directory.resolve()
        self._sockets: list[socket.socket] = []
        fronts = advertised_ports or {}
        self._ports = {
            node: Ports(self._reserve_port(), self._reserve_port(), fronts.get(node)) for node in range(1, nodes + 1)
        }
        self._brokers = {
            node: Broker(
                f"Kafka node {node}",
                java=java,
                jars=jars,
                directory=self._directory / f"node-{node}",
                heap_mb=_HEAP_MB[nodes],
                cluster_id=_cluster_id(self._directory),
            )
            for node in self._ports
        }
        self._admin = AdminClient(
            {
                "bootstrap.servers": self.bootstrap,
                # A node that comes back is found at once, and its absence is no news on standard error.
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 200,
                "log_level": 0,
            }
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def bootstrap(self) -> str:
        """The value of `bootstrap.servers`; it names every node and never changes."""
        return ",".join(f"{self._host}:{ports.advertised or ports.broker}" for ports in self._ports.values())

    @property
    def listeners(self) -> list[str]:
        """`host:port` on which each node listens, by rising node id."""
        return [f"{self._host}:{ports.broker}" for ports in self._ports.values()]

    @property
    def running(self) -> dict[int, int]:
        """The process id of each node that runs, by node id."""
        return {node: broker.pid for node, broker in self._brokers.items() if broker.pid is not None}

    def start(self) -> None:
        """Start every node that does not run and wait until all serve clients."""
        stopped = self._brokers.keys() - self.running.keys()
        for node in sorted(stopped):
            self._launch(node)
        self._wait_ready()

    def stop(self) -> None:
        """Send SIGTERM to every node and wait for the end.

        A broker leaves through its controllers, so the last of three, alone without a quorum, is killed instead.
        """
        nodes = sorted(self.running)
        for node in nodes[:-1] if len(self._brokers) > 1 else nodes:
            self.stop_node(node)
        self._kill_all()

    def restart(self) -> None:
        """Stop and start every node on the same ports and data."""
        self.stop()
        self.start()

    def stop_node(self, node: int) -> None:
        """Send SIGTERM to one node, which hands its leaderships over, and wait for its end."""
        self._broker(node).stop()

    def kill_node(self, node: int) -> None:
        """Send SIGKILL to one node and wait until its process is gone. `leader_of` waits for its successor."""
        self._broker(node).kill()

    def start_node(self, node: int) -> None:
        """Start one node on its ports and data, and wait until it serves clients; `wait_in_sync` waits for its data."""
        self._broker(node)
        self._launch(node)
        self._wait_ready()

    def create_topic(self, name: str, *, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Create a topic with the cluster's replication factor and wait until its partitions have leaders.

        Args:
            name: The new topic.
            partitions: How many partitions it has.
            config: Topic settings, e.g. `{"retention.ms": "60000"}`.
        """
        topic = NewTopic(
            name,
            num_partitions=partitions,
            replication_factor=replication_factor(len(self._brokers)),
            config=dict(config or {}),
        )
        self._admin.create_topics([topic], operation_timeout=_REQUEST_TIMEOUT_S)[name].result(_REQUEST_TIMEOUT_S)
        for partition in range(partitions):
            self.leader_of(name, partition)

    def leader_of(self, topic: str, partition: int) -> int:
        """Return the running node that leads a partition; wait for the election if there is none.

        Raises:
            MissingTopicError: There is no such topic or partition after the wait.
            CrashError: No running node became the leader.
        """

        def leader() -> int | None:
            found = self._partition(topic, partition)
            return int(found.leader) if found is not None and found.leader in self.running else None

        try:
            return self._wait_for(leader, f"a leader of {topic}[{partition}] among the nodes {sorted(self.running)}")
        except CrashError as error:
            if self._partition(topic, partition) is None:
                raise MissingTopicError(f"{topic}[{partition}] does not exist: create_topic() it first") from error
            raise

    def wait_in_sync(self, topic: str, partition: int) -> None:
        """Wait until every replica of a partition is in sync, so that any one node may be lost."""

        def in_sync() -> bool:
            found = self._partition(topic, partition)
            return found is not None and set(found.isrs) == set(found.replicas)

        self._wait_for(in_sync, f"all replicas of {topic}[{partition}] to be in sync")

    def delete_records_before(self, topic: str, partition: int, offset: int) -> None:
        """Move the start of a partition to `offset`, as retention does: lower offsets expire at once."""
        end = TopicPartition(topic, partition, offset)
        self._admin.delete_records([end])[end].result(_REQUEST_TIMEOUT_S)

    def close(self) -> None:
        """Kill what runs and give the ports back. The cluster cannot be used again; a second call does nothing."""
        self._kill_all()
        for held in self._sockets:
            held.close()

    def _kill_all(self) -> None:
        for broker in self._brokers.values():
            broker.kill()

    def _broker(self, node: int) -> Broker:
        if node not in self._brokers:
            raise CrashError(f"there is no Kafka node {node}: the nodes are {sorted(self._brokers)}")
        return self._brokers[node]

    def _launch(self, node: int) -> None:
        broker = self._brokers[node]
        broker.start(server_properties(node, self._ports, broker.data_directory, self._host))

    def _reserve_port(self) -> int:
        """Bind a free port and hold it, without listening, for as long as the cluster lives.

        The broker may listen there nevertheless (both sides set SO_REUSEADDR). While it is down the port can go
        neither to another process nor to a client, whose connection attempt would otherwise reach itself.
        """
        held = socket.socket()
        self._sockets.append(held)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((self._host, 0))
        return int(held.getsockname()[1])

    def _metadata(self, topic: str | None = None) -> ClusterMetadata | None:
        """Ask a broker; `None` if none answers in time."""
        try:
            return self._admin.list_topics(topic, timeout=_METADATA_TIMEOUT_S)
        except KafkaException:
            return None

    def _partition(self, topic: str, partition: int) -> PartitionMetadata | None:
        metadata = self._metadata(topic)
        return metadata.topics[topic].partitions.get(partition) if metadata is not None else None

    def _wait_ready(self) -> None:
        """Wait until every running node answers, and every partition has a leader that knows it leads.

        Metadata alone is no proof: right after a restart a node replays, and answers with, who lived and led before.
        """

        def ready() -> bool:
            metadata = self._metadata()
            return metadata is not None and self._nodes_answer(metadata) and self._leaders_answer(metadata)

        self._wait_for(ready, f"the Kafka nodes {sorted(self.running)} to serve clients")

    def _nodes_answer(self, metadata: ClusterMetadata) -> bool:
        if not metadata.brokers.keys() >= self.running.keys():
            return False
        # Only the broker that it is about may answer such a request, and it takes one broker at a time.
        return all(
            _all_succeed(
                self._admin.describe_configs(
                    [ConfigResource(ConfigResource.Type.BROKER, str(node))], request_timeout=_METADATA_TIMEOUT_S
                )
            )
            for node in self.running
        )

    def _leaders_answer(self, metadata: ClusterMetadata) -> bool:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        partitions = {
            TopicPartition(name, partition): latest
            for name, topic in metadata.topics.items()
            for partition in topic.partitions
        }
        return not partitions or _all_succeed(self._admin.list_offsets(partitions, request_timeout=_METADATA_TIMEOUT_S))

    def _wait_for(self, probe: Callable[[], T | None], what: str) -> T:
        """Repeat `probe` until it returns something true; a node that ends by itself meanwhile is an error."""
        expected = self.running.keys()
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while True:
            found = probe()
            if found:
                return found
            for node in expected:
                self._brokers[node].check_alive()
            if time.monotonic() >= deadline:
                logs = "\n".join(f"node {node}:\n{broker.log_tail()}" for node, broker in self._brokers.items())
                raise CrashError(f"waited {_READY_TIMEOUT_S} s in vain for {what}\n{logs}")
            time.sleep(_POLL_INTERVAL_S)


def _all_succeed(answers: Mapping[Any, Future[Any]]) -> bool:
    return all(answer.exception() is None for answer in answers.values())


def _cluster_id(directory: Path) -> str:
    """Derive Kafka's form of a UUID (22 characters of URL-safe base64) that a restart in `directory` finds again."""
    digest = hashlib.sha256(str(directory).encode()).digest()[:16]
    # A leading dash would read as an option of the storage tool.
    return base64.urlsafe_b64encode(digest).decode().rstrip("=").replace("-", "A")
