"""What bounds the bill."""

from __future__ import annotations

from tests.k8s.terraform.evaluation import Plan


def costs_are_bounded(plan: Plan) -> list[str]:
    """Quotas for queries, and a budget that somebody hears of."""
    quotas = {each.values["quota_id"]: each for each in plan.of_type("google_cloud_quotas_quota_preference")}
    found = [f"no quota {name}" for name in ("QueryUsagePerDay", "QueryUsagePerUserPerDay") if name not in quotas]
    found += [
        f"{quota.where} is no limit"
        for quota in quotas.values()
        if not 0 < quota.values["quota_config"][0]["preferred_value"] < 200 * 1024 * 1024
    ]
    budgets = plan.of_type("google_billing_budget")
    if not budgets:
        found.append("no budget")
    found += [
        f"{budget.where} tells nobody"
        for budget in budgets
        if not budget.values.get("threshold_rules")
        or not budget.values["all_updates_rule"][0].get("monitoring_notification_channels")
    ]
    return found
