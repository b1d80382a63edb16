"""What a campaign is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from tests.integration.pipeline import FlowName

StoryName = Literal["rollout", "drain", "rescale", "kills", "freeze", "volume"]
Plant = Literal["old_store", "second_pod"]
BrokerKind = Literal["tansu", "kafka"]

STORIES: tuple[StoryName, ...] = ("rollout", "drain", "rescale", "kills", "freeze", "volume")
"""Those that only stop cleanly come first: until then nothing may be written twice."""

PLANTS: tuple[Plant, ...] = ("old_store", "second_pod")

READERS_FIRST: tuple[tuple[FlowName, ...], ...] = (("warehouse", "notices"), ("ads",))
"""The order of an upgrade, see docs/runbook.md."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """One campaign.

    Attributes:
        stories: What happens, in this order, on one deployment.
        seed: Decides what viewers do, and where and when something happens to pods.
        cells: Of each flow at the beginning.
        rescales: Numbers of cells that the story `rescale` goes through.
        kills: Of one cell.
        boxes: That live meanwhile.
        quiet_s: How long nothing happens, for comparison.
        freeze_s: How long a pod stands still; `cut_s`: how long it is off the network.
        waves: Flows that the story `rollout` replaces together.
        time_scale: Divides the back-off of the kubelet; 1 is as long as a real one.
        starts_again: At the end, one more clean start and stop have to add nothing.
        plants: Faults of the deployment that the verdict has to find.
        keep: Where everything goes and stays; unset: a folder that is removed unless something is found.
    """

    stories: tuple[StoryName, ...] = STORIES
    seed: int = 1
    broker: BrokerKind = "tansu"
    cells: int = 4
    rescales: tuple[int, ...] = (6, 2)
    kills: int = 20
    boxes: int = 200
    quiet_s: float = 30.0
    freeze_s: float = 40.0
    cut_s: float = 20.0
    waves: tuple[tuple[FlowName, ...], ...] = READERS_FIRST
    time_scale: float = 1000.0
    starts_again: bool = True
    plants: tuple[Plant, ...] = ()
    keep: Path | None = None

    @property
    def command(self) -> str:
        """What repeats the campaign. What happens is the same; moments are as the machine has it."""
        words = ["python -m tests.k8s.podlet.campaign"]
        # Planted faults come alone unless stories are named.
        named = ("all",) if self.stories == STORIES else self.stories
        if self.plants or named != ("all",):
            words += [f"--story {name}" for name in named]
        shown = {one.name: one.default for one in fields(self) if one.name in _SHOWN}
        for name, default in shown.items():
            value = getattr(self, name)
            if value != default or name == "seed":
                words.append(
                    f"--{name.replace('_', '-')} {value:g}" if isinstance(value, float) else f"--{name} {value}"
                )
        if self.rescales != Options.rescales:
            words.append(f"--rescales {','.join(map(str, self.rescales))}")
        return " ".join([*words, *(f"--plant {name}" for name in self.plants)])


_SHOWN = {"seed", "broker", "cells", "kills", "boxes", "quiet_s", "freeze_s", "cut_s", "time_scale"}
