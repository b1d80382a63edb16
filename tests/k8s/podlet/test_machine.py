from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.k8s.podlet import machine
from tests.k8s.podlet.conftest import Cluster
from tests.k8s.podlet.manifests import stateful_set
from tests.k8s.podlet.sandbox import CHECKOUT

pytestmark = pytest.mark.podlet


def test_nothing_is_left_after_the_end(cluster: Cluster) -> None:
    with cluster(stateful_set(resources={"limits": {"memory": "64Mi"}}), enforce_sizes=True) as podlet:
        podlet.wait_ready()
        assert len(_left(machine.name())) >= 5

    assert _left(machine.name()) == []


def test_what_a_killed_harness_left_is_removed_by_the_next(cluster: Cluster, tmp_path: Path) -> None:
    script = f"""
        import os, signal
        from pathlib import Path
        from tests.k8s.podlet import Podlet
        from tests.k8s.podlet.manifests import stateful_set
        from tests.k8s.podlet.sandbox import bare_image
        web = stateful_set(resources={{"limits": {{"memory": "64Mi"}}}})
        with Podlet([web], directory=Path({str(tmp_path)!r}), image=bare_image()) as podlet:
            podlet.wait_ready()
            print(os.getpid(), *podlet.pids("web-0"), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    with cluster():  # skips where it cannot run
        pass
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, cwd=CHECKOUT
    )
    assert done.stdout, done.stderr
    harness, first = map(int, done.stdout.split())
    prefix = machine.name(pid=harness)
    assert _left(prefix)

    with cluster():
        assert _left(prefix) == []
    # Whoever inherits it may not have looked at it yet: then it is a zombie.
    status = Path(f"/proc/{first}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()


def _left(prefix: str) -> list[str]:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    groups = machine.CGROUPS.glob(f"*/{prefix}*/*")
    tables = machine.run("nft", "list", "tables").splitlines()
    links = Path("/sys/class/net").iterdir()
    found = [*mounts, *map(str, groups), *tables, *map(str, links), *map(str, machine.NAMESPACES.glob("*"))]
    return [one for one in found if prefix in one]
