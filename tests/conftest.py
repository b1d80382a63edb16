from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _default_logging() -> Iterator[None]:
    """A command that a test runs in this process configures logging; the next test must not notice."""
    yield
    structlog.reset_defaults()
