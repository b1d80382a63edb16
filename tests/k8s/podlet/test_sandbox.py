from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.k8s.podlet import Podlet, PodletError
from tests.k8s.podlet.conftest import Ask, Cluster
from tests.k8s.podlet.manifests import TMP, container, job, service, stateful_set

pytestmark = pytest.mark.podlet


def test_container_has_no_rights_and_is_process_one(cluster: Cluster, ask: Ask) -> None:
    with cluster(stateful_set()) as podlet:
        podlet.wait_ready()

        seen = ask(podlet, "web-0", "/who")

        assert (seen["uid"], seen["gid"], seen["groups"]) == (10001, 10001, [10001])
        assert seen["capabilities"] == [0, 0, 0, 0, 0]
        assert seen["no_new_privs"] == "1"
        assert seen["pid"] == 1
        assert seen["processes"] == [1]
        assert seen["hostname"] == "web-0"
        assert seen["interfaces"] == ["eth0", "lo"]


def test_only_volumes_can_be_written(cluster: Cluster, ask: Ask) -> None:
    folders = ["/", TMP, "/data", "/etc", "/usr", str(Path(__file__).parent)]
    with cluster(stateful_set(env={"TRY": ":".join(folders)})) as podlet:
        podlet.wait_ready()

        assert ask(podlet, "web-0", "/who")["writable"] == [TMP, "/data"]


def test_root_is_writable_for_root_unless_the_manifest_forbids_it(cluster: Cluster, ask: Ask) -> None:
    pod = {"securityContext": {"runAsUser": 0, "runAsGroup": 0}}
    lax = stateful_set(pod=pod, securityContext={"readOnlyRootFilesystem": False}, env={"TRY": "/"})
    with cluster(lax) as podlet:
        podlet.wait_ready()
        assert ask(podlet, "web-0", "/who")["writable"] == ["/"]

        strict = stateful_set(pod=pod, securityContext={"readOnlyRootFilesystem": True}, env={"TRY": "/"})
        podlet.apply([strict])
        podlet.wait_rolled_out("web")
        assert ask(podlet, "web-0", "/who")["writable"] == []


def test_container_that_must_not_be_root_is_not_started_as_root(cluster: Cluster) -> None:
    with cluster(stateful_set(pod={"securityContext": {"runAsUser": 0}})) as podlet:
        podlet.wait(lambda: bool(podlet.events.of("web-0", "failed")), "refused")

        assert "runAsNonRoot" in podlet.events.of("web-0", "failed")[0].detail


def test_environment_is_the_manifests_and_the_images_alone(
    cluster: Cluster, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_HARNESS", "must not be seen")
    env = [
        {"name": "STATE", "value": "/data"},
        {"name": "INDEX", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}}},
        {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "colours", "key": "best"}}},
        {"name": "BOTH", "value": "$(COLOUR)-$(INDEX)"},
    ]
    manifest = stateful_set(2)
    manifest["spec"]["template"]["spec"]["containers"][0] |= {"env": env, "args": ["8080", "$(BOTH)", "$$(BOTH)"]}
    colours = {"kind": "ConfigMap", "metadata": {"name": "colours"}, "data": {"best": "blue"}}
    with cluster(colours, manifest) as podlet:
        podlet.wait_ready()

        seen = ask(podlet, "web-1", "/who")

        assert seen["env"]["BOTH"] == "blue-1"
        assert seen["env"]["ADDRESS"] == podlet.pod("web-1").address
        assert seen["argv"][1:] == ["8080", "blue-1", "$(BOTH)"]
        assert "OF_THE_HARNESS" not in seen["env"]


def test_pods_have_addresses_of_their_own_and_find_each_other_by_name(cluster: Cluster, ask: Ask) -> None:
    with cluster(service(), stateful_set(2)) as podlet:
        podlet.wait_ready()
        outside = podlet.outside("outside.example.com")
        first, second = (podlet.pod(name).address for name in ("web-0", "web-1"))
        assert first != second

        for name in ("web-1.web", "web-1.web.test.svc.cluster.local"):
            assert ask(podlet, "web-0", f"/resolve?{name}") == [second]
        podlet.wait(lambda: set(ask(podlet, "web-1", "/resolve?web")) == {first, second}, "both are in the service")
        assert ask(podlet, "web-0", "/resolve?outside.example.com") == [outside.address]
        assert ask(podlet, "web-0", "/fetch?web-1.web:8080") == "ok"


def test_only_ready_pods_are_in_a_service_unless_it_publishes_all(cluster: Cluster, ask: Ask) -> None:
    with cluster(service(), stateful_set(2)) as podlet:
        podlet.wait_ready()
        first, second = (str(podlet.pod(name).address) for name in ("web-0", "web-1"))

        ask(podlet, "web-1", "/touch?/tmp/unready")

        podlet.wait(lambda: ask(podlet, "web-0", "/resolve?web") == [first], "web-1 is out of the service")
        podlet.apply([service(publish_not_ready=True)])
        assert set(ask(podlet, "web-0", "/resolve?web")) == {first, second}


def test_memory_limit_kills(cluster: Cluster, ask: Ask) -> None:
    with cluster(stateful_set(resources={"limits": {"memory": "64Mi"}})) as podlet:
        podlet.wait_ready()
        if podlet.events.of("web-0", "unlimited"):
            pytest.skip("no memory controller on this machine")

        with contextlib.suppress(OSError):
            ask(podlet, "web-0", "/eat?100")

        podlet.wait(lambda: bool(podlet.events.of("web-0", "exited")), "killed")
        assert podlet.pod("web-0").exit_codes == [137]
        assert podlet.events.of("web-0", "oom_killed")
        podlet.wait_ready()


def test_what_runs_within_the_memory_limit_is_left_alone(cluster: Cluster, ask: Ask) -> None:
    with cluster(stateful_set(resources={"limits": {"memory": "64Mi"}})) as podlet:
        podlet.wait_ready()

        ask(podlet, "web-0", "/eat?10")

        assert ask(podlet, "web-0", "/healthz") == "ok"
        assert podlet.pod("web-0").exit_codes == []


def test_all_processes_end_with_process_one(cluster: Cluster) -> None:
    shell = job("sh", "-c", "sleep 600 & sleep 600 & exec sleep 600")
    with cluster(shell) as podlet:
        podlet.wait(lambda: bool(podlet.events.of("work-0", "started")), "started")
        podlet.wait(lambda: len(podlet.pids("work-0")) == 3, "all started")
        pids = podlet.pids("work-0")

        podlet.kill("work-0")

        assert podlet.wait_job("work") == "Failed"
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_service_of_this_machine_is_reached_where_it_is_published(cluster: Cluster, ask: Ask, local_port: int) -> None:
    with cluster(stateful_set()) as podlet:
        podlet.wait_ready()
        assert podlet.get("web-0", f"/fetch?127.0.0.1:{local_port}", 8080)[0] == 502

        podlet.outside("outside", {80: local_port})

        assert ask(podlet, "web-0", "/fetch?outside:80") == "from outside"


def test_log_keeps_what_earlier_runs_wrote(cluster: Cluster) -> None:
    with cluster(stateful_set()) as podlet:
        _restart(podlet)

        assert podlet.pod("web-0").log() == "serving\n" * 2


def test_unknown_probe_is_refused(cluster: Cluster) -> None:
    with cluster(stateful_set(livenessProbe={"exec": {"command": ["true"]}})) as podlet:
        podlet.wait(lambda: bool(podlet.events.of("web-0", "failed")), "refused")

        assert "plain HTTP" in podlet.events.of("web-0", "failed")[0].detail


@pytest.mark.parametrize("where", ["containers", "initContainers"])
def test_hooks_and_sidecars_are_refused(cluster: Cluster, where: str) -> None:
    manifest = stateful_set()
    unknown = {"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}, "restartPolicy": "Always"}
    manifest["spec"]["template"]["spec"][where] = [container(**unknown)]
    with cluster() as podlet, pytest.raises(PodletError, match="does not run"):
        podlet.apply([manifest])


def test_init_containers_come_first_and_share_the_volumes(cluster: Cluster, ask: Ask) -> None:
    first = container(name="first", command=["sh", "-c", "echo one >/tmp/order"], args=[])
    second = container(name="second", command=["sh", "-c", "echo two >>/tmp/order"], args=[])
    manifest = stateful_set()
    manifest["spec"]["template"]["spec"]["initContainers"] = [first, second]
    with cluster(manifest) as podlet:
        podlet.wait_ready()

        assert ask(podlet, "web-0", "/file?/tmp/order") == "one\ntwo\n"
        assert [event.detail for event in podlet.events.of("web-0", "started")] == ["first", "second", "web"]


def test_failing_init_container_is_tried_again(cluster: Cluster) -> None:
    once = "test -e /data/tried || { touch /data/tried; exit 3; }"
    manifest = stateful_set()
    manifest["spec"]["template"]["spec"]["initContainers"] = [
        container(name="init", command=["sh", "-c", once], args=[])
    ]
    with cluster(manifest) as podlet:
        podlet.wait_ready()

        assert podlet.pod("web-0").exit_codes == [3, 0]


def _restart(podlet: Podlet) -> None:
    podlet.wait_ready()
    podlet.kill("web-0")
    podlet.wait(lambda: podlet.pod("web-0").restarts == 1, "restarted")
    podlet.wait_ready()
