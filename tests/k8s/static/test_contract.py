"""The manifests, the program and its configuration agree; and each rule that says so finds what it is there to find."""

from __future__ import annotations

import pytest

from tests.k8s.render import ENVIRONMENTS
from tests.k8s.static.contract import RULES, Deployment, Report, Rule
from tests.k8s.static.environments import deployed
from tests.k8s.tally import Tally

pytestmark = pytest.mark.k8s


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_contract_is_kept(environment: str, rule: Rule, tally: Tally) -> None:
    report = Report()
    rule(Deployment(environment, deployed(environment)), report)
    assert not report.problems
    if report.checks:
        tally("contract", report.checks)
