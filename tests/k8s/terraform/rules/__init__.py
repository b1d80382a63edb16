"""What has to hold of the Terraform, whatever it is changed to. Each rule returns its findings, one text each.

A rule looks at an evaluated environment, so loops, conditions and file contents count as what they come to.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.k8s.terraform.evaluation import Plan
from tests.k8s.terraform.rules.access import (
    accounts_are_used_by_their_workload_alone,
    no_keys_and_no_secrets,
    nobody_is_everybody,
    roles_are_narrow,
    secrets_are_read_by_who_needs_them,
)
from tests.k8s.terraform.rules.costs import costs_are_bounded
from tests.k8s.terraform.rules.declarations import (
    declarations_are_documented,
    services_are_enabled,
    the_provider_knows_it,
)
from tests.k8s.terraform.rules.kafka import kafka_rights_are_narrow
from tests.k8s.terraform.rules.keeping import (
    buckets_are_closed,
    keys_are_used_where_they_are_given,
    what_cannot_be_made_again_is_kept,
)
from tests.k8s.terraform.rules.network import addresses_are_private, ranges_do_not_overlap, the_cluster_is_safe
from tests.k8s.terraform.rules.tables import (
    pseudonyms_are_closed,
    readers_of_rows_are_named,
    tables_are_safe,
    tables_are_the_programs,
    viewing_is_sampled_for_data_scientists,
)

Rule = Callable[[Plan], list[str]]

RULES: tuple[Rule, ...] = (
    tables_are_safe,
    tables_are_the_programs,
    pseudonyms_are_closed,
    readers_of_rows_are_named,
    viewing_is_sampled_for_data_scientists,
    roles_are_narrow,
    nobody_is_everybody,
    no_keys_and_no_secrets,
    secrets_are_read_by_who_needs_them,
    addresses_are_private,
    ranges_do_not_overlap,
    the_cluster_is_safe,
    buckets_are_closed,
    what_cannot_be_made_again_is_kept,
    accounts_are_used_by_their_workload_alone,
    kafka_rights_are_narrow,
    costs_are_bounded,
    keys_are_used_where_they_are_given,
    declarations_are_documented,
    services_are_enabled,
    the_provider_knows_it,
)
