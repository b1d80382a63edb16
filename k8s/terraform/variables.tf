variable "project_id" {
  description = "Id of the project that holds everything here. One project per environment."
  type        = string
}

variable "project_number" {
  description = "Number of that project; budgets and identities of Google's own services are named by it."
  type        = string

  validation {
    condition     = can(regex("^[0-9]+$", var.project_number))
    error_message = "project_number has digits only: gcloud projects describe PROJECT --format='value(projectNumber)'."
  }
}

variable "environment" {
  description = "Which environment this is; part of the name of the GKE cluster."
  type        = string

  validation {
    condition     = contains(["staging", "prod"], var.environment)
    error_message = "environment is staging or prod, like the overlays in k8s/overlays."
  }
}

variable "region" {
  description = "Region of network, cluster, Kafka, registry, secrets and handover bucket."
  type        = string
}

variable "bigquery_location" {
  description = "Location of the datasets and of the taxonomy; `bigquery.location` of the configuration."
  type        = string
}

variable "terraform_service_account" {
  description = "E-mail of the service account that applies this: the one owner of the datasets."
  type        = string
}

variable "groups" {
  description = "E-mail of the Google group of each team."
  type = object({
    analysts        = string
    data_scientists = string
    operators       = string
    privacy         = string
  })
}

# Network

variable "ranges" {
  description = "Addresses: subnets of nodes and of Kafka, secondary ranges of pods and services, the control plane."
  type = object({
    nodes         = string
    kafka         = string
    pods          = string
    services      = string
    control_plane = string
  })
}

variable "administration_ranges" {
  description = "Who may reach the control plane of the cluster, by name: networks on the premises, through the VPN."
  type        = map(string)
}

variable "nat_addresses" {
  description = "Fixed addresses from which aggregators are called; they go onto the aggregators' allow lists."
  type        = number

  validation {
    condition     = var.nat_addresses >= 2
    error_message = "At least two, so that one can be drained and replaced while aggregators update their allow lists."
  }
}

variable "vpn" {
  description = "The VPN gateway on the premises: its two public addresses and autonomous system. Null: none."
  type = object({
    peer_addresses = list(string)
    peer_asn       = number
    asn            = number
    # One per tunnel, from 169.254.0.0/16: the address of our end with its mask, and that of the other end.
    tunnels = list(object({
      address      = string
      peer_address = string
    }))
  })
  nullable = true

  validation {
    condition     = try(length(var.vpn.peer_addresses), 2) == 2 && try(length(var.vpn.tunnels), 2) == 2
    error_message = "An HA VPN has two tunnels to two addresses; with one there is no availability promised."
  }
}

variable "vpn_shared_secrets" {
  description = "Pre-shared key of each tunnel, as TF_VAR_vpn_shared_secrets and never in a file. Ends up in the state."
  type        = list(string)
  sensitive   = true
  default     = []

  validation {
    condition     = length(var.vpn_shared_secrets) == (var.vpn == null ? 0 : 2)
    error_message = "One key per tunnel: export TF_VAR_vpn_shared_secrets='[\"...\", \"...\"]'; without a VPN none."
  }
}

# Cluster

variable "maintenance_window" {
  description = "When Google may upgrade the cluster: first start and end (RFC 3339), and recurrence (RFC 5545)."
  type = object({
    start      = string
    end        = string
    recurrence = string
  })
}

variable "cluster_backup" {
  description = "Backup for GKE of the namespace with its volumes: cron schedule (UTC) and days kept. Null: none."
  type = object({
    schedule    = string
    retain_days = number
  })
  nullable = true
}

variable "gke_security_group" {
  description = "Group gke-security-groups@DOMAIN, through which RBAC knows Google groups. Null: persons only."
  type        = string
  nullable    = true
}

variable "attestor" {
  description = "KMS key version that signs image digests: its resource name (projects/...) and its public key in PEM."
  type = object({
    key_version    = string
    public_key_pem = string
  })
}

variable "enforce_attestations" {
  description = "Whether pods of images without an attestation are refused; false only writes to the audit log."
  type        = bool
}

variable "exempt_images" {
  description = "Images of others that run without an attestation, each by its digest: External Secrets Operator."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for image in var.exempt_images : can(regex("@sha256:[0-9a-f]{64}$", image))])
    error_message = "Only NAME@sha256:DIGEST: a tag, or a pattern, lets in what nobody has looked at."
  }
}

variable "builder_principal" {
  description = "Who may act as the account that pushes images: a principal of Workload Identity Federation."
  type        = string
}

# Kafka

variable "kafka" {
  description = "Size of the Kafka cluster. Memory is 1 to 8 GiB per vCPU. Prices: docs/scaling.md."
  type = object({
    vcpus        = number
    memory_bytes = number
  })
}

variable "gateway_accounts" {
  description = "E-mails of the service accounts of the boxes' gateway: they write box-events and read ad-decisions."
  type        = list(string)
}

variable "gateway_group" {
  description = "Consumer group under which the gateway reads ad-decisions."
  type        = string
  default     = "gateway"
}

# BigQuery

variable "retention_days" {
  description = "Age at which partitions of the tables expire. After it the time travel below, and 7 days of fail-safe."
  type        = number

  validation {
    condition     = var.retention_days >= 1
    error_message = "Personal data expires: at least one day, and never nothing."
  }
}

variable "data_scientist_box_prefixes" {
  description = "Boxes whose viewing data scientists see, by first hex digits of box_key: one digit is a sixteenth."
  type        = list(string)
  default     = ["0"]

  validation {
    condition = length(var.data_scientist_box_prefixes) > 0 && alltrue([
      for prefix in var.data_scientist_box_prefixes : can(regex("^[0-9a-f]{1,4}$", prefix))
    ])
    error_message = "Lower-case hex digits, at most four, at least one prefix; box keys are 32 hex digits."
  }
}

variable "query_quota_gib" {
  description = "Most that on-demand queries may read a day, in GiB: in the whole project, and each user or account."
  type = object({
    project  = number
    per_user = number
  })
}

# Secrets and keys

variable "secrets" {
  description = "Names of the secrets that the External Secrets Operator reads. Values are set by hand."
  type        = set(string)
}

variable "kms_keys" {
  description = "Customer-managed keys by use (projects/.../cryptoKeys/NAME), each where it is used. Null: Google's."
  type = object({
    bigquery = optional(string)
    gke      = optional(string)
    kafka    = optional(string)
    registry = optional(string)
    secrets  = optional(string)
    storage  = optional(string)
  })
  default = {}
}

# Money

variable "billing_account" {
  description = "Id of the billing account that pays, for the budget."
  type        = string
}

variable "budget" {
  description = "Expected cost of a month, whole units of a currency, and who is told when it is exceeded."
  type = object({
    amount   = number
    currency = string
    email    = string
  })
}
