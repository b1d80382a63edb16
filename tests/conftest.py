from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On Apache Kafka only what talks to a broker is run again."""
    if os.environ.get("DATASTREAMX_TEST_BROKER") != "kafka":
        return
    wanted: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        talks = "broker" in getattr(item, "fixturenames", ()) and item.get_closest_marker("one_broker") is None
        wanted[talks or item.get_closest_marker("kafka") is not None].append(item)
    config.hook.pytest_deselected(items=wanted[False])
    items[:] = wanted[True]


@pytest.fixture(autouse=True)
def _default_logging() -> Iterator[None]:
    """A command that a test runs in this process configures logging; the next test must not notice."""
    yield
    structlog.reset_defaults()
