from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.k8s.render import ENVIRONMENTS, K8S, ROOT, Resource, identity
from tests.k8s.static.environments import deployed
from tests.k8s.static.policy import (
    ON_MANIFESTS,
    Exemption,
    Finding,
    Tool,
    checkov,
    checkov_containerfile,
    exemptions,
    hadolint,
    judge,
    kube_score,
)
from tests.k8s.static.workloads import workloads
from tests.k8s.tally import Tally

pytestmark = pytest.mark.k8s

CONTAINERFILE = ROOT / "Containerfile"


def _file(folder: Path, resources: tuple[Resource, ...]) -> Path:
    path = folder / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(resources), encoding="utf-8")
    return path


def _of_manifests(one: Exemption) -> bool:
    return all("/" in where and not where.endswith(".yaml") for where in one.where)


@pytest.mark.parametrize("name", ON_MANIFESTS)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_objection_to_the_manifests_is_answered(
    environment: str, name: Tool, tmp_path: Path, tally: Tally
) -> None:
    verdict = ON_MANIFESTS[name](_file(tmp_path, deployed(environment)))
    answered = [
        one for one in exemptions() if one.tool == name and environment in one.environments and _of_manifests(one)
    ]
    assert not judge(verdict.findings, answered)
    tally(name, verdict.checks)


def test_every_objection_to_the_containerfile_is_answered(tmp_path: Path, tally: Tally) -> None:
    linted, checked = hadolint(CONTAINERFILE), checkov_containerfile(CONTAINERFILE, tmp_path)
    answered = [one for one in exemptions() if "Containerfile" in one.where]
    assert not judge(linted.findings | checked.findings, answered)
    tally("hadolint", linted.checks)
    tally("checkov", checked.checks)


def test_no_file_holds_what_looks_like_a_secret(tally: Tally) -> None:
    verdict = checkov(K8S, "secrets")
    answered = [one for one in exemptions() if one.tool == "checkov" and any(w.endswith(".yaml") for w in one.where)]
    assert not judge(verdict.findings, answered)
    tally("checkov", sum(path.is_file() for path in K8S.rglob("*")))


def test_every_exemption_has_a_reason_and_an_environment() -> None:
    for one in exemptions():
        assert len(one.reason.split()) >= 8, f"{one.tool} {one.check}: a reason is a sentence"
        assert one.environments, one
        assert set(one.environments) <= set(ENVIRONMENTS), one
        assert one.where, one


def test_objection_without_an_answer_is_found_and_so_is_an_answer_without_an_objection() -> None:
    found = frozenset({Finding("checkov", "CKV_1", "Pod/a"), Finding("checkov", "CKV_1", "Pod/b")})
    answer = Exemption(tool="checkov", check="CKV_1", where=("Pod/a", "Pod/c"), reason="because")
    assert judge(found, [answer]) == [
        "checkov CKV_1 at Pod/b: fix it, or give a reason",
        "checkov CKV_1 at Pod/c: no longer found, drop it",
    ]


def test_mistakes_in_containers_are_objections(tmp_path: Path) -> None:
    resources = deployed("prod")
    container = {identity(one.owner): one.spec["containers"][0] for one in workloads(resources)}
    container["StatefulSet/ads"]["securityContext"]["privileged"] = True
    container["StatefulSet/warehouse"]["securityContext"]["readOnlyRootFilesystem"] = False
    container["StatefulSet/notices"]["image"] = "datastreamx"
    del container["Job/apply"]["resources"]
    manifests = _file(tmp_path, resources)
    assert checkov(manifests, "kubernetes").findings >= {
        Finding("checkov", "CKV_K8S_16", "StatefulSet/ads"),
        Finding("checkov", "CKV_K8S_22", "StatefulSet/warehouse"),
        Finding("checkov", "CKV_K8S_14", "StatefulSet/notices"),
        Finding("checkov", "CKV_K8S_13", "Job/apply"),
    }
    assert kube_score(manifests).findings >= {
        Finding("kube-score", "container-security-context-privileged", "StatefulSet/ads"),
        Finding("kube-score", "container-security-context-readonlyrootfilesystem", "StatefulSet/warehouse"),
        Finding("kube-score", "container-image-tag", "StatefulSet/notices"),
        Finding("kube-score", "container-ephemeral-storage-request-and-limit", "Job/apply"),
    }


SILENCERS = (
    "allowlist secret",
    "checkov.io/skip",
    "checkov:skip",
    "hadolint ignore",
    "kube-score/ignore",
    "yamllint disable",
)


def test_nothing_is_silenced_beside_the_exceptions() -> None:
    # Terraform's exceptions stand beside what they are about; its own tests ask for their reasons.
    others = (path for path in K8S.rglob("*") if path.is_file() and "terraform" not in path.parts)
    files = [CONTAINERFILE, *others]
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in files}
    assert not [f"{path}: {word}" for path, text in texts.items() for word in SILENCERS if word in text]


def test_annotation_that_silences_checkov_is_refused(tmp_path: Path) -> None:
    resources = deployed("prod")
    ads = next(one for one in resources if one["kind"] == "StatefulSet")
    ads["metadata"]["annotations"] = {"checkov.io/skip1": "CKV_K8S_11=it is in the way"}
    with pytest.raises(AssertionError, match="CKV_K8S_11"):
        checkov(_file(tmp_path, resources), "kubernetes")


def test_comment_in_the_containerfile_silences_nothing(tmp_path: Path) -> None:
    path = tmp_path / "Containerfile"
    path.write_text("# hadolint ignore=DL3006\nFROM debian\n", encoding="utf-8")
    assert Finding("hadolint", "DL3006", "Containerfile") in hadolint(path).findings


def test_secret_in_a_manifest_is_found(tmp_path: Path) -> None:
    path = tmp_path / "secret.yaml"
    path.write_text("data:\n  password: c3VwZXItc2VjcmV0LXBhc3N3b3JkLTEyMzQ1Njc4OTA=\n", encoding="utf-8")
    assert checkov(tmp_path, "secrets").findings
