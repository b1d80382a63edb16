# The cluster and who may do what. Topics are made by `datastreamx apply` (Job k8s/jobs/apply), which knows their
# partitions and settings: one owner each.
resource "google_managed_kafka_cluster" "main" {
  cluster_id = "datastreamx"
  location   = var.region

  capacity_config {
    vcpu_count   = var.kafka.vcpus
    memory_bytes = var.kafka.memory_bytes
  }
  gcp_config {
    kms_key = var.kms_keys.kafka
    access_config {
      network_configs {
        subnet = google_compute_subnetwork.kafka.id
      }
    }
  }
  rebalance_config {
    mode = "AUTO_REBALANCE_ON_SCALE_UP"
  }

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [google_project_service.needed]
}

# IAM alone cannot tell topics apart: whoever may connect could write ad-decisions, which is what boxes display.
locals {
  gateway = [for account in var.gateway_accounts : "User:${account}"]
  kafka_principals = {
    for name in ["ads", "warehouse", "notices", "apply", "rescale"] :
    name => "User:${google_service_account.workload[name].email}"
  }

  # Operation by operation, who may do it. READ and WRITE imply DESCRIBE. `datastreamx status`, `doctor` and `replay`
  # run with the rights of ads, which therefore reads all topics and sees all groups.
  kafka_rights = {
    "cluster" = {
      CREATE   = [local.kafka_principals.apply]
      DESCRIBE = [local.kafka_principals.apply]
    }
    "topic/box-events" = {
      READ     = [local.kafka_principals.ads]
      WRITE    = local.gateway
      DESCRIBE = [local.kafka_principals.apply, local.kafka_principals.rescale]
    }
    "topic/ad-decisions" = {
      READ = concat(
        [local.kafka_principals.ads, local.kafka_principals.warehouse, local.kafka_principals.notices],
        local.gateway,
      )
      WRITE    = [local.kafka_principals.ads]
      DESCRIBE = [local.kafka_principals.apply, local.kafka_principals.rescale]
    }
    "topic/box-facts" = {
      READ     = [local.kafka_principals.ads, local.kafka_principals.warehouse, local.kafka_principals.notices]
      WRITE    = [local.kafka_principals.ads]
      DESCRIBE = [local.kafka_principals.apply, local.kafka_principals.rescale]
    }
    "topic/dead-letters" = {
      READ     = [local.kafka_principals.ads]
      WRITE    = [local.kafka_principals.ads, local.kafka_principals.warehouse, local.kafka_principals.notices]
      DESCRIBE = [local.kafka_principals.apply]
    }
    "consumerGroup/datastreamx-ads" = {
      READ     = [local.kafka_principals.ads]
      DESCRIBE = [local.kafka_principals.rescale]
    }
    "consumerGroup/datastreamx-warehouse" = {
      READ     = [local.kafka_principals.warehouse]
      DESCRIBE = [local.kafka_principals.ads, local.kafka_principals.rescale]
    }
    "consumerGroup/datastreamx-notices" = {
      READ     = [local.kafka_principals.notices]
      DESCRIBE = [local.kafka_principals.ads, local.kafka_principals.rescale]
    }
    "consumerGroup/${var.gateway_group}" = {
      READ = local.gateway
    }
  }
}

resource "google_managed_kafka_acl" "rights" {
  for_each = { for pattern, rights in local.kafka_rights : pattern => rights if length(flatten(values(rights))) > 0 }

  cluster  = google_managed_kafka_cluster.main.cluster_id
  location = var.region
  acl_id   = each.key

  dynamic "acl_entries" {
    for_each = flatten([
      for operation, principals in each.value : [
        for principal in principals : { operation = operation, principal = principal }
      ]
    ])
    content {
      operation       = acl_entries.value.operation
      principal       = acl_entries.value.principal
      permission_type = "ALLOW"
      host            = "*"
    }
  }
}
