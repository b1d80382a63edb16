# HA VPN to the premises: two tunnels, routes by BGP. Boxes' events come in through it, decisions go out.
locals {
  tunnels = var.vpn == null ? {} : { for index, tunnel in var.vpn.tunnels : tostring(index) => tunnel }
}

resource "google_compute_ha_vpn_gateway" "main" {
  count = var.vpn == null ? 0 : 1

  name    = "datastreamx"
  network = google_compute_network.main.id
  region  = var.region
}

resource "google_compute_external_vpn_gateway" "premises" {
  count = var.vpn == null ? 0 : 1

  name            = "datastreamx-premises"
  redundancy_type = "TWO_IPS_REDUNDANCY"

  dynamic "interface" {
    for_each = var.vpn.peer_addresses
    content {
      id         = interface.key
      ip_address = interface.value
    }
  }
}

resource "google_compute_vpn_tunnel" "premises" {
  for_each = local.tunnels

  name                            = "datastreamx-premises-${each.key}"
  region                          = var.region
  vpn_gateway                     = google_compute_ha_vpn_gateway.main[0].id
  vpn_gateway_interface           = tonumber(each.key)
  peer_external_gateway           = google_compute_external_vpn_gateway.premises[0].id
  peer_external_gateway_interface = tonumber(each.key)
  shared_secret                   = var.vpn_shared_secrets[tonumber(each.key)]
  router                          = google_compute_router.main.id
  ike_version                     = 2
}

resource "google_compute_router_interface" "premises" {
  for_each = local.tunnels

  name       = "datastreamx-premises-${each.key}"
  router     = google_compute_router.main.name
  region     = var.region
  ip_range   = each.value.address
  vpn_tunnel = google_compute_vpn_tunnel.premises[each.key].name
}

resource "google_compute_router_peer" "premises" {
  for_each = local.tunnels

  name            = "datastreamx-premises-${each.key}"
  router          = google_compute_router.main.name
  region          = var.region
  interface       = google_compute_router_interface.premises[each.key].name
  peer_asn        = var.vpn.peer_asn
  peer_ip_address = each.value.peer_address
}
