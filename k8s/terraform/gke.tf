resource "google_container_cluster" "main" {
  #checkov:skip=CKV_GCP_12:Dataplane V2 enforces network policies; what is asked for is of its predecessor
  #checkov:skip=CKV_GCP_61:Autopilot decides about visibility inside of a node; the subnet in network.tf logs flows
  #checkov:skip=CKV_GCP_69:Autopilot runs the metadata server on every node and takes no setting for it
  name     = "datastreamx-${var.environment}"
  location = var.region

  enable_autopilot    = true
  deletion_protection = true
  network             = google_compute_network.main.id
  subnetwork          = google_compute_subnetwork.nodes.id
  datapath_provider   = "ADVANCED_DATAPATH"

  resource_labels = {
    service     = "datastreamx"
    environment = var.environment
  }

  ip_allocation_policy {
    cluster_secondary_range_name  = "pods"
    services_secondary_range_name = "services"
  }

  # Neither nodes nor control plane have a public address.
  private_cluster_config {
    enable_private_nodes    = true
    enable_private_endpoint = true
    master_ipv4_cidr_block  = var.ranges.control_plane
  }
  master_authorized_networks_config {
    gcp_public_cidrs_access_enabled      = false
    private_endpoint_enforcement_enabled = true

    dynamic "cidr_blocks" {
      for_each = var.administration_ranges
      content {
        display_name = cidr_blocks.key
        cidr_block   = cidr_blocks.value
      }
    }
  }

  release_channel {
    channel = "REGULAR"
  }
  maintenance_policy {
    recurring_window {
      start_time = var.maintenance_window.start
      end_time   = var.maintenance_window.end
      recurrence = var.maintenance_window.recurrence
    }
  }

  cluster_autoscaling {
    auto_provisioning_defaults {
      service_account = google_service_account.nodes.email
      oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
    }
  }

  binary_authorization {
    evaluation_mode = "PROJECT_SINGLETON_POLICY_ENFORCE"
  }
  security_posture_config {
    mode               = "BASIC"
    vulnerability_mode = "VULNERABILITY_BASIC"
  }

  dynamic "authenticator_groups_config" {
    for_each = var.gke_security_group == null ? [] : [var.gke_security_group]
    content {
      security_group = authenticator_groups_config.value
    }
  }
  dynamic "database_encryption" {
    for_each = var.kms_keys.gke == null ? [] : [var.kms_keys.gke]
    content {
      state    = "ENCRYPTED"
      key_name = database_encryption.value
    }
  }

  addons_config {
    gke_backup_agent_config {
      enabled = var.cluster_backup != null
    }
  }

  # Nobody gets a password or a certificate of the cluster.
  master_auth {
    client_certificate_config {
      issue_client_certificate = false
    }
  }

  depends_on = [google_project_service.needed]
}

# Volumes and objects of the namespace. Snapshots every hour are made inside of the cluster; this survives it.
resource "google_gke_backup_backup_plan" "main" {
  count = var.cluster_backup == null ? 0 : 1

  name     = "datastreamx"
  cluster  = google_container_cluster.main.id
  location = var.region

  backup_config {
    include_volume_data = true
    # Secrets come from Secret Manager again.
    include_secrets = false
    selected_namespaces {
      namespaces = [local.namespace]
    }
    dynamic "encryption_key" {
      for_each = var.kms_keys.gke == null ? [] : [var.kms_keys.gke]
      content {
        gcp_kms_encryption_key = encryption_key.value
      }
    }
  }
  backup_schedule {
    cron_schedule = var.cluster_backup.schedule
  }
  retention_policy {
    # Recovery stores hold raw box ids: what is erased has to leave the backups, too.
    backup_retain_days      = var.cluster_backup.retain_days
    backup_delete_lock_days = 0
  }
}
