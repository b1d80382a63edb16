"""`datastreamx snapshot-volumes`: snapshots of the recovery volumes on Kubernetes."""
