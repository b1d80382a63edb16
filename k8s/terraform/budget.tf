# Tells; stops nothing. What stops is the query quota in bigquery.tf.
resource "google_monitoring_notification_channel" "costs" {
  display_name = "DatastreamX: costs"
  type         = "email"
  labels = {
    email_address = var.budget.email
  }

  depends_on = [google_project_service.needed]
}

resource "google_billing_budget" "month" {
  billing_account = var.billing_account
  display_name    = "DatastreamX ${var.environment}"

  budget_filter {
    projects        = ["projects/${var.project_number}"]
    calendar_period = "MONTH"
  }
  amount {
    specified_amount {
      currency_code = var.budget.currency
      units         = tostring(var.budget.amount)
    }
  }

  dynamic "threshold_rules" {
    for_each = [0.5, 0.8, 1.0]
    content {
      threshold_percent = threshold_rules.value
      spend_basis       = "CURRENT_SPEND"
    }
  }
  threshold_rules {
    threshold_percent = 1.0
    spend_basis       = "FORECASTED_SPEND"
  }

  all_updates_rule {
    monitoring_notification_channels = [google_monitoring_notification_channel.costs.id]
    disable_default_iam_recipients   = false
  }
}
