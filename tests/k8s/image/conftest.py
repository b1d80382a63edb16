from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import broker, servers
from tests.k8s.image.building import Built, built_image
from tests.k8s.image.podman import mounted

__all__ = ["broker", "built", "files", "servers"]


@pytest.fixture(scope="session")
def built() -> Built:
    """The image of this checkout."""
    return built_image()


@pytest.fixture(scope="session")
def files(built: Built) -> Iterator[Path]:
    """Folder with all files of the image."""
    with mounted(built.name) as folder:
        yield folder
