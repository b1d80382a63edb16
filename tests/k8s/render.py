"""What the folders under k8s/ come to: rendered by the kustomize that is pinned, read as plain data."""

from __future__ import annotations

import copy
import functools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from tests.k8s.tools import tool

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
ENVIRONMENTS = ("dev", "staging", "prod")
OVERLAYS = tuple(K8S / "overlays" / name for name in ENVIRONMENTS)
# Each a Job with the configuration and image of its environment.
JOBS = tuple(K8S / "jobs" / name / job for name in ENVIRONMENTS for job in ("apply", "rescale"))

Resource: TypeAlias = dict[str, Any]

# The libyaml loader is ten times quicker; an installation without it still reads the same.
_LOADER: Callable[[str], Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class RenderError(Exception):
    """kustomize refused a folder; the message is what it said."""


def render(folder: Path) -> tuple[Resource, ...]:
    """Render a kustomization into its resources, in the order of kustomize; each caller may change its own copy.

    Raises:
        RenderError: kustomize refused.
    """
    return copy.deepcopy(_parsed(folder.resolve()))


@functools.cache
def rendered_text(folder: Path) -> str:
    """Render a kustomization into YAML as it would be applied.

    Raises:
        RenderError: kustomize refused.
    """
    done = subprocess.run(
        [tool("kustomize"), "build", folder], check=False, capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode:
        raise RenderError(f"kustomize build {folder}:\n{done.stderr}")
    return done.stdout


@functools.cache
def _parsed(folder: Path) -> tuple[Resource, ...]:
    return parse(rendered_text(folder))


def parse(text: str) -> tuple[Resource, ...]:
    """Read the resources of a YAML stream."""
    documents = yaml.load_all(text, Loader=_LOADER)  # type: ignore[arg-type]
    return tuple(document for document in documents if document)


def identity(resource: Resource) -> str:
    """Name a resource as messages do: `StatefulSet/ads`."""
    return f"{resource['kind']}/{resource['metadata']['name']}"


def of_kind(resources: tuple[Resource, ...], *kinds: str) -> tuple[Resource, ...]:
    """Pick the resources of these kinds."""
    return tuple(resource for resource in resources if resource["kind"] in kinds)
