# Column access. A column with the tag is read plainly by the privacy team alone, as a hash by data scientists, and by
# nobody else: a query of others that names it is refused. Appending rows needs no right to read.
resource "google_data_catalog_taxonomy" "personal" {
  display_name           = "datastreamx ${var.environment}"
  description            = "What leads to a viewer."
  region                 = lower(var.bigquery_location)
  activated_policy_types = ["FINE_GRAINED_ACCESS_CONTROL"]

  depends_on = [google_project_service.needed]
}

resource "google_data_catalog_policy_tag" "box_key" {
  taxonomy     = google_data_catalog_taxonomy.personal.id
  display_name = "box_key"
  description  = "Pseudonym of a box. With it, and nothing else, the rows of one box can be joined."
}

resource "google_data_catalog_policy_tag_iam_member" "plain" {
  policy_tag = google_data_catalog_policy_tag.box_key.name
  role       = "roles/datacatalog.categoryFineGrainedReader"
  member     = "group:${var.groups.privacy}"
}

# The same box has the same hash, so that models can follow a box, and nobody who sees the hash can ask for the box.
resource "google_bigquery_datapolicy_data_policy" "box_key" {
  data_policy_id   = "datastreamx_box_key"
  location         = lower(var.bigquery_location)
  policy_tag       = google_data_catalog_policy_tag.box_key.name
  data_policy_type = "DATA_MASKING_POLICY"

  data_masking_policy {
    predefined_expression = "SHA256"
  }
}

resource "google_bigquery_datapolicy_data_policy_iam_member" "masked" {
  location       = google_bigquery_datapolicy_data_policy.box_key.location
  data_policy_id = google_bigquery_datapolicy_data_policy.box_key.data_policy_id
  role           = "roles/bigquerydatapolicy.maskedReader"
  member         = "group:${var.groups.data_scientists}"
}
