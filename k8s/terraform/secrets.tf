# Places for secrets, without values: those are added by hand (README.md), so that neither this nor its state has them.
resource "google_secret_manager_secret" "service" {
  for_each = var.secrets

  secret_id           = each.key
  deletion_protection = true
  # A version that was destroyed by mistake can be brought back for a week.
  version_destroy_ttl = "604800s"

  replication {
    user_managed {
      replicas {
        location = var.region
        dynamic "customer_managed_encryption" {
          for_each = var.kms_keys.secrets == null ? [] : [var.kms_keys.secrets]
          content {
            kms_key_name = customer_managed_encryption.value
          }
        }
      }
    }
  }

  depends_on = [google_project_service.needed]
}

# Who erases a box has to know its pseudonym: `datastreamx forget` computes it.
resource "google_secret_manager_secret_iam_member" "privacy" {
  secret_id = google_secret_manager_secret.service["datastreamx-box-key-secret"].id
  role      = "roles/secretmanager.secretAccessor"
  member    = "group:${var.groups.privacy}"
}

resource "google_secret_manager_secret_iam_member" "operator" {
  for_each = google_secret_manager_secret.service

  secret_id = each.value.id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.workload["secrets"].member
}
