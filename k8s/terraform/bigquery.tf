# Columns, partitions and clusters come from datastreamx/tables.py, by schemas/*.json:
# `python -m tests.k8s.terraform.schemas` writes them, and a test compares. Whoever comes first makes a table or a
# column, this or `datastreamx apply`; the other finds nothing left to do. What only this knows: who may read, what is
# protected, when rows expire.
locals {
  tables = {
    for file in fileset("${path.module}/schemas", "*.json") :
    trimsuffix(file, ".json") => jsondecode(file("${path.module}/schemas/${file}"))
  }
  # Pseudonyms of boxes: with them rows of one viewer can be joined. See columns.tf.
  protected_columns = ["box_key"]
  tables_of_boxes = toset([
    for name, table in local.tables : name
    if length(setintersection(local.protected_columns, table.columns[*].name)) > 0
  ])
  # Of these data scientists see the rows of some boxes only: what a box watched, event by event.
  tables_of_viewing = toset(["box_events", "viewing_sessions"])
}

resource "google_bigquery_dataset" "main" {
  dataset_id    = "datastreamx"
  friendly_name = "DatastreamX"
  description   = "Events, sessions, decisions, bids, impressions and rollups. Written by the warehouse flow alone."
  location      = var.bigquery_location

  # Also for tables that `datastreamx apply` makes before this knows them.
  default_partition_expiration_ms = var.retention_days * 24 * 3600 * 1000
  # The least that BigQuery allows: until then what was deleted can be brought back.
  max_time_travel_hours      = 48
  delete_contents_on_destroy = false

  dynamic "default_encryption_configuration" {
    for_each = var.kms_keys.bigquery == null ? [] : [var.kms_keys.bigquery]
    content {
      kms_key_name = default_encryption_configuration.value
    }
  }

  # The whole list: whoever is not on it has no access to the dataset, project editors and viewers included. BigQuery
  # stores dataOwner, dataEditor and dataViewer under these names.
  access {
    role          = "OWNER"
    user_by_email = var.terraform_service_account
  }
  access {
    role          = "WRITER"
    user_by_email = google_service_account.workload["warehouse"].email
  }
  access {
    role          = "WRITER"
    user_by_email = google_service_account.workload["apply"].email
  }
  # Erasure deletes rows.
  access {
    role           = "WRITER"
    group_by_email = var.groups.privacy
  }
  access {
    role           = "READER"
    group_by_email = var.groups.operators
  }
  # The views read on behalf of analysts, who cannot read the tables themselves.
  access {
    dataset {
      dataset {
        project_id = var.project_id
        dataset_id = google_bigquery_dataset.views.dataset_id
      }
      target_types = ["VIEWS"]
    }
  }

  depends_on = [google_project_service.needed]
}

resource "google_bigquery_table" "tables" {
  for_each = local.tables

  dataset_id               = google_bigquery_dataset.main.dataset_id
  table_id                 = each.key
  description              = each.value.description
  clustering               = each.value.cluster_by
  require_partition_filter = true
  deletion_protection      = true

  schema = jsonencode([
    for column in each.value.columns : merge(
      column,
      contains(local.protected_columns, column.name)
      ? { policyTags = { names = [google_data_catalog_policy_tag.box_key.name] } }
      : {},
    )
  ])

  time_partitioning {
    type          = "DAY"
    field         = each.value.partition_by
    expiration_ms = var.retention_days * 24 * 3600 * 1000
  }

  dynamic "encryption_configuration" {
    for_each = var.kms_keys.bigquery == null ? [] : [var.kms_keys.bigquery]
    content {
      kms_key_name = encryption_configuration.value
    }
  }
}

# What analysts read: every table without the pseudonyms of boxes. The partition filter is asked of them as well.
resource "google_bigquery_dataset" "views" {
  dataset_id                 = "datastreamx_views"
  friendly_name              = "DatastreamX, for analysts"
  description                = "The tables without the pseudonyms of boxes."
  location                   = var.bigquery_location
  delete_contents_on_destroy = false

  dynamic "default_encryption_configuration" {
    for_each = var.kms_keys.bigquery == null ? [] : [var.kms_keys.bigquery]
    content {
      kms_key_name = default_encryption_configuration.value
    }
  }

  access {
    role          = "OWNER"
    user_by_email = var.terraform_service_account
  }
  dynamic "access" {
    for_each = toset([var.groups.analysts, var.groups.data_scientists, var.groups.operators])
    content {
      role           = "READER"
      group_by_email = access.value
    }
  }

  depends_on = [google_project_service.needed]
}

resource "google_bigquery_table" "views" {
  #checkov:skip=CKV_GCP_80:a view has no rows of its own; those of the tables are encrypted
  for_each = local.tables

  dataset_id          = google_bigquery_dataset.views.dataset_id
  table_id            = each.key
  description         = each.value.description
  deletion_protection = true

  view {
    use_legacy_sql = false
    query = format(
      "SELECT %s FROM `%s.%s.%s`",
      join(", ", [
        for column in each.value.columns : "`${column.name}`" if !contains(local.protected_columns, column.name)
      ]),
      var.project_id,
      google_bigquery_dataset.main.dataset_id,
      google_bigquery_table.tables[each.key].table_id,
    )
  }
}

# Where data scientists keep what they make; it goes by itself.
resource "google_bigquery_dataset" "sandbox" {
  dataset_id                      = "datastreamx_sandbox"
  friendly_name                   = "DatastreamX, sandbox of the data scientists"
  description                     = "Tables of data scientists; each is gone after 30 days."
  location                        = var.bigquery_location
  default_table_expiration_ms     = 30 * 24 * 3600 * 1000
  default_partition_expiration_ms = 30 * 24 * 3600 * 1000
  max_time_travel_hours           = 48
  delete_contents_on_destroy      = false

  dynamic "default_encryption_configuration" {
    for_each = var.kms_keys.bigquery == null ? [] : [var.kms_keys.bigquery]
    content {
      kms_key_name = default_encryption_configuration.value
    }
  }

  access {
    role          = "OWNER"
    user_by_email = var.terraform_service_account
  }
  access {
    role           = "WRITER"
    group_by_email = var.groups.data_scientists
  }
  # Who erases has to reach copies, too.
  access {
    role           = "WRITER"
    group_by_email = var.groups.privacy
  }

  depends_on = [google_project_service.needed]
}

# On-demand queries stop at these, whoever asks. Appending rows is no query.
resource "google_cloud_quotas_quota_preference" "queries" {
  for_each = {
    QueryUsagePerDay        = var.query_quota_gib.project
    QueryUsagePerUserPerDay = var.query_quota_gib.per_user
  }

  parent        = "projects/${var.project_number}"
  name          = "datastreamx-${each.key}"
  service       = "bigquery.googleapis.com"
  quota_id      = each.key
  justification = "Cost control: k8s/terraform"
  # From 200 TiB a day and none per user, the defaults, to these is a long way down.
  ignore_safety_checks = "QUOTA_DECREASE_PERCENTAGE_TOO_HIGH"

  quota_config {
    preferred_value = each.value * 1024 # MiB
  }

  depends_on = [google_project_service.needed]
}
