from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.k8s.apiserver.client import Client
from tests.k8s.apiserver.environment import Environment, environment

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.apiserver)


@pytest.fixture(scope="session")
def prod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """The production overlay with all its pods ready; a test that changes something puts it back."""
    with environment("prod", tmp_path_factory.mktemp("prod")) as ready:
        ready.until_ready()
        yield ready


@pytest.fixture(scope="session")
def client(prod: Environment) -> Client:
    """The administrator of the production environment."""
    return prod.client


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for fixture in item.funcargs.values():
            if isinstance(fixture, Environment):
                report.sections.append((f"control plane of {fixture.name}", fixture.plane.logs()))
    return report
