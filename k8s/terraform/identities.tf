# A Google service account per role in k8s/base/accounts.yaml, and only the Kubernetes account of that role may act as
# it. None has a key. Brokers know clients by the e-mail of such an account, so pods cannot use their Kubernetes
# identity directly. `snapshots` talks to the API server alone and has no account here.
locals {
  namespace = "datastreamx"
  workloads = {
    ads       = { does = "Flow ads: reads events, writes decisions and facts", uses_kafka = true, hands_over = true }
    warehouse = { does = "Flow warehouse: loads rows into BigQuery", uses_kafka = true, hands_over = true }
    notices   = { does = "Flow notices: tells aggregators", uses_kafka = true, hands_over = true }
    apply     = { does = "Job apply: makes topics, tables and columns", uses_kafka = true, hands_over = false }
    rescale   = { does = "Job rescale: shares out what flows left", uses_kafka = true, hands_over = true }
    secrets   = { does = "External Secrets Operator: reads secrets", uses_kafka = false, hands_over = false }
  }
}

resource "google_service_account" "workload" {
  for_each = local.workloads

  account_id   = "datastreamx-${each.key}"
  display_name = "DatastreamX: ${each.key}"
  description  = each.value.does
}

resource "google_service_account_iam_member" "workload_identity" {
  for_each = local.workloads

  service_account_id = google_service_account.workload[each.key].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project_id}.svc.id.goog[${local.namespace}/${each.key}]"

  # The pool exists as soon as there is a cluster.
  depends_on = [google_container_cluster.main]
}

# Connecting to the brokers; what may be done there is in kafka.tf.
resource "google_project_iam_member" "kafka_clients" {
  for_each = merge(
    {
      for name, workload in local.workloads : name => google_service_account.workload[name].email
      if workload.uses_kafka
    },
    { for account in var.gateway_accounts : account => account },
  )

  project = var.project_id
  role    = "roles/managedkafka.client"
  member  = "serviceAccount:${each.value}"
}

# The machines of the cluster: logs, metrics and images, instead of the project's default account, which is an editor.
resource "google_service_account" "nodes" {
  account_id   = "datastreamx-nodes"
  display_name = "DatastreamX: nodes"
  description  = "Nodes of the GKE cluster"
}

resource "google_project_iam_member" "nodes" {
  project = var.project_id
  role    = "roles/container.defaultNodeServiceAccount"
  member  = google_service_account.nodes.member
}
