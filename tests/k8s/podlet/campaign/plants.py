"""Faults of a deployment that the verdict has to find: a verdict that finds nothing proves nothing.

Each is played like a story, after the others, and looks at what a sound deployment would have kept.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Mapping

from tests.k8s.podlet.campaign.options import Plant
from tests.k8s.podlet.campaign.rig import WITHIN_S, Rig
from tests.k8s.podlet.campaign.story import Story
from tests.k8s.podlet.machine import run
from tests.k8s.podlet.manifest import Resource, merge

_SHADOW = "shadow"


def old_store(rig: Rig) -> Story:
    """After a clean stop a cell starts with a store that its volume held before, and nothing looks at it."""
    story, snapshot = Story("old_store"), rig.podlet.snapshot_volume("ads-0", "recovery")
    rig.wait_writing("ads-0", time.time())
    before = rig.log()
    rig.stop()
    volume = rig.podlet.claim("ads-0", "recovery")
    shutil.rmtree(volume / "recovery")
    run("cp", "--archive", str(snapshot / "recovery"), str(volume))
    rig.podlet.rollout("ads", {"spec": {"replicas": rig.cluster.cells, "template": {"spec": _careless()}}})
    for name in ("warehouse", "notices"):
        rig.podlet.scale(name, rig.cluster.cells)
    rig.wait_ready()
    rig.wait_writing("ads-0", time.time())
    story.check_repeats(before, rig.log())
    return story


def second_pod(rig: Rig) -> Story:
    """A second StatefulSet runs the first cell of the ads flow once more, and is let to.

    Left alone it is refused: the first one goes on, so its store is never the newest.
    """
    story, before = Story("second_pod"), rig.log()
    (ads,) = (one for one in rig.manifests if one["kind"] == "StatefulSet" and one["metadata"]["name"] == "ads")
    rig.podlet.apply([_shadow(ads)])
    rig.podlet.wait_ready(_SHADOW, within_s=WITHIN_S)
    began_s, partitions = time.time(), rig.cluster.partitions_of(0)
    rig.cluster.wait_until(
        lambda: len(rig.log().delays_ms(lambda where, at_s: where in partitions and at_s > began_s)) > 1,
        "decisions while two pods make them",
    )
    pod = rig.podlet.pod(f"{_SHADOW}-0")
    rig.podlet.scale(_SHADOW, 0)
    rig.podlet.wait_gone(pod)
    story.check_repeats(before, rig.log())
    return story


PLANTED: Mapping[Plant, Callable[[Rig], Story]] = {"old_store": old_store, "second_pod": second_pod}


def _careless() -> Resource:
    """A pod that takes whatever its volume holds."""
    return {
        "initContainers": [{"name": "prepare", "args": ["--version"]}],
        "containers": [{"name": "ads", "args": ["run", "ads", "--json", "--accept-store"]}],
    }


def _shadow(ads: Resource) -> Resource:
    shadow: Resource = merge(copy.deepcopy(ads), {"spec": {"template": {"spec": _careless()}}})
    shadow["metadata"]["name"] = _SHADOW
    shadow["spec"]["replicas"] = 1
    return shadow
