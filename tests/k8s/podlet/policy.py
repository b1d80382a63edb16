"""NetworkPolicies as rules in the namespaces of the pods that they select.

What stands outside is a peer if it was given the namespace that a policy names. A kubelet's probes reach a pod
whatever its policies say, and here they come from its own address.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence

from tests.k8s.podlet.kubelet import Pod
from tests.k8s.podlet.machine import PodletError, run
from tests.k8s.podlet.manifest import Resource, port_of, selects
from tests.k8s.podlet.outside import Outside

_DIRECTIONS = (("Ingress", "input", "saddr", "from", "iif"), ("Egress", "output", "daddr", "to", "oif"))


def enforce(
    pods: Sequence[Pod], outside: Sequence[Outside], policies: Sequence[Resource], in_force: MutableMapping[Pod, str]
) -> None:
    """Let every pod have the rules of its policies.

    Args:
        pods: All of them, those that are about to end, too.
        outside: What is no pod.
        policies: All of them.
        in_force: Rules of each pod, as they were set last.
    """
    for pod in pods:
        link = pod.current_link
        text = rules(pod, pods, outside, policies)
        if link is None or in_force.get(pod) == text:
            continue
        # One transaction: there is no moment without rules.
        whole = f"table inet podlet\ndelete table inet podlet\n{text}"
        try:
            run("nsenter", f"--net={link.namespace}", "nft", "-f", "-", stdin=whole)
        except PodletError:
            # Its end may have come in between.
            if pod.current_link is not None:
                raise
        in_force[pod] = text


def rules(pod: Pod, pods: Sequence[Pod], outside: Sequence[Outside], policies: Sequence[Resource]) -> str:
    """What nftables has to know.

    Raises:
        PodletError: A policy says something that is not known.
    """
    lines = ["table inet podlet {"]
    ours = [one for one in policies if _concerns(one, pod)]
    for kind, hook, match, key, interface in _DIRECTIONS:
        found = [one["spec"] for one in ours if kind in _types(one["spec"])]
        lines += [f"chain {hook} {{", f"type filter hook {hook} priority 0; policy {'drop' if found else 'accept'};"]
        lines += [f"{interface} lo accept", "ct state established,related accept"]
        for spec in found:
            for rule in spec.get(kind.lower()) or []:
                lines += [f"{line} accept" for line in _rule(rule, rule.get(key), match, pod, (*pods, *outside))]
        lines.append("}")
    return "\n".join([*lines, "}"])


def _rule(
    rule: Resource, peers: list[Resource] | None, match: str, pod: Pod, others: Sequence[Pod | Outside]
) -> Iterable[str]:
    """One line for each peer and port."""
    for peer in peers or [{"ipBlock": {"cidr": "0.0.0.0/0"}}]:
        found = [other for other in others if other.address and _is_peer(peer, other, pod)]
        if "ipBlock" in peer:
            addresses = f"ip {match} {peer['ipBlock']['cidr']}"
            if peer["ipBlock"].get("except"):
                addresses += f" ip {match} != {{ {', '.join(peer['ipBlock']['except'])} }}"
        elif found:
            addresses = f"ip {match} {{ {', '.join(sorted(str(other.address) for other in found))} }}"
        else:
            continue
        if not rule.get("ports"):
            yield addresses
        for port in rule.get("ports") or []:
            # A name means the port that bears it at whoever is called.
            called = [other for other in found if isinstance(other, Pod)] if match == "daddr" else [pod]
            yield f"{addresses} {port.get('protocol', 'TCP').lower()} dport {_ports(port, called)}"


def _ports(port: Resource, called: Sequence[Pod]) -> str:
    if isinstance(port["port"], int):
        return f"{port['port']}-{port['endPort']}" if "endPort" in port else str(port["port"])
    if not called:
        raise PodletError(f"port {port['port']!r} of a policy has a name, but its peers are no pods")
    numbers = {port_of(other.spec["containers"][0], port["port"]) for other in called}
    return f"{{ {', '.join(map(str, sorted(numbers)))} }}"


def _is_peer(peer: Resource, other: Pod | Outside, pod: Pod) -> bool:
    if "ipBlock" in peer or other.namespace is None:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace}):
            return False
    elif other.namespace != pod.namespace:
        return False
    return selects(peer.get("podSelector", {}), other.labels if isinstance(other, Pod) else {})


def _concerns(policy: Resource, pod: Pod) -> bool:
    is_same_namespace = policy["metadata"].get("namespace", "default") == pod.namespace
    return is_same_namespace and selects(policy["spec"]["podSelector"], pod.labels)


def _types(spec: Resource) -> list[str]:
    types: list[str] = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
    return types
