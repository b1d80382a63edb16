"""Who may do what at the brokers."""

from __future__ import annotations

from datastreamx.config.structs import TopicsConfig
from flows.ports.notices import GROUP as NOTICES_GROUP
from sources.kafka.events import GROUP as ADS_GROUP
from sources.kafka.warehouse import GROUP as WAREHOUSE_GROUP
from tests.k8s.terraform.evaluation import Plan


def kafka_rights_are_narrow(plan: Plan) -> list[str]:
    """Boxes' gateways alone write events, the ads flow alone writes decisions and facts, nobody is everybody."""
    topics = TopicsConfig()
    project = plan.variables["project_id"].value
    gateways = {f"User:{account}" for account in plan.variables["gateway_accounts"].value}
    ads, warehouse, notices, apply = (
        f"User:datastreamx-{name}@{project}.iam.gserviceaccount.com"
        for name in ("ads", "warehouse", "notices", "apply")
    )
    entries = {
        (rights.values["acl_id"], entry["operation"], entry["principal"])
        for rights in plan.of_type("google_managed_kafka_acl")
        for entry in rights.values["acl_entries"]
    }

    def who(pattern: str, operation: str) -> set[str]:
        return {principal for one, what, principal in entries if (one, what) == (pattern, operation)}

    wanted = {
        (f"topic/{topics.events}", "WRITE"): gateways,
        (f"topic/{topics.events}", "READ"): {ads},
        (f"topic/{topics.decisions}", "WRITE"): {ads},
        (f"topic/{topics.decisions}", "READ"): {ads, warehouse, notices} | gateways,
        (f"topic/{topics.facts}", "WRITE"): {ads},
        (f"topic/{topics.facts}", "READ"): {ads, warehouse, notices},
        (f"topic/{topics.dead_letters}", "WRITE"): {ads, warehouse, notices},
        (f"topic/{topics.dead_letters}", "READ"): {ads},
        (f"consumerGroup/{ADS_GROUP}", "READ"): {ads},
        (f"consumerGroup/{WAREHOUSE_GROUP}", "READ"): {warehouse},
        (f"consumerGroup/{NOTICES_GROUP}", "READ"): {notices},
        ("cluster", "CREATE"): {apply},
    }
    found = [
        f"{pattern}: {operation} is for {sorted(who(pattern, operation))}, it should be for {sorted(principals)}"
        for (pattern, operation), principals in wanted.items()
        if who(pattern, operation) != principals
    ]
    harmless = {"READ", "WRITE", "DESCRIBE", "CREATE"}
    found += [f"{pattern}: {operation} is too much" for pattern, operation, _ in entries if operation not in harmless]
    found += [f"{pattern}: {operation} is for everybody" for pattern, operation, one in entries if one == "User:*"]
    found += [
        f"{pattern} concerns more than one topic or group"
        for pattern in {pattern for pattern, _, _ in entries}
        if pattern.startswith("all") or "Prefixed" in pattern
    ]
    return found
