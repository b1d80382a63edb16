"""What an environment comes to once everything of it is applied: the overlay and its Jobs."""

from __future__ import annotations

from pathlib import Path

from tests.k8s.render import JOBS, K8S, Resource, of_kind, render


def deployed(environment: str, k8s: Path = K8S) -> tuple[Resource, ...]:
    """All resources of the overlay, and the Jobs that run beside it under the same policies.

    Args:
        environment: `dev`, `staging` or `prod`.
        k8s: The folder, or a copy of it in which something is different.
    """
    jobs = (k8s / folder.relative_to(K8S) for folder in JOBS if folder.parent.name == environment)
    return (
        *render(k8s / "overlays" / environment),
        *(resource for folder in jobs for resource in of_kind(render(folder), "Job")),
    )
