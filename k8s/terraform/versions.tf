# 6.50 is the newest version of the provider whose schema the tests can read; see README.md before you raise it.
terraform {
  required_version = ">= 1.9, < 2.0"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.50.0"
    }
  }

  # The state names every account and holds the shared secrets of the VPN: a bucket of its own, made by hand before.
  # terraform init -backend-config="bucket=NAME"
  backend "gcs" {
    prefix = "datastreamx"
  }
}

provider "google" {
  project                         = var.project_id
  region                          = var.region
  add_terraform_attribution_label = false
  user_project_override           = true
  billing_project                 = var.project_id
  default_labels = {
    service     = "datastreamx"
    environment = var.environment
  }
}
