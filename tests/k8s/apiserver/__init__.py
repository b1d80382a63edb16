"""The manifests against a real Kubernetes control plane.

Real, built from published source and run on loopback: the API server (1.36, which GKE offers) with its default
admission, strict validation and RBAC, on etcd; the controller manager (stateful sets, jobs, cron jobs, disruption
budgets, endpoints, volumes, tokens); the scheduler; the definitions of the custom resources of External Secrets and of
volume snapshots. Google's of PodMonitoring and Rules are not published as a Go module: `monitoring.yaml` stands in.

Not real: nodes. kwok keeps six of them in three zones alive and plays `stages.yaml` in place of their kubelets and of
the storage driver. So no container runs, no probe is called, nothing is mounted, every volume lies in one zone, a job
succeeds because it was started, and a pod that is told to end is gone at once. No packet flows: network policies are
admitted and not enforced. The operators of the custom resources do not run: an ExternalSecret makes no Secret, a
VolumeSnapshot holds no data. Autopilot's own admission, which rewrites requests and refuses some pods, is not there,
nor are the definitions that the components stateful-ha and fqdn-egress need. tests/k8s/podlet runs the processes.

The programs are built once, by tests.k8s.tools: 9 minutes of one core and 3 GB of Go's build cache, besides 1 GB of
source; 20 seconds from that cache; 350 MB that stay. A control plane is up after 4 seconds, all pods of prod are ready
after 7, and needs 1 GB of memory.
"""
