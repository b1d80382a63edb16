output "cluster" {
  description = "Name of the GKE cluster: gcloud container clusters get-credentials NAME --region REGION --internal-ip."
  value       = google_container_cluster.main.name
}

output "kafka_bootstrap" {
  description = "`kafka.bootstrap` of the configuration."
  value = format(
    "bootstrap.%s.%s.managedkafka.%s.cloud.goog:9092",
    google_managed_kafka_cluster.main.cluster_id,
    var.region,
    var.project_id,
  )
}

output "nat_addresses" {
  description = "Addresses from which aggregators are called, for their allow lists."
  value       = google_compute_address.nat[*].address
}

output "vpn_addresses" {
  description = "Our ends of the VPN, for the gateway on the premises."
  value       = google_compute_ha_vpn_gateway.main[*].vpn_interfaces[*].ip_address
}

output "image_repository" {
  description = "Where images are pushed; `images.newName` of the overlay ends with /datastreamx."
  value = format(
    "%s-docker.pkg.dev/%s/%s",
    var.region,
    var.project_id,
    google_artifact_registry_repository.images.repository_id,
  )
}

output "handover_bucket" {
  description = "`volumeHandle` of the handover volume in the overlay."
  value       = google_storage_bucket.handover.name
}

output "service_accounts" {
  description = "`iam.gke.io/gcp-service-account` of each Kubernetes account in the overlay."
  value       = { for name, account in google_service_account.workload : name => account.email }
}
