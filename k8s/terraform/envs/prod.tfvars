# Example values: names and addresses to replace, and no secrets. The same names are in k8s/overlays/prod.
project_id                = "my-project-prod"
project_number            = "111111111111"
environment               = "prod"
region                    = "europe-west1"
bigquery_location         = "EU"
terraform_service_account = "terraform@my-project-prod.iam.gserviceaccount.com"

groups = {
  analysts        = "tv-analysts@example.com"
  data_scientists = "tv-data-scientists@example.com"
  operators       = "tv-operators@example.com"
  privacy         = "tv-privacy@example.com"
}

ranges = {
  nodes         = "10.10.4.0/22"
  kafka         = "10.10.0.0/22"
  pods          = "10.64.0.0/16"
  services      = "10.65.0.0/20"
  control_plane = "172.16.0.32/28"
}
administration_ranges = {
  "operators on the premises" = "10.200.0.0/24"
}
nat_addresses = 2
vpn = {
  peer_addresses = ["203.0.113.10", "203.0.113.11"]
  peer_asn       = 64513
  asn            = 64512
  tunnels = [
    { address = "169.254.10.1/30", peer_address = "169.254.10.2" },
    { address = "169.254.10.5/30", peer_address = "169.254.10.6" },
  ]
}

maintenance_window = {
  start      = "2026-01-06T02:00:00Z"
  end        = "2026-01-06T06:00:00Z"
  recurrence = "FREQ=WEEKLY;BYDAY=TU,WE,TH"
}
cluster_backup = {
  schedule    = "43 2 * * *"
  retain_days = 7
}
gke_security_group   = "gke-security-groups@example.com"
enforce_attestations = true
attestor = {
  key_version    = "projects/my-project-keys/locations/europe-west1/keyRings/datastreamx/cryptoKeys/attestor/cryptoKeyVersions/1"
  public_key_pem = <<-PEM
    -----BEGIN PUBLIC KEY-----
    replace by: gcloud kms keys versions get-public-key
    -----END PUBLIC KEY-----
  PEM
}
# All zeros: replace by the digest of the release that you have looked at.
exempt_images     = ["ghcr.io/external-secrets/external-secrets@sha256:0000000000000000000000000000000000000000000000000000000000000000"]
builder_principal = "principalSet://iam.googleapis.com/projects/111111111111/locations/global/workloadIdentityPools/ci/attribute.repository/example/datastreamx"

# 300,000 boxes: docs/scaling.md.
kafka = {
  vcpus        = 6
  memory_bytes = 25769803776
}
gateway_accounts = ["box-gateway@my-project-premises.iam.gserviceaccount.com"]

retention_days = 90
query_quota_gib = {
  project  = 4096
  per_user = 1024
}

secrets = ["datastreamx-box-key-secret", "datastreamx-signing-key", "datastreamx-adriatic-token"]
kms_keys = {
  bigquery = "projects/my-project-keys/locations/europe/keyRings/datastreamx/cryptoKeys/bigquery"
  gke      = "projects/my-project-keys/locations/europe-west1/keyRings/datastreamx/cryptoKeys/gke"
  kafka    = "projects/my-project-keys/locations/europe-west1/keyRings/datastreamx/cryptoKeys/kafka"
  registry = "projects/my-project-keys/locations/europe-west1/keyRings/datastreamx/cryptoKeys/registry"
  secrets  = "projects/my-project-keys/locations/europe-west1/keyRings/datastreamx/cryptoKeys/secrets"
  storage  = "projects/my-project-keys/locations/europe-west1/keyRings/datastreamx/cryptoKeys/storage"
}

billing_account = "000000-000000-000000"
budget = {
  amount   = 1500
  currency = "USD"
  email    = "tv-operators@example.com"
}
