from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.brokers import Broker, running_broker
from tests.integration.pipeline import Servers, running_servers


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("broker")
    group.addoption("--broker", choices=("tansu", "kafka"), default=None, help="which broker to start")
    group.addoption("--broker-bootstrap", default=None, help="use this broker instead of starting one")


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Where the suite's topics live. Tests use topics of their own (`Broker.new_config`)."""
    with running_broker(request, tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """What all pipelines share: BigQuery, in which each has a dataset of its own, and two aggregators."""
    with running_servers(tmp_path_factory.mktemp("servers")) as running:
        yield running
