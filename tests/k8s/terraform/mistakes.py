"""Mistakes that somebody might make, at least one for each rule."""

from __future__ import annotations

from dataclasses import dataclass

from tests.k8s.terraform.rules import Rule, access, costs, declarations, kafka, keeping, network, tables


@dataclass(frozen=True)
class Mistake:
    """A text of a file, what somebody might write instead, and what the rule has to say."""

    rule: Rule
    says: str
    file: str
    old: str
    new: str


MISTAKES = [
    Mistake(tables.tables_are_safe, "is not partitioned", "bigquery.tf", 'type          = "DAY"', 'type = "HOUR"'),
    Mistake(
        tables.tables_are_safe,
        "for ever",
        "bigquery.tf",
        "    expiration_ms = var.retention_days * 24 * 3600 * 1000\n",
        "",
    ),
    Mistake(tables.tables_are_safe, "is not clustered", "bigquery.tf", "each.value.cluster_by", "[]"),
    Mistake(
        tables.tables_are_safe,
        "partition filter",
        "bigquery.tf",
        "require_partition_filter = true",
        "require_partition_filter = false",
    ),
    Mistake(tables.tables_are_safe, "deletion", "bigquery.tf", "  deletion_protection      = true\n", ""),
    Mistake(
        tables.tables_are_the_programs, "other columns", "schemas/bids.json", '"name": "outcome_code"', '"name": "code"'
    ),
    Mistake(
        tables.tables_are_the_programs, "other columns", "schemas/bids.json", '"mode": "REQUIRED"', '"mode": "NULLABLE"'
    ),
    Mistake(
        tables.tables_are_the_programs,
        "not partitioned by",
        "schemas/bids.json",
        '"partition_by": "decided_time"',
        '"partition_by": "received_time"',
    ),
    Mistake(
        tables.pseudonyms_are_closed,
        "policy tag",
        "bigquery.tf",
        'protected_columns = ["box_key"]',
        'protected_columns = ["session_id"]',
    ),
    Mistake(
        tables.pseudonyms_are_closed,
        "shows pseudonyms",
        "bigquery.tf",
        " if !contains(local.protected_columns, column.name)\n",
        "\n",
    ),
    Mistake(tables.pseudonyms_are_closed, "raw box ids", "schemas/bids.json", '"name": "bid_id"', '"name": "box_id"'),
    Mistake(
        tables.pseudonyms_are_closed,
        "plainly",
        "columns.tf",
        '"group:${var.groups.privacy}"',
        '"group:${var.groups.analysts}"',
    ),
    Mistake(
        tables.readers_of_rows_are_named,
        "tv-analysts@example.com reads the table and would see no row",
        "rows.tf",
        '["analysts", "operators", "privacy"]',
        '["operators", "privacy"]',
    ),
    Mistake(
        tables.readers_of_rows_are_named,
        "delete rows",
        "rows.tf",
        'filter_predicate = "TRUE"',
        "filter_predicate = \"box_key > ''\"",
    ),
    Mistake(
        tables.viewing_is_sampled_for_data_scientists,
        "of all boxes",
        "rows.tf",
        "contains(local.tables_of_viewing, each.key) ? [] : ",
        "",
    ),
    Mistake(
        access.roles_are_narrow,
        "broad role roles/editor",
        "teams.tf",
        '"roles/container.developer"    ',
        '"roles/editor"',
    ),
    Mistake(
        access.roles_are_narrow,
        "broad role roles/container.admin",
        "teams.tf",
        '"roles/container.developer"    ',
        '"roles/container.admin"',
    ),
    Mistake(
        access.roles_are_narrow,
        "not on the list",
        "identities.tf",
        '"roles/managedkafka.client"',
        '"roles/managedkafka.topicEditor"',
    ),
    Mistake(
        access.roles_are_narrow,
        "on the whole project",
        "teams.tf",
        '"roles/bigquery.readSessionUser"',
        '"roles/bigquery.dataViewer"     ',
    ),
    Mistake(
        access.roles_are_narrow,
        "broad role",
        "bigquery.tf",
        'role          = "WRITER"\n    user_by_email = google_service_account.workload["apply"]',
        'role = "roles/bigquery.admin"\n    user_by_email = google_service_account.workload["apply"]',
    ),
    Mistake(
        access.roles_are_narrow,
        "replaces",
        "storage.tf",
        '"google_storage_bucket_iam_member"',
        '"google_storage_bucket_iam_binding"',
    ),
    Mistake(
        access.nobody_is_everybody,
        "allAuthenticatedUsers",
        "teams.tf",
        '"group:${var.groups.data_scientists}"',
        '"allAuthenticatedUsers"',
    ),
    Mistake(
        access.nobody_is_everybody,
        "a domain",
        "bigquery.tf",
        "group_by_email = var.groups.operators",
        'domain = "example.com"',
    ),
    Mistake(
        access.no_keys_and_no_secrets,
        "into the state",
        "identities.tf",
        'resource "google_service_account_iam_member"',
        'resource "google_service_account_key"',
    ),
    Mistake(
        access.no_keys_and_no_secrets,
        "is a secret",
        "variables.tf",
        'variable "gateway_group"',
        'variable "api_token" {\n  type = string\n  default = "x"\n}\nvariable "gateway_group"',
    ),
    Mistake(
        access.secrets_are_read_by_who_needs_them,
        "is read by",
        "secrets.tf",
        '["datastreamx-box-key-secret"].id',
        '["datastreamx-signing-key"].id',
    ),
    Mistake(
        network.addresses_are_private,
        "public address",
        "vpn.tf",
        "locals {",
        'resource "google_compute_address" "web" {}\nlocals {',
    ),
    Mistake(
        network.addresses_are_private,
        "public addresses",
        "gke.tf",
        "enable_private_endpoint = true",
        "enable_private_endpoint = false",
    ),
    Mistake(network.addresses_are_private, "control plane", "envs/prod.tfvars", "10.200.0.0/24", "0.0.0.0/0"),
    Mistake(network.addresses_are_private, "opens a port", "network.tf", "deny {", "allow {"),
    Mistake(network.addresses_are_private, "may change", "network.tf", '"MANUAL_ONLY"', '"AUTO_ONLY"'),
    Mistake(
        network.addresses_are_private,
        "only by the internet",
        "network.tf",
        "private_ip_google_access = true",
        "private_ip_google_access = false",
    ),
    Mistake(
        network.ranges_do_not_overlap, "kafka and nodes overlap", "envs/prod.tfvars", "10.10.0.0/22", "10.10.4.0/23"
    ),
    Mistake(network.the_cluster_is_safe, "datapath_provider", "gke.tf", '"ADVANCED_DATAPATH"', '"LEGACY_DATAPATH"'),
    Mistake(network.the_cluster_is_safe, "nobody attested", "registry.tf", '"REQUIRE_ATTESTATION"', '"ALWAYS_ALLOW"'),
    Mistake(
        network.the_cluster_is_safe,
        "nothing in prod",
        "envs/prod.tfvars",
        "enforce_attestations = true",
        "enforce_attestations = false",
    ),
    Mistake(
        keeping.buckets_are_closed,
        "access lists",
        "storage.tf",
        "uniform_bucket_level_access = true",
        "uniform_bucket_level_access = false",
    ),
    Mistake(keeping.buckets_are_closed, "public", "storage.tf", '"enforced"', '"inherited"'),
    Mistake(
        keeping.buckets_are_closed,
        "for ever",
        "storage.tf",
        'type = "Delete"',
        'type = "AbortIncompleteMultipartUpload"',
    ),
    Mistake(
        keeping.buckets_are_closed,
        "what is in it",
        "storage.tf",
        "force_destroy               = false",
        "force_destroy = true",
    ),
    Mistake(
        keeping.what_cannot_be_made_again_is_kept,
        "prevent_destroy",
        "kafka.tf",
        "prevent_destroy = true",
        "prevent_destroy = false",
    ),
    Mistake(
        keeping.what_cannot_be_made_again_is_kept,
        "its tables",
        "bigquery.tf",
        "delete_contents_on_destroy = false",
        "delete_contents_on_destroy = true",
    ),
    Mistake(keeping.what_cannot_be_made_again_is_kept, "deletion", "secrets.tf", "  deletion_protection = true\n", ""),
    Mistake(
        access.accounts_are_used_by_their_workload_alone,
        "nobody uses it",
        "identities.tf",
        "apply     = {",
        'spare = { does = "?", uses_kafka = false, hands_over = false }\n    apply = {',
    ),
    Mistake(
        access.accounts_are_used_by_their_workload_alone,
        "may be acted as",
        "identities.tf",
        "[${local.namespace}/${each.key}]",
        "[default/${each.key}]",
    ),
    Mistake(
        kafka.kafka_rights_are_narrow,
        "topic/ad-decisions: WRITE",
        "kafka.tf",
        "WRITE    = [local.kafka_principals.ads]\n",
        "WRITE = local.gateway\n",
    ),
    Mistake(
        kafka.kafka_rights_are_narrow,
        "consumerGroup/datastreamx-ads",
        "kafka.tf",
        '"consumerGroup/datastreamx-ads"',
        '"consumerGroup/ads"',
    ),
    Mistake(kafka.kafka_rights_are_narrow, "too much", "kafka.tf", "CREATE   = [", "ALTER = ["),
    Mistake(
        kafka.kafka_rights_are_narrow,
        "for everybody",
        "kafka.tf",
        "DESCRIBE = [local.kafka_principals.apply]",
        'DESCRIBE = ["User:*"]',
    ),
    Mistake(
        kafka.kafka_rights_are_narrow,
        "more than one",
        "kafka.tf",
        '"consumerGroup/${var.gateway_group}"',
        '"allConsumerGroups"',
    ),
    Mistake(
        costs.costs_are_bounded,
        "no quota QueryUsagePerUserPerDay",
        "bigquery.tf",
        "    QueryUsagePerUserPerDay = var.query_quota_gib.per_user\n",
        "",
    ),
    Mistake(costs.costs_are_bounded, "is no limit", "envs/prod.tfvars", "project  = 4096", "project  = 400000"),
    Mistake(
        costs.costs_are_bounded, "tells nobody", "budget.tf", "[google_monitoring_notification_channel.costs.id]", "[]"
    ),
    Mistake(
        keeping.keys_are_used_where_they_are_given,
        "key for kafka",
        "kafka.tf",
        "    kms_key = var.kms_keys.kafka\n",
        "",
    ),
    Mistake(
        declarations.declarations_are_documented,
        "has no type",
        "variables.tf",
        "type        = number",
        "type        = any",
    ),
    Mistake(
        declarations.declarations_are_documented,
        "is not described",
        "variables.tf",
        "Id of the billing account that pays, for the budget.",
        "Account.",
    ),
    Mistake(
        declarations.declarations_are_documented,
        "gateway_group is not used",
        "kafka.tf",
        "${var.gateway_group}",
        "gateway",
    ),
    Mistake(declarations.services_are_enabled, "dns.googleapis.com", "services.tf", '    "dns.googleapis.com",\n', ""),
    Mistake(
        declarations.the_provider_knows_it,
        "spend_basis cannot be SPENT",
        "budget.tf",
        '"FORECASTED_SPEND"',
        '"SPENT"',
    ),
    Mistake(
        declarations.the_provider_knows_it,
        "no argument uniform_access",
        "storage.tf",
        "uniform_bucket_level_access",
        "uniform_access",
    ),
    Mistake(
        declarations.the_provider_knows_it,
        "release_channel: there is no argument name",
        "gke.tf",
        'channel = "REGULAR"',
        'name = "REGULAR"',
    ),
    Mistake(
        declarations.the_provider_knows_it,
        "argument location is missing",
        "storage.tf",
        "  location                    = var.region\n",
        "",
    ),
    Mistake(
        declarations.the_provider_knows_it,
        "has no google_storage_buckets",
        "storage.tf",
        'resource "google_storage_bucket" "handover"',
        'resource "google_storage_buckets" "other" {}\nresource "google_storage_bucket" "handover"',
    ),
]
