# Images: pushed and attested by one account, pulled by nodes, and run only with the attestation.
resource "google_artifact_registry_repository" "images" {
  repository_id = "datastreamx"
  location      = var.region
  format        = "DOCKER"
  description   = "Images of DatastreamX"
  kms_key_name  = var.kms_keys.registry

  docker_config {
    immutable_tags = true
  }
  vulnerability_scanning_config {
    enablement_config = "INHERITED"
  }
  cleanup_policies {
    id     = "keep-releases"
    action = "KEEP"
    most_recent_versions {
      keep_count = 20
    }
  }
  cleanup_policies {
    id     = "drop-untagged"
    action = "DELETE"
    condition {
      tag_state  = "UNTAGGED"
      older_than = "30d"
    }
  }

  depends_on = [google_project_service.needed]
}

resource "google_artifact_registry_repository_iam_member" "nodes" {
  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.nodes.member
}

# CI acts as this account by Workload Identity Federation. It writes images and attestations, and nothing else.
resource "google_service_account" "builder" {
  account_id   = "datastreamx-builder"
  display_name = "DatastreamX: builder"
  description  = "Pushes and attests images"
}

resource "google_service_account_iam_member" "builder" {
  service_account_id = google_service_account.builder.name
  role               = "roles/iam.workloadIdentityUser"
  member             = var.builder_principal
}

resource "google_artifact_registry_repository_iam_member" "builder" {
  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.builder.member
}

resource "google_container_analysis_note" "built" {
  name              = "datastreamx-built"
  short_description = "Built and tested by the pipeline"

  attestation_authority {
    hint {
      human_readable_name = "DatastreamX pipeline"
    }
  }

  depends_on = [google_project_service.needed]
}

resource "google_container_analysis_note_iam_member" "builder" {
  note   = google_container_analysis_note.built.name
  role   = "roles/containeranalysis.notes.attacher"
  member = google_service_account.builder.member
}

resource "google_project_iam_member" "builder" {
  project = var.project_id
  role    = "roles/containeranalysis.occurrences.editor"
  member  = google_service_account.builder.member
}

resource "google_binary_authorization_attestor" "built" {
  name        = "datastreamx-built"
  description = "Built and tested by the pipeline"

  attestation_authority_note {
    note_reference = google_container_analysis_note.built.name
    public_keys {
      id = "//cloudkms.googleapis.com/v1/${var.attestor.key_version}"
      pkix_public_key {
        public_key_pem      = var.attestor.public_key_pem
        signature_algorithm = "ECDSA_P256_SHA256"
      }
    }
  }
}

resource "google_binary_authorization_attestor_iam_member" "builder" {
  attestor = google_binary_authorization_attestor.built.name
  role     = "roles/binaryauthorization.attestorsViewer"
  member   = google_service_account.builder.member
}

resource "google_binary_authorization_policy" "main" {
  description = "Only images that the pipeline attested, and those of Google's own system pods."
  # Google's system images.
  global_policy_evaluation_mode = "ENABLE"

  dynamic "admission_whitelist_patterns" {
    for_each = var.exempt_images
    content {
      name_pattern = admission_whitelist_patterns.value
    }
  }
  default_admission_rule {
    evaluation_mode         = "REQUIRE_ATTESTATION"
    enforcement_mode        = var.enforce_attestations ? "ENFORCED_BLOCK_AND_AUDIT_LOG" : "DRYRUN_AUDIT_LOG_ONLY"
    require_attestations_by = [google_binary_authorization_attestor.built.name]
  }
}
