# The handover folder of k8s/overlays: what a flow leaves at a clean stop, for the process that goes on with its state.
resource "google_storage_bucket" "handover" {
  #checkov:skip=CKV_GCP_62:the audit log has reads and writes (services.tf), and unlike access logs names the account
  #checkov:skip=CKV_GCP_78:a hierarchical namespace has no versions, and what is deleted here has to be gone
  name                        = "${var.project_id}-datastreamx-handover"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false

  # Renaming a folder has to be one step.
  hierarchical_namespace {
    enabled = true
  }
  # Raw box ids are in there: what is deleted is gone at once, and what was forgotten goes by itself.
  soft_delete_policy {
    retention_duration_seconds = 0
  }
  lifecycle_rule {
    action {
      type = "Delete"
    }
    # Copies only. What says how the state is shared out, and what was taken over already, has to stay.
    condition {
      age = 14
      matches_prefix = [
        "ads/left/", "ads/made/", "notices/left/", "notices/made/", "warehouse/left/", "warehouse/made/",
      ]
    }
  }

  dynamic "encryption" {
    for_each = var.kms_keys.storage == null ? [] : [var.kms_keys.storage]
    content {
      default_kms_key_name = encryption.value
    }
  }

  lifecycle {
    prevent_destroy = true
  }
}

resource "google_storage_bucket_iam_member" "handover" {
  for_each = { for name, workload in local.workloads : name => workload if workload.hands_over }

  bucket = google_storage_bucket.handover.name
  role   = "roles/storage.objectUser"
  member = google_service_account.workload[each.key].member
}
