"""Pods as real processes on this machine, from rendered manifests, the way a kubelet runs them.

What is enforced: restart policy and back-off, probes, grace periods, order of init containers, updates and scaling,
volumes, user and groups, capabilities, no_new_privs, a read-only root, memory limits, NetworkPolicies. What is not:
seccomp, CPU and ephemeral-storage limits, placement (three zones in turn), accounts, policies by domain name. Refused:
lifecycle hooks, sidecars, probes but by HTTP, kinds of volumes and of variables that no manifest of ours uses.
"""

from tests.k8s.podlet.events import Event, EventLog
from tests.k8s.podlet.kubelet import Pod
from tests.k8s.podlet.machine import PodletError, unusable
from tests.k8s.podlet.outside import Outside, broker
from tests.k8s.podlet.podlet import Podlet
from tests.k8s.podlet.sandbox import Image, local_image

__all__ = ["Event", "EventLog", "Image", "Outside", "Pod", "Podlet", "PodletError", "broker", "local_image", "unusable"]
