from __future__ import annotations

import pytest

from tests.k8s.podlet import Podlet, PodletError
from tests.k8s.podlet.conftest import Ask, Cluster
from tests.k8s.podlet.manifests import stateful_set

pytestmark = pytest.mark.podlet


def test_all_pods_start_at_once_when_the_set_is_parallel(cluster: Cluster) -> None:
    with cluster(stateful_set(3, readinessProbe={"httpGet": {"path": "/x", "port": 1}})) as podlet:
        podlet.wait(lambda: len(podlet.events.of(None, "started")) == 3, "all started though none is ready")


def test_pods_start_one_after_the_other_when_the_set_is_ordered(cluster: Cluster) -> None:
    with cluster(stateful_set(3, spec={"podManagementPolicy": "OrderedReady"})) as podlet:
        podlet.wait_ready()

        order = [(event.pod, event.what) for event in podlet.events.of(None, "created", "ready")]
        assert order == [(f"web-{ordinal}", what) for ordinal in range(3) for what in ("created", "ready")]


def test_update_goes_from_the_highest_ordinal_and_waits_for_each(cluster: Cluster, ask: Ask) -> None:
    with cluster(stateful_set(3)) as podlet:
        podlet.wait_ready()
        (began_s,) = {podlet.events.note("test", "began").at_s}

        _update(podlet, "new")
        podlet.wait_rolled_out("web")

        order = [(event.pod, event.what) for event in podlet.events.of(None, "terminating", "ready", since_s=began_s)]
        assert order == [(f"web-{ordinal}", what) for ordinal in (2, 1, 0) for what in ("terminating", "ready")]
        assert {ask(podlet, pod.name, "/who")["env"]["VERSION"] for pod in podlet.pods} == {"new"}


def test_update_stops_at_a_pod_that_does_not_become_ready(cluster: Cluster) -> None:
    with cluster(stateful_set(3)) as podlet:
        podlet.wait_ready()

        _update(podlet, "bad", command=["sh", "-c", "sleep 600"])

        podlet.wait(lambda: len(podlet.events.of("web-2", "started")) == 2, "the first is replaced")
        with pytest.raises(PodletError, match="in vain"):
            podlet.wait_rolled_out("web", within_s=0.5)
        assert {event.pod for event in podlet.events.of(None, "terminating")} == {"web-2"}


def test_partition_keeps_lower_ordinals_as_they_are_even_when_they_are_made_again(cluster: Cluster, ask: Ask) -> None:
    strategy = {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}
    with cluster(stateful_set(2, spec=strategy, env={"VERSION": "old"})) as podlet:
        podlet.wait_ready()
        _update(podlet, "new")
        podlet.wait_rolled_out("web")

        podlet.delete("web-0")
        podlet.wait_rolled_out("web")

        assert [ask(podlet, name, "/who")["env"]["VERSION"] for name in ("web-0", "web-1")] == ["old", "new"]

        podlet.rollout("web", {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}})
        podlet.wait_rolled_out("web")
        assert ask(podlet, "web-0", "/who")["env"]["VERSION"] == "new"


def test_on_delete_changes_a_pod_only_when_it_is_deleted(cluster: Cluster, ask: Ask) -> None:
    with cluster(stateful_set(2, spec={"updateStrategy": {"type": "OnDelete"}}, env={"VERSION": "old"})) as podlet:
        podlet.wait_ready()
        _update(podlet, "new")

        pod = podlet.pod("web-0")
        podlet.delete("web-0")
        podlet.wait_gone(pod)
        podlet.wait_ready()

        assert [ask(podlet, name, "/who")["env"]["VERSION"] for name in ("web-0", "web-1")] == ["new", "old"]


def test_volume_outlives_restart_deletion_and_scaling(cluster: Cluster, ask: Ask) -> None:
    with cluster(stateful_set(2)) as podlet:
        podlet.wait_ready()
        podlet.kill("web-1")
        podlet.wait(lambda: podlet.pod("web-1").restarts == 1, "restarted")
        podlet.wait_ready()

        podlet.scale("web", 0)
        podlet.wait(lambda: not podlet.pods, "all gone")
        podlet.scale("web", 2)
        podlet.wait_ready()

        assert [ask(podlet, name, "/who")["starts"] for name in ("web-0", "web-1")] == [2, 3]


def test_volume_goes_with_its_pod_when_the_manifest_says_so(cluster: Cluster, ask: Ask) -> None:
    with cluster(stateful_set(2, spec={"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete"}})) as podlet:
        podlet.wait_ready()
        podlet.scale("web", 1)
        podlet.wait(lambda: len(podlet.pods) == 1, "one gone")
        podlet.scale("web", 2)
        podlet.wait_ready()

        assert ask(podlet, "web-1", "/who")["starts"] == 1


def test_scratch_space_outlives_containers_but_not_pods(cluster: Cluster, ask: Ask) -> None:
    with cluster(stateful_set()) as podlet:
        podlet.wait_ready()
        ask(podlet, "web-0", "/touch?/tmp/note")

        podlet.kill("web-0")
        podlet.wait(lambda: podlet.pod("web-0").restarts == 1, "restarted")
        podlet.wait_ready()
        assert ask(podlet, "web-0", "/file?/tmp/note") == ""

        pod = podlet.pod("web-0")
        podlet.delete("web-0")
        podlet.wait_gone(pod)
        podlet.wait_ready()
        assert not list((podlet._node.workspace / "pods").glob("*/tmp/note"))


def test_lost_volume_comes_back_empty(cluster: Cluster, ask: Ask) -> None:
    with cluster(stateful_set(2)) as podlet:
        podlet.wait_ready()

        podlet.lose_volume("web-0")
        podlet.wait_ready()

        assert ask(podlet, "web-0", "/who")["starts"] == 1
        assert podlet.pod("web-1").exit_codes == []


def test_snapshot_brings_back_what_a_volume_was(cluster: Cluster, ask: Ask) -> None:
    with cluster(stateful_set()) as podlet:
        podlet.wait_ready()
        snapshot = podlet.snapshot_volume("web-0")
        for _ in range(2):
            pod = podlet.pod("web-0")
            podlet.delete("web-0")
            podlet.wait_gone(pod)
            podlet.wait_ready()
        assert ask(podlet, "web-0", "/who")["starts"] == 3

        podlet.restore_volume("web-0", snapshot)
        podlet.wait_ready()

        assert ask(podlet, "web-0", "/who")["starts"] == 2


def test_full_volume_takes_no_more_than_was_claimed(cluster: Cluster) -> None:
    with cluster(stateful_set(), enforce_sizes=True) as podlet:
        podlet.wait_ready()

        with pytest.raises(OSError, match="No space left"):
            (podlet.claim("web-0") / "large").write_bytes(b"x" * (20 << 20))


def test_drain_respects_the_disruption_budget(cluster: Cluster) -> None:
    budget = {
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "test"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    }
    with cluster(budget, stateful_set(4)) as podlet:
        podlet.wait_ready()

        podlet.drain(lambda pod: pod.zone == "a")  # ordinals 0 and 3

        podlet.wait_ready()
        order = [(event.pod, event.what) for event in podlet.events.of(None, "terminating", "ready")[4:]]
        assert order == [(name, what) for name in ("web-0", "web-3") for what in ("terminating", "ready")]


def _update(podlet: Podlet, version: str, **changes: object) -> None:
    env = [{"name": "VERSION", "value": version}]
    web = {"name": "web", "env": env, **changes}
    podlet.rollout("web", {"spec": {"template": {"spec": {"containers": [web]}}}})
