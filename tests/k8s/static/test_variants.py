from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.k8s.render import K8S, OVERLAYS, of_kind
from tests.k8s.static.contract import RULES, Deployment, Report
from tests.k8s.static.pod_security import RULES as SECURITY_RULES
from tests.k8s.static.pod_security import violations
from tests.k8s.static.schemas import VERSIONS
from tests.k8s.static.test_schemas import Schemas, kubeconform
from tests.k8s.static.variants import VARIANTS
from tests.k8s.static.workloads import workloads
from tests.k8s.tally import Tally

pytestmark = pytest.mark.k8s


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_is_accepted_and_restricted_and_keeps_the_contract(
    name: str, schemas: Schemas, tmp_path: Path, tally: Tally
) -> None:
    variant = VARIANTS[name]
    resources = variant.deployed(tmp_path)
    tally("kustomize", len(resources))

    manifests = tmp_path / "manifests.yaml"
    manifests.write_text(yaml.safe_dump_all(resources), encoding="utf-8")
    for version in VERSIONS:
        results = kubeconform(manifests, schemas, version)
        assert not [f"{one['kind']}/{one['name']}: {one['msg']}" for one in results if one["status"] != "statusValid"]
        tally("kubeconform", len(results))

    pods = workloads(resources)
    assert not {one.name: problems for one in pods if (problems := violations(one.spec))}
    tally("pod security", SECURITY_RULES * sum(len(one.containers) for one in pods))

    report = Report()
    for rule in RULES:
        rule(Deployment(variant.environment, resources), report)
    assert not report.problems
    tally("contract", report.checks)


def test_every_component_is_rendered() -> None:
    """By an overlay, or by a variant here; one that nothing renders may be broken for long."""
    there = {path.parent.name for path in (K8S / "components").glob("*/kustomization.yaml")}
    used = set(VARIANTS)
    for overlay in OVERLAYS:
        kustomization = yaml.safe_load((overlay / "kustomization.yaml").read_text(encoding="utf-8"))
        used |= {Path(component).name for component in kustomization["components"]}
    assert there <= used
    assert there, "no components"


def test_cluster_updates_all_processes_together(tmp_path: Path) -> None:
    sets = of_kind(VARIANTS["cluster"].deployed(tmp_path), "StatefulSet")
    assert {one["spec"]["updateStrategy"]["type"] for one in sets} == {"OnDelete"}
