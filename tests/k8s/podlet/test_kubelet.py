from __future__ import annotations

import pytest

from tests.k8s.podlet.conftest import Ask, Cluster
from tests.k8s.podlet.kubelet import BackOff
from tests.k8s.podlet.manifests import job, stateful_set

pytestmark = pytest.mark.podlet

STARTUP = {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 0.05, "failureThreshold": 1000}


def test_back_off_doubles_from_ten_seconds_to_five_minutes() -> None:
    back_off = BackOff(1)

    assert [back_off.after(1) for _ in range(8)] == [0, 10, 20, 40, 80, 160, 300, 300]


def test_back_off_is_forgotten_after_a_long_run_and_scaled() -> None:
    back_off = BackOff(10)

    assert [back_off.after(ran_s) for ran_s in (1, 1, 1, 61, 1)] == [0, 1, 2, 0, 1]


def test_container_that_ends_is_started_again_after_a_delay(cluster: Cluster, ask: Ask) -> None:
    with cluster(stateful_set(), time_scale=20) as podlet:
        for restarts in (1, 2):
            podlet.wait_ready()
            podlet.kill("web-0")
            podlet.wait(lambda restarts=restarts: podlet.pod("web-0").restarts == restarts, "restarted")  # type: ignore[misc]
        podlet.wait_ready()

        assert podlet.pod("web-0").exit_codes == [137, 137]
        assert [event.detail for event in podlet.events.of("web-0", "back_off")] == ["0.5 s"]
        assert ask(podlet, "web-0", "/who")["starts"] == 3


def test_exit_code_is_recorded(cluster: Cluster) -> None:
    with cluster(job("sh", "-c", "exit 7"), job("sh", "-c", "kill -ABRT $$; sleep 9", name="abort")) as podlet:
        assert podlet.wait_job("work") == "Failed"

        assert podlet.job_pods("work")[0].exit_codes == [7]


def test_term_is_honoured_within_the_grace_period(cluster: Cluster) -> None:
    with cluster(stateful_set()) as podlet:
        podlet.wait_ready()
        pod = podlet.pod("web-0")

        podlet.delete("web-0")

        podlet.wait_gone(pod)
        assert pod.exit_codes == [0]
        assert not podlet.events.of("web-0", "killed")


def test_who_ignores_term_is_killed_when_the_grace_period_is_over(cluster: Cluster) -> None:
    with cluster(stateful_set(pod={"terminationGracePeriodSeconds": 0.5}, env={"STUBBORN": "1"})) as podlet:
        podlet.wait_ready()
        pod = podlet.pod("web-0")

        podlet.delete("web-0")

        podlet.wait_gone(pod)
        assert pod.exit_codes == [137]
        (asked,), (killed,) = (podlet.events.of("web-0", what) for what in ("terminating", "killed"))
        assert killed.at_s - asked.at_s >= 0.5
        assert "no" in pod.log().split()


def test_unhealthy_container_is_ended_and_started_again(cluster: Cluster, ask: Ask) -> None:
    liveness = {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 0.05, "failureThreshold": 2}
    with cluster(stateful_set(livenessProbe=liveness, startupProbe=STARTUP)) as podlet:
        podlet.wait_ready()

        ask(podlet, "web-0", "/touch?/tmp/unhealthy")

        podlet.wait(lambda: bool(podlet.events.of("web-0", "exited")), "ended")
        assert podlet.pod("web-0").exit_codes[0] == 0  # by TERM
        assert "liveness" in podlet.events.of("web-0", "unhealthy")[0].detail


def test_pod_that_ends_is_not_judged_any_more(cluster: Cluster, ask: Ask) -> None:
    liveness = {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 0.05, "failureThreshold": 1}
    pod = {"terminationGracePeriodSeconds": 1}
    with cluster(stateful_set(livenessProbe=liveness, startupProbe=STARTUP, pod=pod, env={"STUBBORN": "1"})) as podlet:
        podlet.wait_ready()
        ended = podlet.pod("web-0")
        podlet.delete("web-0")

        ask(podlet, "web-0", "/touch?/tmp/unhealthy")

        podlet.wait_gone(ended)
        assert not podlet.events.of("web-0", "unhealthy")


def test_frozen_container_is_found_by_its_liveness_probe_and_killed(cluster: Cluster) -> None:
    liveness = {
        "httpGet": {"path": "/healthz", "port": "http"},
        "periodSeconds": 0.05,
        "timeoutSeconds": 0.2,
        "terminationGracePeriodSeconds": 0.1,
    }
    with cluster(stateful_set(livenessProbe=liveness, startupProbe=STARTUP)) as podlet:
        podlet.wait_ready()

        podlet.freeze("web-0", 1.5)

        podlet.wait_ready()
        assert podlet.pod("web-0").exit_codes == [137]


def test_nothing_is_judged_before_the_startup_probe_holds(cluster: Cluster, ask: Ask) -> None:
    never = {"httpGet": {"path": "/nowhere", "port": 1}, "periodSeconds": 0.05, "failureThreshold": 1}
    init = "touch /tmp/unready"
    manifest = stateful_set(startupProbe=STARTUP, livenessProbe=never)
    web = manifest["spec"]["template"]["spec"]["containers"][0]
    manifest["spec"]["template"]["spec"]["initContainers"] = [
        {**web, "name": "spoil", "command": ["sh", "-c", init], "args": []}
    ]
    with cluster(manifest) as podlet:
        podlet.wait(lambda: "serving" in podlet.pod("web-0").log(), "serving")
        assert not podlet.events.of("web-0", "ready", "unhealthy")

        ask(podlet, "web-0", "/remove?/tmp/unready")

        podlet.wait(lambda: bool(podlet.events.of("web-0", "unhealthy")), "liveness is judged now")


def test_readiness_follows_its_probe_and_costs_no_restart(cluster: Cluster, ask: Ask) -> None:
    with cluster(stateful_set()) as podlet:
        podlet.wait_ready()

        ask(podlet, "web-0", "/touch?/tmp/unready")
        podlet.wait(lambda: not podlet.pod("web-0").ready, "unready")
        ask(podlet, "web-0", "/remove?/tmp/unready")
        podlet.wait_ready()

        assert podlet.pod("web-0").restarts == 0


def test_pod_that_is_cut_off_is_reached_by_its_probes_alone(cluster: Cluster, ask: Ask) -> None:
    with cluster(stateful_set(2)) as podlet:
        podlet.wait_ready()
        address = podlet.pod("web-1").address
        podlet._network.plug(podlet.pod("web-1").link, is_in=False)

        assert podlet.get("web-0", f"/fetch?{address}:8080", 8080)[0] == 502
        assert ask(podlet, "web-1", "/healthz") == "ok"

        podlet.cut("web-1", 0.1)
        podlet.wait(lambda: podlet.get("web-0", f"/fetch?{address}:8080", 8080)[0] == 200, "back again")
        assert podlet.pod("web-1").ready


def test_job_completes(cluster: Cluster) -> None:
    with cluster(job("true")) as podlet:
        assert podlet.wait_job("work") == "Complete"


def test_job_is_tried_again_up_to_its_limit(cluster: Cluster) -> None:
    with cluster(job("sh", "-c", "exit 7", backoffLimit=2)) as podlet:
        assert podlet.wait_job("work") == "Failed"

        assert [pod.exit_codes for pod in podlet.job_pods("work")] == [[7], [7], [7]]


def test_job_that_takes_too_long_is_ended(cluster: Cluster) -> None:
    with cluster(job("sleep", "600", activeDeadlineSeconds=1, backoffLimit=5)) as podlet:
        assert podlet.wait_job("work") == "Failed"

        (pod,) = podlet.job_pods("work")
        assert podlet.events.of(pod.name, "terminating")
        assert 0 not in pod.exit_codes


def test_job_is_not_tried_again_when_its_policy_says_so(cluster: Cluster) -> None:
    rules = [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 7]}}]
    with cluster(job("sh", "-c", "exit 7", backoffLimit=2, podFailurePolicy={"rules": rules})) as podlet:
        assert podlet.wait_job("work") == "Failed"

        assert len(podlet.job_pods("work")) == 1
