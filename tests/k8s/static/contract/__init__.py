"""The contract between the manifests, the program and its configuration: small rules, each by itself.

A rule reads a `Deployment` and says what it expects of it; `Report` counts the checks and keeps what did not hold.
"""

from __future__ import annotations

from tests.k8s.static.contract.configuration import (
    configuration_is_valid,
    processes_are_as_many_as_configured,
    secrets_are_files_that_are_mounted,
)
from tests.k8s.static.contract.model import Deployment, Report, Rule
from tests.k8s.static.contract.network import (
    every_dependency_is_reached,
    everything_is_denied_that_is_not_named,
    nothing_else_is_reached,
    only_those_come_in_who_have_to,
)
from tests.k8s.static.contract.ports import endpoint_is_where_everybody_looks, ports_exist
from tests.k8s.static.contract.program import (
    arguments_are_accepted,
    containers_end_in_time,
    environment_is_read,
    image_is_pinned,
    jobs_end_and_leave_nothing,
)
from tests.k8s.static.contract.references import (
    everything_is_in_the_namespace,
    named_objects_exist,
    rights_are_those_that_are_used,
    secrets_hold_nothing_real,
    tokens_are_mounted_only_where_needed,
)
from tests.k8s.static.contract.selectors import (
    disruption_budgets_cover_each_flow,
    monitoring_covers_each_flow,
    policies_select_pods,
    services_select_their_pods,
    spread_counts_the_pods_of_the_flow,
    stateful_sets_select_their_pods,
)
from tests.k8s.static.contract.volumes import folders_of_the_program_are_volumes, mounts_are_volumes

RULES: tuple[Rule, ...] = (
    arguments_are_accepted,
    configuration_is_valid,
    containers_end_in_time,
    disruption_budgets_cover_each_flow,
    endpoint_is_where_everybody_looks,
    environment_is_read,
    every_dependency_is_reached,
    everything_is_denied_that_is_not_named,
    everything_is_in_the_namespace,
    folders_of_the_program_are_volumes,
    image_is_pinned,
    jobs_end_and_leave_nothing,
    monitoring_covers_each_flow,
    mounts_are_volumes,
    named_objects_exist,
    nothing_else_is_reached,
    only_those_come_in_who_have_to,
    policies_select_pods,
    ports_exist,
    processes_are_as_many_as_configured,
    rights_are_those_that_are_used,
    secrets_are_files_that_are_mounted,
    secrets_hold_nothing_real,
    services_select_their_pods,
    spread_counts_the_pods_of_the_flow,
    stateful_sets_select_their_pods,
    tokens_are_mounted_only_where_needed,
)

__all__ = ["RULES", "Deployment", "Report", "Rule"]
