# Example values: names and addresses to replace, and no secrets. The same names are in k8s/overlays/staging.
project_id                = "my-project-staging"
project_number            = "222222222222"
environment               = "staging"
region                    = "europe-west1"
bigquery_location         = "EU"
terraform_service_account = "terraform@my-project-staging.iam.gserviceaccount.com"

groups = {
  analysts        = "tv-analysts@example.com"
  data_scientists = "tv-data-scientists@example.com"
  operators       = "tv-operators@example.com"
  privacy         = "tv-privacy@example.com"
}

ranges = {
  nodes         = "10.20.4.0/22"
  kafka         = "10.20.0.0/22"
  pods          = "10.68.0.0/16"
  services      = "10.69.0.0/20"
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
    { address = "169.254.20.1/30", peer_address = "169.254.20.2" },
    { address = "169.254.20.5/30", peer_address = "169.254.20.6" },
  ]
}

maintenance_window = {
  start      = "2026-01-05T02:00:00Z"
  end        = "2026-01-05T06:00:00Z"
  recurrence = "FREQ=WEEKLY;BYDAY=MO,TU,WE"
}
cluster_backup       = null
gke_security_group   = "gke-security-groups@example.com"
enforce_attestations = false
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
builder_principal = "principalSet://iam.googleapis.com/projects/222222222222/locations/global/workloadIdentityPools/ci/attribute.repository/example/datastreamx"

kafka = {
  vcpus        = 3
  memory_bytes = 12884901888
}
gateway_accounts = ["box-gateway@my-project-premises.iam.gserviceaccount.com"]

retention_days = 14
query_quota_gib = {
  project  = 512
  per_user = 256
}

secrets = ["datastreamx-box-key-secret", "datastreamx-signing-key", "datastreamx-adriatic-token"]
# Google's keys are enough for invented boxes.
kms_keys = {}

billing_account = "000000-000000-000000"
budget = {
  amount   = 500
  currency = "USD"
  email    = "tv-operators@example.com"
}
