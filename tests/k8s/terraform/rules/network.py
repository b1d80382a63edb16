"""Addresses, and the cluster behind them."""

from __future__ import annotations

import ipaddress

from tests.k8s.terraform.evaluation import Plan


def addresses_are_private(plan: Plan) -> list[str]:
    """Public addresses for the NAT alone; nodes and control plane have none; nothing comes in from everywhere."""
    found = [
        f"{resource.where} is a public address"
        for resource in plan.of_type("google_compute_address", "google_compute_global_address")
        if resource.values.get("address_type", "EXTERNAL") == "EXTERNAL" and resource.name != "nat"
    ]
    found += [
        f"{resource.where} takes traffic from outside"
        for resource in plan.of_type("google_compute_forwarding_rule", "google_compute_global_forwarding_rule")
    ]
    for cluster in plan.of_type("google_container_cluster"):
        (private,) = cluster.values.get("private_cluster_config") or [{}]
        if private.get("enable_private_nodes") is not True or private.get("enable_private_endpoint") is not True:
            found.append(f"{cluster.where} has public addresses")
        (authorized,) = cluster.values.get("master_authorized_networks_config") or [{}]
        if not authorized.get("cidr_blocks"):
            found.append(f"{cluster.where} does not say who may reach its control plane")
        found += [
            f"{cluster.where}: {each['cidr_block']} may reach the control plane"
            for each in authorized.get("cidr_blocks", ())
            if not ipaddress.ip_network(each["cidr_block"]).is_private or each["cidr_block"].endswith("/0")
        ]
    found += [
        f"{rule.where} opens a port"
        for rule in plan.of_type("google_compute_firewall")
        if rule.values.get("allow") and "0.0.0.0/0" in rule.values.get("source_ranges", ())
    ]
    for nat in plan.of_type("google_compute_router_nat"):
        if nat.values["nat_ip_allocate_option"] != "MANUAL_ONLY" or not nat.values.get("nat_ips"):
            found.append(f"{nat.where}: addresses may change, and aggregators allow fixed ones")
    found += [
        f"{subnet.where} reaches Google's APIs only by the internet"
        for subnet in plan.of_type("google_compute_subnetwork")
        if subnet.values.get("private_ip_google_access") is not True
    ]
    return found


def ranges_do_not_overlap(plan: Plan) -> list[str]:
    """Subnets, pods, services and the control plane are apart."""
    ranges = {name: ipaddress.ip_network(text) for name, text in plan.variables["ranges"].value.items()}
    names = sorted(ranges)
    return [
        f"ranges {one} and {other} overlap"
        for index, one in enumerate(names)
        for other in names[index + 1 :]
        if ranges[one].overlaps(ranges[other])
    ]


def the_cluster_is_safe(plan: Plan) -> list[str]:
    """Autopilot, dataplane v2, a release channel, a window, attested images, deletion protection."""
    wanted = {
        "enable_autopilot": True,
        "deletion_protection": True,
        "datapath_provider": "ADVANCED_DATAPATH",
        "release_channel": [{"channel": "REGULAR"}],
        "binary_authorization": [{"evaluation_mode": "PROJECT_SINGLETON_POLICY_ENFORCE"}],
    }
    found = [
        f"{cluster.where}: {name} is not {value}"
        for cluster in plan.of_type("google_container_cluster")
        for name, value in wanted.items()
        if cluster.values.get(name) != value
    ]
    found += [
        f"{cluster.where} may be upgraded at any time"
        for cluster in plan.of_type("google_container_cluster")
        if not cluster.values.get("maintenance_policy")
    ]
    for policy in plan.of_type("google_binary_authorization_policy"):
        (rule,) = policy.values["default_admission_rule"]
        if rule["evaluation_mode"] != "REQUIRE_ATTESTATION" or not rule.get("require_attestations_by"):
            found.append(f"{policy.where} admits images that nobody attested")
        if plan.variables["environment"].value == "prod" and rule["enforcement_mode"] != "ENFORCED_BLOCK_AND_AUDIT_LOG":
            found.append(f"{policy.where} refuses nothing in prod")
    return found
