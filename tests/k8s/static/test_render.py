from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.k8s.render import (
    ENVIRONMENTS,
    JOBS,
    K8S,
    OVERLAYS,
    RenderError,
    identity,
    of_kind,
    parse,
    render,
    rendered_text,
)
from tests.k8s.tally import Tally

pytestmark = pytest.mark.k8s

RENDERED = (*OVERLAYS, *JOBS)


def _name(folder: Path) -> str:
    return str(folder.relative_to(K8S))


@pytest.mark.parametrize("folder", RENDERED, ids=_name)
def test_renders_without_repeating_a_resource(folder: Path, tally: Tally) -> None:
    counts = Counter((resource["apiVersion"], identity(resource)) for resource in render(folder))
    assert not [name for name, count in counts.items() if count > 1]
    tally("kustomize", len(counts))


@pytest.mark.parametrize("folder", RENDERED, ids=_name)
def test_rendering_is_the_same_every_time(folder: Path) -> None:
    assert rendered_text.__wrapped__(folder) == rendered_text.__wrapped__(folder)


def test_every_environment_is_tested() -> None:
    overlays = {path.parent for path in (K8S / "overlays").glob("*/kustomization.yaml")}
    jobs = {path.parent for name in ENVIRONMENTS for path in (K8S / "jobs" / name).glob("*/kustomization.yaml")}
    assert overlays == set(OVERLAYS)
    assert jobs == set(JOBS)


def test_caller_may_change_its_copy() -> None:
    render(OVERLAYS[0])[0]["kind"] = "Changed"
    assert not of_kind(render(OVERLAYS[0]), "Changed")


def test_folder_that_kustomize_refuses_says_why(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [gone.yaml]\n", encoding="utf-8")
    with pytest.raises(RenderError, match=r"gone\.yaml"):
        render(tmp_path)


def test_empty_documents_are_no_resources() -> None:
    assert parse("---\n---\nkind: A\n---\n") == ({"kind": "A"},)
