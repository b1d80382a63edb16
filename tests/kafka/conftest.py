from __future__ import annotations

from collections.abc import Iterator

import pytest

from .cluster import KafkaCluster


@pytest.fixture(scope="session")
def kafka_single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One broker. A test that stops it starts it again."""
    with KafkaCluster(nodes=1, directory=tmp_path_factory.mktemp("kafka-single")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def kafka_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three brokers. A test that ends one starts it again and waits until its topic is in sync."""
    with KafkaCluster(nodes=3, directory=tmp_path_factory.mktemp("kafka-three")) as cluster:
        yield cluster
