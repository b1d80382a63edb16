# People, by group. Whatever a team reads in BigQuery is in bigquery.tf (datasets), columns.tf and rows.tf.
locals {
  team_roles = {
    analysts = {
      "roles/bigquery.jobUser" = "runs queries, within the quota per user"
    }
    data_scientists = {
      "roles/bigquery.jobUser"         = "runs queries, within the quota per user"
      "roles/bigquery.readSessionUser" = "reads results into notebooks as Arrow"
    }
    operators = {
      "roles/bigquery.jobUser"        = "`datastreamx status` and `query`"
      "roles/container.developer"     = "rolls out, reads logs of pods, starts Jobs: docs/runbook.md"
      "roles/logging.viewer"          = "logs"
      "roles/managedkafka.viewer"     = "sees cluster, topics and groups, no record"
      "roles/monitoring.viewer"       = "dashboards and alerts"
      "roles/artifactregistry.reader" = "sees which images there are"
    }
    privacy = {
      "roles/bigquery.jobUser" = "erases and gives information: docs/security.md"
    }
  }
  team_members = merge([
    for team, roles in local.team_roles : {
      for role, reason in roles : "${team} ${role}" => { team = team, role = role }
    }
  ]...)
}

resource "google_project_iam_member" "teams" {
  for_each = local.team_members

  project = var.project_id
  role    = each.value.role
  member  = "group:${var.groups[each.value.team]}"
}

# Data scientists read every table, as columns.tf and rows.tf let them.
resource "google_bigquery_table_iam_member" "data_scientists" {
  for_each = local.tables

  dataset_id = google_bigquery_dataset.main.dataset_id
  table_id   = google_bigquery_table.tables[each.key].table_id
  role       = "roles/bigquery.dataViewer"
  member     = "group:${var.groups.data_scientists}"

  # Rows are closed before the table is opened.
  depends_on = [google_bigquery_row_access_policy.everything, google_bigquery_row_access_policy.sample]
}
