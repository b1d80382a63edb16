resource "google_compute_network" "main" {
  name                    = "datastreamx"
  auto_create_subnetworks = false
  routing_mode            = "REGIONAL"

  depends_on = [google_project_service.needed]
}

resource "google_compute_subnetwork" "nodes" {
  name                     = "datastreamx-nodes"
  network                  = google_compute_network.main.id
  region                   = var.region
  ip_cidr_range            = var.ranges.nodes
  private_ip_google_access = true

  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = var.ranges.pods
  }
  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = var.ranges.services
  }

  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "INCLUDE_ALL_METADATA"
  }
}

# Apart from the nodes, so that policies can name the brokers by their addresses.
resource "google_compute_subnetwork" "kafka" {
  name                     = "datastreamx-kafka"
  network                  = google_compute_network.main.id
  region                   = var.region
  ip_cidr_range            = var.ranges.kafka
  private_ip_google_access = true

  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "INCLUDE_ALL_METADATA"
  }
}

# Nothing from outside. GKE adds what its control plane needs, with a higher priority.
resource "google_compute_firewall" "deny_ingress" {
  name          = "datastreamx-deny-ingress"
  network       = google_compute_network.main.id
  direction     = "INGRESS"
  priority      = 65534
  source_ranges = ["0.0.0.0/0"]

  deny {
    protocol = "all"
  }
  log_config {
    metadata = "INCLUDE_ALL_METADATA"
  }
}

resource "google_compute_router" "main" {
  name    = "datastreamx"
  network = google_compute_network.main.id
  region  = var.region

  dynamic "bgp" {
    for_each = var.vpn == null ? [] : [var.vpn]
    content {
      asn            = bgp.value.asn
      advertise_mode = "CUSTOM"
      # The premises reach Kafka, the DNS and the control plane, and no pod.
      dynamic "advertised_ip_ranges" {
        for_each = toset([var.ranges.kafka, var.ranges.nodes, var.ranges.control_plane])
        content {
          range = advertised_ip_ranges.value
        }
      }
    }
  }
}

# Aggregators are called from these addresses and no others.
resource "google_compute_address" "nat" {
  count = var.nat_addresses

  name         = "datastreamx-nat-${count.index}"
  region       = var.region
  address_type = "EXTERNAL"
  description  = "Calls of aggregators come from here: on their allow lists."

  lifecycle {
    prevent_destroy = true
  }
}

resource "google_compute_router_nat" "main" {
  name                               = "datastreamx"
  router                             = google_compute_router.main.name
  region                             = var.region
  nat_ip_allocate_option             = "MANUAL_ONLY"
  nat_ips                            = google_compute_address.nat[*].self_link
  source_subnetwork_ip_ranges_to_nat = "LIST_OF_SUBNETWORKS"
  # A node keeps hundreds of connections to a few addresses open: the default of 64 ports would run out.
  enable_dynamic_port_allocation      = true
  enable_endpoint_independent_mapping = false
  min_ports_per_vm                    = 256
  max_ports_per_vm                    = 8192

  subnetwork {
    name                    = google_compute_subnetwork.nodes.id
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
  }
  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }
}

# Google's APIs by addresses that are reached without the NAT; network policies name the same four.
locals {
  private_google_access = ["199.36.153.8", "199.36.153.9", "199.36.153.10", "199.36.153.11"]
}

resource "google_dns_managed_zone" "google" {
  for_each = toset(["googleapis.com.", "pkg.dev."])

  name        = "datastreamx-${replace(trimsuffix(each.key, "."), ".", "-")}"
  dns_name    = each.key
  description = "Private Google Access"
  visibility  = "private"

  private_visibility_config {
    networks {
      network_url = google_compute_network.main.id
    }
  }
}

resource "google_dns_record_set" "google" {
  for_each = google_dns_managed_zone.google

  managed_zone = each.value.name
  name         = each.value.dns_name
  type         = "A"
  ttl          = 300
  rrdatas      = local.private_google_access
}

resource "google_dns_record_set" "google_hosts" {
  for_each = google_dns_managed_zone.google

  managed_zone = each.value.name
  name         = "*.${each.value.dns_name}"
  type         = "CNAME"
  ttl          = 300
  rrdatas      = [each.value.dns_name]
}

# The gateway on the premises asks here for the names of the brokers.
resource "google_dns_policy" "premises" {
  name                      = "datastreamx-premises"
  enable_inbound_forwarding = true
  enable_logging            = true

  networks {
    network_url = google_compute_network.main.id
  }
}
