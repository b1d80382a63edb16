"""Six nodes over three zones, which nobody but the API server and kwok believes in."""

from __future__ import annotations

from typing import Final

from tests.k8s.render import Resource

REGION: Final = "europe-west1"
ZONES: Final = (f"{REGION}-b", f"{REGION}-c", f"{REGION}-d")
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
_NODES_PER_ZONE = 2


def zone_of(node: str) -> str:
    """Read the zone from a node's name; `stages.yaml` does the same."""
    return node.rpartition("-node-")[0]


def nodes() -> tuple[Resource, ...]:
    """Make the nodes as kubelets would register them: empty, with the labels that GKE sets."""
    return tuple(_node(zone, index) for zone in ZONES for index in range(_NODES_PER_ZONE))


def _node(zone: str, index: int) -> Resource:
    name = f"{zone}-node-{index}"
    room = {"cpu": "8", "memory": "32Gi", "ephemeral-storage": "100Gi", "pods": "32"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                ZONE_LABEL: zone,
                "topology.kubernetes.io/region": REGION,
                # Where the disk driver looks for the zone.
                "topology.gke.io/zone": zone,
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
            },
        },
        "status": {"capacity": room, "allocatable": room},
    }
