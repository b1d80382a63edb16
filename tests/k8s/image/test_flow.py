"""The ads flow in its container, as the manifests run it: made ready, stopped under load, and started anew.

`DATASTREAMX_TEST_SEED` chooses the viewers.
"""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from simulator.processes import Child, free_port
from tests.integration.brokers import Broker
from tests.integration.oracle import decided, expect
from tests.integration.pipeline import Pipeline, Servers
from tests.k8s.image.building import Built
from tests.k8s.image.podman import Container, Process, once
from tests.k8s.tally import Tally

pytestmark = [pytest.mark.image, pytest.mark.timeout(900)]

SEED = int(os.environ.get("DATASTREAMX_TEST_SEED", "1"))
BOXES = 200
UID = 10001
VOLUME = "/var/lib/datastreamx"
CONFIG = "/etc/datastreamx/datastreamx.toml"


@dataclass(frozen=True)
class Written:
    """What the flow has written, with the number of copies.

    Attributes:
        decisions: Auctions in `ad-decisions`.
        facts: Places of rows in `box-facts`.
    """

    decisions: Counter[str]
    facts: Counter[tuple[object, ...]]

    @property
    def duplicates(self) -> int:
        return sum(count - 1 for counts in (self.decisions, self.facts) for count in counts.values())


def written(pipeline: Pipeline) -> Written:
    facts: Counter[tuple[object, ...]] = Counter(pipeline.read_fact_positions())
    return Written(decided(pipeline.read_decisions()).copies, facts)


class Pod:
    """The flow's container with its volume, and the boxes that keep it busy."""

    def __init__(self, built: Built, pipeline: Pipeline, folder: Path, fleet: Child) -> None:
        self.pipeline = pipeline
        self.fleet = fleet
        self._image = built.name
        self._port = pipeline.config.metrics.port
        self._volume = folder / "volume"
        self._volume.mkdir()
        # As a kubelet does for `fsGroup`.
        shutil.chown(self._volume, UID, UID)

    def start(self) -> Container:
        """A new container on the old volume, behind its init container."""
        mounts = {VOLUME: self._volume, f"{CONFIG}:ro": self.pipeline.config_path}
        options = [f"--volume={here}:{inside}" for inside, here in mounts.items()]
        done = once(self._image, "prepare", "ads", "--json", options=options)
        assert done.returncode == 0, done.stderr
        return Container(self._image, ["run", "ads", "--json"], mounts)

    def answers(self, path: str) -> int:
        """Status of an answer of its port; 0: there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0

    def until_ready(self, container: Container) -> None:
        container.until(lambda: self.answers("/readyz") == 200, "it is ready")

    def until_more_is_decided(self, container: Container) -> None:
        count = len(self.pipeline.read_decisions())
        container.until(lambda: len(self.pipeline.read_decisions()) > count + 20, "decisions are made")


@pytest.fixture(scope="module")
def pod(built: Built, broker: Broker, servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    folder = tmp_path_factory.mktemp("pod")
    port = free_port()

    def edit(text: str) -> str:
        inside = text.replace(str(folder / "recovery"), f"{VOLUME}/recovery")
        assert inside != text
        return f"{inside}\n[metrics]\nport = {port}\n"

    with Pipeline(folder, broker, servers, flows=("ads",), edit=edit) as pipeline:
        pipeline.apply()
        with pipeline.fleet(boxes=BOXES, seed=SEED) as fleet:
            yield Pod(built, pipeline, folder, fleet)


@dataclass(frozen=True)
class Life:
    """What was seen of a flow that was stopped under load, and started anew.

    Attributes:
        processes: Of its first container, while it worked.
        answers: Of its port, by path.
        logs: Of both containers.
        codes: With which both ended.
        before: What was written when the first had ended.
        after: In the end.
        expected: Auctions and rows of `box_events` that the events call for.
        left: What lies on the volume: path and owner.
    """

    processes: dict[int, Process]
    answers: dict[str, int]
    logs: tuple[str, str]
    codes: tuple[int, int]
    before: Written
    after: Written
    expected: tuple[set[str], int]
    left: dict[str, int]


@pytest.fixture(scope="module")
def life(pod: Pod) -> Life:
    pipeline = pod.pipeline
    with pod.start() as first:
        pod.until_ready(first)
        pod.until_more_is_decided(first)
        processes = first.processes()
        answers = {path: pod.answers(path) for path in ("/livez", "/readyz", "/metrics")}
        first_code = first.stop()
        first_log = first.logs()
    before = written(pipeline)
    with pod.start() as second:
        pod.until_ready(second)
        pod.until_more_is_decided(second)
        assert pod.fleet.stop(grace_s=90) == 0, pod.fleet.log_tail()
        expected = expect(pipeline.config, pipeline.read_events())
        auctions, events = set(expected.opportunities), expected.events.total()

        def is_done() -> bool:
            now = written(pipeline)
            return auctions <= set(now.decisions) and _events(now) >= events

        second.until(is_done, "all events are dealt with")
        second_code = second.stop()
        second_log = second.logs()
    left = {str(path.relative_to(pod._volume)): path.stat().st_uid for path in pod._volume.rglob("*")}
    return Life(
        processes,
        answers,
        (first_log, second_log),
        (first_code, second_code),
        before,
        written(pipeline),
        (auctions, events),
        left,
    )


def _events(found: Written) -> int:
    return sum(1 for table, *_ in found.facts if table == "box_events")


def test_flow_is_alive_ready_and_measured(life: Life) -> None:
    assert life.answers == {"/livez": 200, "/readyz": 200, "/metrics": 200}


def test_supervisor_is_the_first_process_and_its_worker_the_only_other(life: Life) -> None:
    first, *others = (life.processes[pid] for pid in sorted(life.processes))
    assert first.pid == 1
    assert first.argv[1:] == ("/opt/datastreamx/app/bin/datastreamx", "run", "ads", "--json")
    assert [process.argv[1:5] for process in others] == [("-m", "datastreamx.cli", "worker", "ads")]


def test_no_process_of_the_flow_has_any_right(life: Life) -> None:
    for process in life.processes.values():
        assert set(process.uid) == {UID}
        assert {process.rights[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {16 * "0"}
        assert (process.rights["NoNewPrivs"], process.rights["Seccomp"]) == ("1", "2")


def test_stop_under_load_ends_with_code_0(life: Life) -> None:
    # 137 and more: the grace was over.
    assert life.codes == (0, 0), f"seed {SEED}\n{life.logs[0]}"


def test_nothing_is_written_twice_over_a_stop_and_a_start(life: Life, tally: Tally) -> None:
    assert life.before.duplicates == 0, f"seed {SEED}"
    assert life.after.duplicates == 0, f"seed {SEED}"
    # It was stopped in the middle.
    assert 0 < life.before.decisions.total() < life.after.decisions.total()
    assert 0 < life.before.facts.total() < life.after.facts.total()
    tally("image", life.after.decisions.total() + life.after.facts.total())


def test_nothing_is_lost_over_a_stop_and_a_start(life: Life) -> None:
    auctions, events = life.expected
    assert set(life.after.decisions) == auctions, f"seed {SEED}"
    assert _events(life.after) == events, f"seed {SEED}"
    assert life.before.decisions <= life.after.decisions
    assert life.before.facts <= life.after.facts


def test_flow_compiles_nothing(life: Life) -> None:
    # What is compiled would have to be kept; nothing can be, and that is logged.
    assert [log for log in life.logs if "compiler_cache_unusable" in log] == []


def test_flow_leaves_its_state_on_the_volume_and_owns_it(life: Life) -> None:
    assert any(path.startswith("recovery/ads-0/part-") for path in life.left)
    assert set(life.left.values()) == {UID}


def test_orphans_are_collected_by_the_first_process(pod: Pod) -> None:
    with pod.start() as container:
        pod.until_ready(container)
        # A process whose parent ends before it does: the kernel gives it to the first process.
        container.run("sh", "-c", "sleep 1 & sleep 0.1")
        orphans = [process.pid for process in container.processes().values() if process.argv[:1] == ("sleep",)]
        assert len(orphans) == 1
        container.until(lambda: orphans[0] not in container.processes(), "the orphan is collected")
        assert [process for process in container.processes().values() if process.state == "Z"] == []
        assert container.stop() == 0


def test_stop_before_anything_was_loaded_ends_with_code_0_too(pod: Pod) -> None:
    with pod.start() as container:
        # Before it can have a handler of its own: the first process of a container ignores what it does not handle.
        container.until(lambda: "worker.started" in container.logs(), "the worker is started")
        assert container.stop() == 0
