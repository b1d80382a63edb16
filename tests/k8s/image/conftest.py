from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.brokers import Broker, running_broker
from tests.integration.pipeline import Servers, running_servers
from tests.k8s.image.building import Built, built_image
from tests.k8s.image.podman import mounted


@pytest.fixture(scope="session")
def built() -> Built:
    """The image of this checkout."""
    return built_image()


@pytest.fixture(scope="session")
def files(built: Built) -> Iterator[Path]:
    """Folder with all files of the image."""
    with mounted(built.name) as folder:
        yield folder


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running_broker(request, tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with running_servers(tmp_path_factory.mktemp("servers")) as running:
        yield running
