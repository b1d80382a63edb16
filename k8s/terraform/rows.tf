# Row access, on the tables that have box keys. Once a table has a policy, who is in none of them reads no row: so
# everybody who reads is named. Views are read with the rows of who asks.
#
# There is no column for a region or a household, so rows can be told apart by box alone: a sample of all boxes, by the
# first digits of their pseudonym. Appending needs no policy; deleting rows needs all of them (`everything`).
locals {
  everything = [for team in ["analysts", "operators", "privacy"] : "group:${var.groups[team]}"]
}

resource "google_bigquery_row_access_policy" "everything" {
  for_each = local.tables_of_boxes

  dataset_id       = google_bigquery_dataset.main.dataset_id
  table_id         = google_bigquery_table.tables[each.key].table_id
  policy_id        = "everything"
  filter_predicate = "TRUE"
  grantees = concat(
    local.everything,
    contains(local.tables_of_viewing, each.key) ? [] : ["group:${var.groups.data_scientists}"],
  )
}

resource "google_bigquery_row_access_policy" "sample" {
  for_each = local.tables_of_viewing

  dataset_id       = google_bigquery_dataset.main.dataset_id
  table_id         = google_bigquery_table.tables[each.key].table_id
  policy_id        = "sample_of_boxes"
  filter_predicate = join(" OR ", [for prefix in var.data_scientist_box_prefixes : "STARTS_WITH(box_key, '${prefix}')"])
  grantees         = ["group:${var.groups.data_scientists}"]
}
