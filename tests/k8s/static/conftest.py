from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.k8s.static.schemas import Kind, write


@pytest.fixture(scope="session")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Iterable[Kind]], Path]:
    """A folder with the schemas of some kinds, for kubeconform; what is in it already is not made again."""
    folder = tmp_path_factory.mktemp("schemas")

    def with_kinds(kinds: Iterable[Kind]) -> Path:
        write(folder, set(kinds))
        return folder

    return with_kinds
